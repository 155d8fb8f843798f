"""Values in rows, each with its interval and its name above it: the form of every comparison of few values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from tune_lnl.reporting.figure import Table
from tune_lnl.reporting.intervals import Estimate
from tune_lnl.reporting.plots import BEST, colour, picture, plain, rounded
from tune_lnl.reporting.texts import shortened

ROW = 46
"""Pixels of a row."""


@dataclass(frozen=True)
class RowValue:
    """A value with its interval, in a row of its own."""

    label: str
    estimate: Estimate
    note: str
    ours: bool = False
    spread: str = "95% interval"
    """The meaning of the interval."""


def rows_plot(bars: Sequence[RowValue], label: str, first: str = "this run's best") -> go.Figure:
    """Draw a value per row with its name above it, so that long names have room."""
    places = {id(bar): float(len(bars) - 1 - place) for place, bar in enumerate(bars)}
    traces = []
    for spread in dict.fromkeys(bar.spread for bar in bars):
        for ours in (True, False):
            here = [bar for bar in bars if bar.spread == spread and bar.ours is ours]
            if here:
                traces.append(_row_marks(here, places, f"{first if ours else 'others'} ({spread})", spread))
    notes: list[dict[str, Any]] = []
    for bar in bars:
        at = {"xref": "paper", "y": places[id(bar)], "yshift": 15, "showarrow": False}
        name = plain(shortened(bar.label, 40))
        notes.append(at | {"x": 0, "xanchor": "left", "text": f"<b>{name}</b>" if bar.ours else name})
        notes.append(at | {"x": 1, "xanchor": "right", "text": f"{bar.estimate.value:.2f}"})
    return picture(
        traces,
        height=110 + ROW * len(bars),
        annotations=notes,
        showlegend=True,
        xaxis={"title": {"text": plain(label)}},
        yaxis={"visible": False, "range": [-0.5, len(bars) - 0.3], "fixedrange": True},
    )


def _row_marks(bars: Sequence[RowValue], places: Mapping[int, float], name: str, spread: str) -> Any:
    known = [bar.estimate for bar in bars]
    above = [0.0 if one.high is None else one.high - one.value for one in known]
    below = [0.0 if one.low is None else one.value - one.low for one in known]
    whole = spread == "95% interval"
    return go.Scatter(
        x=[rounded(one.value) for one in known],
        y=[places[id(bar)] for bar in bars],
        mode="markers",
        name=name,
        marker=BEST if bars[0].ours else {"size": 11, "color": colour("complete")},
        # A deviation has no ends: it is not an interval.
        error_x={"array": [rounded(one) for one in above], "arrayminus": [rounded(one) for one in below],
                 "color": colour("text" if whole else "soft"), "thickness": 2 if whole else 5,
                 "width": 5 if whole else 0},
        text=[f"{plain(bar.label)}: {bar.estimate}<br>{plain(bar.note)}" for bar in bars],
        hovertemplate="%{text}<extra></extra>",
    )  # fmt: skip


def bars_table(bars: Sequence[RowValue], label: str, caption: str) -> Table:
    rows = [[bar.label, str(bar.estimate), bar.note] for bar in bars]
    return Table(["what", f"{label}, with interval", "from"], rows, caption)
