"""The table that a terminal shows while a search runs. Every colour comes with a word of the same meaning."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console as RichConsole
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tune_lnl.tuning.monitor.console import Console
from tune_lnl.tuning.monitor.state import RunningTrial, SearchState, View
from tune_lnl.tuning.plan.plan import Plan
from tune_lnl.tuning.resources.memory import GpuUse, GpuWatch, memory_in_use
from tune_lnl.tuning.study.trials import TrialState
from tune_lnl.wording import STATES, duration, settings_text

FIXED_ROWS = 9
"""Rows of the terminal that are not for running trials."""
BAR = 24
COLOURS = {TrialState.COMPLETE: "green", TrialState.PRUNED: "yellow", TrialState.FAIL: "red"}


@contextmanager
def table_shown(plan: Plan, state: SearchState, console: Console) -> Iterator[None]:
    """Show the table of a search while the context lasts, where there is a terminal."""
    gpus = GpuWatch()

    def draw(screen: RichConsole) -> RenderableType:
        known = gpus.now() if plan.machine.gpus else []
        return live_table(plan, state.view(), memory_in_use(), known, screen)

    with console.showing(draw):
        yield


def live_table(
    plan: Plan, view: View, memory: tuple[float, float] | None, gpus: Sequence[GpuUse], screen: RichConsole
) -> RenderableType:
    """Return the table of one moment.

    Args:
        memory: (used, total) bytes of the machine, where that is known.
        screen: gives the height of the terminal.
    """
    metric = str(plan.space.base["objective"]["metric"])
    return table_of(metric, plan.space.epochs, view, _machine(plan, view, memory, gpus), screen)


def table_of(metric: str, epochs: int, view: View, machine: str | None, screen: RichConsole) -> RenderableType:
    """Return the table of one moment.

    Args:
        metric: name of the objective.
        epochs: length of a full trial.
        machine: a line about what is in use, where that is known.
        screen: gives the height of the terminal.
    """
    rows = max(1, screen.height - FIXED_ROWS)
    parts: list[RenderableType] = [_running(view.running[:rows], epochs, metric)]
    if len(view.running) > rows:
        parts.append(_line(f"  and {len(view.running) - rows} more running"))
    parts += [_best(view, metric), _counts(view), *([] if machine is None else [_line(machine)]), _bar(view)]
    return Group(Text(""), *parts)


def _running(trials: Sequence[RunningTrial], epochs: int, metric: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), expand=True)
    for name in ("trial", "epoch", metric, "time", "left"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("settings", no_wrap=True, overflow="ellipsis", ratio=1)
    for trial in trials:
        value = "starting" if trial.value is None else f"{trial.value:.2f}"
        left = "-" if trial.seconds_left is None else duration(trial.seconds_left)
        spent = "-" if trial.seconds is None else duration(trial.seconds)
        table.add_row(str(trial.number), f"{trial.epochs}/{epochs}", value, spent, left, settings_text(trial.params))
    return table


def _best(view: View, metric: str) -> Text:
    if view.best is None:
        return _line("best so far: none; a trial counts once it has run to its full length")
    text = _line("best so far: ")
    text.append(f"trial {view.best.number}, {metric} {view.best.value_text}", style="bold green")
    return text.append(f"  {settings_text(view.best.params)}")


def _counts(view: View) -> Text:
    text = _line(f"{len(view.running)} running")
    for state, colour in COLOURS.items():
        count = view.counts.get(state, 0)
        text.append(", ").append(f"{count} {STATES[state.name]}", style=colour if count else "")
    return text.append(f" of {view.trials} trials")


def _machine(plan: Plan, view: View, memory: tuple[float, float] | None, gpus: Sequence[GpuUse]) -> str:
    running, machine, share = len(view.running), plan.machine, plan.resources
    parts = [f"CPUs {running * share.cpus_per_trial:g} of {machine.cpus}"]
    if memory is not None:
        parts.append(f"memory {memory[0] / 1e9:.1f} of {memory[1] / 1e9:.1f} GB")
    if machine.gpus:
        parts.append(f"GPUs {running * share.gpus_per_trial:g} of {machine.gpus}")
    if gpus:
        used, total = sum(gpu.used for gpu in gpus), sum(gpu.total for gpu in gpus)
        parts.append(f"GPU memory {used / 1024:.1f} of {total / 1024:.1f} GiB")
        parts.append(f"GPU busy {sum(gpu.busy for gpu in gpus) / len(gpus):.0f}%")
    return "in use: " + ", ".join(parts)


def _bar(view: View) -> Text:
    filled = int(view.progress * BAR)
    text = _line("").append("█" * filled, style="green").append("░" * (BAR - filled))
    return text.append(f" {100 * view.progress:.0f}%, {duration(view.elapsed)} so far{time_left(view)}")


def time_left(view: View) -> str:
    """Return how long the search will take from now, with the time of its end; a range until a trial has ended."""
    if view.seconds_left is None:
        return ""
    most, least = duration(view.seconds_left), view.least_seconds_left
    if least is not None and duration(least) != most:
        return f", {duration(least)} to {most} left"
    end = time.localtime(time.time() + view.seconds_left)
    day = "" if view.seconds_left < 12 * 3600 else time.strftime("%a ", end)
    return f", about {most} left, ends {day}{time.strftime('%H:%M', end)}"


def _line(text: str) -> Text:
    return Text(text, no_wrap=True, overflow="ellipsis")
