"""Failed trials, by class of failure."""

from __future__ import annotations

from collections.abc import Mapping

from tune_lnl.reporting.figure import Cell, Figure, Link, Table
from tune_lnl.reporting.run_data import RunView, Trial
from tune_lnl.wording import counted

MEANING: Mapping[str, str] = {
    "diverged": "a metric or a weight stopped being finite: it says something about the settings",
    "out of memory": "also when tried again alone",
    "data error": "a file could not be read, or is not what it should be",
    "bug": "anything else that the code raised; not tried again",
    "worker died": "the process vanished again and again in the same epoch",
    "stuck": "silent for many epochs' time, twice",
}
MOST_NUMBERS = 12


def failures_figure(view: RunView) -> Figure:
    """Return a table with a row per class of failure: count, meaning, first cause and log."""
    failed: dict[str, list[Trial]] = {}
    for trial in view.trials:
        if trial.state == "FAIL":
            failed.setdefault(trial.row.failure or "unknown", []).append(trial)
    order = sorted(failed, key=lambda name: (-len(failed[name]), name))
    counts = ", ".join(f"{len(failed[name])} {name}" for name in order)
    total = sum(map(len, failed.values()))
    continued = [trial.number for trial in view.trials if trial.own and trial.row.attempts > 1]
    return Figure(
        key="failures",
        title="Failures by class",
        takeaway=f"{counted(total, 'trial')} failed: {counts}." if failed else "No trial failed.",
        table=_table(failed, order, view) if failed else None,
        open=True,
        notes=[f"Continued or tried again after an interruption: trials {_numbers(continued)}."] if continued else [],
    )


def _table(failed: Mapping[str, list[Trial]], order: list[str], view: RunView) -> Table:
    rows: list[list[Cell]] = []
    for name in order:
        first = failed[name][0]
        log = view.run.files.log(first.number)
        address = log.relative_to(view.run.files.root).as_posix()
        rows.append(
            [
                name,
                str(len(failed[name])),
                _numbers([trial.number for trial in failed[name]]),
                first.row.message or "–",
                MEANING.get(name, "–"),
                Link(address, address) if log.is_file() else address,
            ]
        )
    header = ["class", "count", "trials", "first cause", "what it means", "log of the first"]
    return Table(header, rows, "Failures by class")


def _numbers(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:MOST_NUMBERS]))
    return shown + (f" and {len(numbers) - MOST_NUMBERS} more" if len(numbers) > MOST_NUMBERS else "")
