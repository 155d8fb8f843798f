from __future__ import annotations

import math
from pathlib import Path

import pytest
from report_runs import COMPLETE, Asked, drawn, view

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


def test_no_shade_is_left_for_stopped_trials_where_none_was_stopped(tmp_path: Path) -> None:
    (lines,) = drawn(parallel_figure(view(tmp_path, [COMPLETE, Asked("COMPLETE", 64.0)]))).data
    assert lines.line.colorbar.ticktext == ("the worst complete", "the best")
    assert (lines.line.cmin, lines.line.cmax) == (0, 1)
    assert lines.line.color == (0.0, 1.0)


def test_a_single_trial_is_a_sentence(tmp_path: Path) -> None:
    figure = parallel_figure(view(tmp_path, [COMPLETE]))
    assert figure.plot is None
    assert figure.table is None
    assert figure.takeaway.startswith("The best trial has lr 0.01, lr_asymmetry 8")
