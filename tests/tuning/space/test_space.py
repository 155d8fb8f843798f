from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_search import EPOCHS, TINY, tiny_space, write_space

from tune_lnl.config.act import ActSettings
from tune_lnl.config.lr_plans import lr_plan
from tune_lnl.config.yaml import dump_yaml, read_mapping
from tune_lnl.errors import InputError
from tune_lnl.methods.published.act_args import act_arguments
from tune_lnl.tuning.space.named import find_space
from tune_lnl.tuning.space.ranges import Int, LogUniform
from tune_lnl.tuning.space.space import condition_names, load_space

CONDITIONS = {
    "clean": {"dataset.noise": "none"},
    "sym80": {"dataset.noise": "symmetric", "dataset.closed_ratio": 0.8, "validation.fraction": 0.2, "tau": 0.1},
}


def test_what_is_read(tmp_path: Path) -> None:
    space = tiny_space(tmp_path)
    assert (space.name, space.condition, space.epochs) == ("tiny", None, EPOCHS)
    assert space.source == str(tmp_path / "tiny.yaml")
    assert space.description == "a test"
    assert space.budget.model_dump() == {"trials": 6, "sampler": "random", "pruner": "asha"}
    assert list(space.parameters) == ["lr", "lr_asymmetry", "warmup_epochs"]
    assert isinstance(space.parameters["lr"], LogUniform)
    assert space.parameters["warmup_epochs"] == Int(type="int", low=1, high=2, step=1, log=False)
    assert space.longest_warmup() == 2


def test_a_config_of_a_trial(tmp_path: Path) -> None:
    config = tiny_space(tmp_path).config({"lr": 0.01, "lr_asymmetry": 8, "warmup_epochs": 2})
    flat = config.flat()
    assert flat["lr"] == 0.01
    assert flat["lr1"] == pytest.approx(0.08)
    assert flat["dataset.name"] == "digits8no"
    assert flat["dataset.subset"] == 0.3
    assert "lr_asymmetry" not in flat


def test_corners_are_all_extremes(tmp_path: Path) -> None:
    points = [point for _, point in tiny_space(tmp_path).corners()]
    assert {"lr": 0.002, "lr_asymmetry": 0.2, "warmup_epochs": 1} in points
    assert {"lr": 0.2, "lr_asymmetry": 16, "warmup_epochs": 2} in points
    assert {"lr": 0.2, "lr_asymmetry": 0.2, "warmup_epochs": 1} in points
    assert {"lr": 0.2, "lr_asymmetry": 16, "warmup_epochs": 1} in points


def test_the_longest_warmup_may_be_fixed(tmp_path: Path) -> None:
    assert tiny_space(tmp_path, overrides=["warmup_epochs=4"]).longest_warmup() == 4


class TestConditions:
    def test_the_first_is_the_default(self, tmp_path: Path) -> None:
        space = tiny_space(tmp_path, conditions=CONDITIONS)
        assert space.condition == "clean"
        assert space.base["dataset"]["noise"] == "none"
        assert condition_names(space.source) == ["clean", "sym80"]

    def test_one_is_chosen(self, tmp_path: Path) -> None:
        path = str(write_space(tmp_path, {"conditions": CONDITIONS}))
        space = load_space(path, "sym80")
        assert space.base["dataset"] == {
            "name": "digits8no",
            "subset": 0.3,
            "noise": "symmetric",
            "closed_ratio": 0.8,
        }
        assert space.base["validation"]["fraction"] == 0.2
        assert space.base["fixed"]["tau"] == 0.1

    def test_flags_come_after_the_condition(self, tmp_path: Path) -> None:
        path = str(write_space(tmp_path, {"conditions": CONDITIONS}))
        assert load_space(path, "sym80", overrides=["tau=0.05"]).base["fixed"]["tau"] == 0.05

    @pytest.mark.parametrize(
        ("conditions", "wanted", "message"),
        [
            (CONDITIONS, "sym8", r"unknown condition 'sym8'; did you mean 'sym80'\? valid: clean, sym80"),
            (None, "sym80", r"unknown condition 'sym80'; this space has none"),
            ({"a": 3}, None, r"tiny\.yaml: conditions\.a is a mapping of dotted settings, got 3"),
            ([1], None, r"section 'conditions' is a mapping"),
            ({"a": {"datset.noise": "none"}}, None, r"tiny\.yaml: conditions\.a: datset\.noise.*'dataset\.noise'"),
            ({"a": {"dataset.nose": "none"}}, None, r"tiny\.yaml.*'nose'; did you mean 'noise'"),
        ],
    )
    def test_refused(self, tmp_path: Path, conditions: Any, wanted: str | None, message: str) -> None:
        path = str(write_space(tmp_path, {"conditions": conditions}))
        with pytest.raises(InputError, match=message) as raised:
            load_space(path, wanted)
        assert "--set" not in str(raised.value)


