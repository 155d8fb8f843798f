"""The quality of the best trial's selection of clean labels, epoch by epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from tune_lnl.reporting.curves import thinned
from tune_lnl.reporting.figure import Figure, Table
from tune_lnl.reporting.plots import colour, picture, rounded, uprights
from tune_lnl.reporting.run_data import RunView, Trial

SERIES = (
    ("selection_precision", "precision", "complete", "solid"),
    ("selection_recall", "recall", "best", "dash"),
)
"""(name in the reports, word, colour and dash of its line)."""


def selection_figure(view: RunView) -> Figure:
    """Draw precision and recall of the samples that the best trial selected."""
    best = view.best
    reports = [] if best is None else view.reports(best)
    known = {
        name: [(int(report["epoch"]), float(report[name])) for report in reports if report.get(name) is not None]
        for name, *_ in SERIES
    }
    drawable = best is not None and all(known.values())
    return Figure(
        key="selection",
        title="Selection of clean samples, best trial",
        takeaway=_takeaway(best, known),
        plot=_plot(best, known) if drawable and best is not None else None,
        notes=[
            "Precision: share of the selected samples whose label is right. Recall: share of the samples with a right "
            "label that are selected. The truth is used for this figure only, never by the search."
        ]
        if drawable
        else [],
        wide=True,
        table=_table(reports) if drawable else None,
    )


def _takeaway(best: Trial | None, known: Mapping[str, Sequence[tuple[int, float]]]) -> str:
    if best is None:
        return "No trial is complete yet."
    precision, recall = (known[name] for name, *_ in SERIES)
    if not precision or not recall:
        return "This method recorded no precision and recall of a selection (or the true labels are not known)."
    change = precision[-1][1] - precision[0][1]
    moved = f"{'up' if change >= 0 else 'down'} {abs(change):.1f} points from epoch {precision[0][0] + 1}"
    return (
        f"In the last epoch {precision[-1][1]:.1f}% of the selected samples carry a right label ({moved}), and "
        f"{recall[-1][1]:.1f}% of those with a right label are selected."
    )


def _plot(best: Trial, known: Mapping[str, Sequence[tuple[int, float]]]) -> go.Figure:
    traces = []
    for name, word, shade, dash in SERIES:
        points = thinned(known[name])
        traces.append(
            go.Scatter(
                x=[epoch + 1 for epoch, _ in points],
                y=[rounded(value) for _, value in points],
                mode="lines" if len(points) > 1 else "markers",
                name=word,
                line={"color": colour(shade), "width": 2.4, "dash": dash},
                hovertemplate=f"{word} after epoch %{{x}}: %{{y:.1f}}%<extra></extra>",
            )
        )
    last = 1 + max(epoch for series in known.values() for epoch, _ in series)
    return picture(
        traces,
        xaxis={"title": {"text": "epoch"}, "range": [0.5, last + 0.5], "tickformat": "d"},
        yaxis={"title": {"text": "%"}},
        **(uprights([best.warmup], "warm-up ends") if best.warmup and best.warmup <= last else {}),
    )


def _table(reports: Sequence[Mapping[str, Any]]) -> Table:
    columns = ("selection_precision", "selection_recall", "selection_f1", "selected", "mined")
    rows = [
        [str(int(report["epoch"]) + 1), *("–" if report.get(c) is None else f"{report[c]:.4g}" for c in columns)]
        for report in reports
        if report.get("selection_precision") is not None
    ]
    return Table(["epoch", "precision (%)", "recall (%)", "F1 (%)", "selected", "mined"], rows, "Selection by epoch")
