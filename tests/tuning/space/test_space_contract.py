"""What every shipped space promises, whichever condition and length is asked for."""

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
from tune_lnl.tuning.runs.run import space_from_settings
from tune_lnl.tuning.space.named import find_space, space_files
from tune_lnl.tuning.space.space import SearchSpace, condition_names, load_space
from tune_lnl.tuning.study.pruners import rungs
from tune_lnl.tuning.study.study import distribution

optuna.logging.set_verbosity(optuna.logging.WARNING)

NAMES = sorted(space_files())
CASES = [(name, condition) for name in NAMES for condition in condition_names(name)]


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


@pytest.mark.parametrize("name", NAMES)
def test_the_description_is_one_line(name: str) -> None:
    description = read_mapping(find_space(name))["description"]
    assert description.strip() == description != ""
    assert "\n" not in description


@pytest.mark.parametrize("name", NAMES)
def test_the_setting_is_written_out(name: str) -> None:
    """The published setting is written out, not left to defaults that may move."""
    written = read_mapping(find_space(name))
    shared = {"lr_decay", "warmup_lr"}
    schedule = {"act": shared, "co_teaching": shared, "jocor": shared, "core": {"lr_milestones", "lr_drop"}}[
        written["method"]
    ]
    assert {"epochs", "batch_size", "model", *schedule} <= set(written["fixed"])
    assert not set(written["fixed"]) & set(written["search"])


@pytest.mark.parametrize(("name", "condition"), CASES)
class TestEveryCondition:
    def test_start_points_are_complete_and_trial_0_is_there(self, name: str, condition: str) -> None:
        space = load_space(name, condition)
        assert space.start
        for point in space.start:
            assert set(point) == set(space.parameters)
            assert all(space.parameters[key].contains(value) for key, value in point.items())
            space.config(point)

    def test_every_corner_is_valid(self, name: str, condition: str) -> None:
        space = load_space(name, condition)
        for _, point in space.corners():
            check_draw(space, point)

    def test_the_first_rung_stands_behind_the_longest_warmup(self, name: str, condition: str) -> None:
        space = load_space(name, condition)
        assert space.longest_warmup() < space.epochs
        assert rungs(space.epochs, space.longest_warmup())[0] >= space.longest_warmup()

    @pytest.mark.parametrize("epochs", [2, 3, 12, 301])
    def test_another_length(self, name: str, condition: str, epochs: int) -> None:
        space = load_space(name, condition, epochs=epochs)
        assert space.epochs == epochs
        assert space.longest_warmup() < epochs
        for point in (*space.start, *(values for _, values in space.corners())):
            check_draw(space, point)

    def test_it_is_the_same_after_a_turn_through_run_yaml(self, name: str, condition: str) -> None:
        space = load_space(name, condition)
        stored = {"space_name": space.name, "condition": condition, "space": space.to_dict()}
        for text in (dump_yaml(stored), yaml.safe_dump(stored)):
            again = space_from_settings(load_yaml(text, "run.yaml"), space.source)
            assert again == space


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
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_values_that_a_sampler_could_give_are_a_valid_trial(name: str, data: st.DataObject) -> None:
    space = SPACES[name]
    params = {}
    for key, parameter in space.parameters.items():
        params[key] = data.draw(values_of(distribution(parameter)), label=key)
        assert parameter.contains(params[key])
    check_draw(space, params)


SPACES = {name: load_space(name) for name in NAMES}


def check_random_draws(name: str, draws: int) -> None:
    space = SPACES[name]
    distributions = {key: distribution(parameter) for key, parameter in space.parameters.items()}
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(draws):
        params = study.ask(distributions).params
        assert all(parameter.contains(params[key]) for key, parameter in space.parameters.items())
        check_draw(space, params)


@pytest.mark.parametrize("name", NAMES)
def test_random_draws_are_valid_trials(name: str) -> None:
    check_random_draws(name, 200)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_ten_thousand_random_draws_are_valid_trials(name: str) -> None:
    check_random_draws(name, 10_000)
