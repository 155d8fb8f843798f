from __future__ import annotations

import math
from pathlib import Path

import pytest
from report_runs import drawn, view

from tune_lnl.config.yaml import dump_yaml
from tune_lnl.reporting.accuracy import accuracy_figure
from tune_lnl.reporting.confirmation import confirmation_figure
from tune_lnl.tuning.confirm.statistics import rank_candidates
from tune_lnl.tuning.runs.confirmation import Confirmation


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
