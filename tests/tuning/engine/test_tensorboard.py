"""Event files, read back by TensorBoard's own loader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tune_lnl.tuning.engine.tensorboard import EventFile

accumulator = pytest.importorskip(
    "tensorboard.backend.event_processing.event_accumulator",
    reason="an extra: pip install 'tune_lnl[tensorboard]'",
)


def shown(folder: Path) -> Any:
    """Return the run as TensorBoard shows it."""
    found = accumulator.EventAccumulator(str(folder), purge_orphaned_data=True)
    found.Reload()
    return found


def curve(folder: Path, name: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in shown(folder).Scalars(name)]


def test_a_curve_per_metric_and_none_of_the_test_set(tmp_path: Path) -> None:
    file = EventFile(tmp_path, 1, 0, {"lr": 0.01})
    for epoch in range(2):
        report = {"epoch": epoch, "lr": 0.01, "val_accuracy": 50.0 + epoch, "test_accuracy": 99.0}
        file.epoch(epoch, report, 45.0 + epoch)
        # Flushed after each epoch: a trial can be watched.
        assert curve(tmp_path, "val_accuracy")[-1] == (epoch, 50.0 + epoch)
    file.close()
    assert set(shown(tmp_path).Tags()["scalars"]) == {"objective", "lr", "val_accuracy"}
    assert curve(tmp_path, "objective") == [(0, 45.0), (1, 46.0)]
    (settings,) = shown(tmp_path).Tensors("settings/text_summary")
    assert b"| lr | 0.01 |" in settings.tensor_proto.string_val[0]


def test_a_continued_trial_replaces_the_epochs_that_it_repeats(tmp_path: Path) -> None:
    first = EventFile(tmp_path, 1, 0, {"lr": 0.01})
    for epoch in range(3):
        first.epoch(epoch, {"val_accuracy": 10.0}, 10.0)
    first.close()
    second = EventFile(tmp_path, 2, 2, {"lr": 0.01})
    second.epoch(2, {"val_accuracy": 20.0}, 20.0)
    second.close()
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".1", ".2"]
    assert curve(tmp_path, "val_accuracy") == [(0, 10.0), (1, 10.0), (2, 20.0)]
