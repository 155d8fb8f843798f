from __future__ import annotations

import math
from pathlib import Path

import pytest
from report_runs import Asked, drawn, view

from tune_lnl.reporting.settings_figures import (
    importance_figure,
    lr_map,
    parallel_figure,
    ranks,
    settings_figures,
    slice_figures,
)


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


def test_few_trials_are_one_sentence(tmp_path: Path) -> None:
    few = settings_figures(view(tmp_path))
    assert [figure.key for figure in few] == ["parallel", "importances", "lr-map", "slices"]
    assert few[-1].plot is None
    assert few[-1].takeaway.startswith("Fewer than four trials are complete: too few to say where lr, ")
    (none,) = settings_figures(view(tmp_path, [Asked("FAIL", epochs=0)], name="none"))
    assert none.plot is None


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
    assert "after epoch 3, the first comparison of 8 trials" in figure.notes[0]


def test_parallel_coordinates_hold_every_trial(tmp_path: Path) -> None:
    seen = view(tmp_path)
    (lines,) = drawn(parallel_figure(seen)).data
    assert lines.type == "parcoords"
    axes = {axis.label: axis for axis in lines.dimensions}
    assert list(axes) == ["lr", "lr_asymmetry", "warmup_epochs", "mining", "val_accuracy (%)"]
    shown = [seen.trials[number] for number in (2, 4, 0, 1)]  # the stopped one, then from the worst to the best
    assert axes["val_accuracy (%)"].values == (90.0, 58.0, 60.0, 64.0)
    assert axes["lr"].values == pytest.approx([math.log10(trial.row.params["lr"]) for trial in shown], rel=1e-5)
    assert axes["lr"].ticktext == ("0.002", "0.005", "0.01", "0.02", "0.05", "0.1", "0.2")
    assert axes["warmup_epochs"].tickvals == (1, 2)
    assert lines.line.color == pytest.approx([-1 / 3, 0.0, 0.5, 1.0])
    assert lines.line.colorbar.ticktext == ("stopped early", "the worst complete", "the best")
