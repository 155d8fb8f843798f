"""When which trial ran, how much of the time the workers had one, and how much of that went into training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from tune_lnl.reporting.figure import Figure, Table
from tune_lnl.reporting.plots import colour, picture, plain, rounded, state_colour
from tune_lnl.reporting.run_data import RunView, Trial
from tune_lnl.wording import STATES, counted, duration

PATTERNS = {"COMPLETE": "", "PRUNED": "/", "FAIL": "x", "RUNNING": ".", "WAITING": "-"}
"""Of the bars: states differ in more than colour."""
MOST_SEPARATED = 80
"""Bars of a lane, up to which a line stands between them: on a phone, more would be lines alone."""


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
    """Return the trials that have begun, each in the first free lane: which worker had it is not recorded."""
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
    """Draw a lane per worker and a bar per trial."""
    bars = bars_of(view.trials)
    planned = int((view.run.settings.get("resources") or {}).get("concurrent") or 0)
    workers = max([planned, *(bar.lane + 1 for bar in bars)])
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
        plot=_plot(bars) if usage.seconds else None,
        notes=notes if bars else [],
        table=_table(bars) if bars else None,
        wide=True,
    )


def _takeaway(bars: Sequence[Bar], usage: Usage, workers: int) -> str:
    if not bars or not usage.seconds:
        return "No trial of this run has begun."
    sentence = f"{counted(len(bars), 'trial')} on {counted(workers, 'worker')} in {duration(usage.seconds)}"
    if usage.utilisation is not None:
        sentence += f", {100 * usage.utilisation:.0f}% utilisation"
    if usage.overhead is not None:
        sentence += f"; overhead beyond training was {100 * usage.overhead:.0f}% of the trials' time"
    return sentence + "."


def _plot(bars: Sequence[Bar]) -> go.Figure:
    lanes = max(bar.lane for bar in bars) + 1
    unit, name = next(
        (unit, name)
        for unit, name in ((3600.0, "hours"), (60.0, "minutes"), (1.0, "seconds"))
        if max(bar.end for bar in bars) >= 2 * unit or unit == 1.0
    )
    line = int(len(bars) <= MOST_SEPARATED * lanes)
    traces = []
    for state in STATES:
        here = [bar for bar in bars if bar.trial.state == state]
        if here:
            traces.append(
                go.Bar(
                    orientation="h",
                    name=STATES[state],
                    base=[rounded(bar.begin / unit) for bar in here],
                    x=[rounded((bar.end - bar.begin) / unit) for bar in here],
                    y=[bar.lane + 1 for bar in here],
                    marker={"color": state_colour(state), "line": {"width": line, "color": colour("page")},
                            "pattern": {"shape": PATTERNS[state], "fgcolor": colour("page"), "size": 6,
                                        "fillmode": "overlay"}},
                    text=[str(bar.trial.number) for bar in here],
                    textposition="inside",
                    insidetextanchor="middle",
                    textangle=0,
                    insidetextfont={"color": colour("page")},
                    hovertext=[plain(bar.trial.label()) + f"<br>{duration(bar.end - bar.begin)}" for bar in here],
                    hovertemplate="%{hovertext}<extra></extra>",
                )
            )  # fmt: skip
    return picture(
        traces,
        height=130 + 34 * lanes,
        barmode="overlay",
        bargap=0.15,
        uniformtext={"minsize": 11, "mode": "hide"},
        xaxis={"title": {"text": f"{name} since the first trial began"}, "rangemode": "tozero"},
        yaxis={"title": {"text": "lane"}, "autorange": "reversed", "dtick": max(1, lanes // 12), "showgrid": False},
    )


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
    return Table(
        ["trial", "lane", "state", "began (s)", "ended (s)", "inside epochs (s)", "attempts"], rows, "When trials ran"
    )
