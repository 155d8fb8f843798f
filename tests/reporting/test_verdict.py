from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from report_runs import COMPLETE, SPACE, Asked, drawn, view

from tune_lnl.config.yaml import dump_yaml
from tune_lnl.reporting.trainings import Recorded
from tune_lnl.reporting.verdict import (
    accuracy_figure,
    config_table,
    confirmation_figure,
    last_epochs_test,
    published_of,
    validation_figure,
)
from tune_lnl.training.heldout import HeldOutPredictions, write_heldout
from tune_lnl.tuning.confirm.statistics import rank_candidates
from tune_lnl.tuning.runs.confirmation import Confirmation


@pytest.mark.parametrize(
    ("start", "told"),
    [
        (Asked("COMPLETE", 60.0), "4.00 (-0.16 to 8.16) better than the published setting (trial 0); within what"),
        (Asked("COMPLETE", 50.0), "14.00 (9.84 to 18.16) better than the published setting (trial 0); more than"),
        (Asked("COMPLETE", 70.0), "It is the published setting itself: nothing tried was better."),
        (Asked("PRUNED", 55.0, epochs=3), "was stopped early after 3 epochs at 55.00; the best had 61.00 there."),
        (Asked("FAIL", 1.0, epochs=0), "There is no published setting among the trials"),
    ],
)
def test_best_against_published(tmp_path: Path, start: Asked, told: str) -> None:
    seen = view(tmp_path, [start, Asked("COMPLETE", 64.0)])
    assert told in validation_figure(seen, []).takeaway


def test_two_trials_with_predictions_are_compared_image_by_image(tmp_path: Path) -> None:
    seen = view(tmp_path, [Asked("COMPLETE", 60.0), Asked("COMPLETE", 64.0)])
    given = np.zeros(100, dtype=np.int64)
    for number, right in ((0, 60), (1, 64)):
        probabilities = np.eye(2, dtype=np.float32)[(np.arange(100) >= right).astype(int)]
        write_heldout(seen.run.files.heldout(number), HeldOutPredictions(probabilities[None], np.arange(100), given))
    takeaway = validation_figure(seen, []).takeaway
    # They differ on four images of 100, all for the better: no draw of images says otherwise, and 8 are the most.
    assert "4.00 (1.00 to 8.00) better than the published setting (trial 0); more than" in takeaway


def test_the_consensus_is_named_and_decides_nothing(tmp_path: Path) -> None:
    seen = view(tmp_path, [Asked("COMPLETE", 60.0 - number) for number in range(8)])
    random = np.random.default_rng(0)
    true = random.integers(5, size=400)
    given = np.where(random.random(400) < 0.7, true, (true + 1) % 5)
    for number in range(8):
        wrong = (true + random.integers(1, 5, size=400)) % 5
        predicted = np.where(random.random(400) < (0.98 if number == 5 else 0.85), true, wrong)
        probabilities = np.eye(5, dtype=np.float32)[predicted]
        write_heldout(seen.run.files.heldout(number), HeldOutPredictions(probabilities[None], np.arange(400), given))
    takeaway = validation_figure(seen, []).takeaway
    assert "Trial 0 is the best" in takeaway
    assert "The consensus of the 8 complete trials on the held-out images prefers trial 5; thirty images" in takeaway


def test_a_stopped_trial_that_stood_higher_is_named_with_what_the_best_had_then(tmp_path: Path) -> None:
    seen = view(tmp_path, [Asked("COMPLETE", 60.0), Asked("PRUNED", 61.0, epochs=3)])
    told = validation_figure(seen, []).takeaway
    assert "nothing tried was better" not in told
    assert "no other trial of full length was better; trial 1, stopped early, stood at 61.00 after 3 epochs" in told
    assert "(trial 0 after as many: 57.00)" in told


def test_guessing_is_called_guessing(tmp_path: Path) -> None:
    told = validation_figure(view(tmp_path, [Asked("COMPLETE", 13.0)]), []).takeaway
    assert "No trial is better than guessing, which scores about 12.5." in told


def test_a_lower_loss_is_better(tmp_path: Path) -> None:
    changes = {"objective": {"metric": "val_loss", "mode": "min", "average_last": 1}}
    seen = view(tmp_path, [Asked("COMPLETE", 60.0), Asked("COMPLETE", 50.0)], changes=changes)
    assert "val_loss 50.00" in validation_figure(seen, []).takeaway
    assert "10.00 (5.84 to 14.16) better" in validation_figure(seen, []).takeaway


