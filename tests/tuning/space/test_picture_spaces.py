"""The spaces of image files: published settings, complete, and one for a folder of one's own."""

from __future__ import annotations

from typing import Any

import pytest

from tune_lnl.config.act import ActSettings
from tune_lnl.tuning.space.space import load_space

PUBLISHED: dict[str, dict[str, Any]] = {
    **{
        name: {"epochs": 100, "batch_size": 16, "lr": 0.005, "lr1": 0.005, "warmup_epochs": 20, "warmup_lr": None}
        for name in ("act_web_aircraft", "act_web_bird", "act_web_car")
    },
    "act_food101n": {"epochs": 50, "batch_size": 100, "lr": 5e-4, "lr1": 1e-3, "warmup_epochs": 5, "warmup_lr": 1e-3},
    "act_clothing1m": {"epochs": 10, "batch_size": 64, "lr": 5e-4, "lr1": 1e-3, "warmup_epochs": 1, "warmup_lr": None},
}


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_trial_0_is_the_published_setting(name: str) -> None:
    space = load_space(name)
    config = space.config(space.start[0])
    settings = config.settings
    assert isinstance(settings, ActSettings)
    assert {key: getattr(settings, key) for key in PUBLISHED[name]} == pytest.approx(PUBLISHED[name])
    assert (settings.selection_rule, settings.label_smoothing, settings.tau) == ("rtm", 0.35, 0.025)
    assert (settings.model.name, settings.model.weights) == ("resnet50", "imagenet")
    assert (settings.optimizer, settings.momentum, settings.weight_decay) == ("sgd", 0.9, 5e-4)
    assert config.dataset.name == name.removeprefix("act_")
    assert settings.precision == "bf16"


def test_decay_of_food_is_the_released_plan() -> None:
    space = load_space("act_food101n")
    released = load_space("act_food101n", overrides=["lr_decay=cosine:5,5e-5,50"])
    ours, theirs = (each.config(each.start[0]).settings.plans()["lr"] for each in (space, released))
    assert ours[:6] == pytest.approx(theirs[:6])
    assert ours == pytest.approx(theirs, rel=0.08)


def test_a_folder_needs_no_more_than_its_root() -> None:
    space = load_space("act_folder", overrides=["dataset.root=somewhere"])
    config = space.config(space.start[0])
    assert config.flat()["dataset.noise"] == "none"
    assert str(config.flat()["dataset.root"]).endswith("/somewhere")
    assert config.flat()["model"] is None
    assert load_space("act_folder", condition="instance40").config(space.start[0]).flat()["dataset.closed_ratio"] == 0.4
