"""The table of a moment, drawn to text."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
from optuna.trial import TrialState
from rich.console import Console
from tiny_search import tiny_plan

from tune_lnl.tuning.monitor.state import RunningTrial, View
from tune_lnl.tuning.monitor.table import live_table
from tune_lnl.tuning.plan.plan import Plan
from tune_lnl.tuning.resources.divide import Machine
from tune_lnl.tuning.resources.memory import GpuUse
from tune_lnl.tuning.runs.rows import TrialRow

PARAMS = {"lr": 0.0123456, "lr_asymmetry": 8.0, "tau": 0.025, "warmup_epochs": 50, "label_smoothing": 0.0123}
BEST = TrialRow(3, "COMPLETE", 71.25, 1.1, 6, PARAMS, None, None, 1, 12.0)
COUNTS = {TrialState.COMPLETE: 7, TrialState.PRUNED: 4, TrialState.FAIL: 1}
RUNNING = RunningTrial(12, 4, 61.204, 250.0, PARAMS, seconds=90.0)
VIEW = View([RUNNING, RunningTrial(13)], BEST, COUNTS, 64, 0.25, 7200.0, elapsed=2400.0)


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return tiny_plan(tmp_path)


class Utf8(io.StringIO):
    encoding = "utf-8"


def drawn(plan: Plan, view: View, width: int = 100, height: int = 30, gpus: tuple[GpuUse, ...] = ()) -> list[str]:
    file = Utf8()
    console = Console(file=file, width=width, height=height, color_system=None, force_terminal=True)
    console.print(live_table(plan, view, (4.5e9, 23.5e9), gpus, console))
    return re.sub(r"\x1b\[[0-9;]*m", "", file.getvalue()).splitlines()


def test_what_a_hundred_columns_tell(plan: Plan) -> None:
    lines = drawn(plan, VIEW)
    assert max(map(len, lines)) <= 100
    text = "\n".join(lines)
    assert re.search(r"trial +epoch +val_accuracy +time +left +settings", text)
    assert re.search(r"12 +4/6 +61\.20 +90 s +4 min +lr=0\.01235 lr_asymmetry=8 tau=0\.025 warmup_epochs=50", text)
    assert re.search(r"13 +0/6 +starting +-", text)
    assert "best so far: trial 3, val_accuracy 71.25 ± 1.10  lr=0.01235 lr_asymmetry=8" in text
    assert "2 running, 7 complete, 4 stopped early, 1 failed of 64 trials" in text
    assert "in use: CPUs 2 of 2, memory 4.5 of 23.5 GB" in text
    assert re.search(r"█{6}░{18} 25%, 40 min so far, about 2\.0 h left, ends \d\d:\d\d$", text)


@pytest.mark.parametrize("width", [40, 60, 80])
def test_a_narrow_terminal_loses_ends_and_no_rows(plan: Plan, width: int) -> None:
    lines = drawn(plan, VIEW, width)
    assert max(map(len, lines)) <= width
    assert len(lines) == len(drawn(plan, VIEW))
    assert any(line.lstrip().startswith("12 ") for line in lines)


def test_more_trials_than_rows(plan: Plan) -> None:
    many = replace(VIEW, running=[RunningTrial(number) for number in range(40)])
    lines = drawn(plan, many, height=20)
    assert len(lines) < 20
    assert "  and 29 more running" in lines


def test_gpus(plan: Plan) -> None:
    resources = replace(plan.resources, gpus_per_trial=0.5)
    with_gpus = replace(plan, machine=Machine(cpus=16, gpus=2), resources=resources)
    gpus = (GpuUse(80.0, 1024.0, 10240.0), GpuUse(40.0, 2048.0, 10240.0))
    text = "\n".join(drawn(with_gpus, VIEW, gpus=gpus))
    assert "GPUs 1 of 2, GPU memory 3.0 of 20.0 GiB, GPU busy 60%" in text


def test_no_best_yet_and_no_end_known(plan: Plan) -> None:
    text = "\n".join(drawn(plan, View([], None, {}, 64, 0.0, None)))
    assert "best so far: none; a trial counts once it has run to its full length" in text
    assert text.endswith(" 0%, 0 s so far")


def test_a_range_until_a_trial_has_ended(plan: Plan) -> None:
    text = "\n".join(drawn(plan, replace(VIEW, seconds_left=7200.0, least_seconds_left=1800.0)))
    assert text.endswith(" 25%, 40 min so far, 30 min to 2.0 h left")
