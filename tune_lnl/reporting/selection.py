"""The quality of the best trial's selection of clean labels, epoch by epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tune_lnl.reporting.drawing import Axis, Chart, Drawing, Figure, Key, Size
from tune_lnl.reporting.history import thinned
from tune_lnl.reporting.markup import Table, folded
from tune_lnl.reporting.run_data import RunView, Trial
from tune_lnl.reporting.scales import Linear, Whole

SERIES = (("selection_precision", "precision", "precision"), ("selection_recall", "recall", "recall"))
"""(name in the reports, word, class of its line)."""


def selection_figure(view: RunView) -> Figure:
    """Precision and recall of the samples that the best trial selected."""
    best = view.best
    reports = [] if best is None else view.reports(best)
    known = {name: _series(reports, name) for name, _, _ in SERIES}
    drawable = best is not None and all(known.values())
    return Figure(
        key="selection",
        title="Selection of clean samples, best trial",
        takeaway=_takeaway(best, known),
        draw=(lambda size: _draw(best, known, size)) if drawable and best is not None else None,
        legend=[Key(word, f"series {class_}") for _, word, class_ in SERIES],
        notes=[
            "Precision: share of the selected samples whose label is right. Recall: share of the samples with a right "
            "label that are selected. The truth is used for this figure only, never by the search."
        ]
        if drawable
        else [],
        wide=True,
        details=[folded("As a table", _table(reports).html("Selection by epoch"))] if drawable else [],
    )


def _series(reports: Sequence[Mapping[str, Any]], name: str) -> list[tuple[int, float]]:
    return [(int(report["epoch"]), float(report[name])) for report in reports if report.get(name) is not None]


def _takeaway(best: Trial | None, known: Mapping[str, Sequence[tuple[int, float]]]) -> str:
    if best is None:
        return "No trial is complete yet."
    precision, recall = (known[name] for name, _, _ in SERIES)
    if not precision or not recall:
        return "This method recorded no precision and recall of a selection (or the true labels are not known)."
    change = precision[-1][1] - precision[0][1]
    moved = f"{'up' if change >= 0 else 'down'} {abs(change):.1f} points from epoch {precision[0][0]}"
    return (
        f"In the last epoch {precision[-1][1]:.1f}% of the selected samples carry a right label ({moved}), and "
        f"{recall[-1][1]:.1f}% of those with a right label are selected."
    )


def _draw(best: Trial, known: Mapping[str, Sequence[tuple[int, float]]], size: Size) -> Drawing:
    values = [value for series in known.values() for _, value in series]
    last = max(epoch for series in known.values() for epoch, _ in series)
    chart = Chart(size, Axis(Whole(0, max(last, 1)), "epoch"), Axis(Linear.around(values, 0.12), "%"))
    if best.warmup and best.warmup <= last:
        chart.upright(best.warmup, "rung", "warm-up ends")
    for name, word, class_ in SERIES:
        points = thinned(known[name])
        chart.line(points, f"series {class_}", word)
        if len(points) == 1:
            chart.mark(*points[0], "circle", "mark complete", word)
    return Drawing.of(chart)


def _table(reports: Sequence[Mapping[str, Any]]) -> Table:
    columns = ("selection_precision", "selection_recall", "selection_f1", "selected", "mined")
    rows = [
        [str(int(report["epoch"])), *("–" if report.get(c) is None else f"{report[c]:.4g}" for c in columns)]
        for report in reports
        if report.get("selection_precision") is not None
    ]
    return Table(["epoch", "precision (%)", "recall (%)", "F1 (%)", "selected", "mined"], rows)
