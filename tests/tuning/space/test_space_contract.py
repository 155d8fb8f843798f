"""The promises of every shipped space, in every condition and at every length."""

from __future__ import annotations

import math
from typing import Any

import optuna
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from tune_lnl.config.act import LR1_CAP, ActSettings
from tune_lnl.config.core import CoreSettings
from tune_lnl.config.small_loss import SmallLossSettings
from tune_lnl.config.yaml import dump_yaml, load_yaml, read_mapping
from tune_lnl.tuning.runs.settings import space_from_settings
from tune_lnl.tuning.space.named import find_space, space_files
from tune_lnl.tuning.space.space import SearchSpace, condition_names, load_space
from tune_lnl.tuning.study.pruners import rungs
from tune_lnl.tuning.study.study import distribution, distributions

optuna.logging.set_verbosity(optuna.logging.WARNING)

NAMES = sorted(space_files())


def test_the_spaces_and_conditions_that_ship() -> None:
    promised = {"act_digits8no", "act_cifar80no", "act_cifar100nc", "act_cifar10n"}
    promised |= {f"{method}_{data}" for method in ("co_teaching", "jocor") for data in ("digits8no", "cifar100nc")}
    assert promised <= set(NAMES)
    for name in promised:
        assert {"sym20", "sym80", "asym40"} == set(condition_names(name))
    persons = {"core_sprites", "core_market", "core_duke", "core_cuhk03"}
    assert persons <= set(NAMES)
    for name in persons:
        assert condition_names(name)[0] == "random20"
        assert {"random10", "random30", "random50", "patterned20"} == set(condition_names(name)[1:])


def test_descriptions_are_one_line_and_the_settings_are_written_out() -> None:
    """The published setting of a space stands in its file; defaults may move."""
    shared = {"lr_decay", "warmup_lr"}
    schedules = {"act": shared, "co_teaching": shared, "jocor": shared, "core": {"lr_milestones", "lr_drop"}}
    for name in NAMES:
        written = read_mapping(find_space(name))
        assert written["description"].strip() == written["description"] != "", name
        assert "\n" not in written["description"], name
        assert {"epochs", "batch_size", "model", *schedules[written["method"]]} <= set(written["fixed"]), name
        assert not set(written["fixed"]) & set(written["search"]), name


@pytest.mark.parametrize("name", NAMES)
def test_every_condition_at_every_length(name: str) -> None:
    conditions: list[str | None] = [*condition_names(name)]
    for condition in conditions or [None]:
        space = load_space(name, condition)
        assert space.start, condition
        for point in space.start:
            assert set(point) == set(space.parameters)
            assert all(space.parameters[key].contains(value) for key, value in point.items())
        assert rungs(space.epochs, space.longest_warmup())[0] >= space.longest_warmup()
        stored = {"space_name": space.name, "condition": condition, "space": space.to_dict()}
        for text in (dump_yaml(stored), yaml.safe_dump(stored)):
            assert space_from_settings(load_yaml(text, "run.yaml"), space.source) == space
        for epochs in (space.epochs, 2, 12, 301):
            scaled = load_space(name, condition, epochs=epochs)
            assert scaled.longest_warmup() < scaled.epochs == epochs
            for point in (*scaled.start, *(values for _, values in scaled.corners())):
                check_draw(scaled, point)


def check_draw(space: SearchSpace, params: dict[str, Any] | Any) -> None:
    chosen = space.config(params).settings
    plans = chosen.plans()
    if isinstance(chosen, ActSettings):
        assert chosen.lr1 == min(LR1_CAP, chosen.lr * params["lr_asymmetry"])
        assert 0 <= chosen.warmup_epochs < chosen.epochs
        assert set(plans) == {"lr", "lr1"}
    elif isinstance(chosen, SmallLossSettings):
        assert set(plans) == {"lr"}
        kept = [chosen.remember_rate(epoch) for epoch in range(chosen.epochs)]
        assert kept == sorted(kept, reverse=True)
        assert 0 < kept[-1] <= 1
    else:
        assert isinstance(chosen, CoreSettings)
        assert 1 <= chosen.self_epochs == chosen.epochs - chosen.refine_epochs < chosen.epochs
        assert space.config(params).flat()["self_epochs"] == chosen.self_epochs
        assert set(plans) == {"lr", "head_lr"}
        # The large lr ends with SELF.
        assert plans["lr"][chosen.self_epochs - 1] == chosen.lr > plans["lr"][chosen.self_epochs]
    for plan in plans.values():
        assert len(plan) == chosen.epochs
        assert all(math.isfinite(value) and value > 0 for value in plan)


def values_of(one: BaseDistribution) -> st.SearchStrategy[Any]:
    """Any value that the distribution holds, its ends likely among them."""
    match one:
        case FloatDistribution(step=None):
            return st.floats(one.low, one.high)
        case IntDistribution():
            return st.integers(0, (one.high - one.low) // one.step).map(lambda k: one.low + k * one.step)
        case CategoricalDistribution():
            return st.sampled_from(one.choices)
    raise AssertionError(f"no strategy for {one}")


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_any_values_that_a_sampler_could_give_are_a_valid_trial(name: str, data: st.DataObject) -> None:
    space = SPACES[name]
    params = {}
    for key, parameter in space.parameters.items():
        params[key] = data.draw(values_of(distribution(parameter)), label=key)
        assert parameter.contains(params[key])
    check_draw(space, params)


SPACES = {name: load_space(name) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_random_draws_are_valid_trials(name: str) -> None:
    space = SPACES[name]
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(100):
        params = study.ask(distributions(space)).params
        assert all(parameter.contains(params[key]) for key, parameter in space.parameters.items())
        check_draw(space, params)
