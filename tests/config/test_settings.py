"""Settings: ranges, relations, derived values, and complaints that a user can act on."""

from __future__ import annotations

import math
from typing import Any

import pytest
from tiny_runs import is_reid, sections, tiny

from tune_lnl.config.act import LR1_CAP, ActSettings
from tune_lnl.config.base import MethodSettings, check_keys, section_mapping
from tune_lnl.config.classifier import DecayShape, plan_spec
from tune_lnl.config.registry import method_names, settings_type
from tune_lnl.config.trial import TrialConfig, build_config
from tune_lnl.config.yaml import dump_yaml, load_yaml
from tune_lnl.errors import InputError


def refusal(values: dict[str, Any]) -> str:
    with pytest.raises(InputError) as caught:
        build_config(values, "my.yaml")
    return str(caught.value)


def act(**fixed: Any) -> ActSettings:
    settings = tiny("act", **fixed).settings
    assert isinstance(settings, ActSettings)
    return settings


# ---- the whole config


@pytest.mark.parametrize("method", method_names())
def test_sections_read_back_equal(method: str) -> None:
    if is_reid(method):
        config = tiny(method, head_lr_multiplier=2, dataset={"noise": "none"})
    else:
        config = tiny(method, lr_decay="step:3", warmup_lr=0.01, dataset={"noise": "symmetric"})
    assert build_config(config.sections(), "again") == config
    text = dump_yaml(config.sections())
    assert build_config(load_yaml(text, "again"), "again") == config


@pytest.mark.parametrize("method", method_names())
def test_flat_is_complete_and_in_published_names(method: str) -> None:
    config = tiny(method)
    flat = config.flat()
    assert flat["method"] == method
    assert flat["dataset.name"] == ("market1501" if is_reid(method) else "digits8no")
    assert flat["validation.fraction"] == 0.3
    assert flat["objective.average_last"] == 2
    assert settings_type(method).model_fields.keys() <= flat.keys()
    assert not any(isinstance(value, DecayShape) for value in flat.values())
    if is_reid(method):
        assert flat["model"] == {"name": "reid_small", "weights": "none"}
    else:
        assert flat["lr_decay"] == {"shape": "cosine", "end": 0.05}


def test_core_shows_both_stages_and_takes_either_or_both() -> None:
    both = tiny("core").sections()["fixed"]
    assert (both["self_epochs"], both["refine_epochs"]) == (2, 2)
    assert tiny("core", self_epochs=3).flat()["refine_epochs"] == 1
    assert "self_epochs and refine_epochs fill epochs, got 1 and 2 of 4" in refusal(
        {**sections("core"), "fixed": {**sections("core")["fixed"], "self_epochs": 1}}
    )
    assert "refine_epochs must be below epochs, got 4 with epochs 4" in refusal(sections("core", refine_epochs=4))


def test_a_method_and_a_dataset_for_different_tasks_are_refused() -> None:
    said = refusal(sections("core", dataset={"name": "digits8no", "height": None}))
    assert "method core is for re-identification, and dataset digits8no is for classification" in said


def test_flat_has_lr1_and_not_the_knob_it_came_from() -> None:
    flat = tiny("act", lr_asymmetry=4).flat()
    assert flat["lr1"] == 0.2
    assert "lr_asymmetry" not in flat


def test_defaults_are_the_papers() -> None:
    settings = act()
    assert (settings.tau, settings.selection_rule, settings.penalty) == (0.025, "agree", "exact")
    assert (settings.momentum, settings.weight_decay, settings.consistency_weight, settings.label_ema) == (
        0.9,
        5e-4,
        0.2,
        0.8,
    )
    assert not settings.tie_lr
    assert not settings.latch_mining
    assert tiny("act").sections()["validation"]["labels"] == "noisy"


def test_settings_never_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        act().tau = 1.0  # type: ignore[misc]


# ---- refusals


