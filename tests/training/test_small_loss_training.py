"""Training by Co-teaching and JoCoR: the samples of each network, and the report of the selection."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tiny_runs import finish, start, tiny

from tune_lnl.config.small_loss import SmallLossSettings
from tune_lnl.methods.co_teaching import co_teaching_losses
from tune_lnl.methods.jocor import jocor_loss
from tune_lnl.training.networks import Totals
from tune_lnl.training.small_loss import SmallLossTraining

METHODS = ["co_teaching", "jocor"]
pytestmark = pytest.mark.parametrize("method", METHODS)


def settings(method: str, **fixed: Any) -> SmallLossSettings:
    found = tiny(method, **fixed).settings
    assert isinstance(found, SmallLossSettings)
    return found


def begin(method: str, **fixed: Any) -> SmallLossTraining:
    training = start(tiny(method, **fixed))
    assert isinstance(training, SmallLossTraining)
    return training


def test_defaults_are_the_published_ones(method: str) -> None:
    found = settings(method)
    assert (found.forget_rate, found.num_gradual, found.exponent) == (0.2, 10, 1.0)
    assert getattr(found, "co_lambda", 0.1) == 0.1


def test_networks_start_apart_and_stay_apart(method: str) -> None:
    training = begin(method)
    for _ in range(2):
        one, two = (list(network.parameters()) for network in training.networks.values())
        assert not any(torch.equal(a, b) for a, b in zip(one, two, strict=True) if a.ndim > 1)
        training.run_epoch()
    assert set(training.networks) == {"", "_peer"}


def test_the_report_counts_what_was_remembered(method: str) -> None:
    """Of each batch of 32 and of the rest R(T) is kept, rounded up."""
    training = begin(method, forget_rate=0.5, num_gradual=2)
    images = training.images_per_epoch()
    reports = finish(training)
    assert [report["remember_rate"] for report in reports] == [0.75, 0.5, 0.5, 0.5]
    whole, rest = divmod(images, 32)
    assert reports[0]["selected"] == whole * 24 + -(-rest * 3 // 4)
    assert reports[1]["selected"] == whole * 16 + -(-rest // 2)
    assert training.clean is not None
    clean = int(training.clean.sum())
    for report in reports:
        both = report["selection_precision"] * report["selected"] / 100
        assert both == pytest.approx(round(both))
        assert report["selection_recall"] == pytest.approx(100 * both / clean)
        assert {"train_loss_peer", "train_accuracy_peer", "val_accuracy_peer"} <= report.keys()


def test_the_selection_is_cleaner_than_the_data(method: str) -> None:
    training = begin(
        method,
        dataset={"subset": 1.0, "noise": "symmetric", "closed_ratio": 0.4},
        forget_rate=0.5,
        num_gradual=2,
        epochs=6,
    )
    last = finish(training)[-1]
    assert training.clean is not None
    assert last["selection_precision"] > 100 * float(training.clean.double().mean()) + 10


def test_one_step_is_the_published_update(method: str) -> None:
    """SGD without momentum or decay: every parameter moves by lr times the gradient of its own loss."""
    plain: dict[str, Any] = {
        "momentum": 0.0,
        "weight_decay": 0.0,
        "lr_decay": {"shape": "constant"},
        "forget_rate": 0.4,
    }
    training = begin(method, num_gradual=1, **plain)
    training._begin_epoch(0)
    batch = next(iter(training.batches(0)))
    state = training.weak.get_state()
    view = training.weak_view(batch.images)
    one, two = training.networks[""], training.networks["_peer"]
    buffers = [buffer.clone() for network in (one, two) for buffer in network.buffers()]
    if method == "co_teaching":
        found = co_teaching_losses(one, two, view, batch.labels, 0.6)
        losses = [found.first, found.second]
    else:
        losses = [jocor_loss(one, two, view, batch.labels, 0.6, 0.1).loss] * 2
    expected = []
    for network, loss in zip((one, two), losses, strict=True):
        parameters = list(network.parameters())
        gradients = torch.autograd.grad(loss, parameters, retain_graph=True)
        expected += [value.detach() - 0.05 * slope for value, slope in zip(parameters, gradients, strict=True)]
    for buffer, before in zip((b for n in (one, two) for b in n.buffers()), buffers, strict=True):
        buffer.copy_(before)
    training.weak.set_state(state)
    training.train_step(batch, 0, Totals())
    got = [value.detach() for network in (one, two) for value in network.parameters()]
    torch.testing.assert_close(got, expected)


def test_forgetting_nothing_is_plain_training(method: str) -> None:
    """JoCoR without weight on agreement, and Co-teaching: the reported network learns as by cross-entropy alone."""
    weight = {"co_lambda": 0.0} if method == "jocor" else {}
    mine = begin(method, forget_rate=0.0, **weight)
    plain = start(tiny("standard"))
    mine.run_epoch()
    plain.run_epoch()
    theirs = plain.state_dict()["networks"][""]
    for name, value in mine.networks[""].state_dict().items():
        torch.testing.assert_close(value, theirs[name])


def test_beta1_falls_with_the_lr(method: str) -> None:
    training = begin(method, optimizer="adam", lr=0.001, warmup_epochs=0, lr_decay="linear:2", late_beta1=0.1)
    seen = []
    while not training.finished:
        report = training.run_epoch()
        for optimizer in training.optimizers.values():
            (group,) = optimizer.param_groups
            assert group["lr"] == report["lr"]
        seen.append(group["betas"])
    assert seen == [(0.9, 0.999), (0.9, 0.999), (0.1, 0.999), (0.1, 0.999)]


def test_decay_start(method: str) -> None:
    assert settings(method, warmup_epochs=0, lr_decay="linear:2").decay_start() == 2
    assert settings(method, lr_decay={"shape": "cosine", "end": 0.05}).decay_start() == 2
    assert settings(method, lr_decay={"shape": "constant"}).decay_start() is None


def test_warmup_is_over_when_the_full_share_is_forgotten(method: str) -> None:
    assert settings(method, warmup_epochs=0, num_gradual=3).warmup_length() == 3
    assert settings(method, warmup_epochs=2, num_gradual=1).warmup_length() == 2
    assert settings(method, warmup_epochs=0, num_gradual=10).warmup_length() == 3


def test_selected_shares_are_of_the_epochs_with_the_full_share(method: str) -> None:
    """The share grows over three epochs, so that the last two have it in full: chosen in 0, 1 or 2 of them."""
    training = begin(method, forget_rate=0.5, num_gradual=3)
    reports = finish(training)
    shares = training.selected_shares()
    assert shares.dtype == np.float32
    assert set(shares) == {0.0, 0.5, 1.0}
    assert 2 * shares.sum() == reports[2]["selected"] + reports[3]["selected"]