class TestLength:
    def test_everything_in_epochs_scales(self, tmp_path: Path) -> None:
        path = write_space(tmp_path)
        space = load_space(str(path), epochs=12)
        assert space.epochs == 12
        assert space.base["objective"]["average_last"] == 2
        assert space.parameters["warmup_epochs"].extremes() == [2, 4]
        assert [point["warmup_epochs"] for point in space.start] == [4, 2]

    def test_a_range_that_collapses_is_fixed(self, tmp_path: Path) -> None:
        space = load_space(str(write_space(tmp_path)), epochs=3)
        assert "warmup_epochs" not in space.parameters
        assert space.base["fixed"]["warmup_epochs"] == 1
        assert all(set(point) == {"lr", "lr_asymmetry"} for point in space.start)

    def test_overrides_are_taken_as_given(self, tmp_path: Path) -> None:
        space = load_space(str(write_space(tmp_path)), epochs=12, overrides=["warmup_epochs=5"])
        assert space.base["fixed"]["warmup_epochs"] == 5


class TestOverrides:
    def test_fixing_ends_the_search_over_it(self, tmp_path: Path) -> None:
        space = tiny_space(tmp_path, overrides=["lr=0.03"])
        assert "lr" not in space.parameters
        assert space.base["fixed"]["lr"] == 0.03
        assert all("lr" not in point for point in space.start)

    def test_searching_keeps_the_fixed_value_in_trial_0(self, tmp_path: Path) -> None:
        space = tiny_space(tmp_path, overrides=["search.batch_size={type: int, low: 16, high: 128}"])
        assert "batch_size" not in space.base["fixed"]
        assert [point["batch_size"] for point in space.start] == [64, 64]

    def test_a_bound_alone(self, tmp_path: Path) -> None:
        space = tiny_space(tmp_path, overrides=["search.lr.high=0.1"])
        assert space.parameters["lr"].extremes() == [0.002, 0.1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"serach": {}}, r"tiny\.yaml: unknown section 'serach'; did you mean 'search'"),
        ({"method": "atc"}, r"unknown method 'atc'; did you mean 'act'"),
        ({"method": None}, r"tiny\.yaml: 'method' is required"),
        ({"dataset": {"name": "digit8no"}}, r"unknown dataset 'digit8no'; did you mean 'digits8no'"),
        ({"dataset": {"name": "digits8no", "subst": 0.1}}, r"tiny\.yaml: dataset: unknown key 'subst'.*'subset'"),
        ({"dataset": {"name": "digits8no", "subset": 2}}, r"tiny\.yaml: dataset: subset .*got 2"),
        ({"dataset": None}, r"tiny\.yaml: dataset: 'name' is required"),
        ({"search": None}, r"nothing to search; give at least one range under search:"),
        ({"search": 3}, r"section 'search' is a mapping of settings, got 3"),
        ({"search": {"learning_rate": 1}}, r"tiny\.yaml: search: unknown key 'learning_rate'"),
        ({"search": {"epochs": {"type": "int", "low": 1, "high": 6}}}, r"search\.epochs: epochs cannot be searched: "),
        ({"search": {"seed": {"type": "int", "low": 1, "high": 6}}}, r"every trial trains with the same seed"),
        ({"search": {**TINY["search"], "lr": {"type": "loguniform", "low": 0, "high": 1}}}, r"tiny\.yaml: search\.lr:"),
        ({"fixed": {"batch_size": 64}}, r"fixed\.epochs is required"),
        ({"fixed": {"epochs": EPOCHS, "lr": 0.1}}, r"lr is both fixed \(0\.1\) and searched; keep one of the two"),
        ({"fixed": {"epochs": EPOCHS, "lr1": 0.1}}, r"give lr1 or lr_asymmetry, not both"),
        ({"fixed": {"epochs": EPOCHS, "momentun": 0.1}}, r"unknown key 'momentun'; did you mean 'momentum'"),
        ({"fixed": {"epochs": EPOCHS, "momentum": 1.5}}, r"momentum must be less than 1, got 1\.5"),
        ({"fixed": {"epochs": EPOCHS, "tie_lr": True}}, r"search\.lr_asymmetry would change nothing: tie_lr makes"),
        ({"fixed": {"epochs": EPOCHS, "lr_decay": "cosin:1"}}, r"unknown lr plan 'cosin:1'"),
        ({"fixed": {"epochs": 2}}, r"every range at its high end: warmup_epochs must be below epochs, got 2 with"),
        ({"objective": {"average_last": 7}}, r"average_last must not exceed epochs, got 7 with epochs 6"),
        ({"objective": {"mode": "min"}}, r"val_accuracy must be maximised, got mode 'min'; set mode: max"),
        ({"validation": {"fraction": 0}}, r"validation\.fraction is above 0 in a search, got 0"),
        ({"budget": {"trials": 0}}, r"tiny\.yaml: budget: trials must be greater than or equal to 1, got 0"),
        ({"budget": {"trials": 3, "pruner": "ahsa"}}, r"tiny\.yaml: budget: pruner must be 'asha'.*got 'ahsa'"),
        ({"start": 5}, r"start is a list of points.*got 5"),
        ({"start": [5]}, r"start is a list of points"),
        ({"start": [{"lr": 0.01}, {"lr": 1.0}]}, r"start point 2: lr = 1\.0 is outside search\.lr \(0\.002 to 0\.2\)"),
        ({"start": [{"tau": 0.1}]}, r"start point 1: .* missing: lr, lr_asymmetry, warmup_epochs"),
        ({"start": [{"warmup_epochs": 1.0}]}, r"start point 1: warmup_epochs = 1\.0 is outside"),
    ],
)
def test_what_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = str(write_space(tmp_path, changes))
    with pytest.raises(InputError, match=message):
        load_space(path)


