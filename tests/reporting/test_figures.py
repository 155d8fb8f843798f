from __future__ import annotations

import sys
from pathlib import Path

import plotly.graph_objects as go
import pytest
from report_runs import COMPLETE, MIXED, Asked, make_run

from tune_lnl import load_run


def test_the_pictures_of_the_report_for_a_notebook(tmp_path: Path) -> None:
    make_run(tmp_path, [*MIXED[:5], Asked("COMPLETE", 61.0), Asked("COMPLETE", 62.0)])
    found = load_run("tiny", tmp_path / "results").figures()
    assert list(found) == [
        "validation",
        "test",
        "history",
        "curves",
        "parallel",
        "importances",
        "lr-map",
        "slice-lr",
        "slice-lr-asymmetry",
        "slice-warmup-epochs",
        "slice-mining",
        "slice-lr1",
        "noise-requested",
        "noise-measured",
        "selection",
        "timeline",
    ]
    for figure in found.values():
        assert isinstance(figure, go.Figure)
        assert figure.data


def test_a_run_without_trials_has_none(tmp_path: Path) -> None:
    make_run(tmp_path, [])
    assert {name for name in load_run("tiny", tmp_path / "results").figures() if not name.startswith("noise")} == set()


def test_our_own_figures_not_those_of_optuna(tmp_path: Path) -> None:
    make_run(tmp_path, [COMPLETE])
    load_run("tiny", tmp_path / "results").figures()
    assert not [name for name in sys.modules if name.startswith("optuna.visualization.")]


@pytest.mark.parametrize("condition", ["asym40", "asym20"])
def test_a_run_of_one_of_several_conditions(tmp_path: Path, condition: str) -> None:
    make_run(tmp_path, [COMPLETE], name=f"both/{condition}", condition=condition)
    assert "history" in load_run(f"both/{condition}", tmp_path / "results").figures()
