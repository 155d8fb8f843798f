"""The argument line, parsed back with the published options, and what it says the script cannot honour."""

from __future__ import annotations

import argparse
import shlex
from typing import Any

import pytest

from tune_lnl.errors import InputError
from tune_lnl.methods.published.act_args import act_arguments
from tune_lnl.methods.schedules import lr_plan

HONOURED: dict[str, Any] = {
    "method": "act",
    "dataset.name": "cifar80no",
    "dataset.noise": "asymmetric",
    "dataset.closed_ratio": 0.4,
    "dataset.noise_seed": 0,
    "dataset.subset": 1.0,
    "dataset.classes": None,
    "validation.fraction": 0.0,
    "lr": 0.01,
    "lr1": 0.01,
    "tie_lr": False,
    "warmup_lr": 0.001,
    "warmup_lr1": None,
    "lr_decay": "cosine:20,5e-4,100",
    "lr1_decay": None,
    "weight_decay": 5e-4,
    "optimizer": "sgd",
    "momentum": 0.9,
    "warmup_epochs": 50,
    "epochs": 150,
    "batch_size": 128,
    "tau": 0.025,
    "seed": 123,
    "model": "cnn7",
    "selection_rule": "agree",
    "label_smoothing": 0.0,
    "consistency_weight": 0.2,
    "penalty": "code",
    "penalty_weight": 1.0,
    "label_ema": 0.8,
    "selection": True,
    "mining": True,
    "reweighting": True,
    "consistency": True,
    "latch_mining": False,
    "precision": "fp32",
}


def published_parser() -> argparse.ArgumentParser:
    """The options of the released main.py, with their types."""
    parser = argparse.ArgumentParser(exit_on_error=False, allow_abbrev=False)
    for option in ("--lr", "--weight-decay", "--warmup-lr", "--lr1", "--closeset-ratio", "--tau"):
        parser.add_argument(option, type=float)
    for option in ("--seed", "--batch-size", "--warmup-epochs", "--epochs"):
        parser.add_argument(option, type=int)
    for option in ("--lr-decay", "--opt", "--dataset", "--noise-type", "--model"):
        parser.add_argument(option)
    return parser


def parsed(line: str) -> dict[str, Any]:
    return {k: v for k, v in vars(published_parser().parse_args(shlex.split(line))).items() if v is not None}


def test_a_config_of_published_choices_comes_through_whole() -> None:
    line, caveats = act_arguments(HONOURED)
    assert caveats == []
    assert parsed(line) == {
        "dataset": "cifar80no",
        "noise_type": "asymmetric",
        "closeset_ratio": 0.4,
        "model": "CNN",
        "opt": "sgd",
        "weight_decay": 5e-4,
        "lr": 0.01,
        "lr1": 0.01,
        "warmup_lr": 0.001,
        "lr_decay": "cosine:20,5e-4,100",
        "warmup_epochs": 50,
        "epochs": 150,
        "batch_size": 128,
        "tau": 0.025,
        "seed": 123,
    }


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lr1": 0.08}, "lr1 is 0.08: main.py reads --lr1 but never uses it"),
        ({"lr1_decay": "baseline"}, "lr1_decay is baseline"),
        ({"warmup_lr1": 0.08}, "warmup_lr1 is 0.08"),
        ({"dataset.name": "digits8no"}, "knows cifar100nc and cifar80no only"),
        ({"dataset.noise": {"file": "labels.npy", "column": None}}, "dataset.noise is {file: labels.npy}"),
        ({"dataset.noise": "none"}, "dataset.noise is none"),
        ({"dataset.closed_ratio": 0.0}, "refuses"),
        ({"dataset.noise_seed": 1}, "seed 0"),
        ({"dataset.subset": 0.05}, "whole training set"),
        ({"dataset.classes": 10}, "all classes"),
        ({"validation.fraction": 0.1}, "validation.fraction is 0.1: main.py holds nothing out"),
        ({"optimizer": "lamb"}, "sgd and adam only"),
        ({"model": "vit"}, "CNN, Resnet18, Resnet50 only"),
        ({"momentum": 0.8}, "momentum is 0.8"),
        ({"selection_rule": "rtm"}, "main_web.py"),
        ({"label_smoothing": 0.35}, "smooths no labels"),
        ({"penalty": "exact"}, "penalty is exact: main.py computes its confidence penalty on clamped logits"),
        ({"penalty": "none"}, "penalty is none"),
        ({"penalty_weight": 0.5}, "penalty_weight is 0.5"),
        ({"consistency_weight": 0.3}, "consistency_weight is 0.3"),
        ({"label_ema": 0.9}, "label_ema is 0.9"),
        ({"selection": False}, "selection is off"),
        ({"mining": False}, "mining is off"),
        ({"reweighting": False}, "reweighting is off"),
        ({"consistency": False}, "consistency is off"),
        ({"latch_mining": True}, "latch_mining is on"),
        ({"precision": "bf16"}, "precision is bf16"),
    ],
)
def test_each_thing_the_script_cannot_honour_is_said_once(changes: dict[str, Any], words: str) -> None:
    line, caveats = act_arguments(HONOURED | changes)
    assert len(caveats) == 1
    assert words in caveats[0]
    assert caveats[0].endswith(".")
    parsed(line)


