"""One config under several seeds: the figures, and the files."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import EPOCHS, finish, sections, start, tiny, without_times

from tune_lnl.config.yaml import dump_yaml
from tune_lnl.errors import InputError
from tune_lnl.training.loop import Report, Surroundings
from tune_lnl.training.seeds import (
    SeedResult,
    best_seed,
    read_config,
    resolve_config,
    summarise,
    train_seeds,
)


def result(
    test: list[float],
    val: list[float] | None = None,
    seed: int = 0,
    average_last: int = 2,
    metric: str = "val_accuracy",
    divergence: str | None = None,
) -> SeedResult:
    reports: list[Report] = [{"test_accuracy": value} for value in test]
    for report, value in zip(reports, val or [], strict=False):
        report[metric] = value
    mode = "max" if metric == "val_accuracy" else "min"
    return SeedResult(seed, reports, average_last, metric, mode, divergence=divergence)


# ---- figures


def test_figures_of_a_curve() -> None:
    figures = result(test=[50.0, 80.0, 60.0, 70.0], val=[40.0, 10.0, 45.0, 44.0]).figures
    assert figures == {
        "test_last10": 65.0,
        "test_last10_std": 5.0,
        "test_oracle": 80.0,
        "test_at_val_best": 60.0,
        "objective": 44.5,
    }


def test_the_first_of_equal_validation_epochs_counts() -> None:
    assert result(test=[1.0, 2.0, 3.0], val=[9.0, 9.0, 5.0]).figures["test_at_val_best"] == 1.0


def test_a_loss_is_best_where_it_is_smallest() -> None:
    figures = result(test=[1.0, 2.0, 3.0], val=[0.9, 0.2, 0.5], metric="val_loss").figures
    assert figures["test_at_val_best"] == 2.0
    assert figures["objective"] == pytest.approx(0.35)


def test_a_run_shorter_than_the_average_uses_all_of_it() -> None:
    assert result(test=[50.0, 60.0], average_last=10).figures["test_last10"] == 55.0


def test_without_validation_there_is_no_objective() -> None:
    alone = result(test=[50.0, 60.0])
    assert alone.figures.keys() == {"test_last10", "test_last10_std", "test_oracle"}
    assert math.isnan(alone.objective)
    assert not alone.diverged


def test_a_lost_network_has_diverged_and_no_objective() -> None:
    lost = result(test=[50.0, 70.0, 60.0], val=[50.0, 60.0, 61.0], divergence="a weight is not finite at epoch 2")
    assert lost.diverged
    assert "objective" not in lost.figures
    assert "test_at_val_best" not in lost.figures
    assert math.isnan(lost.figures["test_last10"])
    assert lost.figures["test_oracle"] == 70.0


@pytest.mark.parametrize(
    ("runs", "best"),
    [
        ([result([0.0], [5.0], seed=0), result([0.0], [7.0], seed=1), result([99.0], [7.0], seed=2)], 1),
        ([result([0.0], [5.0], seed=0, metric="val_loss"), result([0.0], [3.0], seed=1, metric="val_loss")], 1),
        ([result([9.0], [99.0], seed=0, divergence="lost"), result([1.0], [3.0], seed=1)], 1),
        ([result([1.0], seed=0), result([9.0], seed=1)], 0),
        ([result([1.0], seed=0, divergence="lost"), result([9.0], seed=1)], 1),
        ([result([1.0], seed=0, divergence="lost")], None),
    ],
    ids=["first of equals", "smallest loss", "not a diverged one", "first without objectives", "", "none is left"],
)
def test_best_seed(runs: list[SeedResult], best: int | None) -> None:
    found = best_seed(runs)
    assert (found and found.seed) == best


def test_summary_has_mean_and_sample_deviation() -> None:
    runs = [result([60.0], [50.0], average_last=1), result([64.0], [51.0], average_last=1)]
    summary = summarise(runs)
    assert summary["test_last10"] == {"mean": 62.0, "n": 2, "std": pytest.approx(math.sqrt(8))}
    assert summary["objective"]["mean"] == 50.5


def test_one_seed_has_no_deviation() -> None:
    assert summarise([result([60.0], [50.0])])["objective"] == {"mean": 50.0, "n": 1}


@pytest.mark.parametrize("order", [1, -1])
def test_a_figure_that_only_some_seeds_have_is_kept_with_its_number(order: int) -> None:
    runs = [result([60.0], [math.nan]), result([64.0], [51.0])][::order]
    assert summarise(runs)["objective"] == {"mean": 51.0, "n": 1}
    assert summarise(runs)["test_oracle"]["n"] == 2


@pytest.mark.parametrize("second", ["lost", None])
def test_figures_of_seeds_of_which_one_diverged_have_no_mean_and_no_deviation(second: str | None) -> None:
    runs = [result([60.0, 50.0], divergence="lost"), result([64.0, 70.0], seed=1, divergence=second)]
    summary = summarise(runs)
    assert math.isnan(summary["test_last10"]["mean"])
    assert math.isnan(summary["test_last10"]["std"])
    assert summary["test_oracle"] == {"mean": 65.0, "n": 2, "std": pytest.approx(math.sqrt(50))}


# ---- configs


def write(path: Path, values: dict[str, Any]) -> Path:
    path.write_text(dump_yaml(values), encoding="utf-8")
    return path


def test_a_config_reads_scaled_first_and_then_overridden_as_given(tmp_path: Path) -> None:
    path = write(tmp_path / "c.yaml", sections("act"))
    assert read_config(path, [], None) == tiny("act")
    config = read_config(path, ["warmup_epochs=5", "dataset.subset=0.5"], 40)
    assert config.settings.epochs == 40
    assert config.settings.warmup_length() == 5
    assert config.objective.average_last == 20
    assert config.dataset.subset == 0.5


def test_epochs_set_by_name_scale_nothing(tmp_path: Path) -> None:
    config = read_config(write(tmp_path / "c.yaml", sections("act")), ["epochs=40"], None)
    assert (config.settings.epochs, config.settings.warmup_length(), config.objective.average_last) == (40, 2, 2)


def test_provenance_is_carried_and_not_read(tmp_path: Path) -> None:
    path = write(tmp_path / "c.yaml", {**sections("act"), "provenance": {"run": "r", "anything": [1, 2]}})
    assert read_config(path, [], None) == tiny("act")


def test_another_method_keeps_what_both_read(tmp_path: Path) -> None:
    path = write(tmp_path / "c.yaml", sections("act", tau=0.1, weight_decay=0.001))
    config = read_config(path, ["method=standard"], 8)
    assert config == tiny("standard", weight_decay=0.001, epochs=8, warmup_epochs=4, objective={"average_last": 4})


def test_a_method_that_wants_more_says_so(tmp_path: Path) -> None:
    path = write(tmp_path / "c.yaml", sections("standard"))
    with pytest.raises(InputError, match="lr1 is required"):
        read_config(path, ["method=act"], None)
    assert read_config(path, ["method=act", "lr1=0.1"], None) == tiny("act")


def test_another_method_on_a_broken_section_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "c.yaml", {**sections("act"), "fixed": [1]})
    with pytest.raises(InputError, match="section 'fixed' is a mapping"):
        read_config(path, ["method=standard"], None)


def test_resolving_leaves_the_given_sections_alone() -> None:
    given = sections("act")
    resolve_config(given, {"lr": 0.3, "method": "standard"}, 10, "here")
    assert given == sections("act")


# ---- training


def test_nothing_is_written_without_an_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    seen: list[tuple[int, float]] = []
    results = train_seeds(
        tiny("standard"), [3, 1], Surroundings(), None, lambda seed, report: seen.append((seed, report["epoch"]))
    )
    assert seen == [(seed, float(epoch)) for seed in (3, 1) for epoch in range(EPOCHS)]
    assert [run.seed for run in results] == [3, 1]
    assert list(tmp_path.iterdir()) == []


def test_each_seed_is_the_run_of_that_seed_with_the_test_set_scored_every_epoch() -> None:
    (repeated,) = train_seeds(tiny("standard"), [3], Surroundings(test_from=None), None, lambda seed, report: None)
    assert without_times(repeated.reports) == without_times(finish(start(tiny("standard", seed=3), test_from=0)))


@pytest.mark.parametrize("seeds", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_the_model_is_the_one_of_the_best_objective_in_whatever_order(seeds: tuple[int, ...], tmp_path: Path) -> None:
    config = tiny("standard", dataset={"subset": 0.2}, objective={"metric": "val_loss", "mode": "min"})
    results = train_seeds(config, seeds, Surroundings(), tmp_path / "out", lambda seed, report: None)
    best = min(results, key=lambda result: result.objective)
    assert torch.load(tmp_path / "out" / "model.pt", weights_only=True)["config"]["seed"] == best.seed


def test_a_diverged_seed_stops_at_once_and_leaves_readable_files_and_no_model(tmp_path: Path) -> None:
    seen: list[int] = []
    config = tiny("standard", lr=1e30)
    (found,) = train_seeds(config, [0], Surroundings(), tmp_path / "out", lambda seed, report: seen.append(seed))
    assert found.divergence is not None
    assert len(seen) == len(found.reports) == 1
    summary = json.loads((tmp_path / "out" / "summary.json").read_text(), parse_constant=pytest.fail)
    assert summary["over_seeds"]["test_last10"]["mean"] is None
    assert "objective" not in summary["over_seeds"]
    files = sorted(path.name for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert files == ["config.yaml", "epochs.jsonl", "summary.json"]
