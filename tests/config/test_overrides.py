"""``--set`` on plain sections."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from plain_space import RANGE, SPACE

from tune_lnl.config.act import ActSettings
from tune_lnl.config.classifier import StandardSettings
from tune_lnl.config.core import CoreSettings
from tune_lnl.config.overrides import apply_overrides, dataset_section, parse_overrides, setting_names
from tune_lnl.errors import InputError

CIFAR = Path(__file__).parents[2] / "search_spaces" / "act_cifar80no.yaml"


def put(overrides: dict[str, Any], space: dict[str, Any] = SPACE) -> dict[str, Any]:
    before = copy.deepcopy(space)
    changed = apply_overrides(space, overrides, ActSettings, "my.yaml")
    assert space == before, "the caller's sections are not touched"
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


def test_setting_names_are_all_that_can_be_set() -> None:
    names = setting_names(SPACE, ActSettings, "my.yaml")
    assert {"method", "tau", "lr1", "lr_asymmetry", "dataset.subset", "validation.labels", "objective.mode"} <= set(
        names
    )
    assert len(names) == len(set(names))


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
