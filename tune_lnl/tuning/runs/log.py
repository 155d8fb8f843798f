"""The log of a trial: everything it printed, warned and logged, whole or as it is written."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

from tune_lnl.errors import InputError
from tune_lnl.tuning.runs.finding import find_run
from tune_lnl.tuning.runs.folder import RunFolder
from tune_lnl.tuning.runs.lease import FolderLease
from tune_lnl.tuning.runs.location import ResultsDir
from tune_lnl.tuning.runs.run import Run, load_run
from tune_lnl.wording import STATES

POLL = 0.3
"""Seconds between looks at the file."""
STORAGE_POLL = 5.0
"""Seconds between looks at object storage, where a log arrives after each epoch."""


def trial_log(run: str, number: str, results_dir: ResultsDir, follow: bool) -> Iterator[str]:
    """Return the log of a trial, in pieces as they come.

    Args:
        follow: go on until the trial has ended, or no driver runs it any more.

    Raises:
        InputError: no such run or trial, with those that there are. Before the first piece.
    """
    files = RunFolder.at(find_run(run, results_dir))
    known = number.isascii() and number.isdecimal() and len(number) < 10  # Python refuses to convert 5,000 digits
    if known:
        _fetch_log(files, int(number))
    if known and not follow and files.log(int(number)).exists():
        return iter(_read_from(files.log(int(number)), 0, to_the_end=True)[0])
    found = load_run(run, results_dir)
    rows = sorted(found.rows(), key=lambda row: row.number)
    if not rows:
        raise InputError(f"run {found.name!r} has no trials yet")
    if not known or int(number) >= len(rows):
        raise InputError(f"run {found.name!r} has no trial {number!r}; its trials are 0 to {len(rows) - 1}")
    if follow:
        return _followed(found, int(number))
    row = rows[int(number)]
    if row.taken_from is not None:
        return iter([f"(trial {number} was taken over from {row.taken_from}, where its log is)\n"])
    return iter([f"(trial {number} has written nothing yet; it is {STATES[row.state]})\n"])


def _followed(run: Run, number: int) -> Iterator[str]:
    path, trials = run.files.log(number), run.place.reader()
    lease = FolderLease(run.files, run.name)
    offset, end = 0, "\n"
    while True:
        # Asked before reading, so that everything written until the end is read.
        over = trials()[number].state.is_finished() or not (lease.is_held() or run.place.is_held())
        _fetch_log(run.files, number)
        pieces, offset = _read_from(path, offset, to_the_end=over)
        yield from pieces
        end = pieces[-1][-1] if pieces else end
        if over:
            break
        time.sleep(POLL if run.files.url is None else STORAGE_POLL)
    if not trials()[number].state.is_finished():
        yield f"{'' if end == chr(10) else chr(10)}(trial {number} has not ended, and no search is running it)\n"


def _fetch_log(files: RunFolder, number: int) -> None:
    files.fetch(files.log(number).relative_to(files.root).as_posix())


def _read_from(path: Path, offset: int, to_the_end: bool) -> tuple[list[str], int]:
    """Return the new text and the offset behind it; only whole lines while more may come: no character is cut."""
    if not path.exists():
        return [], offset
    with path.open("rb") as file:
        file.seek(offset)
        new = file.read()
    if not to_the_end:
        new = new[: new.rfind(b"\n") + 1]
    # Logs of earlier versions hold test metrics, which are for the end, and for files of their own.
    shown = re.sub(r" test_\w+=\S+", "", new.decode("utf-8", errors="replace"))
    return ([shown] if new else []), offset + len(new)
