from __future__ import annotations

from pathlib import Path

from report_runs import Asked, drawn, view

from tune_lnl.reporting.slices import lr_map, ranks, slice_figures


def test_a_slice_per_setting_and_what_follows(tmp_path: Path) -> None:
    seen = view(tmp_path, [Asked("COMPLETE", 50.0 + number) for number in range(5)])
    figures = {figure.title: figure for figure in slice_figures(seen)}
    assert list(figures) == ["Slice: lr", "Slice: lr_asymmetry", "Slice: warmup_epochs", "Slice: mining", "Slice: lr1"]
    assert len({figure.key for figure in figures.values()}) == 5
    assert figures["Slice: lr"].takeaway.endswith("of 0.002 to 0.2 searched.")
    best = [trial.row.params["mining"] for trial in seen.complete[:3]]
    counts = [f"{word} in {best.count(value)}" for word, value in (("true", True), ("false", False)) if value in best]
    assert figures["Slice: mining"].takeaway == f"Of the best 3 complete trials, mining is {', '.join(counts)}."
    for figure in figures.values():
        complete, start, star = drawn(figure).data
        assert complete.y == (50.0, 51.0, 52.0, 53.0, 54.0)
        assert complete.marker.color == (0.0, 0.25, 0.5, 0.75, 1.0)
        assert (start.y, star.y) == ((50.0,), (54.0,))
    assert drawn(figures["Slice: lr"]).data[1].x == (0.01,)
    assert drawn(figures["Slice: lr1"]).data[1].x == (0.08,)
    choices = [0.0 if trial.row.params["mining"] else 1.0 for trial in seen.trials]
    assert list(drawn(figures["Slice: mining"]).data[0].x) == choices
    assert drawn(figures["Slice: mining"]).layout.xaxis.ticktext == ("true", "false")


def test_ranks_among_the_complete_trials(tmp_path: Path) -> None:
    assert ranks(view(tmp_path)) == {1: 1.0, 0: 0.5, 4: 0.0}


def test_the_map_of_both_rates(tmp_path: Path) -> None:
    figure = lr_map(view(tmp_path))
    assert figure is not None
    assert figure.takeaway.startswith("The best trial has lr1 / lr = ")
    equal, stopped, complete, start, best = drawn(figure).data
    assert equal.name.startswith("lr1 = lr")
    assert equal.x == equal.y
    assert (start.x, start.y) == ((0.01,), (0.08,))
    assert (len(stopped.x), len(complete.x), best.name) == (1, 3, "the best, trial 1")


def test_no_map_without_a_second_rate(tmp_path: Path) -> None:
    changes = {
        "method": "standard",
        "search": {"lr": {"type": "loguniform", "low": 0.002, "high": 0.2}},
        "start": [{"lr": 0.01}],
    }
    seen = view(tmp_path, [Asked("COMPLETE", 50.0), Asked("COMPLETE", 51.0)], changes=changes)
    assert lr_map(seen) is None
