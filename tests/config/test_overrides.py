"""``--set`` and ``--epochs`` on plain sections."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tune_lnl.config.act import ActSettings
from tune_lnl.config.classifier import StandardSettings
from tune_lnl.config.core import CoreSettings
from tune_lnl.config.overrides import (
    apply_overrides,
    dataset_section,
    parse_overrides,
    scale_count,
    scale_epochs,
    setting_names,
)
from tune_lnl.config.yaml import read_mapping
from tune_lnl.errors import InputError

CIFAR = Path(__file__).parents[2] / "search_spaces" / "act_cifar80no.yaml"

RANGE = {"type": "uniform", "low": 0.0, "high": 1.0}
SPACE: dict[str, Any] = {
    "method": "act",
    "dataset": {"name": "digits8no"},
    "fixed": {"epochs": 100, "weight_decay": 5e-4, "tau": 0.025},
    "search": {"lr": RANGE, "lr_asymmetry": RANGE, "warmup_epochs": {"type": "int", "low": 10, "high": 40, "step": 10}},
    "start": [
        {"lr": 0.01, "lr_asymmetry": 8, "warmup_epochs": 30},
        {"lr": 0.02, "lr_asymmetry": 1, "warmup_epochs": 20},
    ],
}


def put(overrides: dict[str, Any], space: dict[str, Any] = SPACE) -> dict[str, Any]:
    before = copy.deepcopy(space)
    changed = apply_overrides(space, overrides, ActSettings, "my.yaml")
    assert space == before, "the caller's sections are not touched"
    return changed


def scaled(epochs: int, space: dict[str, Any], **sections: Any) -> dict[str, Any]:
    values = {**space, **sections}
    before = copy.deepcopy(values)
    changed = scale_epochs(values, epochs, ActSettings, "my.yaml")
    assert values == before, "the caller's sections are not touched"
    return changed


# ---- --set


def test_nothing_set_changes_nothing() -> None:
    assert put({}) == SPACE


def test_a_fixed_setting_is_replaced() -> None:
    changed = put({"tau": 0.1})
    assert changed == {**SPACE, "fixed": {**SPACE["fixed"], "tau": 0.1}}


def test_a_setting_that_was_not_there_is_added() -> None:
    assert put({"label_ema": 0.5})["fixed"]["label_ema"] == 0.5


@pytest.mark.parametrize("key", ["lr", "fixed.lr"])
def test_a_searched_setting_becomes_fixed(key: str) -> None:
    changed = put({key: 0.03})
    assert changed["fixed"]["lr"] == 0.03
    assert set(changed["search"]) == {"lr_asymmetry", "warmup_epochs"}
    assert all("lr" not in point for point in changed["start"])


def test_a_range_is_replaced_whole_and_start_points_stay() -> None:
    new = {"type": "loguniform", "low": 1e-3, "high": 1e-2}
    changed = put({"search.lr": new})
    assert changed == {**SPACE, "search": {**SPACE["search"], "lr": new}}


def test_one_bound_of_a_range_can_be_set() -> None:
    changed = put({"search.warmup_epochs.high": 50})
    assert changed["search"]["warmup_epochs"] == {"type": "int", "low": 10, "high": 50, "step": 10}


def test_searching_a_fixed_setting_moves_its_value_into_the_start_points() -> None:
    changed = put({"search.tau": RANGE})
    assert changed["search"]["tau"] == RANGE
    assert "tau" not in changed["fixed"]
    assert [point["tau"] for point in changed["start"]] == [0.025, 0.025]


def test_a_start_point_that_has_the_value_keeps_its_own() -> None:
    space = {**SPACE, "start": [{"lr": 0.01, "tau": 0.5}, {"lr": 0.02}]}
    assert [point["tau"] for point in put({"search.tau": RANGE}, space)["start"]] == [0.5, 0.025]


def test_searching_without_start_points_makes_none() -> None:
    space = {key: value for key, value in SPACE.items() if key != "start"}
    changed = put({"search.tau": RANGE}, space)
    assert "start" not in changed
    assert "tau" not in changed["fixed"]


def test_searching_a_setting_that_was_neither_adds_the_range() -> None:
    changed = put({"search.label_ema": RANGE})
    assert changed["search"]["label_ema"] == RANGE
    assert changed["start"] == SPACE["start"]


def test_fixing_lr1_ends_the_search_over_the_asymmetry() -> None:
    changed = put({"lr1": 0.08})
    assert changed["fixed"]["lr1"] == 0.08
    assert set(changed["search"]) == {"lr", "warmup_epochs"}
    assert changed["start"] == [{"lr": 0.01, "warmup_epochs": 30}, {"lr": 0.02, "warmup_epochs": 20}]


def test_fixing_the_asymmetry_forgets_a_fixed_lr1() -> None:
    space = {**SPACE, "fixed": {"epochs": 100, "lr1": 0.08}, "search": {"lr": RANGE}, "start": []}
    assert put({"lr_asymmetry": 4}, space)["fixed"] == {"epochs": 100, "lr_asymmetry": 4}


def test_searching_lr1_ends_the_search_over_the_asymmetry() -> None:
    changed = put({"search.lr1": RANGE})
    assert set(changed["search"]) == {"lr", "warmup_epochs", "lr1"}
    assert all("lr_asymmetry" not in point for point in changed["start"])


def test_searching_the_asymmetry_forgets_lr1() -> None:
    space = {**SPACE, "fixed": {"epochs": 100, "lr1": 0.08}, "search": {"lr": RANGE}, "start": [{"lr": 0.1}]}
    changed = put({"search.lr_asymmetry": RANGE}, space)
    assert changed["fixed"] == {"epochs": 100}
    assert changed["search"] == {"lr": RANGE, "lr_asymmetry": RANGE}
    assert changed["start"] == [{"lr": 0.1}]


@pytest.mark.parametrize(
    ("key", "value", "section"),
    [
        ("dataset.subset", 0.02, "dataset"),
        ("dataset.name", "cifar80no", "dataset"),
        ("validation.fraction", 0.2, "validation"),
        ("objective.metric", "val_loss", "objective"),
        ("budget.trials", 3, "budget"),
    ],
)
def test_a_key_of_another_section_is_set_there(key: str, value: Any, section: str) -> None:
    changed = put({key: value})
    assert changed[section][key.partition(".")[2]] == value
    assert {name: part for name, part in changed.items() if name != section} == {
        name: part for name, part in SPACE.items() if name != section
    }


def test_a_nested_key_replaces_a_plain_value() -> None:
    space = {**SPACE, "dataset": {"name": "digits8no", "noise": "symmetric"}}
    assert put({"dataset.noise.file": "x.npy"}, space)["dataset"] == {"name": "digits8no", "noise": {"file": "x.npy"}}
    assert put({"fixed.lr_decay.end": 0.1})["fixed"]["lr_decay"] == {"end": 0.1}


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ({"name": "reid_small", "weights": "imagenet"}, {"name": "reid_small", "weights": "none"}),
        ("reid_small", {"name": "reid_small", "weights": "none"}),
        (None, {"weights": "none"}),
    ],
    ids=["group", "name alone", "not given"],
)
def test_a_key_of_a_group_of_settings_is_set_in_it(model: Any, expected: dict[str, Any]) -> None:
    fixed = {"epochs": 10} if model is None else {"epochs": 10, "model": model}
    space = {"method": "core", "dataset": {"name": "sprites"}, "fixed": fixed}
    changed = apply_overrides(space, {"model.weights": "none"}, CoreSettings, "my.yaml")
    assert changed["fixed"]["model"] == expected
    assert space["fixed"] == fixed


def test_a_key_of_a_plan_is_set_in_it_and_of_a_plan_string_refused() -> None:
    shaped = {**SPACE, "fixed": {"epochs": 100, "lr_decay": {"shape": "cosine", "end": 0.05}}}
    assert put({"lr_decay.end": 0.1}, shaped)["fixed"]["lr_decay"] == {"shape": "cosine", "end": 0.1}
    with pytest.raises(InputError, match=r"--set lr_decay\.end: no such setting"):
        put({"lr_decay.end": 0.1}, {**SPACE, "fixed": {"epochs": 100, "lr_decay": "baseline"}})


def test_method_and_start_are_replaced_whole() -> None:
    changed = put({"method": "standard", "start": []})
    assert changed["method"] == "standard"
    assert changed["start"] == []


def test_overrides_apply_in_order() -> None:
    assert put({"search.tau": RANGE, "tau": 0.3})["fixed"]["tau"] == 0.3
    assert "tau" not in put({"search.tau": RANGE, "tau": 0.3})["search"]


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("tua", "tau"),
        ("warmup_epoch", "warmup_epochs"),
        ("dataset_subset", "dataset.subset"),
        ("serch.tau", "search.tau"),
        ("searchlr_asymmetry", "search.lr_asymmetry"),
        ("validation", "validation.seed|validation.labels|validation.fraction"),
    ],
)
def test_an_unknown_name_gets_the_nearest(key: str, nearest: str) -> None:
    with pytest.raises(InputError) as caught:
        put({key: 1})
    assert str(caught.value).startswith(f"--set {key}: no such setting; did you mean ")
    assert any(f"did you mean {name!r}?" in str(caught.value) for name in nearest.split("|"))


def test_a_setting_of_another_method_is_unknown() -> None:
    with pytest.raises(InputError, match="--set tau: no such setting"):
        apply_overrides({**SPACE, "method": "standard"}, {"tau": 1}, StandardSettings, "my.yaml")


def test_a_removed_setting_changes_nothing_where_it_was_off_and_is_refused_elsewhere() -> None:
    assert put({"label_ema_classes": None}) == SPACE
    with pytest.raises(InputError, match="--set: label_ema_classes no longer exists, got 4; leave it out"):
        put({"label_ema_classes": 4})


@pytest.mark.parametrize("start", [5, "x", {"lr": 1}, [3], None])
def test_start_points_that_are_none_are_left_for_the_check_of_the_space(start: Any) -> None:
    space = {**SPACE, "start": start}
    assert put({"tau": 0.1, "lr1": 1.0, "search.weight_decay": RANGE}, space)["start"] == start
    assert scaled(10, space)["start"] == start


def test_setting_names_are_all_that_can_be_set() -> None:
    names = setting_names(SPACE, ActSettings, "my.yaml")
    assert {"method", "tau", "lr1", "lr_asymmetry", "dataset.subset", "validation.labels", "objective.mode"} <= set(
        names
    )
    assert len(names) == len(set(names))


# ---- --epochs


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


# ---- the text of --set


def test_overrides_are_dotted_names_with_yaml_values() -> None:
    items = ["tau=0.1", "dataset.subset=0.02", " lr = 1e-3", "search.lr={type: loguniform, low: 1e-3}", "warmup_lr="]
    assert parse_overrides(items) == {
        "tau": 0.1,
        "dataset.subset": 0.02,
        "lr": 0.001,
        "search.lr": {"type": "loguniform", "low": 0.001},
        "warmup_lr": None,
    }


def test_only_the_first_equals_sign_parts_key_and_value() -> None:
    assert parse_overrides(["dataset.noise.file=a=b.npy"]) == {"dataset.noise.file": "a=b.npy"}


def test_the_last_override_of_a_name_counts() -> None:
    assert parse_overrides(["tau=1", "tau=2"]) == {"tau": 2}


@pytest.mark.parametrize("item", ["tau", "=3", "", "  =1"])
def test_an_override_without_key_or_value_is_refused(item: str) -> None:
    with pytest.raises(InputError, match="--set takes KEY=VALUE") as caught:
        parse_overrides([item])
    assert repr(item) in str(caught.value)


def test_an_override_that_is_no_yaml_is_named() -> None:
    with pytest.raises(InputError, match=r"--set tau, line 1, column \d+: not valid YAML"):
        parse_overrides(["tau=[1, 2"])


def test_the_dataset_section_of_data_check() -> None:
    given = {"dataset.subset": 0.1, "dataset.noise.file": "a.npy", "dataset.noise.column": "worst"}
    assert dataset_section("cifar10n", given) == {
        "name": "cifar10n",
        "subset": 0.1,
        "noise": {"file": "a.npy", "column": "worst"},
    }


@pytest.mark.parametrize("key", ["subset", "dataset", "dataset.", "dataset.name", "fixed.lr"])
def test_data_check_takes_dataset_settings_only(key: str) -> None:
    with pytest.raises(InputError, match=f"--set takes dataset.KEY=VALUE here, got {key}\n"):
        dataset_section("cifar10n", {key: 1})
