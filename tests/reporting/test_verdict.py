from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from report_runs import COMPLETE, SPACE, Asked, view

from tune_lnl.reporting.accuracy import accuracy_figure
from tune_lnl.reporting.verdict import config_table, validation_figure
from tune_lnl.training.heldout import HeldOutPredictions, write_heldout


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


def test_settings_of_best_and_published(tmp_path: Path) -> None:
    rows = {row[0]: row[1:] for row in config_table(view(tmp_path, [COMPLETE])).rows}
    assert rows["lr"] == ["0.01", "0.01", "0.002 to 0.2 (loguniform)"]
    assert rows["mining"] == ["true", "true", "true, false (choice)"]
    assert rows["lr1"] == ["0.08", "0.08", "follows from the others"]
    assert set(rows) == {*SPACE["search"], "lr1"}