def test_no_best(tmp_path: Path) -> None:
    seen = view(tmp_path, [Asked("FAIL", epochs=1)])
    assert validation_figure(seen, []).takeaway.startswith("No trial has run to its full length")
    assert accuracy_figure(seen, []).plot is None
    assert config_table(seen).rows[0] == ["lr", "–", "0.01", "0.002 to 0.2 (loguniform)"]


def test_test_figures(tmp_path: Path) -> None:
    seen = view(tmp_path)
    assert seen.best is not None
    assert last_epochs_test(seen, seen.best) == (84.0, 0.0)
    assert last_epochs_test(seen, seen.trials[2]) is None
    plain = Recorded("plain cross-entropy", tmp_path / "plain", (70.0, 72.0), (50.0, 51.0))
    takeaway = accuracy_figure(seen, [plain]).takeaway
    assert takeaway == (
        "Best: trial 1 reaches a test_accuracy of 84.00%, plain cross-entropy 71.00 (58.29 to 83.71). "
        "Nothing is published for this dataset and noise: the published setting is that of another one."
    )


def test_a_published_setting_that_does_better_on_the_test_set_is_named(tmp_path: Path) -> None:
    seen = view(tmp_path)
    path, last = seen.run.files.epochs(0), seen.reports(seen.trials[0])[-1]
    path.write_text(path.read_text() + json.dumps({**last, "test_accuracy": 90.0, "attempt": 2}) + "\n")
    assert "; the published setting reaches more, 90.00%. Nothing" in accuracy_figure(seen, []).takeaway


def test_published_figures_are_for_the_whole_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = view(tmp_path)
    base = {**seen.flat_base, "dataset.name": "cifar80no", "dataset.subset": 1.0}
    monkeypatch.setitem(seen.__dict__, "flat_base", base)
    assert len(published_of(seen)) == 16
    told = accuracy_figure(seen, []).takeaway
    assert "(trained on 70% of the training set; published figures are for all of it)" in told
    assert told.endswith(
        "84.00%, 19.60 points above the 64.40% published for ACT; plain cross-entropy was published with 22.25%."
    )
    monkeypatch.setitem(seen.__dict__, "flat_base", {**base, "dataset.subset": 0.5})
    assert published_of(seen) == []


def test_a_confirmed_run(tmp_path: Path) -> None:
    seen = view(tmp_path)
    values = {1: [60.0, 61.0, 62.0], 0: [59.0, 61.5, 60.0], 4: [50.0, math.nan, 51.0]}
    candidates = tuple(rank_candidates(values, "max"))
    test = {"mean": 81.5, "std": 0.25, "epochs": 1}
    found = Confirmation("3x3", "val_accuracy", "max", ({"seed": 1},) * 3, candidates, 1, test)
    assert confirmation_figure(seen) is None
    seen.run.files.confirmation.write_text(dump_yaml(found.to_dict()))
    figure = confirmation_figure(seen)
    assert figure is not None
    assert figure.takeaway == (
        "Trial 1 comes first, and is not distinguishable from trial 0; on all the training data its test_accuracy is "
        "81.50 ± 0.25 (last 1 epochs, scored once)."
    )
    first, others = drawn(figure).data
    assert (first.x, first.y, others.x, others.y) == ((61.0,), (1.0,), (60.1667,), (0.0,))
    assert first.error_x.array == pytest.approx([2.4841], abs=1e-3)
    assert first.text[0] == "trial 1: 61.00 (58.52 to 63.48)<br>3 replicates"
    assert figure.table is not None
    assert any("diverged" in str(cell) for row in figure.table.rows for cell in row)
    assert accuracy_figure(seen, []).takeaway.startswith("Confirmed: trial 1, all data reaches a test_accuracy of 81.5")


def test_settings_of_best_and_published(tmp_path: Path) -> None:
    rows = {row[0]: row[1:] for row in config_table(view(tmp_path, [COMPLETE])).rows}
    assert rows["lr"] == ["0.01", "0.01", "0.002 to 0.2 (loguniform)"]
    assert rows["mining"] == ["true", "true", "true, false (choice)"]
    assert rows["lr1"] == ["0.08", "0.08", "follows from the others"]
    assert set(rows) == {*SPACE["search"], "lr1"}
