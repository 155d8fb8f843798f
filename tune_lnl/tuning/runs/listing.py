"""The runs under a results folder, one line each, whatever is in there."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tune_lnl.errors import InputError
from tune_lnl.tuning.monitor.table import duration
from tune_lnl.tuning.runs.layout import RunFiles
from tune_lnl.tuning.runs.lease import FolderLease
from tune_lnl.tuning.runs.location import ResultsDir, bring_here
from tune_lnl.tuning.runs.results import Run, describe_value, load_run
from tune_lnl.tuning.study.trials import ENDED, is_own

HEADER = ("run", "state", "trials", "best", "age")
NOTHING = "-"


@dataclass(frozen=True)
class RunLine:
    """A folder as the list shows it."""

    name: str
    state: str
    """``running``, ``finished``, ``interrupted`` (``--resume`` continues it), ``failed`` (ended without one complete
    trial), ``damaged: why`` or ``not a run``."""
    trials: str = NOTHING
    best: str = NOTHING
    age: str = NOTHING
    """Since something was last written to its study."""


def list_runs(place: ResultsDir) -> list[str]:
    """The lines of ``search --runs``.

    Raises:
        InputError: ``place`` is a file, or a storage that does not answer.
    """
    results_dir = bring_here(place, None)
    if results_dir.exists() and not results_dir.is_dir():
        raise InputError(f"--results-dir {str(results_dir)!r} is a file; give the folder that holds the runs")
    lines = list(run_lines(results_dir))
    if not lines:
        return [f"no runs in {str(place)!r} yet"]
    rows = [HEADER, *((line.name, line.state, line.trials, line.best, line.age) for line in lines)]
    # What is said about a damaged folder may be long, and must not push the other columns aside.
    widths = [max(len(row[i]) for row in rows if i != 1 or len(row[1]) <= 12) for i in range(len(HEADER))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def run_lines(results_dir: Path) -> Iterator[RunLine]:
    """What is known of every folder there, by name; a run of several conditions gives a line per condition."""
    folders = sorted(results_dir.iterdir()) if results_dir.is_dir() else []
    for folder in folders:
        if not folder.is_dir() or folder.name.startswith("."):
            continue
        conditions = sorted(path.parent for path in folder.glob("*/run.yaml"))
        for root in conditions if conditions and not RunFiles(folder).settings.exists() else [folder]:
            yield _line(root, root.relative_to(results_dir).as_posix())


def _line(root: Path, name: str) -> RunLine:
    files = RunFiles(root)
    name = name.encode("unicode_escape").decode("ascii") if not name.isprintable() else name
    if not files.settings.exists():
        return RunLine(name, "not a run")
    try:
        run = load_run(root)
        state = run_state(run)
    except Exception as error:
        # A folder may hold anything; the list is to name it and go on.
        why = str(error).splitlines()[0] if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        return RunLine(name, f"damaged: {why}")
    own = [trial for trial in run.trials if is_own(trial)]
    best = NOTHING if run.best is None else f"{describe_value(run.best)} (trial {run.best.number})"
    written = next(path for path in (files.study, files.trials_table, files.settings) if path.exists())
    last = written.stat().st_mtime
    return RunLine(
        name,
        state,
        f"{sum(trial.state in ENDED for trial in own)}/{run.space.budget.trials}",
        best,
        duration(max(0.0, time.time() - last)),
    )


def run_state(run: Run) -> str:
    """``running``, ``finished``, ``failed`` or ``interrupted``."""
    if is_driven(run):
        return "running"
    ended = sum(trial.state in ENDED and is_own(trial) for trial in run.trials)
    if ended < run.space.budget.trials:
        return "interrupted"
    return "failed" if run.best is None else "finished"


def is_driven(run: Run) -> bool:
    """Return whether a driver runs it now, on this machine or another."""
    return FolderLease(run.files, run.name).is_held() or run.place.is_driven()
