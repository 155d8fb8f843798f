"""``.trials.json``: the rows of a run in a file that is read without Optuna.

The study stays the only record; the driver writes this copy with the tables. It counts only while ``study.log`` has the
size and time of change that the copy was made at, so a killed driver's copy, or an edited study, is not believed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from tune_lnl.tuning.runs.folder import RunFolder
from tune_lnl.tuning.runs.layout import RunFiles
from tune_lnl.tuning.runs.rows import TrialRow


def write_snapshot(files: RunFolder, rows: Sequence[TrialRow]) -> None:
    """Write the copy; call it from the thread that writes the study, right after reading ``rows`` from it.

    A study in a database has no file to compare with, and no copy.
    """
    stamp = _stamp(files)
    if stamp is not None:
        content = {"study": stamp, "rows": [asdict(row) for row in rows]}
        files.write(files.snapshot, json.dumps(content, separators=(",", ":")) + "\n")


def read_snapshot(files: RunFiles, *, current: bool = True) -> list[TrialRow] | None:
    """Return the rows in the one order of every view; ``None`` where there is no copy, or it is out of date.

    Args:
        current: whether it must be; a list of runs takes the last copy of a run that is being driven.
    """
    try:
        content = json.loads(files.snapshot.read_text(encoding="utf-8"))
        if current and content["study"] != _stamp(files):
            return None
        return [TrialRow(**row) for row in content["rows"]]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None


def _stamp(files: RunFiles) -> list[int] | None:
    try:
        stat = files.study.stat()
    except OSError:
        return None
    return [stat.st_size, stat.st_mtime_ns]
