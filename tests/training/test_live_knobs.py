"""Every setting acts, and only where the method says so.

A run is reduced to its trace: the lr in effect in each optimizer and the final weights of each network. Turning a live
setting changes the weights (and the lr, if it sets the lr); turning a dead one changes nothing at all.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from tiny_runs import build_wide_reid, finish, is_reid, start, tiny, weights
from torch import Tensor

from tune_lnl.config.registry import METHODS, settings_type
from tune_lnl.models import registry as models
from tune_lnl.models import reid as reid_models


@dataclass(frozen=True)
class Trace:
    """The learning rates and the final weights of a run."""

    learning_rates: dict[str, list[float]]
    weights: dict[str, Tensor]

    def equals(self, other: Trace) -> bool:
        return self.learning_rates == other.learning_rates and not self.moved(other)

    def moved(self, other: Trace) -> set[str]:
        """Return the suffixes of the networks whose weights differ."""
        return {
            name
            for name, mine in self.weights.items()
            if mine.shape != other.weights[name].shape or not torch.equal(mine, other.weights[name])
        }


def trace(method: str, **fixed: Any) -> Trace:
    return _trace(method, json.dumps(fixed, sort_keys=True))


@functools.cache
def _trace(method: str, fixed: str) -> Trace:
    training = start(tiny(method, **json.loads(fixed)))
    reports = finish(training)
    names = training.config.settings.plans()
    return Trace({name: [report[name] for report in reports] for name in names}, weights(training))


@dataclass(frozen=True)
class Turn:
    """A setting and another value for it, in a configuration where it is alive."""

    name: str
    value: Any
    given: tuple[tuple[str, Any], ...] = ()
    sets_lr: str | None = None
    """The lr that it sets."""

    def __str__(self) -> str:
        return f"{self.name}={self.value}"


MORE = (("dataset", {"subset": 0.3}),)
"""Enough batches that some select, mine and stop mining, whatever the machine's last digits."""
CLASSIFIER = [
    Turn("seed", 1),
    Turn("precision", "bf16"),
    Turn("batch_size", 48),
    Turn("model", "wide"),
    Turn("optimizer", "adam"),
    Turn("momentum", 0.0),
    Turn("momentum", 0.5),
    Turn("weight_decay", 0.05),
    Turn("lr", 0.02, sets_lr="lr"),
    Turn("lr_decay", "step:3", sets_lr="lr"),
    Turn("lr_decay", {"shape": "cosine", "end": 0.5}, sets_lr="lr"),
    Turn("lr_decay", {"shape": "constant"}, sets_lr="lr"),
    Turn("warmup_epochs", 1, sets_lr="lr"),
    Turn("warmup_lr", 0.001, sets_lr="lr"),
    Turn("label_smoothing", 0.35),
]
ADAM = (("optimizer", "adam"), ("lr", 0.002))
SMALL_LOSS = [
    *CLASSIFIER,
    Turn("forget_rate", 0.6),
    Turn("num_gradual", 1),
    Turn("exponent", 2.0),
    Turn("late_beta1", 0.1, given=ADAM),
]
REID = [
    Turn("seed", 1),
    Turn("precision", "bf16"),
    Turn("batch_size", 48),
    Turn("model", {"name": "wide", "weights": "none"}),
    Turn("lr", 0.02, sets_lr="lr"),
    Turn("head_lr_multiplier", 1.0, sets_lr="head_lr"),
    Turn("momentum", 0.0),
    Turn("momentum", 0.5),
    Turn("weight_decay", 0.05),
]
MILESTONES = [
    *REID,
    Turn("lr_milestones", [3], sets_lr="lr"),
    Turn("lr_drop", 0.5, sets_lr="lr"),
]
SELF = (("refine_epochs", 1),)
"""Three epochs of SELF: the source of its weight shows from the third on."""
LIVE: dict[str, list[Turn]] = {
    "reid_standard": MILESTONES,
    "self_refine": [*MILESTONES, Turn("refine_weight_from", "refined")],
    "core": [
        *MILESTONES,
        Turn("refine_weight_from", "refined", given=SELF),
        Turn("refine_epochs", 1, sets_lr="lr"),
        Turn("self_epochs", 3, given=(("self_epochs", 2),), sets_lr="lr"),
        Turn("soft_weight", 0.0),
        Turn("selective", "mask"),
        Turn("selective", "code"),
    ],
    "purifynet": [
        *REID,
        Turn("reweight_epochs", 1),
        Turn("lr_step", 1, sets_lr="lr"),
        Turn("ramp_epochs", 4),
    ],
    "standard": CLASSIFIER,
    "co_teaching": SMALL_LOSS,
    "jocor": [*SMALL_LOSS, Turn("co_lambda", 0.9)],
    "act": [
        *CLASSIFIER,
        Turn("lr1", 0.03, sets_lr="lr1"),
        Turn("lr_asymmetry", 4.0, given=(("lr_asymmetry", 2.0),), sets_lr="lr1"),
        Turn("lr1_decay", "baseline", given=(("warmup_lr", 0.001),), sets_lr="lr1"),
        Turn("lr1_decay", {"shape": "linear", "end": 0.5}, sets_lr="lr1"),
        Turn("warmup_lr", 0.001, sets_lr="lr1"),
        Turn("warmup_lr", 0.001, given=(("lr_decay", "baseline"), ("lr1_decay", {"shape": "constant"})), sets_lr="lr1"),
        Turn("warmup_lr1", 0.001, sets_lr="lr1"),
        Turn("tie_lr", True, sets_lr="lr1"),
        Turn("tau", 10.0, given=MORE),
        Turn("selection", False),
        Turn("mining", False, given=(("tau", 10.0), *MORE)),
        Turn("reweighting", False),
        Turn("consistency", False),
        Turn("selection_rule", "rtm", given=MORE),
        Turn("latch_mining", True, given=(("tau", 0.0), *MORE)),
        Turn("penalty", "code"),
        Turn("penalty", "none"),
        Turn("penalty_weight", 0.1),
        Turn("consistency_weight", 0.6),
        Turn("consistency_weight", 0.0),
        Turn("label_ema", 0.1),
    ],
}
ELSEWHERE = {"epochs", "threads", "deterministic"}
"""The length of a run, and settings whose effect is not on the numbers of a CPU; see
``test_threads_are_the_trainings_own`` and ``test_fp32_means_fp32_and_tf32_is_named``."""

