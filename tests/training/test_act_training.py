"""ACT as a training: two networks, two rates, the state per sample, and the report of the selection."""

from __future__ import annotations

import dataclasses
import functools
import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny_runs import EPOCHS, WARMUP, finish, start, surroundings, tiny, weights

from tune_lnl.config.act import ActSettings
from tune_lnl.methods.act import ActConfig, RobustLosses, robust_losses
from tune_lnl.training import act
from tune_lnl.training.act import ActTraining, loss_config
from tune_lnl.training.loop import Report
from tune_lnl.training.randomness import stream

SELECTION = {"selected", "mined", "mining_share", "empty_selections"}
QUALITY = {"selection_precision", "selection_recall", "selection_f1"}


def training(**changes: Any) -> ActTraining:
    run = start(tiny("act", **changes))
    assert isinstance(run, ActTraining)
    return run


def settings(**changes: Any) -> ActSettings:
    return training(**changes).settings


@functools.cache
def tiny_reports() -> tuple[Report, ...]:
    return tuple(finish(training()))


def test_the_networks_are_alike_and_start_apart() -> None:
    begun = weights(training())
    assert begun[""].shape == begun["_ntm"].shape
    assert not torch.equal(begun[""], begun["_ntm"])
    other = weights(training(seed=1))
    assert not torch.equal(begun[""], other[""])
    assert not torch.equal(begun["_ntm"], other["_ntm"])


def test_the_reported_network_starts_where_standard_training_starts() -> None:
    assert torch.equal(weights(training())[""], weights(start(tiny("standard")))[""])


