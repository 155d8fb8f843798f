"""The cost of a search, told before it starts where it is long."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_search import tiny_plan

from tune_lnl.search import parser
from tune_lnl.tuning.plan import cost
from tune_lnl.tuning.plan.cost import Cost, cost_lines


@pytest.mark.parametrize(("seconds", "told"), [(3599.0, False), (3600.0, True), (90 * 86400.0, True)])
def test_from_an_hour_on_with_a_smaller_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, told: bool
) -> None:
    plan = tiny_plan(tmp_path)
    monkeypatch.setattr(cost, "estimate", lambda plan, batches: Cost(1.0, 2.0, 3.0, seconds, seconds, 0.0))
    lines = cost_lines(plan)
    assert bool(lines) == told
    if told:
        assert lines[0].startswith("  estimated time: about ")
        assert "6 trials of 6 epochs" in lines[0]
        smaller = parser().parse_args(shlex.split(lines[-1])[3:])
        assert (smaller.trials, smaller.epochs, smaller.name) == ("6", "1", "tiny-quick")


def test_the_preset_where_the_space_has_one(tmp_path: Path) -> None:
    plan = tiny_plan(tmp_path)
    digits = replace(plan, options=replace(plan.options, space="act_digits8no", overrides=("tau=0.1",)))
    smaller = cost.smaller_command(digits)
    assert smaller is not None
    assert smaller.endswith("--set tau=0.1 --preset quick") or smaller.endswith("--preset quick --set tau=0.1")
    quick = replace(digits, options=replace(digits.options, preset="quick"))
    assert cost.smaller_command(quick) is None
