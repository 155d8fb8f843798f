"""Parallel coordinates: all settings of all trials in one picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from tune_lnl.reporting.figure import Figure, Table
from tune_lnl.reporting.plots import (
    SHADES,
    Axis,
    colour,
    picture,
    plain,
    rounded,
)
from tune_lnl.reporting.run_data import RunView, Trial
from tune_lnl.reporting.slices import axis_of, ranks, valued
from tune_lnl.reporting.texts import setting, shortened
from tune_lnl.wording import STATES

AXIS_WIDTH, CHARACTER = 90, 8.5
"""Pixels between two axes of parallel coordinates, and of a letter of their names, below which texts would overlap."""


def parallel_figure(view: RunView) -> Figure:
    """Draw a line per trial through all its settings; dragging along an axis chooses the trials that pass there."""
    trials, best = valued(view), view.best
    several = len(trials) > 1  # a single line shows nothing that the table of the best config does not
    names = [shortened(name, 22) for name in (*view.run.space.parameters, view.metric_label)]
    return Figure(
        key="parallel",
        title="Parallel coordinates",
        takeaway="No trial is complete yet." if best is None else f"The best trial has {setting(best.row.params)}.",
        plot=_parallel(view, trials) if several else None,
        notes=[
            "Each line is a trial. Drag along one or several axes to choose the trials that pass there; click an axis "
            "to let go. Drag the name of an axis to move it."
        ]
        if several
        else [],
        table=_parallel_table(view, trials) if several else None,
        wide=True,
        least_width=int(sum(max(AXIS_WIDTH, CHARACTER * len(name) + 12) for name in names)) + 130,
    )


def _parallel_table(view: RunView, trials: Sequence[Trial]) -> Table:
    names = list(view.run.space.parameters)
    rows = [
        [str(t.number), STATES[t.state], *(setting(t.row.params[name]) for name in names), f"{t.value:.2f}"]
        for t in reversed(trials)
    ]
    return Table(["trial", "state", *names, view.metric_label], rows, "Settings and values")


def _parallel(view: RunView, trials: Sequence[Trial]) -> go.Figure:
    rank = ranks(view)
    dimensions = [
        _dimension(name, axis_of(parameter), [trial.row.params[name] for trial in trials])
        for name, parameter in view.run.space.parameters.items()
    ]
    dimensions.append({"label": plain(view.metric_label), "values": [rounded(trial.value) for trial in trials]})
    stopped, middle = colour("pruned"), 0.25
    ticks = {0.0: "the worst complete", 1.0: "the best"}
    scale, lowest = [[place, shade] for place, shade in SHADES], 0.0
    if not all(trial.complete for trial in trials):  # the lowest quarter of the scale is for trials without a rank
        ticks, lowest = {-0.17: STATES["PRUNED"], **ticks}, -1 / 3
        ranked = [[middle + (1 - middle) * place, shade] for place, shade in SHADES]
        scale = [[0, stopped], [middle - 0.001, stopped], *ranked]
    line = {
        "color": [rank[trial.number] if trial.complete else lowest for trial in trials],
        "cmin": lowest,
        "cmax": 1,
        "colorscale": scale,
        "showscale": True,
        "colorbar": {"tickvals": list(ticks), "ticktext": list(ticks.values()), "thickness": 14, "outlinewidth": 0},
    }  # fmt: skip
    return picture(
        [go.Parcoords(dimensions=dimensions, line=line, labelfont={"size": 14}, tickfont={"size": 13},
                      rangefont={"size": 1, "color": colour("page")}, unselected={"line": {"color": colour("rule"),
                      "opacity": 0.35}})],
        height=460,
        margin={"l": 60, "r": 20, "t": 60, "b": 24},
    )  # fmt: skip


def _dimension(name: str, axis: Axis, values: Sequence[Any]) -> dict[str, Any]:
    places = [axis.place(value) for value in values]
    made: dict[str, Any] = {"label": plain(shortened(name, 22)), "values": places}
    if axis.choices:
        texts = [plain(shortened(setting(choice), 14)) for choice in axis.choices]
        return made | {"tickvals": list(range(len(texts))), "ticktext": texts, "range": [-0.2, len(texts) - 0.8]}
    assert axis.low is not None
    assert axis.high is not None
    if not axis.log:
        ticks = {"tickvals": list(range(int(axis.low), int(axis.high) + 1))} if axis.whole and axis.step else {}
        return made | {"range": [axis.low, axis.high]} | ticks
    powers = log_ticks(axis.low, axis.high)
    return made | {
        "values": [rounded(math.log10(place)) for place in places],
        "range": [math.log10(axis.low), math.log10(axis.high)],
        "tickvals": [math.log10(tick) for tick in powers],
        "ticktext": [f"{tick:g}" for tick in powers],
    }


def log_ticks(low: float, high: float) -> list[float]:
    """Return round values between the ends: 1, 2 and 5 times powers of ten, or powers alone where these are many."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 5), (1, 3), (1,)):
        ticks = [
            f * 10.0**e for e in exponents for f in factors if low * (1 - 1e-9) <= f * 10.0**e <= high * (1 + 1e-9)
        ]
        if len(ticks) <= 9:
            break
    return ticks or [low, high]
