from __future__ import annotations

from pathlib import Path

from report_runs import COMPLETE, drawn, view

from tune_lnl.reporting.curves import curves_figure, thinned


def test_thinning_keeps_both_ends() -> None:
    points = [(epoch, float(epoch)) for epoch in range(1001)]
    kept = thinned(points)
    assert len(kept) <= 162
    assert (kept[0], kept[-1]) == (points[0], points[-1])
    assert thinned(points[:5]) == points[:5]


def test_curves_count_epochs_from_one(tmp_path: Path) -> None:
    seen = view(tmp_path)
    figure = curves_figure(seen)
    traces = {trace.name: trace for trace in drawn(figure).data}
    best = traces["the best, trial 1"]
    assert list(zip(best.x, best.y, strict=True)) == [(epoch + 1, 59.0 + epoch) for epoch in range(6)]
    stopped = traces["stopped early"]
    assert list(zip(stopped.x, stopped.y, strict=True)) == [(1, 88.0), (2, 89.0), (3, 90.0), (None, None)]
    assert (traces["where it was stopped"].x, traces["where it failed"].x) == ((3,), (2,))
    assert traces["the published setting, trial 0"].y[-1] == 60.0
    shapes = drawn(figure).layout.shapes
    assert [shape.x0 for shape in shapes if shape.xref == "x"] == [3, 4]  # trials are compared after epochs 3 and 4
    assert [shape.y0 for shape in shapes if shape.xref != "x"] == [level for level, _ in seen.levels]
    assert figure.table is not None
    assert figure.table.header[4:] == [f"epoch {epoch}" for epoch in range(1, 7)]


def test_a_best_trial_that_is_the_published_setting_has_one_line(tmp_path: Path) -> None:
    plot = drawn(curves_figure(view(tmp_path, [COMPLETE])))
    assert [trace.name for trace in plot.data] == ["end of a warm-up", "the best, trial 0 (the published setting)"]
