"""The objective so far, and precisions that a device does not have."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_runs import EPOCHS, finish, start, tiny

from tune_lnl.errors import InputError
from tune_lnl.training import loop as training
from tune_lnl.training.loop import Report, Surroundings, check_precision, objective_so_far


def reports(*values: float) -> list[Report]:
    return [{"val_accuracy": value} for value in values]


def test_objective_is_the_mean_of_the_last_epochs() -> None:
    assert objective_so_far("val_accuracy", 2, reports(10.0, 20.0, 40.0)) == 30.0


def test_objective_of_a_young_run_is_the_mean_of_what_there_is() -> None:
    assert objective_so_far("val_accuracy", 10, reports(10.0, 20.0)) == 15.0


@pytest.mark.parametrize("lost", [math.nan, math.inf, -math.inf])
def test_objective_is_nan_while_an_epoch_that_counts_is_not_finite(lost: float) -> None:
    assert math.isnan(objective_so_far("val_accuracy", 2, reports(50.0, lost, 60.0)))
    assert objective_so_far("val_accuracy", 2, reports(lost, 50.0, 60.0)) == 55.0


def test_objective_is_nan_where_the_metric_was_not_measured() -> None:
    assert math.isnan(objective_so_far("val_accuracy", 1, [{"train_loss": 1.0}]))


@pytest.mark.parametrize(
    ("precision", "device"), [("fp32", "cpu"), ("bf16", "cpu"), ("fp16", "cuda"), ("bf16", "cuda")]
)
def test_precision_that_a_device_has(precision: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "has_bf16", lambda device: True)
    check_precision(precision, device)


@pytest.mark.parametrize(
    ("device", "told"),
    [("cpu", "this cpu has none; set precision to fp32"), ("cuda", "this Tesla T4 has none; set .* to fp32, or fp16")],
)
def test_bf16_needs_hardware_for_it(device: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "has_bf16", lambda device: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "Tesla T4")
    with pytest.raises(InputError, match=f"precision bf16 needs hardware for it, and {told}"):
        check_precision("bf16", device)


@pytest.mark.parametrize(("capability", "fits"), [((8, 0), True), ((7, 5), False)])
def test_tf32_needs_a_gpu_that_has_it(capability: tuple[int, int], fits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="precision tf32 needs a GPU, got device cpu; set precision to fp32"):
        check_precision("tf32", "cpu")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "Tesla T4")
    if fits:
        check_precision("tf32", "cuda")
        return
    with pytest.raises(InputError, match="precision tf32 needs hardware for it, and this Tesla T4 has none"):
        check_precision("tf32", "cuda")


def test_fp16_needs_a_gpu() -> None:
    with pytest.raises(InputError, match="fp16 needs a GPU, got device cpu; set precision to fp32"):
        check_precision("fp16", "cpu")
    with pytest.raises(InputError, match="fp16 needs a GPU"):
        start(tiny("standard", precision="fp16"))


def test_no_epoch_runs_after_the_last() -> None:
    training = start(tiny("standard"))
    assert len(finish(training)) == EPOCHS
    with pytest.raises(AssertionError):
        training.run_epoch()


def test_surroundings_never_score_the_test_set_unless_asked() -> None:
    assert Surroundings().test_from is None
    report = start(tiny("standard")).run_epoch()
    assert not [name for name in report if name.startswith("test")]
