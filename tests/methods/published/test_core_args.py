from __future__ import annotations

import pytest

from tune_lnl.methods.published.core_args import core_arguments

RELEASED: dict[str, object] = {
    "dataset.name": "market1501",
    "dataset.noise": "random",
    "dataset.noise_ratio": 0.2,
    "dataset.noise_seed": 1,
    "dataset.subset": 1.0,
    "validation.fraction": 0.0,
    "lr": 0.01,
    "head_lr_multiplier": 10.0,
    "batch_size": 32,
    "epochs": 61,
    "refine_epochs": 40,
    "lr_milestones": [20, 50],
    "refine_weight_from": "refined",
    "model": {"name": "reid_resnet50", "weights": "imagenet"},
    "seed": 1,
}


def test_what_the_script_does_itself_needs_no_caveat() -> None:
    line, caveats = core_arguments(RELEASED)
    assert line == "--dataset market --lr 0.01 --batchsize 32 --seed 1 --noise_ratio 0.2"
    assert caveats == []


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"dataset.name": "sprites"}, "dataset.name is sprites"),
        ({"refine_epochs": 30}, "refine_epochs is 30"),
        ({"lr_milestones": None}, "lr_milestones is None"),
        ({"head_lr_multiplier": 4.0}, "head_lr_multiplier is 4.0"),
        ({"validation.fraction": 0.1}, "chooses on the test set"),
        ({"model": {"name": "reid_small", "weights": None}}, "reid_small"),
        ({"dataset.noise": {"file": "labels.npy"}}, "draws random or patterned noise itself"),
    ],
)
def test_what_it_cannot_honour_is_said(change: dict[str, object], named: str) -> None:
    _, caveats = core_arguments(RELEASED | change)
    assert len(caveats) == 1
    assert named in caveats[0]


def test_patterned_noise_is_a_switch_and_no_noise_a_ratio() -> None:
    line, caveats = core_arguments(RELEASED | {"dataset.noise": "patterned"})
    assert line.endswith("--noise_ratio 0.2 --pattern")
    assert len(caveats) == 1
    assert core_arguments(RELEASED | {"dataset.noise": "none"})[0].endswith("--noise_ratio 0.0")


def test_missing_settings_are_named() -> None:
    with pytest.raises(ValueError, match="refine_epochs"):
        core_arguments({key: value for key, value in RELEASED.items() if key != "refine_epochs"})
