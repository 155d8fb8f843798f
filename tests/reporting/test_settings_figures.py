from __future__ import annotations

from pathlib import Path

from report_runs import COMPLETE, Asked, Page, imagined, view

from tune_lnl.reporting.drawing import COLUMN
from tune_lnl.reporting.settings_figures import few, importance_figure, lr_map, parallel_figure, shades, slice_figures


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
        assert figure.draw is not None
        drawn = Page(figure.draw(COLUMN).html("told"))
        assert len(drawn.all("circle")) == 5


def test_shades_follow_the_rank(tmp_path: Path) -> None:
    assert shades(view(tmp_path)) == {1: 5, 0: 2, 4: 0}


def test_the_map_of_both_rates(tmp_path: Path) -> None:
    figure = lr_map(view(tmp_path))
    assert figure is not None
    assert figure.takeaway.startswith("The best trial has lr1 / lr = ")
    assert any(key.label.startswith("lr1 = lr") for key in figure.legend)
    assert figure.draw is not None
    assert 'class="diagonal"' in figure.draw(COLUMN).content


def test_no_map_without_a_second_rate(tmp_path: Path) -> None:
    changes = {
        "method": "standard",
        "search": {"lr": {"type": "loguniform", "low": 0.002, "high": 0.2}},
        "start": [{"lr": 0.01}],
    }
    seen = view(tmp_path, [Asked("COMPLETE", 50.0), Asked("COMPLETE", 51.0)], changes=changes)
    assert lr_map(seen) is None


def test_importances_warn_below_thirty(tmp_path: Path) -> None:
    seen = view(tmp_path, [Asked("COMPLETE", 50.0 + number % 4) for number in range(8)])
    assert importance_figure(seen).takeaway.startswith("Warning: 8 trials are few (under 30)")
    assert importance_figure(view(tmp_path, name="few")).takeaway == (
        "Importances need at least 6 trials with different values; there are 4 trials to compare."
    )


def test_importances_come_from_where_trials_can_be_compared(tmp_path: Path) -> None:
    pruned = [Asked("PRUNED", 40.0 + number, epochs=3) for number in range(6)]
    seen = view(tmp_path, [Asked("COMPLETE", 60.0), Asked("COMPLETE", 61.0), *pruned])
    figure = importance_figure(seen)
    assert figure.takeaway.startswith("Warning: 8 trials")
    assert "after epoch 2, the first comparison of 8 trials" in figure.notes[0]


def test_a_tangle_is_thinned(tmp_path: Path) -> None:
    seen = imagined(view(tmp_path, [COMPLETE]), 70)
    drawn = few(seen, seen.trials)
    assert len(drawn) <= 60
    ranks = [trial.number for trial in seen.complete]
    numbers = {trial.number for trial in drawn}
    assert numbers >= set(ranks[:20])
    assert numbers & set(ranks[-5:])
    assert f"{len(drawn)} in all" in parallel_figure(seen).notes[1]
    assert few(seen, seen.trials[:60]) == list(seen.trials[:60])
