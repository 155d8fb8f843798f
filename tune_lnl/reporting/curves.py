"""Learning curves: the objective of every trial over its epochs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from tune_lnl.reporting.figure import Figure, Table
from tune_lnl.reporting.history import MANY, with_ceiling
from tune_lnl.reporting.plots import (
    DASHES,
    colour,
    levels,
    mark,
    picture,
    plain,
    rounded,
    state_colour,
    uprights,
)
from tune_lnl.reporting.run_data import RunView, Trial
from tune_lnl.wording import STATES, counted

MOST_POINTS = 160
"""Points of a drawn curve: more cannot be seen."""
FEWER_POINTS = 50
"""Where curves lie so close that none is followed by eye."""
LATER = 4
"""One in this many epochs, the first ones, is left out of the range of values where it would squeeze the rest."""
SQUEEZED = 4.0
"""Ratio of the range of all values to that of the later epochs from which they would."""


def curves_figure(view: RunView) -> Figure:
    """Draw the objective of every trial over its epochs."""
    drawn = [trial for trial in view.trials if trial.curve]
    over = f"the mean over the last {view.average_last} epochs up to it" if view.average_last > 1 else "its own value"
    notes = [
        f"The objective of an epoch is {over}: the value that the trial would have if it ended there. Epochs count "
        "from 1."
    ]
    return Figure(
        key="curves",
        title="Learning curves",
        takeaway=_curves_takeaway(view),
        plot=_curves(view, drawn) if drawn else None,
        notes=notes if drawn else [],
        table=_curves_table(view, drawn) if drawn else None,
        wide=True,
    )


def _curves_takeaway(view: RunView) -> str:
    started = [trial for trial in view.trials if trial.own and trial.row.epochs]
    if not started:
        return "No trial has finished an epoch yet."
    stopped = [trial for trial in started if trial.state == "PRUNED"]
    trained, full = view.epochs_trained, len(started) * view.epochs
    warmups = sorted({trial.warmup for trial in started if trial.warmup is not None})
    text = f"{trained:,} epochs were trained of the {full:,} that {counted(len(started), 'full trial')} would take"
    if stopped:
        saved = sum(view.epochs - trial.row.epochs for trial in stopped)
        text += f"; stopping {len(stopped)} early saved {100 * saved / full:.0f}% of them"
    if warmups and warmups[-1]:
        length = f"{warmups[0]}" if len(warmups) == 1 else f"{warmups[0]} to {warmups[-1]}"
        text += f". Warm-ups last {length} epochs"
        first = min(view.rungs, default=None)
        if first is not None and first >= warmups[-1] and stopped:
            text += ", and no trial is compared inside one"
    return text + "."


def _curves(view: RunView, drawn: Sequence[Trial]) -> go.Figure:
    many = len(drawn) > MANY
    best, start = view.best, view.start
    special = [trial for trial in (start, best) if trial is not None and trial.curve]
    traces: list[Any] = []
    for state in ("PRUNED", "FAIL", "RUNNING", "WAITING", "COMPLETE"):
        trials = [trial for trial in drawn if trial.state == state and trial not in special]
        if trials:
            traces += _lines(trials, state, many)
    traces += _ends_of_warmup([trial for trial in drawn if not many or trial in special])
    if start is not None and start in special and start is not best:
        name = f"the published setting, trial {start.number}"
        traces.append(_single(start, name, {"color": colour("start"), "width": 2.4, "dash": "dash"}))
    if best is not None and best in special:
        name = f"the best, trial {best.number}" + (" (the published setting)" if start is best else "")
        traces.append(_single(best, name, {"color": colour("best"), "width": 3}))
    last = 1 + max(epoch for trial in drawn for epoch, _ in trial.curve)
    low, high = with_ceiling(view, *_curve_range(view, drawn))
    room = 0.05 * (high - low) or max(0.05 * abs(high), 1e-9)
    rungs = [rung for rung in view.rungs if rung < last]
    return picture(
        traces,
        height=440,
        xaxis={"title": {"text": "epoch"}, "range": [1 - 0.02 * last, last * 1.02], "tickformat": "d"},
        yaxis={"title": {"text": plain(view.metric_label)}, "range": [low - room, high + room]},
        **levels(view.levels, uprights([rung + 1 for rung in rungs], "compared")),
    )


def _lines(trials: Sequence[Trial], state: str, many: bool) -> list[Any]:
    """Return all curves of one state as one trace with gaps, and a trace of their ends where trials did not finish."""
    x: list[int | None] = []
    y: list[float | None] = []
    numbers: list[int | None] = []
    for trial in trials:
        for epoch, value in thinned(trial.curve, FEWER_POINTS if many else MOST_POINTS):
            x.append(epoch + 1)
            y.append(rounded(value, 5))
            numbers.append(trial.number)
        x.append(None)
        y.append(None)
        numbers.append(None)
    traces = [
        go.Scatter(
            x=x,
            y=y,
            mode="lines",
            name=STATES[state],
            legendgroup=state,
            connectgaps=False,
            line={"color": state_colour(state), "width": 0.8 if many else 1.5, "dash": DASHES[state]},
            opacity=0.45 if many else 1,
            customdata=numbers,
            hovertemplate=f"trial %{{customdata}}, {STATES[state]}<br>epoch %{{x}}: %{{y}}<extra></extra>",
        )
    ]
    if state in ("PRUNED", "FAIL"):
        ends = [(trial, trial.curve[-1]) for trial in trials]
        traces.append(
            go.Scatter(
                x=[epoch + 1 for _, (epoch, _) in ends],
                y=[rounded(value, 5) for _, (_, value) in ends],
                mode="markers",
                name=f"where it {'was stopped' if state == 'PRUNED' else 'failed'}",
                legendgroup=state,
                marker=mark(state, 6 if many else 9),
                text=[plain(trial.label()) for trial, _ in ends],
                hovertemplate="%{text}<extra></extra>",
            )
        )
    return traces


def _single(trial: Trial, name: str, line: dict[str, Any]) -> Any:
    points = thinned(trial.curve)
    return go.Scatter(
        x=[epoch + 1 for epoch, _ in points],
        y=[rounded(value) for _, value in points],
        mode="lines" if len(points) > 1 else "lines+markers",
        name=name,
        line=line,
        hovertemplate=f"trial {trial.number}<br>epoch %{{x}}: %{{y}}<extra></extra>",
    )


def _ends_of_warmup(trials: Sequence[Trial]) -> list[Any]:
    ends = [(trial, dict(trial.curve).get(trial.warmup - 1)) for trial in trials if trial.warmup]
    known = [(trial, value) for trial, value in ends if value is not None]
    if not known:
        return []
    return [
        go.Scatter(
            x=[trial.warmup for trial, _ in known],
            y=[rounded(value) for _, value in known],
            mode="markers",
            name="end of a warm-up",
            marker={"symbol": "circle-open", "size": 8, "color": colour("text"), "line": {"width": 1.6}},
            text=[f"trial {trial.number}: its warm-up ends after epoch {trial.warmup}" for trial, _ in known],
            hovertemplate="%{text}<extra></extra>",
        )
    ]


def _curve_range(view: RunView, drawn: Sequence[Trial]) -> tuple[float, float]:
    """Return the range to show: of all values, or without the first epochs where these would squeeze the others."""
    everything = [value for trial in drawn for _, value in trial.curve]
    late = [value for trial in drawn for epoch, value in trial.curve if epoch >= view.epochs // LATER]
    low, high = min(everything), max(everything)
    if not late or high - low <= SQUEEZED * (max(late) - min(late)):
        return low, high
    room = max(late) - min(late)
    return max(low, min(late) - room), min(high, max(late) + room)


def thinned(points: Sequence[tuple[int, float]], most: int = MOST_POINTS) -> list[tuple[int, float]]:
    """Return about ``most`` of the points at most, the first and the last among them."""
    every = -(-len(points) // most)
    kept = list(points[::every])
    return kept if kept[-1:] == list(points[-1:]) else [*kept, points[-1]]


def _curves_table(view: RunView, drawn: Sequence[Trial]) -> Table:
    last = max(epoch for trial in drawn for epoch, _ in trial.curve)
    steps = sorted({round(last * share / 8) for share in range(9)} | {rung for rung in view.rungs if rung <= last})
    rows = []
    for trial in drawn:
        known = dict(trial.curve)
        cells = [f"{known[epoch]:.2f}" if epoch in known else "–" for epoch in steps]
        warmup = "–" if trial.warmup is None else str(trial.warmup)
        rows.append([str(trial.number), STATES[trial.state], warmup, str(trial.row.epochs), *cells])
    header = ["trial", "state", "warm-up epochs", "epochs run", *(f"epoch {epoch + 1}" for epoch in steps)]
    return Table(header, rows, "Learning curves")
