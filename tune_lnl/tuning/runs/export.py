"""Exporting trials of a run as YAML, JSON, CSV, or arguments of a published script."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from tune_lnl.errors import InputError, shown
from tune_lnl.files import is_disk_full, refuse_output, replace_given
from tune_lnl.methods.published.act_args import act_arguments
from tune_lnl.methods.published.core_args import core_arguments
from tune_lnl.tuning.runs.best import config_yaml
from tune_lnl.tuning.runs.rows import TrialRow
from tune_lnl.tuning.runs.run import Run

Format = Literal["yaml", "json", "csv", "args"]
FORMATS: tuple[str, ...] = get_args(Format)
PUBLISHED_SCRIPTS = {"act": act_arguments, "core": core_arguments}


@dataclass(frozen=True)
class Export:
    """Text for stdout or a file, and remarks for stderr."""

    text: str
    remarks: tuple[str, ...] = ()


def export_run(run: Run, top: int | None, form: str) -> Export:
    """Return the first ``top`` trials in the one order of every view; a single config is that of the answer.

    Args:
        top: ``None``: all; as is a number above that of the trials.
        form: one of :data:`FORMATS`.

    Raises:
        InputError: ``top`` is below 1, or no trial can be exported yet.
    """
    if top is not None and top < 1:
        raise InputError(f"--top is at least 1, got {top}")
    rows = run.rows()[:top]
    if form in ("yaml", "args"):
        rows = [row for row in rows if row.state == "COMPLETE"]
        if top == 1 and run.best is not None:
            rows = [run.best]  # as in best.yaml: whoever takes one config takes the answer
        if not rows:
            raise InputError(
                f"run {run.name} has no complete trial to export yet; look at all of them with "
                f"python -m tune_lnl.export {run.name} --format csv --top all"
            )
    writers: dict[str, Callable[[Run, list[TrialRow]], Export]] = {
        "yaml": _yaml,
        "json": _json,
        "csv": _csv,
        "args": _args,
    }
    found = writers[form](run, rows)
    complete = sum(row.state == "COMPLETE" for row in rows)
    if top is None or top == 1 or complete == len(rows) or len(rows) == len(run.rows()):
        return found
    left_over = f"only {complete} of the {len(rows)} trials listed ran to full length; the others cannot be the best"
    return replace(found, remarks=(*found.remarks, left_over))


def save_export(export: Export, path: Path) -> None:
    """Write the text to a file, whole or not at all.

    Raises:
        InputError: the path is a folder, lies in no existing one, or cannot be written.
    """
    reason = refuse_output(path)
    if reason is not None:
        raise InputError(f"--output names a file, and {shown(str(path))} {reason}; name another")
    try:
        replace_given(path, export.text)
    except OSError as error:
        if isinstance(error, BrokenPipeError) or is_disk_full(error):
            raise
        raise InputError(
            f"--output {shown(str(path))} cannot be written: {error.strerror}; name another file"
        ) from None


def _yaml(run: Run, rows: list[TrialRow]) -> Export:
    return Export("---\n".join(config_yaml(run, row) for row in rows))


def _json(run: Run, rows: list[TrialRow]) -> Export:
    content = {
        "run": run.name,
        "space": run.space.name,
        "metric": run.metric,
        "mode": run.mode,
        "answer": None if run.answer is None else run.answer.to_dict(),
        "trials": [_record(run, row) for row in rows],
    }
    return Export(json.dumps(content, indent=2, allow_nan=False) + "\n")


def _record(run: Run, row: TrialRow) -> dict[str, Any]:
    record: dict[str, Any] = {
        "number": row.number,
        "state": row.state,
        "value": row.value,
        "standard_error": row.standard_error,
        "epochs": row.epochs,
        "params": dict(row.params),
        "config": run.config(row).flat() if len(row.params) == len(run.space.parameters) else {},
    }
    if row.taken_from is not None:
        record["taken_from"] = row.taken_from
    if row.failure is not None:
        record |= {"failure": row.failure, "message": row.message}
    return record


def _csv(run: Run, rows: list[TrialRow]) -> Export:
    names = list(run.space.parameters)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["number", "state", "value", "standard_error", "epochs", "failure", *names])
    for row in rows:
        own = [row.number, row.state, row.value, row.standard_error, row.epochs, row.failure]
        writer.writerow([*own, *(row.params.get(name) for name in names)])
    return Export(out.getvalue())


def _args(run: Run, rows: list[TrialRow]) -> Export:
    method = str(run.space.base["method"])
    if method not in PUBLISHED_SCRIPTS:
        raise InputError(
            f"--format args writes the arguments of the published script of {' or '.join(PUBLISHED_SCRIPTS)}; "
            f"method {method!r} has none here; use --format yaml"
        )
    exports = [PUBLISHED_SCRIPTS[method](run.config(row).flat()) for row in rows]
    remarks = tuple(dict.fromkeys(remark for _, remarks in exports for remark in remarks))
    return Export("".join(f"{line}\n" for line, _ in exports), remarks)