def test_masks_and_channels_last_give_the_plain_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference of benchmarks/parity.py: samples selected by index, float32, the usual memory order."""
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[2] / "benchmarks")
    plain = importlib.import_module("parity").PlainActTraining(tiny("act"), surroundings(tiny("act")))
    fast = training()
    for _ in range(EPOCHS):
        theirs, ours = plain.run_epoch(), fast.run_epoch()
        assert ours.keys() == theirs.keys()
        for suffix in ("", "_ntm"):
            torch.testing.assert_close(weights(fast)[suffix], weights(plain)[suffix], rtol=1e-4, atol=1e-4)
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], abs=1e-4)
        assert ours.get("selected") == theirs.get("selected")
    assert torch.equal(fast.state.counts, plain.state.counts)
    torch.testing.assert_close(fast.state.label_ema, plain.state.label_ema, rtol=1e-4, atol=1e-4)


def test_both_networks_are_reported() -> None:
    for report in tiny_reports():
        for name in ("train_loss", "train_accuracy", "val_accuracy", "val_loss"):
            assert {name, f"{name}_ntm"} <= report.keys()
        assert {"lr", "lr1"} <= report.keys()


def test_the_selection_is_reported_after_the_warm_up_only() -> None:
    for epoch, report in enumerate(tiny_reports()):
        if epoch < WARMUP:
            assert report.keys().isdisjoint(SELECTION | QUALITY)
        else:
            assert report.keys() >= SELECTION
            assert QUALITY & report.keys() == (QUALITY if report["selected"] else {"selection_recall"})


def test_the_lr_of_both_optimizers_is_the_plan_of_the_epoch() -> None:
    run = training(lr_decay="step:3", lr1_decay={"shape": "constant"}, warmup_lr=0.001, warmup_lr1=0.002)
    seen = []
    for _ in range(EPOCHS):
        report = run.run_epoch()
        rates = tuple(run.optimizers[suffix].param_groups[0]["lr"] for suffix in ("", "_ntm"))
        assert rates == (report["lr"], report["lr1"])
        seen.append(rates)
    assert [rtm for rtm, _ in seen] == pytest.approx([0.001, 0.001, 0.05, 0.005])
    assert [ntm for _, ntm in seen] == pytest.approx([0.002, 0.002, 0.1, 0.1])


@pytest.mark.parametrize(("name", "suffix"), [("lr", ""), ("lr1", "_ntm")])
def test_a_rate_scales_the_step_of_its_own_network(name: str, suffix: str) -> None:
    # One plain step: twice the rate is twice the way, in that network alone.
    plain = {"batch_size": 10_000, "momentum": 0.0, "weight_decay": 0.0}

    def way(rate: float) -> dict[str, torch.Tensor]:
        run = training(**plain, **{name: rate})
        before = {key: _parameters(net) for key, net in run.networks.items()}
        run.run_epoch()
        return {key: _parameters(net) - before[key] for key, net in run.networks.items()}

    once, twice = way(0.02), way(0.04)
    other = ({"", "_ntm"} - {suffix}).pop()
    assert float(once[suffix].norm()) > 0
    assert torch.allclose(twice[suffix], 2 * once[suffix], rtol=1e-3, atol=1e-6)
    assert torch.equal(twice[other], once[other])


def _parameters(network: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().double().flatten() for p in network.parameters()])


def test_the_first_warm_up_step_is_that_of_the_formula() -> None:
    changes = {"batch_size": 10_000, "momentum": 0.9, "weight_decay": 0.01, "penalty_weight": 0.7}
    run, twin = training(**changes), training(**changes)
    twin.weak = stream(0, 0, "weak augmentation")
    (batch,) = twin.batches(0)
    view = twin.weak_view(batch.images)
    report = run.run_epoch()
    for suffix, lr, penalty in (("", 0.05, 0.7), ("_ntm", 0.1, 0.0)):
        network = twin.networks[suffix]
        logits = network(view)
        p = logits.softmax(dim=1)
        loss = F.cross_entropy(logits, batch.labels) + penalty * (p * p.log()).sum(dim=1).mean()
        assert report[f"train_loss{suffix}"] == pytest.approx(float(loss.detach()), rel=1e-5)
        gradients = torch.autograd.grad(loss, list(network.parameters()))
        for after, before, gradient in zip(
            run.networks[suffix].parameters(), network.parameters(), gradients, strict=True
        ):
            # Nesterov's first step is (1 + momentum) times the decayed gradient.
            expected = before - lr * 1.9 * (gradient + 0.01 * before)
            assert torch.allclose(after, expected, rtol=1e-4, atol=1e-6)


def test_tied_rates_are_one_in_the_optimizers() -> None:
    for report in finish(training(tie_lr=True, lr1=0.3)):
        assert report["lr1"] == report["lr"]


def test_warm_up_counts_every_sample_and_leaves_the_label_distributions() -> None:
    run = training()
    given = F.one_hot(run.given_labels, 8).float()
    for epoch in range(WARMUP):
        run.run_epoch()
        assert run.state.counts.tolist() == [epoch + 1] * run.images_per_epoch()
        assert torch.equal(run.state.label_ema, given)
    report = run.run_epoch()
    assert int(run.state.counts.sum()) == WARMUP * run.images_per_epoch() + report["selected"]
    assert not torch.equal(run.state.label_ema, given)
    assert torch.allclose(run.state.label_ema.sum(dim=1), torch.ones(run.images_per_epoch()), atol=1e-5)


def test_the_report_adds_up_what_the_batches_selected(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[torch.Tensor, RobustLosses]] = []

    def recorded(*args: Any) -> RobustLosses:
        losses = robust_losses(*args)
        seen.append((args[5].clone(), losses))
        return losses

    run = training(tau=10.0, dataset={"subset": 0.3})
    for _ in range(WARMUP):
        run.run_epoch()
    monkeypatch.setattr(act, "robust_losses", recorded)
    report = run.run_epoch()

    truth = run.data.noisy.true_labels
    assert truth is not None
    clean = run.data.noisy.given_labels[run.data.train] == truth[run.data.train]
    chosen = torch.cat([index[losses.selected] for index, losses in seen]).tolist()
    hits = sum(bool(clean[i]) for i in chosen)
    assert len(chosen) == report["selected"] > 0
    assert report["mined"] == sum(int(losses.mined.sum()) for _, losses in seen) > 0
    assert report["mining_share"] == sum(bool(losses.mining) for _, losses in seen) / len(seen)
    assert report["empty_selections"] == sum(bool(losses.selection_empty) for _, losses in seen)
    assert report["selection_precision"] == pytest.approx(100 * hits / len(chosen))
    assert report["selection_recall"] == pytest.approx(100 * hits / clean.sum())
    assert report["selection_f1"] == pytest.approx(200 * hits / (len(chosen) + clean.sum()))
    assert report["train_loss"] == pytest.approx(
        sum(float(losses.rtm.detach()) * len(index) for index, losses in seen) / run.images_per_epoch()
    )


def test_an_epoch_that_selects_nothing_has_no_precision_and_no_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    def empty(*args: Any) -> RobustLosses:
        losses = robust_losses(*args)
        nothing = torch.zeros_like(losses.selected)
        return dataclasses.replace(losses, selected=nothing, mined=nothing, selection_empty=torch.tensor(True))

    run = training(warmup_epochs=0)
    monkeypatch.setattr(act, "robust_losses", empty)
    report = run.run_epoch()
    assert (report["selected"], report["mined"]) == (0.0, 0.0)
    assert report["empty_selections"] == len(list(run.batches(0)))
    assert "selection_precision" not in report
    assert "selection_f1" not in report
    assert report["selection_recall"] == 0.0


def test_without_consistency_no_strong_view_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    made = 0
    strong_view = ActTraining.strong_view

    def counted(self: ActTraining, images: torch.Tensor) -> torch.Tensor:
        nonlocal made
        made += 1
        return strong_view(self, images)

    monkeypatch.setattr(ActTraining, "strong_view", counted)
    finish(training(consistency=False))
    assert made == 0
    run = training()
    finish(run)
    assert made == (EPOCHS - WARMUP) * len(list(run.batches(0))), "none in the warm-up either"


def test_mining_off_mines_nothing() -> None:
    for report in finish(training(mining=False, tau=10.0))[WARMUP:]:
        assert (report["mined"], report["mining_share"]) == (0.0, 0.0)


def test_selection_off_selects_everything() -> None:
    for report in finish(training(selection=False))[WARMUP:]:
        assert report["selected"] == training().images_per_epoch()
        assert report["selection_recall"] == 100.0


def test_without_warm_up_the_robust_phase_starts_at_once() -> None:
    assert training(warmup_epochs=0).run_epoch().keys() >= SELECTION


def test_every_field_of_the_losses_comes_from_a_setting_of_its_name() -> None:
    names = {field.name for field in dataclasses.fields(ActConfig)}
    assert names <= ActSettings.model_fields.keys()
    assert loss_config(settings()) == ActConfig()
    turned: dict[str, Any] = {
        "tau": 0.5,
        "selection_rule": "rtm",
        "label_smoothing": 0.35,
        "penalty": "code",
        "penalty_weight": 2.0,
        "consistency_weight": 0.5,
        "label_ema": 0.5,
        "selection": False,
        "mining": False,
        "reweighting": False,
        "consistency": False,
        "latch_mining": True,
    }
    assert turned.keys() == names
    assert loss_config(settings(**turned)) == ActConfig(**turned)


def test_the_defaults_of_settings_and_losses_are_one() -> None:
    for field in dataclasses.fields(ActConfig):
        assert ActSettings.model_fields[field.name].default == field.default
