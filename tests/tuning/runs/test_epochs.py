"""The metrics of a trial per epoch, read back."""

from __future__ import annotations

import json
from pathlib import Path

from tune_lnl.training.run import append_report
from tune_lnl.tuning.runs.epochs import read_epochs


class TestEpochs:
    def test_torn_and_foreign_lines(self, tmp_path: Path) -> None:
        path = tmp_path / "epochs.jsonl"
        for epoch in range(3):
            append_report(path, {"attempt": 1, "epoch": float(epoch), "val_accuracy": float(epoch)})
        with path.open("ab") as file:
            file.write(b'{"attempt": 1, "epoch": 3.0, "val_a\xff')
        assert [report["val_accuracy"] for report in read_epochs(path)] == [0.0, 1.0, 2.0]

    def test_the_latest_attempt_counts(self, tmp_path: Path) -> None:
        path = tmp_path / "epochs.jsonl"
        for attempt, epoch in ((1, 0), (1, 1), (2, 1), (1, 2), (2, 2), (1, 3)):
            append_report(path, {"attempt": attempt, "epoch": float(epoch), "val_accuracy": attempt})
        assert [report["val_accuracy"] for report in read_epochs(path)] == [1, 2, 2, 1]


def test_json_lines_have_no_nan(tmp_path: Path) -> None:
    path = tmp_path / "epochs.jsonl"
    append_report(path, {"epoch": 0.0, "val_loss": float("nan")})
    assert json.loads(path.read_text()) == {"epoch": 0.0, "val_loss": None}
    assert read_epochs(path)[0]["val_loss"] is None