def test_an_unknown_section_gets_the_nearest() -> None:
    said = refusal({**sections("act"), "fixd": {}})
    assert said.startswith("my.yaml: unknown section 'fixd'; did you mean 'fixed'?")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"lr2": 1.0}, "my.yaml: unknown key 'lr2'; did you mean 'lr"),
        ({"dataset": {"closed_rate": 0.1}}, "my.yaml: dataset: unknown key 'closed_rate'; did you mean 'closed_ratio'"),
        ({"validation": {"fractoin": 0.1}}, "my.yaml: validation: unknown key 'fractoin'; did you mean 'fraction'"),
        ({"objective": {"metrics": "x"}}, "my.yaml: objective: unknown key 'metrics'; did you mean 'metric'"),
    ],
)
def test_an_unknown_key_gets_its_place_and_the_nearest(changes: dict[str, Any], said: str) -> None:
    assert refusal(sections("act", **changes)).startswith(said)


@pytest.mark.parametrize("method", ["atc", 3, None])
def test_an_unknown_method_is_refused(method: Any) -> None:
    said = refusal({**sections("act"), "method": method})
    assert "did you mean 'act'" in said if method == "atc" else said.startswith("my.yaml: 'method' is required")


def test_an_unknown_dataset_gets_the_nearest() -> None:
    assert "did you mean 'digits8no'" in refusal(sections("act", dataset={"name": "digits8"}))


def test_a_dataset_needs_a_name() -> None:
    assert refusal({**sections("act"), "dataset": {}}) == "my.yaml: dataset: 'name' is required and is a name, got None"


def test_a_removed_setting_that_was_off_is_read_and_dropped() -> None:
    config = tiny("act")
    assert build_config(sections("act", label_ema_classes=None), "old.yaml") == config
    assert "label_ema_classes" not in config.flat()
    as_before = {name: value for name, value in config.flat().items() if name != "deterministic"}
    assert config.flat_as_before() == as_before | {"label_ema_classes": None}


def test_a_removed_setting_that_was_on_is_refused_with_the_last_version_that_knew_it() -> None:
    told = refusal(sections("act", label_ema_classes=8))
    assert told.startswith("my.yaml: label_ema_classes no longer exists, got 8; ")
    assert "tune_lnl 0.1.0, the last version that knew it" in told


def test_a_section_that_is_no_mapping_is_refused() -> None:
    assert refusal({**sections("act"), "fixed": [1]}) == "my.yaml: section 'fixed' is a mapping of settings, got [1]"


@pytest.mark.parametrize("name", ["epochs", "lr", "lr1"])
def test_what_has_no_default_is_required(name: str) -> None:
    values = sections("act")
    del values["fixed"][name]
    assert refusal(values) == f"my.yaml: {name} is required"


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("epochs", 0, "greater than or equal to 1"),
        ("lr", math.inf, "finite"),
        ("lr", "0.01", "valid number"),
        ("warmup_lr", 0.0, "greater than 0 or null"),
        ("warmup_epochs", True, "valid integer"),
        ("label_smoothing", 1.0, "less than 1"),
        ("penalty", "soft", "'exact', 'code' or 'none'"),
        ("selection", 1, "valid boolean"),
    ],
)
def test_a_value_out_of_range_is_told_with_rule_and_value(name: str, value: Any, rule: str) -> None:
    said = refusal(sections("act", **{name: value})).splitlines()[0]
    assert said.startswith(f"my.yaml: {name} must be")
    assert rule in said
    assert said.endswith(f", got {value!r}")


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("validation", "fraction", 0.95),
        ("objective", "metric", "test_accuracy"),
        ("dataset", "subset", 0.0),
    ],
)
def test_sections_refuse_values_out_of_range(section: str, name: str, value: Any) -> None:
    said = refusal(sections("act", **{section: {name: value}}))
    assert said.startswith(f"my.yaml: {section}: {name}")
    assert said.endswith(f"got {value!r}")


def test_at_most_three_complaints_at_a_time() -> None:
    said = refusal(sections("act", lr=-1.0, lr1=-1.0, tau=-1.0, momentum=2.0, batch_size=0))
    assert len(said.splitlines()) == 3