@pytest.mark.parametrize("epochs", [None, 12])
@pytest.mark.parametrize("start", [5, "lr", {"lr": 0.01}, [5]])
def test_start_points_of_any_shape_are_refused_after_any_flag(tmp_path: Path, start: Any, epochs: int | None) -> None:
    path = str(write_space(tmp_path, {"start": start}))
    with pytest.raises(InputError, match="start is a list of points"):
        load_space(path, epochs=epochs, overrides=["tau=0.1", "search.weight_decay={type: uniform, low: 0, high: 1}"])


def test_a_setting_dead_everywhere_is_refused_and_one_alive_somewhere_is_not(tmp_path: Path) -> None:
    tau = {"type": "uniform", "low": 0, "high": 1}
    mining = {"type": "choice", "choices": [True, False]}
    searched = {**TINY["search"], "tau": tau}
    with pytest.raises(InputError, match=r"search\.tau would change nothing: mining is off"):
        tiny_space(tmp_path, search=searched, fixed={"epochs": EPOCHS, "mining": False})
    assert "tau" in tiny_space(tmp_path, search={**searched, "mining": mining}, start=None).parameters


# ---- start points with settings of their own


@pytest.mark.parametrize("name", ["act_cifar80no", "act_cifar100nc", "act_cifar10n"])
def test_the_second_start_point_is_the_released_script(name: str) -> None:
    """The released main.py uses lr for both networks, its own penalty and its plan string."""
    space = load_space(name)
    paper, released = (space.config(point).settings for point in space.start)
    assert isinstance(paper, ActSettings)
    assert isinstance(released, ActSettings)
    assert (paper.lr1, paper.tie_lr, paper.penalty) == (0.08, False, "exact")
    assert (released.lr1, released.tie_lr, released.penalty) == (0.01, True, "code")
    plans = released.plans()
    assert plans["lr"] == plans["lr1"] == lr_plan("cosine:20,5e-4,100", 0.01, 150, 50, 0.001)
    line, caveats = act_arguments(space.config(space.start[1]).flat())
    assert "--lr-decay cosine:20,5e-4,100" in line.replace("'", "")
    assert not any(name in caveat for caveat in caveats for name in ("penalty", "tie_lr", "warmup_lr"))


