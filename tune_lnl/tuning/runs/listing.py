"""``search --runs``: the runs under a results folder, one line each, whatever else lies there."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tune_lnl.datasets.bounds import ScoreBounds
from tune_lnl.errors import InputError, LaterVersionError, first_line, shown
from tune_lnl.tuning.runs.answer import find_answer
from tune_lnl.tuning.runs.folder import RunFolder
from tune_lnl.tuning.runs.lease import FolderLease
from tune_lnl.tuning.runs.location import ResultsDir, bring_here
from tune_lnl.tuning.runs.rows import TrialRow
from tune_lnl.tuning.runs.run import load_run, start_that_stays, study_place
from tune_lnl.tuning.runs.settings import read_settings, space_from_settings
from tune_lnl.tuning.runs.snapshot import read_snapshot
from tune_lnl.wording import ENDED, duration

HEADER = ("run", "state", "trials", "best", "age", "method", "dataset")
NOTHING = "-"


@dataclass(frozen=True)
class RunLine:
    """A folder as the list shows it."""

    name: str
    state: str
    """``running``, ``finished``, ``interrupted`` (``--resume`` continues it), ``failed`` (ended without one complete
    trial), ``of a later version``, ``damaged: why`` or ``not a run``."""
    trials: str = NOTHING
    best: str = NOTHING
    age: str = NOTHING
    """Since the study was last written."""
    method: str = NOTHING
    dataset: str = NOTHING
    facts: Mapping[str, Any] = field(default_factory=dict)
    """The same for a program: numbers, and ``None`` for what is not known."""


def runs_as_json(place: ResultsDir) -> str:
    """Return the list of ``search --runs --json``: an object per run, with the same facts as :func:`list_runs`.

    Raises:
        InputError: ``place`` is a file, or a storage that does not answer.
    """
    nothing = dict.fromkeys(
        (
            *("trials_ended", "trials", "metric", "value", "standard_error", "trial", "ceiling", "chance"),
            *("age_seconds", "method", "dataset"),
        )
    )
    lines = run_lines(_results_folder(place))
    found = [{"run": line.name, "state": line.state, **nothing, **line.facts} for line in lines]
    return json.dumps(found, indent=2, allow_nan=False)


def _results_folder(place: ResultsDir) -> Path:
    results_dir = bring_here(place, None)
    try:
        is_file = results_dir.exists() and not results_dir.is_dir()
    except OSError as error:
        raise InputError(f"--results-dir {str(place)!r} cannot be read: {error.strerror}; give another") from None
    if is_file:
        raise InputError(f"--results-dir {str(results_dir)!r} is a file; give the folder that holds the runs")
    return results_dir


def list_runs(place: ResultsDir) -> list[str]:
    """Return the lines of ``search --runs``.

    Raises:
        InputError: ``place`` is a file, or a storage that does not answer.
    """
    results_dir = _results_folder(place)
    lines = list(run_lines(results_dir))
    if not lines:
        return [f"no runs in {str(place)!r} yet"]
    rows = [
        HEADER,
        *((line.name, line.state, line.trials, line.best, line.age, line.method, line.dataset) for line in lines),
    ]
    # The state of a damaged folder may be long, and must not push the other columns aside.
    widths = [max(len(row[i]) for row in rows if i != 1 or len(row[1]) <= 12) for i in range(len(HEADER))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def run_lines(results_dir: Path) -> Iterator[RunLine]:
    """Yield a line per folder, by name; a run of several conditions gives a line per condition."""
    folders = sorted(results_dir.iterdir()) if results_dir.is_dir() else []
    for folder in folders:
        if not folder.is_dir() or folder.name.startswith("."):
            continue
        conditions = sorted(path.parent for path in folder.glob("*/run.yaml"))
        for root in conditions if conditions and not (folder / "run.yaml").exists() else [folder]:
            name = shown(root.relative_to(results_dir).as_posix())
            try:
                yield _line(RunFolder.at(root), name)
            except LaterVersionError:
                yield RunLine(name, "of a later version")
            except Exception as error:
                # A folder may hold anything; the list names it and goes on.
                kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
                yield RunLine(name, f"damaged: {kind}{first_line(error)}")


def _line(files: RunFolder, name: str) -> RunLine:
    if not files.settings.exists():
        return RunLine(name, "not a run")
    settings = read_settings(files.settings)
    asked = int(settings["space"]["budget"]["trials"])
    driven = FolderLease(files, name).is_held()
    rows = None
    if settings.get("storage") is None:
        rows = read_snapshot(files, current=not driven)
    else:
        driven = driven or study_place(files, settings).is_held()
    if rows is None:
        rows = load_run(files.root).rows()
    answer = find_answer(files, rows, start_that_stays(settings, space_from_settings(settings, str(files.settings))))
    best = None if answer is None else next(row for row in rows if row.number == answer.number)
    written = next(path for path in (files.study, files.trials_table, files.settings) if path.exists())
    age = max(0.0, time.time() - written.stat().st_mtime)
    space = settings["space"]
    method, dataset = str(space["method"]), str(space["dataset"]["name"])
    bounds = ScoreBounds.stored(settings.get("score_bounds"))
    beside = "" if bounds is None else f"; {bounds.short()}"
    return RunLine(
        name,
        run_state(rows, asked, driven),
        f"{ended_trials(rows)}/{asked}",
        NOTHING if best is None else f"{best.value_text} (trial {best.number}{beside})",
        duration(age),
        method,
        dataset,
        facts={
            "trials_ended": ended_trials(rows),
            "trials": asked,
            "metric": space["objective"].get("metric"),
            "value": None if best is None else best.value,
            "standard_error": None if best is None else best.standard_error,
            "trial": None if best is None else best.number,
            "ceiling": None if bounds is None else bounds.ceiling,
            "chance": None if bounds is None else bounds.chance,
            "age_seconds": round(age, 1),
            "method": method,
            "dataset": dataset,
        },
    )


def run_state(rows: list[TrialRow], asked: int, driven: bool) -> str:
    """Return ``running``, ``finished``, ``failed`` or ``interrupted``.

    Args:
        rows: the trials of the run.
        asked: how many it is to have in the end.
        driven: whether a driver runs it now.
    """
    if driven:
        return "running"
    if ended_trials(rows) < asked:
        return "interrupted"
    return "finished" if any(row.state == "COMPLETE" for row in rows) else "failed"


def ended_trials(rows: list[TrialRow]) -> int:
    """Return how many trials of this run have ended; those taken over from another run do not count."""
    return sum(row.state in ENDED and row.taken_from is None for row in rows)
