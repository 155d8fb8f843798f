"""``--epochs`` on plain sections."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_space import RANGE, SPACE

from tune_lnl.config.act import ActSettings
from tune_lnl.config.core import CoreSettings
from tune_lnl.config.epochs import scale_epochs
from tune_lnl.config.lr_plans import scale_count
from tune_lnl.config.overrides import apply_overrides
from tune_lnl.config.yaml import read_mapping
from tune_lnl.errors import InputError

CIFAR = Path(__file__).parents[2] / "search_spaces" / "act_cifar80no.yaml"


def scaled(epochs: int, space: dict[str, Any], **sections: Any) -> dict[str, Any]:
    values = {**space, **sections}
    before = copy.deepcopy(values)
    changed = scale_epochs(values, epochs, ActSettings, "my.yaml")
    assert values == before, "the caller's sections are not touched"
    return changed


def test_the_published_space_at_twelve_epochs() -> None:
    changed = scale_epochs(read_mapping(CIFAR), 12, ActSettings, "my.yaml")
    assert changed["fixed"]["epochs"] == 12
    # times 12 / 150 = 0.08
    assert changed["search"]["warmup_epochs"] == {"type": "int", "low": 1, "high": 5, "step": 1}
    assert [point["warmup_epochs"] for point in changed["start"]] == [4, 4]
    assert changed["objective"]["average_last"] == 1
    untouched = {"lr", "lr_asymmetry", "tau"}
    original = read_mapping(CIFAR)
    assert {name: changed["search"][name] for name in untouched} == {
        name: original["search"][name] for name in untouched
    }
    assert changed["fixed"] == {**original["fixed"], "epochs": 12}
    for key in ("method", "dataset", "validation", "budget", "conditions"):
        assert changed[key] == original[key]


def test_the_same_length_changes_nothing_but_spells_the_average_out() -> None:
    assert scaled(100, SPACE) == {**SPACE, "objective": {"average_last": 10}}


def test_a_longer_run_scales_up() -> None:
    changed = scaled(250, SPACE)
    assert changed["search"]["warmup_epochs"] == {"type": "int", "low": 25, "high": 100, "step": 25}
    assert [point["warmup_epochs"] for point in changed["start"]] == [75, 50]
    assert changed["objective"]["average_last"] == 25


def test_a_given_average_scales_and_the_default_one_too() -> None:
    assert scaled(50, SPACE, objective={"average_last": 4})["objective"] == {"average_last": 2}
    assert scaled(50, SPACE)["objective"] == {"average_last": 5}
    assert scaled(1, SPACE)["objective"] == {"average_last": 1}


def test_fixed_epochs_scale_and_other_whole_numbers_do_not() -> None:
    fixed = {"epochs": 100, "warmup_epochs": 25, "batch_size": 128, "seed": 7, "threads": 2, "lr": 1, "tau": 0.025}
    assert scaled(20, SPACE, fixed=fixed)["fixed"] == {**fixed, "epochs": 20, "warmup_epochs": 5}


def test_zero_stays_zero_and_more_stays_at_least_one() -> None:
    for warmup, expected in ((0, 0), (1, 1), (30, 1)):
        fixed = {"epochs": 100, "warmup_epochs": warmup}
        assert scaled(2, SPACE, fixed=fixed, search={})["fixed"]["warmup_epochs"] == expected


@pytest.mark.parametrize(
    ("count", "factor", "expected"),
    [(45, 70 / 100, 32), (25, 0.5, 13), (5, 0.5, 3), (3, 0.1, 1), (0, 0.5, 0), (50, 12 / 150, 4), (7, 1.0, 7)],
)
def test_counts_round_half_up(count: int, factor: float, expected: int) -> None:
    assert scale_count(count, factor) == expected


def test_epochs_in_plan_strings_scale_wherever_they_stand() -> None:
    plans = ["cosine:20,5e-4,100", "step:50,80,0.5", "cosine"]
    changed = scaled(
        50,
        SPACE,
        fixed={"epochs": 100, "lr_decay": plans[0], "lr1_decay": plans[1]},
        search={"warmup_epochs": {"type": "int", "low": 10, "high": 40}},
        start=[{"lr_decay": plans[0]}],
    )
    assert changed["fixed"]["lr_decay"] == "cosine:10,5e-4,50"
    assert changed["fixed"]["lr1_decay"] == "step:25,40,0.5"
    assert changed["start"] == [{"lr_decay": "cosine:10,5e-4,50"}]


def test_a_choice_of_plans_scales_with_its_start_points() -> None:
    search = {"lr_decay": {"type": "choice", "choices": ["step:50,80", "cosine:20", "baseline", None]}}
    changed = scaled(50, SPACE, search=search, start=[{"lr_decay": "step:50,80"}])
    assert changed["search"]["lr_decay"]["choices"] == ["step:25,40", "cosine:10", "baseline", None]
    assert changed["start"][0]["lr_decay"] in changed["search"]["lr_decay"]["choices"]


def test_shaped_plans_follow_the_run_anyway() -> None:
    fixed = {"epochs": 100, "lr_decay": {"shape": "cosine", "end": 0.05}}
    assert scaled(10, SPACE, fixed=fixed)["fixed"]["lr_decay"] == fixed["lr_decay"]


def test_choices_scale_without_repetition() -> None:
    search = {"warmup_epochs": {"type": "choice", "choices": [10, 20, 24, 50]}}
    assert scaled(10, SPACE, search=search)["search"]["warmup_epochs"]["choices"] == [1, 2, 5]


@pytest.mark.parametrize(
    ("range_", "value"),
    [
        ({"type": "int", "low": 10, "high": 12}, 1),
        ({"type": "int", "low": 10, "high": 12, "step": 2}, 1),
        ({"type": "choice", "choices": [38, 42]}, 4),
    ],
)
def test_a_range_that_collapses_becomes_fixed(range_: dict[str, Any], value: int) -> None:
    changed = scaled(10, SPACE, search={"lr": RANGE, "warmup_epochs": range_})
    assert changed["fixed"]["warmup_epochs"] == value
    assert changed["search"] == {"lr": RANGE}
    assert all("warmup_epochs" not in point for point in changed["start"])


def test_a_choice_of_plans_that_collapses_becomes_fixed() -> None:
    search = {"lr": RANGE, "lr_decay": {"type": "choice", "choices": ["step:50", "step:51"]}}
    changed = scaled(10, SPACE, search=search)
    assert changed["fixed"]["lr_decay"] == "step:5"
    assert changed["search"] == {"lr": RANGE}


def test_a_grid_whose_first_point_was_raised_to_one_is_given_up() -> None:
    # times 0.1: 2, 22, 42 would be 0.2, 2.2, 4.2; the first is raised to 1, and 2 and 4 are not of the grid 1, 3.
    search = {"warmup_epochs": {"type": "int", "low": 2, "high": 42, "step": 20}}
    changed = scaled(10, SPACE, search=search, start=[{"warmup_epochs": 22}])
    assert changed["search"]["warmup_epochs"] == {"type": "int", "low": 1, "high": 4, "step": 1}
    assert changed["start"] == [{"warmup_epochs": 2}]


@settings(deadline=None)
@given(
    old=st.integers(2, 400),
    epochs=st.integers(1, 400),
    low=st.integers(0, 40),
    step=st.integers(1, 30),
    places=st.lists(st.integers(0, 6), min_size=1, max_size=4),
)
def test_start_points_on_the_grid_stay_on_it(old: int, epochs: int, low: int, step: int, places: list[int]) -> None:
    space = {
        "fixed": {"epochs": old},
        "search": {"warmup_epochs": {"type": "int", "low": low, "high": low + 6 * step, "step": step}},
        "start": [{"warmup_epochs": low + place * step} for place in places],
    }
    changed = scale_epochs(space, epochs, ActSettings, "my.yaml")
    range_ = changed["search"].get("warmup_epochs")
    if range_ is None:
        assert changed["start"] == [{}] * len(places)
        return
    assert range_["low"] < range_["high"]
    for point in changed["start"]:
        assert range_["low"] <= point["warmup_epochs"] <= range_["high"]
        assert (point["warmup_epochs"] - range_["low"]) % range_["step"] == 0


@pytest.mark.parametrize(
    "range_", [5, None, {"choices": 5}, {"low": "a", "high": "b"}, {"low": 5.5, "high": 6.5}, {"step": 0.5}]
)
def test_a_range_that_is_none_is_left_for_the_check_of_the_space(range_: Any) -> None:
    assert scaled(10, SPACE, search={"warmup_epochs": range_})["search"]["warmup_epochs"] == range_


STAGES: dict[str, Any] = {
    "method": "core",
    "dataset": {"name": "sprites"},
    "fixed": {"epochs": 60, "lr_milestones": [20, 50]},
    "search": {"refine_epochs": {"type": "int", "low": 20, "high": 50, "step": 5}},
    "start": [{"refine_epochs": 40}],
}


def test_stages_and_milestones_scale_and_leave_an_epoch_for_the_first_stage() -> None:
    shorter = scale_epochs(STAGES, 12, CoreSettings, "my.yaml")
    assert shorter["fixed"] == {"epochs": 12, "lr_milestones": [4, 10]}
    assert shorter["search"]["refine_epochs"] == {"type": "int", "low": 4, "high": 10, "step": 1}
    assert shorter["start"] == [{"refine_epochs": 8}]
    shortest = scale_epochs(STAGES, 2, CoreSettings, "my.yaml")
    assert shortest["fixed"]["refine_epochs"] == 1
    assert "refine_epochs" not in shortest["search"]


def test_a_stage_that_is_exported_beside_its_rest_scales_as_one() -> None:
    both = {
        "method": "core",
        "dataset": {"name": "sprites"},
        "fixed": {"epochs": 60, "refine_epochs": 45, "self_epochs": 15},
    }
    assert scale_epochs(both, 10, CoreSettings, "my.yaml")["fixed"] == {"epochs": 10, "refine_epochs": 8}
    changed = apply_overrides(both, {"refine_epochs": 30}, CoreSettings, "my.yaml")
    assert changed["fixed"] == {"epochs": 60, "refine_epochs": 30}


def test_fewer_than_one_epoch_is_refused() -> None:
    with pytest.raises(InputError, match="--epochs is at least 1, got 0"):
        scaled(0, SPACE)


@pytest.mark.parametrize("old", [None, 0, "100", 1.5, True])
def test_a_config_without_a_length_cannot_be_scaled(old: Any) -> None:
    with pytest.raises(InputError, match=r"my\.yaml: fixed\.epochs is a whole number of at least 1, got"):
        scaled(10, SPACE, fixed={"epochs": old})


def test_a_plan_that_cannot_be_read_is_refused_while_scaling() -> None:
    with pytest.raises(InputError, match="unknown lr plan 'nonsense'"):
        scaled(10, SPACE, fixed={"epochs": 100, "lr_decay": "nonsense"})