SMALL_LOSS_DEAD: list[dict[str, Any]] = [
    {"optimizer": "sgd"},
    {"optimizer": "adam", "lr_decay": {"shape": "constant"}},
    {"warmup_epochs": 0},
    {"lr_decay": "baseline"},
    {"lr_decay": {"shape": "constant"}},
    {"forget_rate": 0.0},
    {"num_gradual": 1},
]
DEAD: dict[str, list[dict[str, Any]]] = {
    "reid_standard": [{"lr_milestones": [4]}],
    "self_refine": [{"lr_milestones": [4]}],
    "core": [{"refine_epochs": 3}],
    "purifynet": [{"reweight_epochs": 3}],
    "standard": [
        {"optimizer": "adam"},
        {"warmup_epochs": 0},
        {"lr_decay": "baseline"},
        {"lr_decay": {"shape": "constant"}},
    ],
    "co_teaching": SMALL_LOSS_DEAD,  # jocor's settings, but for one that is always alive
    "act": [
        {"optimizer": "adam"},
        {"warmup_epochs": 0},
        {"lr_decay": "baseline"},
        {"lr_decay": "baseline", "warmup_lr1": 0.002},
        {"lr1_decay": "baseline"},
        {"tie_lr": True},
        {"selection": False},
        {"selection": False, "consistency": False},
        {"mining": False},
        {"consistency": False},
        {"consistency_weight": 0.0},
        {"consistency_weight": 1.0},
        {"penalty": "none"},
        {"penalty_weight": 0.0},
    ],
}


@pytest.fixture(autouse=True)
def _wide_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(models.MODELS, "wide", "tiny_runs:build_wide")
    monkeypatch.setitem(reid_models.REID_MODELS, "wide", build_wide_reid)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_setting_of_every_method_is_turned_here(method: str) -> None:
    settings = settings_type(method)
    turned = {turn.name for turn in LIVE[method]}
    assert turned == {*settings.model_fields, *settings.knobs} - ELSEWHERE


# One case per method: its turns share the trace of the untouched run, in whatever process it is tested.
@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_live_setting_changes_what_is_trained(method: str) -> None:
    without_effect = []
    for turn in LIVE[method]:
        given = dict(turn.given)
        assert turn.name not in tiny(method, **given).settings.dead(), turn
        before, after = trace(method, **given), trace(method, **given | {turn.name: turn.value})
        lrs = {name for name, values in before.learning_rates.items() if values != after.learning_rates[name]}
        if not before.moved(after) or (turn.sets_lr not in lrs if turn.sets_lr is not None else lrs):
            without_effect.append(f"{turn}: moved {before.moved(after)}, changed {lrs}")
    assert without_effect == []


