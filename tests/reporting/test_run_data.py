from __future__ import annotations

from pathlib import Path

import pytest
from report_runs import COMPLETE, MIXED, Asked, make_run, view

from tune_lnl.errors import InputError
from tune_lnl.reporting.run_data import load_runs
from tune_lnl.tuning.runs.finding import conditions_folder


def test_what_a_view_knows(tmp_path: Path) -> None:
    seen = view(tmp_path)
    assert [trial.state for trial in seen.trials] == [asked.state for asked in MIXED]
    assert [trial.number for trial in seen.complete] == [1, 0, 4]
    assert seen.best is seen.trials[1]
    assert seen.start is seen.trials[0]
    assert (seen.epochs, seen.asked, seen.finished, seen.rungs) == (6, 6, False, seen.run.settings["rungs"])
    assert (seen.count("COMPLETE"), seen.count("PRUNED", "FAIL"), seen.epochs_trained) == (3, 2, 24)
    assert (seen.metric_label, seen.sign, seen.test_metric, seen.average_last) == (
        "val_accuracy (%)",
        1.0,
        "test_accuracy",
        1,
    )


def test_a_trial(tmp_path: Path) -> None:
    first, *_, running = view(tmp_path).trials
    assert first.curve == [(epoch, 55.0 + epoch) for epoch in range(6)]
    assert (first.warmup, first.config["lr1"], first.trained_seconds) == (2, pytest.approx(0.08), 6.0)
    assert first.began is not None
    assert first.ended == first.began + 12.0
    assert first.label() == "trial 0, complete: 60.00 after 6 epochs"
    assert running.ended is None
    assert running.began is not None
    assert running.end_or_latest == running.began + 1.0


def test_a_loss_is_better_below(tmp_path: Path) -> None:
    seen = view(
        tmp_path,
        (Asked("COMPLETE", 3.0), Asked("COMPLETE", 2.0)),
        changes={"objective": {"metric": "val_loss", "mode": "min", "average_last": 1}},
    )
    assert seen.best is seen.trials[1]
    assert seen.better(1.0, 2.0)
    assert seen.metric_label == "val_loss"
    assert seen.test_metric == "test_accuracy"


def test_a_quarter_needs_four(tmp_path: Path) -> None:
    assert view(tmp_path).best_quarter() == []
    seen = view(tmp_path, [Asked("COMPLETE", 50.0 + number) for number in range(4)], name="four")
    assert [trial.number for trial in seen.best_quarter()] == [3, 2, 1]


def test_runs_of_a_folder_of_conditions(tmp_path: Path) -> None:
    for condition in ("asym40", "asym20"):
        make_run(tmp_path, [COMPLETE], name=f"both/{condition}", condition=condition)
    results = tmp_path / "results"
    assert [run.name for run in load_runs("both", results)] == ["both/asym20", "both/asym40"]
    assert [run.name for run in load_runs("both/asym40", results)] == ["both/asym40"]
    assert [run.name for run in load_runs(results / "both", Path("elsewhere"))] == ["both/asym20", "both/asym40"]
    assert conditions_folder("both", results) == results / "both"
    with pytest.raises(InputError, match="no run 'bot'"):
        load_runs("bot", results)
