from __future__ import annotations

import math
from pathlib import Path

import pytest
from report_runs import drawn, view

from tune_lnl.reporting.parallel import parallel_figure


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