@pytest.mark.parametrize(
    ("decay", "said"),
    [
        ("cosin:20", "did you mean 'cosine:'"),
        ({"shape": "cosine", "ends": 0.1}, "did you mean 'end'"),
        (3, "an lr plan is a plan string or {shape, end}, got 3"),
    ],
)
@pytest.mark.parametrize("name", ["lr_decay", "lr1_decay"])
def test_a_bad_lr_plan_is_refused_where_it_stands(name: str, decay: Any, said: str) -> None:
    first = refusal(sections("act", **{name: decay}))
    assert first.startswith(f"my.yaml: {name}: ")
    assert said in first


def test_a_plan_that_would_rise_is_refused() -> None:
    assert "must lie below their start" in refusal(sections("standard", lr=1e-4, lr_decay="cosine:2,5e-4,4"))


def test_an_end_of_one_is_a_share_like_any_other() -> None:
    assert tiny("standard", lr_decay={"shape": "linear", "end": 1.0}).settings.plans()["lr"] == [0.05] * 4


def test_the_warm_up_must_leave_an_epoch() -> None:
    assert tiny("act", warmup_epochs=3).settings.warmup_length() == 3
    for warmup in (4, 5):
        said = refusal(sections("act", warmup_epochs=warmup))
        assert said.startswith(f"my.yaml: warmup_epochs must be below epochs, got {warmup} with epochs 4; ")


def test_the_average_must_fit_in_the_epochs() -> None:
    assert tiny("act", objective={"average_last": 4}).objective.average_last == 4
    said = refusal(sections("act", objective={"average_last": 5}))
    assert said.startswith("my.yaml: objective.average_last must not exceed epochs, got 5 with epochs 4; set")


def test_the_direction_must_fit_the_metric() -> None:
    assert tiny("act", objective={"metric": "val_loss", "mode": "min"}).objective.mode == "min"
    assert tiny("act", objective={"metric": "val_loss"}).objective.mode == "min"
    assert "set mode: min" in refusal(sections("act", objective={"metric": "val_loss", "mode": "max"}))
    assert "set mode: max" in refusal(sections("act", objective={"mode": "min"}))


# ---- lr1


def test_lr1_is_lr_times_the_asymmetry() -> None:
    assert act(lr_asymmetry=8, lr=0.01).lr1 == pytest.approx(0.08)
    assert act(lr_asymmetry=0.5, lr=0.01).lr1 == pytest.approx(0.005)


def test_derived_lr1_is_capped_and_a_given_one_is_not() -> None:
    assert act(lr_asymmetry=16, lr=0.2).lr1 == LR1_CAP == 0.5
    assert act(lr1=0.9).lr1 == 0.9


def test_tied_rates_are_one_whatever_is_asked_for() -> None:
    assert act(tie_lr=True, lr1=0.3).lr1 == 0.05
    assert act(tie_lr=True, lr_asymmetry=3).lr1 == 0.05
    values = sections("act", tie_lr=True)
    del values["fixed"]["lr1"]
    settings = build_config(values, "test").settings
    assert settings.plans()["lr1"] == settings.plans()["lr"]


def test_lr1_and_the_asymmetry_exclude_each_other() -> None:
    values = sections("act")
    values["fixed"]["lr_asymmetry"] = 3.0
    assert refusal(values) == "my.yaml: give lr1 or lr_asymmetry, not both (got 0.1 and 3.0)"


@pytest.mark.parametrize("asymmetry", [0, math.inf, True, "8"])
def test_the_asymmetry_is_a_number_above_zero(asymmetry: Any) -> None:
    said = refusal(sections("act", lr_asymmetry=asymmetry))
    assert said == (f"my.yaml: lr_asymmetry is a number above 0 that multiplies lr, got {asymmetry!r} with lr 0.05")


# ---- plans


def test_the_default_plan_falls_from_the_end_of_the_warm_up() -> None:
    plan = act(epochs=5, warmup_epochs=2, lr=0.1).plans()["lr"]
    # From e = 2: lr (end + (1 - end) (1 + cos(pi i / 2)) / 2), i = 0, 1, 2 with end 0.05.
    assert plan == pytest.approx([0.1, 0.1, 0.1, 0.0525, 0.005])


def test_each_network_has_its_own_plan_and_warm_up() -> None:
    plans = act(lr_decay="step:3", lr1_decay={"shape": "constant"}, warmup_lr=0.001, warmup_lr1=0.002).plans()
    assert plans["lr"] == pytest.approx([0.001, 0.001, 0.05, 0.005])
    assert plans["lr1"] == pytest.approx([0.002, 0.002, 0.1, 0.1])