@pytest.mark.parametrize("method", sorted(DEAD))
def test_a_dead_setting_changes_nothing(method: str) -> None:
    changed = []
    for given in DEAD[method]:
        dead = set(tiny(method, **given).settings.dead()) - given.keys()
        turns = [turn for turn in LIVE[method] if turn.name in dead]
        assert {turn.name for turn in turns} == dead != set(), given
        before = trace(method, **given)
        turned = [(turn, trace(method, **given | {turn.name: turn.value})) for turn in turns]
        changed += [f"{turn} with {given}" for turn, after in turned if not before.equals(after)]
    assert changed == []


@pytest.mark.parametrize("method", sorted(METHODS))
def test_threads_are_the_trainings_own(method: str) -> None:
    before = torch.get_num_threads()
    try:
        for threads in (2, 1):
            training = start(tiny(method, threads=threads))
            torch.set_num_threads(before)  # as another trial of this process may
            training.run_epoch()
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("name", ["lr", "lr_decay", "warmup_lr"])
def test_lr_acts_on_the_reported_network_alone(name: str) -> None:
    turned = {"lr": 0.02, "lr_decay": {"shape": "cosine", "end": 0.5}, "warmup_lr": 0.001}[name]
    # The settings that the NTM would inherit are fixed.
    own: dict[str, Any] = {"lr1_decay": {"shape": "cosine", "end": 0.05}, "warmup_lr1": 0.1}
    before, after = trace("act", **own), trace("act", **own | {name: turned})
    assert before.learning_rates["lr1"] == after.learning_rates["lr1"]
    assert before.moved(after) == {""}


@pytest.mark.parametrize(
    ("name", "value"), [("lr1", 0.03), ("warmup_lr1", 0.001), ("lr1_decay", {"shape": "constant"}), ("tie_lr", True)]
)
def test_lr1_acts_on_the_companion_and_only_through_it_on_the_reported_network(name: str, value: Any) -> None:
    # Without selection the NTM does not influence the RTM.
    before, after = trace("act", selection=False), trace("act", selection=False, **{name: value})
    assert before.learning_rates["lr"] == after.learning_rates["lr"]
    assert before.moved(after) == {"_ntm"}


def test_lr1_reaches_the_reported_network_through_the_selection() -> None:
    before, after = trace("act", **dict(MORE)), trace("act", **dict(MORE), lr1=0.03)
    assert before.learning_rates["lr"] == after.learning_rates["lr"]
    assert before.moved(after) == {"", "_ntm"}


DATA: dict[str, list[dict[str, Any]]] = {
    "classification": [
        {"dataset": {"subset": 0.2}},
        {"dataset": {"subset_seed": 1}},
        {"dataset": {"classes": 6}},
        {"dataset": {"noise": "symmetric"}},
        {"dataset": {"closed_ratio": 0.5}},
        {"dataset": {"noise_seed": 1}},
        {"validation": {"fraction": 0.2}},
        {"validation": {"seed": 1}},
    ],
    "re-identification": [
        {"dataset": {"subset": 0.5}},
        {"dataset": {"classes": 8}},
        {"dataset": {"height": 40}},
        {"dataset": {"noise": "none"}},
        {"dataset": {"noise_ratio": 0.5}},
        {"dataset": {"noise_seed": 2}},
        {"validation": {"fraction": 0.2}},
        {"validation": {"seed": 1}},
    ],
}


@pytest.mark.parametrize("method", ["standard", "reid_standard"])
def test_the_data_settings_act(method: str) -> None:
    """The data of a task are loaded in one place for all its methods."""
    before = trace(method)
    changes = DATA[settings_type(method).task]
    assert [change for change in changes if not before.moved(trace(method, **change))] == []


def test_the_seed_of_the_persons_subset_acts() -> None:
    halves = [trace("reid_standard", dataset={"subset": 0.5, "subset_seed": seed}) for seed in (0, 1)]
    assert halves[0].moved(halves[1]) != set()


@pytest.mark.parametrize("method", [method for method in sorted(METHODS) if not is_reid(method)])
def test_validation_labels_change_what_is_judged_and_not_what_is_trained(method: str) -> None:
    noisy, clean = start(tiny(method)), start(tiny(method, validation={"labels": "clean"}))
    judged = [[report["val_loss"] for report in finish(run)] for run in (noisy, clean)]
    assert judged[0] != judged[1]
    assert all(torch.equal(weights(noisy)[name], vector) for name, vector in weights(clean).items())