@pytest.mark.parametrize(
    "changes",
    [
        {"tie_lr": True, "lr1": 0.01},
        {"lr1": None},
        {"warmup_lr1": 0.001},
        {"lr1_decay": "cosine:20,5e-4,100"},
        {"model": None},
        {"model": "resnet50"},
        {"optimizer": "adam", "momentum": 0.5},
        {"warmup_epochs": 0, "penalty": "exact"},
    ],
)
def test_what_makes_no_difference_is_not_mentioned(changes: dict[str, Any]) -> None:
    assert act_arguments(HONOURED | changes)[1] == []


@pytest.mark.parametrize("switch", ["selection", "consistency"])
def test_settings_behind_a_switch_that_is_off_are_not_mentioned(switch: str) -> None:
    behind = {"label_ema": 0.5, "consistency_weight": 0.5} if switch == "consistency" else {"latch_mining": True}
    assert len(act_arguments(HONOURED | {switch: False} | behind)[1]) == 1


def test_options_that_the_script_would_misread_are_left_out() -> None:
    assert "--noise-type" not in act_arguments(HONOURED | {"dataset.noise": "none"})[0]
    assert "--model" not in act_arguments(HONOURED | {"model": "vit"})[0]
    assert "--opt" not in act_arguments(HONOURED | {"optimizer": "lamb"})[0]


def test_no_warmup_lr_is_the_lr_of_the_robust_network() -> None:
    assert parsed(act_arguments(HONOURED | {"warmup_lr": None})[0])["warmup_lr"] == 0.01


def test_a_cosine_to_the_end_becomes_the_published_string_and_says_what_it_misses() -> None:
    decay = {"shape": "cosine", "end": 0.05}
    line, caveats = act_arguments(HONOURED | {"lr_decay": decay})
    assert parsed(line)["lr_decay"] == "cosine:50,0.0005,150"
    assert len(caveats) == 1
    # i = 99 of 100: 5e-4 + 9.5e-3 (1 + cos(0.99 π)) / 2 = 5.0234e-4
    assert "never reaches its end" in caveats[0]
    assert "is at 0.000502344 in the last epoch, not at 0.0005" in caveats[0]


@pytest.mark.parametrize("decay", [{"shape": "linear", "end": 0.05}, {"shape": "constant", "end": 1.0}])
@pytest.mark.parametrize(("epochs", "warmup"), [(150, 50), (51, 50), (10, 0)])
def test_lines_and_constants_convert_exactly(decay: dict[str, Any], epochs: int, warmup: int) -> None:
    line, caveats = act_arguments(HONOURED | {"lr_decay": decay, "epochs": epochs, "warmup_epochs": warmup})
    assert caveats == []
    ours, published = (lr_plan(spec, 0.01, epochs, warmup, 0.001) for spec in (decay, parsed(line)["lr_decay"]))
    assert published == pytest.approx(ours, rel=1e-12)


def test_a_cosine_that_ends_where_it_starts_is_a_constant() -> None:
    """The published cosine refuses such an end."""
    line, caveats = act_arguments(HONOURED | {"lr_decay": {"shape": "cosine", "end": 1.0}})
    assert parsed(line)["lr_decay"] == "step:150"
    assert caveats == []


def test_values_are_quoted_for_a_shell() -> None:
    line, _ = act_arguments(HONOURED | {"dataset.name": "my set; rm"})
    assert shlex.split(line)[:2] == ["--dataset", "my set; rm"]
    assert "'my set; rm'" in line


def test_an_incomplete_config_is_refused() -> None:
    partial = {key: value for key, value in HONOURED.items() if key not in ("tau", "lr")}
    with pytest.raises(ValueError, match="needs lr, tau"):
        act_arguments(partial)
    with pytest.raises(InputError, match="unknown lr plan"):
        act_arguments(HONOURED | {"lr_decay": "cosin"})
    with pytest.raises(ValueError, match="lr must be a number"):
        act_arguments(HONOURED | {"lr": "0.1"})