def test_the_companion_follows_unless_told_otherwise() -> None:
    plans = act(lr_decay="step:3", warmup_lr=0.001).plans()
    assert plans["lr1"] == pytest.approx([0.001, 0.001, 0.1, 0.01])


def test_a_method_without_more_has_no_plans_no_warm_up_and_nothing_dead() -> None:
    plain = MethodSettings(epochs=3)
    assert (plain.plans(), plain.warmup_length(), plain.dead()) == ({}, 0, {})


def test_plan_spec_leaves_out_what_is_not_given() -> None:
    assert plan_spec(DecayShape(shape="constant", end=None)) == {"shape": "constant"}
    assert plan_spec("step:3") == "step:3"


# ---- dead settings, with their reasons (that they change nothing is shown in test_live_knobs)


def in_order(value: object) -> str:
    """Name a case the same in every process: the order of a set is not."""
    return str(sorted(value)) if isinstance(value, set) else str(value)


@pytest.mark.parametrize(
    ("fixed", "dead"),
    [
        ({}, set()),
        ({"optimizer": "adam"}, {"momentum"}),
        ({"warmup_epochs": 0}, {"warmup_lr", "warmup_lr1", "penalty", "penalty_weight"}),
        ({"lr_decay": "baseline"}, {"warmup_lr", "warmup_lr1"}),
        ({"lr_decay": "baseline", "lr1_decay": "step:3"}, set()),
        ({"lr_decay": "baseline", "lr1_decay": "step:3", "warmup_lr1": 0.01}, {"warmup_lr"}),
        ({"lr1_decay": "baseline"}, {"warmup_lr1"}),
        ({"tie_lr": True}, {"lr1", "lr_asymmetry"}),
        ({"mining": False}, {"tau", "latch_mining"}),
        (
            {"selection": False},
            {"tau", "mining", "selection_rule", "latch_mining", "label_ema", "reweighting"},
        ),
        ({"consistency": False}, {"consistency_weight", "label_ema"}),
        ({"consistency_weight": 0.0}, {"label_ema"}),
        ({"consistency_weight": 1.0}, {"reweighting"}),
        ({"penalty": "none"}, {"penalty_weight"}),
        ({"penalty_weight": 0.0}, {"penalty"}),
    ],
    ids=in_order,
)
def test_dead_settings_of_act(fixed: dict[str, Any], dead: set[str]) -> None:
    named = act(**fixed).dead()
    assert named.keys() == dead
    assert all(named.values())


@pytest.mark.parametrize(
    ("fixed", "dead"),
    [
        ({}, set()),
        ({"lr_decay": "baseline"}, {"warmup_lr", "warmup_epochs"}),
        ({"lr_decay": {"shape": "constant"}}, {"warmup_epochs"}),
        ({"lr_decay": {"shape": "constant"}, "warmup_lr": 0.01}, set()),
        ({"warmup_epochs": 0}, {"warmup_lr"}),
    ],
    ids=in_order,
)
def test_dead_settings_of_standard(fixed: dict[str, Any], dead: set[str]) -> None:
    assert tiny("standard", **fixed).settings.dead().keys() == dead


# ---- small pieces


def test_a_missing_or_empty_section_is_empty() -> None:
    assert section_mapping({}, "fixed", "x") == section_mapping({"fixed": None}, "fixed", "x") == {}


def test_a_section_is_a_copy() -> None:
    values = {"fixed": {"lr": 1}}
    section_mapping(values, "fixed", "x")["lr"] = 2
    assert values == {"fixed": {"lr": 1}}


def test_known_keys_pass() -> None:
    check_keys({"a": 1}, (name for name in "ab"), "x")
    with pytest.raises(InputError, match=r"x: unknown key 'c'; valid: a, b|did you mean"):
        check_keys({"a": 1, "c": 2}, (name for name in "ab"), "x")


def test_configs_compare_by_value() -> None:
    one: TrialConfig = tiny("act")
    assert one == tiny("act")
    assert one != tiny("act", lr=0.01)
