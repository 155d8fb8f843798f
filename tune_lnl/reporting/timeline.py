"""When which trial ran, how much of the time the workers had one, and how much of that went into training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tune_lnl.reporting.drawing import Drawing, Figure, Key, Size, box, line, text
from tune_lnl.reporting.markup import Html, Table, folded
from tune_lnl.reporting.run_data import RunView, Trial
from tune_lnl.reporting.scales import Linear
from tune_lnl.wording import STATES, counted, duration

LANE = 30.0
KEYS = (
    Key(STATES["COMPLETE"], "bar complete", "box"),
    Key(STATES["PRUNED"], "bar pruned", "box"),
    Key(STATES["FAIL"], "bar fail", "box"),
    Key("not ended", "bar running", "box"),
)


@dataclass(frozen=True)
class Bar:
    """A trial in a worker's lane; seconds since the search began."""

    trial: Trial
    lane: int
    begin: float
    end: float


@dataclass(frozen=True)
class Usage:
    """Shares in [0, 1]; ``None`` where there is nothing to divide by."""

    seconds: float
    """From the start of the first trial to the end of the last."""
    utilisation: float | None
    """Of the workers' time, the part in which they had a trial."""
    overhead: float | None
    """Of the time of trials that ran in one go, the part outside their epochs: loading, building, saving, waiting."""


def bars_of(trials: Sequence[Trial]) -> list[Bar]:
    """The trials that have begun, each in the first lane that was free: which worker had it is not recorded."""
    begun = sorted((t.began, t.number, t) for t in trials if t.own and t.began is not None)
    zero = begun[0][0] if begun else 0.0
    free: list[float] = []
    bars = []
    for began, _, trial in begun:
        end = max(began, trial.end_or_latest or began)
        lane = next((index for index, until in enumerate(free) if until <= began + 1e-6), len(free))
        if lane == len(free):
            free.append(end)
        free[lane] = end
        bars.append(Bar(trial, lane, began - zero, end - zero))
    return bars


def usage_of(bars: Sequence[Bar], workers: int) -> Usage:
    seconds = max((bar.end for bar in bars), default=0.0)
    busy = sum(bar.end - bar.begin for bar in bars)
    whole = [bar for bar in bars if bar.trial.ended is not None and bar.trial.row.attempts == 1]
    of_whole = sum(bar.end - bar.begin for bar in whole)
    trained = sum(bar.trial.trained_seconds for bar in whole)
    return Usage(
        seconds,
        utilisation=min(1.0, busy / (seconds * workers)) if seconds and workers else None,
        overhead=max(0.0, 1.0 - trained / of_whole) if of_whole and trained else None,
    )


def timeline_figure(view: RunView) -> Figure:
    """A lane per worker, a bar per trial."""
    bars = bars_of(view.trials)
    workers = _workers(view, bars)
    usage = usage_of(bars, workers)
    notes = [
        "Utilisation: the part of the workers' time in which they had a trial. Overhead: the part of the trials' time "
        "spent outside epochs (starting, loading data, saving, waiting for the next order). Which worker had a trial "
        "is not recorded; a trial stands in the first lane that was free."
    ]
    if any(bar.trial.row.attempts > 1 for bar in bars):
        notes.append(
            "Some trials were continued after an interruption: their bars run from the first attempt to the end, "
            "with the pause in between. They are left out of the overhead."
        )
    return Figure(
        key="timeline",
        title="Timeline of trials over workers",
        takeaway=_takeaway(bars, usage, workers),
        draw=(lambda size: _draw(bars, size)) if usage.seconds else None,
        legend=[key for key in KEYS if any(f"bar {_class_of(bar.trial)}" == key.class_ for bar in bars)],
        notes=notes if bars else [],
        details=[folded("As a table", _table(bars).html("When trials ran"))] if bars else [],
        wide=True,
    )


def _workers(view: RunView, bars: Sequence[Bar]) -> int:
    planned = (view.run.settings.get("resources") or {}).get("concurrent")
    return max(int(planned or 0), max((bar.lane + 1 for bar in bars), default=0))


def _takeaway(bars: Sequence[Bar], usage: Usage, workers: int) -> str:
    if not bars or not usage.seconds:
        return "No trial of this run has begun."
    sentence = f"{counted(len(bars), 'trial')} on {counted(workers, 'worker')} in {duration(usage.seconds)}"
    if usage.utilisation is not None:
        sentence += f", {100 * usage.utilisation:.0f}% utilisation"
    if usage.overhead is not None:
        sentence += f"; overhead beyond training was {100 * usage.overhead:.0f}% of the trials' time"
    return sentence + "."


def _draw(bars: Sequence[Bar], size: Size) -> Drawing:
    lanes = max(bar.lane for bar in bars) + 1
    unit, name = next(
        (unit, name)
        for unit, name in ((3600.0, "hours"), (60.0, "minutes"), (1.0, "seconds"))
        if max(bar.end for bar in bars) >= 2 * unit or unit == 1.0
    )
    scale = Linear(0.0, max(bar.end for bar in bars) / unit)
    left, right, top = 6.0, size.width - 14.0, 6.0
    bottom = top + lanes * LANE
    parts: list[Html] = []
    for bar in bars:
        x0, x1 = (left + (right - left) * scale.place(at / unit) for at in (bar.begin, bar.end))
        y = top + bar.lane * LANE
        class_ = _class_of(bar.trial)
        width = max(1.0, x1 - x0 - 1)
        parts.append(box(x0, y + 3, width, LANE - 6, f"bar {class_}", bar.trial.label()))
        label = str(bar.trial.number)
        if width > 9 * len(label) + 4:
            parts.append(text(x0 + width / 2, y + 20, label, anchor="middle", class_=f"on-bar {class_}"))
    parts.append(line([(left, bottom), (right, bottom)], "axis"))
    for value, label in scale.ticks(max(2, int(size.width / 70))):
        x = left + (right - left) * scale.place(value)
        parts.append(line([(x, bottom), (x, bottom + 5)], "axis"))
        parts.append(text(min(max(x, 6), right - 4), bottom + 20, label, anchor="middle"))
    label = f"{name} since the first trial began"
    parts.append(text((left + right) / 2, bottom + 40, label, anchor="middle", class_="label"))
    return Drawing(Size(size.width, bottom + 48), Html("".join(parts)))


def _class_of(trial: Trial) -> str:
    return trial.state.lower() if trial.state in ("COMPLETE", "PRUNED", "FAIL") else "running"


def _table(bars: Sequence[Bar]) -> Table:
    rows = [
        [
            str(bar.trial.number),
            str(bar.lane + 1),
            STATES[bar.trial.state],
            f"{bar.begin:.1f}",
            f"{bar.end:.1f}",
            f"{bar.trial.trained_seconds:.1f}",
            str(bar.trial.row.attempts),
        ]
        for bar in bars
    ]
    return Table(["trial", "lane", "state", "began (s)", "ended (s)", "inside epochs (s)", "attempts"], rows)