def test_settings_of_a_start_point_are_of_that_trial_alone() -> None:
    space = load_space("act_cifar80no")
    point = dict(space.start[1])
    assert set(point) == set(space.parameters)
    assert space.config({**point, "tau": 0.026}).flat()["tie_lr"] is False
    again = load_space("act_cifar80no", overrides=["penalty=exact"])
    assert again.config(again.start[1]).flat()["penalty"] == "exact"
    shorter = load_space("act_cifar80no", epochs=15)
    assert shorter.config(shorter.start[1]).flat()["lr_decay"] == "cosine:2,5e-4,10"
    assert space.to_dict()["start"][1]["tie_lr"] is True


@pytest.mark.parametrize(
    ("point", "told"),
    [
        ("{lr: 0.01, penalty: code}", "gives every searched one, too; missing: lr_asymmetry, tau, warmup_epochs"),
        ("{lr: 0.01, lr_asymmetry: 1, tau: 0.02, warmup_epochs: 50, penaltie: code}", "did you mean 'penalty'"),
        ("{lr: 0.01, lr_asymmetry: 1, tau: 0.02, warmup_epochs: 50, penalty: odd}", "start point 1: .*penalty"),
        ("{lr: 0.01, lr_asymmetry: 1, tau: 0.02, warmup_epochs: 50, epochs: 10}", "unknown key 'epochs'"),
    ],
)
def test_settings_of_a_start_point_are_checked(point: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        load_space("act_cifar80no", overrides=[f"start=[{point}]"])


def test_a_run_keeps_the_settings_of_its_start_points() -> None:
    space = load_space("act_cifar80no")
    before = [dict(point) for point in space.start]
    assert space.with_own_start(before).config(space.start[1]).flat()["tie_lr"] is False
    assert space.with_own_start(before[:1]) == space


class TestPresets:
    def test_a_preset_sets_length_trials_and_settings(self) -> None:
        quick = load_space("act_cifar80no", preset="quick")
        assert (quick.epochs, quick.budget.trials, quick.base["dataset"]["subset"]) == (12, 6, 0.05)
        assert load_space("act_cifar80no", preset="full").to_dict() == load_space("act_cifar80no").to_dict()

    def test_flags_go_before_it(self) -> None:
        space = load_space("act_cifar80no", None, 6, ["dataset.subset=0.5"], "quick")
        assert (space.epochs, space.base["dataset"]["subset"]) == (6, 0.5)

    @pytest.mark.parametrize(
        ("presets", "told"),
        [
            ({"quick": {"epochs": 0}}, "presets.quick.epochs is a whole number of at least 1, got 0"),
            ({"quick": 3}, "presets.quick is a mapping"),
            ({"fast": {}}, "unknown preset 'fast'"),
            ({"quick": {"taw": 1}}, "presets.quick: taw: no such setting; did you mean 'tau'"),
        ],
    )
    def test_a_preset_that_cannot_be(self, tmp_path: Path, presets: object, told: str) -> None:
        path = tmp_path / "mine.yaml"
        path.write_text(dump_yaml({**read_mapping(find_space("act_digits8no")), "presets": presets}))
        with pytest.raises(InputError, match=told):
            load_space(str(path), preset="quick")

    def test_one_that_the_space_lacks(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="has no preset 'quik'; did you mean 'quick'"):
            load_space("act_digits8no", preset="quik")
        path = tmp_path / "bare.yaml"
        raw = read_mapping(find_space("act_digits8no"))
        path.write_text(dump_yaml({key: value for key, value in raw.items() if key != "presets"}))
        with pytest.raises(InputError, match="has no preset 'quick'; it has none"):
            load_space(str(path), preset="quick")
