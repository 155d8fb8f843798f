"""The contract of every registered method."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import tiny_persons
import torch
from tiny_runs import EPOCHS, WARMUP, finish, is_reid, start, surroundings, tiny, weights, without_times

from tune_lnl.config.registry import method_names, settings_type
from tune_lnl.datasets.augment.views import normalise
from tune_lnl.datasets.images.noisy import load_noisy
from tune_lnl.datasets.registry import get_dataset
from tune_lnl.errors import InputError
from tune_lnl.models.registry import build_model
from tune_lnl.training.checkpoint import load_checkpoint, save_checkpoint
from tune_lnl.training.classification import ClassifierTraining
from tune_lnl.training.loop import Report, Training
from tune_lnl.training.registry import training_type

pytestmark = pytest.mark.parametrize("method", method_names())

ALWAYS = {"epoch", "lr", "train_loss", "train_accuracy", "train_seconds", "seconds", "images_per_second"}


def scores(method: str, split: str) -> set[str]:
    """Return the names of the objectives and their standard errors on a split."""
    names = [name.replace("val_", f"{split}_") for name in settings_type(method).objectives]
    return {*names, *(f"{name}_standard_error" for name in names)}


@functools.cache
def whole_run(method: str) -> tuple[list[Report], dict[str, torch.Tensor]]:
    """Return the reports without times and the final weights of an uninterrupted tiny run."""
    training = start(tiny(method), test_from=WARMUP)
    reports = without_times(finish(training))
    return reports, weights(training)


def same_weights(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_settings_have_a_description_each_and_a_length(method: str) -> None:
    fields = settings_type(method).model_fields
    assert "epochs" in fields
    assert [name for name, field in fields.items() if not field.description] == []


def test_reports_hold_the_promised_numbers_and_all_are_finite(method: str) -> None:
    training = start(tiny(method), test_from=WARMUP)
    for epoch in range(EPOCHS):
        assert not training.finished
        report = training.run_epoch()
        promised = ALWAYS | scores(method, "val") | (scores(method, "test") if epoch >= WARMUP else set())
        assert promised <= report.keys()
        assert any(name.startswith("test_") for name in report) == (epoch >= WARMUP)
        assert {name: value for name, value in report.items() if not math.isfinite(value)} == {}
        assert all(type(value) is float for value in report.values())
        assert report["epoch"] == epoch == training.epoch - 1
        percent = ("accuracy", "_map", "_rank", "agreement")
        assert all(0 <= value <= 100 for name, value in report.items() if any(part in name for part in percent))
        assert 0 < report["train_seconds"] <= report["seconds"]
        assert report["images_per_second"] == pytest.approx(training.images_per_epoch() / report["train_seconds"])
    assert training.finished
    assert training.epoch == EPOCHS


def test_lr_of_every_epoch_is_the_planned_one(method: str) -> None:
    plans = tiny(method).settings.plans()
    reports, _ = whole_run(method)
    assert {name: [report[name] for report in reports] for name in plans} == plans


def test_prepare_names_the_data_without_training(method: str) -> None:
    config = tiny(method)
    fingerprints = training_type(method).prepare(config, surroundings(config))
    assert fingerprints == start(config).fingerprints
    assert fingerprints.keys() == {"source", "labels", "split"}


def test_same_seed_gives_the_same_numbers(method: str) -> None:
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002 (the point: nobody may read it)
    training = start(tiny(method), test_from=WARMUP)
    assert without_times(finish(training)) == whole_run(method)[0]
    assert same_weights(weights(training), whole_run(method)[1])


def test_another_seed_gives_other_numbers(method: str) -> None:
    other = without_times(finish(start(tiny(method, seed=1))))
    for mine, theirs in zip(whole_run(method)[0], other, strict=True):
        assert mine["train_loss"] != theirs["train_loss"]
    objective = next(iter(settings_type(method).objectives))
    assert [mine[objective] for mine in whole_run(method)[0]] != [theirs[objective] for theirs in other]


@pytest.mark.parametrize("stop", [1, WARMUP, WARMUP + 1], ids=["warm-up", "phase change", "main phase"])
def test_a_run_goes_on_from_its_checkpoint_number_for_number(method: str, stop: int, tmp_path: Path) -> None:
    first = start(tiny(method), test_from=WARMUP)
    reports = [first.run_epoch() for _ in range(stop)]
    save_checkpoint(tmp_path / "c.pt", first, reports)

    torch.manual_seed(7)
    second = start(tiny(method), test_from=WARMUP)
    behind = load_checkpoint(tmp_path / "c.pt", second)
    assert behind == reports
    assert second.epoch == stop
    assert without_times([*behind, *finish(second)]) == whole_run(method)[0]
    assert same_weights(weights(second), whole_run(method)[1])


@pytest.mark.parametrize("stop", [1, EPOCHS - 1], ids=["before the last epochs", "within them"])
def test_heldout_predictions_are_the_mean_of_the_last_epochs_however_the_run_got_there(
    method: str, stop: int, tmp_path: Path
) -> None:
    if is_reid(method):
        assert start(tiny(method)).heldout_predictions() is None
        return
    training = start(tiny(method))
    assert isinstance(training, ClassifierTraining)
    reports, expected = [], []
    while not training.finished:
        assert training.heldout_predictions() is None
        reports.append(training.run_epoch())
        if training.epoch == stop:
            save_checkpoint(tmp_path / "c.pt", training, reports)
        images = training.data.noisy.train_images[training.data.noisy.rows[training.data.validation]]
        pixels = training.normalised(torch.from_numpy(images).permute(0, 3, 1, 2))
        with torch.no_grad():
            # `networks` lists the reported one first.
            expected.append(torch.stack([network.eval()(pixels) for network in training.networks.values()]).softmax(2))
    found = training.heldout_predictions()
    assert found is not None
    assert next(iter(training.networks)) == ""
    np.testing.assert_allclose(found.probabilities, torch.stack(expected[-2:]).mean(0).numpy(), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(found.index, training.data.validation)
    np.testing.assert_array_equal(found.given, training.data.noisy.given_labels[found.index])
    assert training.data.noisy.open_set is not None
    assert training.data.noisy.open_set[found.index].any()

    second = start(tiny(method))
    load_checkpoint(tmp_path / "c.pt", second)
    finish(second)
    again = second.heldout_predictions()
    assert again is not None
    np.testing.assert_array_equal(again.probabilities, found.probabilities)


def test_state_loads_with_weights_only(method: str, tmp_path: Path) -> None:
    training = start(tiny(method))
    for _ in range(WARMUP + 1):
        training.run_epoch()
    torch.save(training.state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    again = start(tiny(method))
    again.load_state_dict(state)
    assert without_times([again.run_epoch()]) == without_times([training.run_epoch()])


def test_model_file_rebuilds_the_reported_network(method: str, tmp_path: Path) -> None:
    if is_reid(method):
        pytest.skip("of re-ID networks in test_reid_training.py")
    config = tiny(method)
    training = start(config, test_from=0)
    last = finish(training)[-1]
    torch.save(training.model_file(), tmp_path / "model.pt")

    content = torch.load(tmp_path / "model.pt", weights_only=True)
    preprocessing = content["preprocessing"]
    network = build_model(content["model"], len(content["classes"]), tuple(preprocessing["image_shape"]))
    network.load_state_dict(content["weights"])
    network.eval()
    data = load_noisy(config.dataset, None)
    images = torch.from_numpy(data.test_images[data.test_rows]).permute(0, 3, 1, 2)
    with torch.inference_mode():
        logits = network(normalise(images, preprocessing["mean"], preprocessing["std"]))
    right = (logits.argmax(dim=1) == torch.from_numpy(data.test_labels)).double().mean()
    assert 100 * float(right) == pytest.approx(last["test_accuracy"])
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(data.test_labels))
    assert float(loss) == pytest.approx(last["test_loss"], rel=1e-5)

    assert content["config"] == config.flat()
    assert content["classes"] == [str(digit) for digit in range(8)]
    assert len(preprocessing["mean"]) == len(preprocessing["std"]) == get_dataset("digits8no").image_shape[2]


def test_a_last_batch_of_one_is_trained_on(method: str) -> None:
    images = start(tiny(method)).images_per_epoch()
    training = start(tiny(method, batch_size=images - 1))
    for report in finish(training):
        assert {name for name, value in report.items() if not math.isfinite(value)} == set()


def test_a_batch_may_hold_all_images(method: str) -> None:
    training = start(tiny(method, batch_size=10_000))
    assert all(math.isfinite(report["train_loss"]) for report in finish(training))


def test_without_a_validation_split_there_are_no_validation_numbers(method: str) -> None:
    everything = start(tiny(method, validation={"fraction": 0.0}), test_from=0)
    assert everything.images_per_epoch() > start(tiny(method)).images_per_epoch()
    report = everything.run_epoch()
    assert [name for name in report if name.startswith("val_")] == []
    assert math.isfinite(report[settings_type(method).test_metrics[0]])


def test_a_checkpoint_of_another_config_is_refused_by_name(method: str, tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    save_checkpoint(path, start(tiny(method)), [])
    for changes, name in (
        ({"lr": 0.02}, "lr"),
        ({"seed": 3}, "seed"),
        ({"validation": {"seed": 1}}, "validation.seed"),
        ({"dataset": {"noise_seed": 5}}, "dataset.noise_seed"),
    ):
        with pytest.raises(InputError, match=rf"written with {name} = .*this training has"):
            load_checkpoint(path, start(tiny(method, **changes)))


def test_a_checkpoint_of_another_method_is_refused_by_name(method: str, tmp_path: Path) -> None:
    mine = start(tiny(method))
    for other in method_names():
        if other == method:
            continue
        save_checkpoint(tmp_path / "c.pt", start(tiny(other)), [])
        with pytest.raises(InputError, match="written with"):
            load_checkpoint(tmp_path / "c.pt", mine)
        with pytest.raises(InputError, match=f"method '{other}', not of '{method}'"):
            mine.load_state_dict(start(tiny(other)).state_dict())


def test_a_checkpoint_of_other_labels_is_refused_by_name(method: str, tmp_path: Path) -> None:
    if is_reid(method):
        labels = np.arange(tiny_persons.TRAIN_PERSONS * tiny_persons.CAMERAS * tiny_persons.SHOTS) % 10 + 1
    else:
        labels = np.arange(len(load_noisy(tiny(method, dataset={"subset": 1.0}).dataset, None).rows)) % 8

    def run(values: np.ndarray) -> Training:
        np.save(tmp_path / "labels.npy", values)
        return start(tiny(method, dataset={"noise": {"file": str(tmp_path / "labels.npy")}}))

    save_checkpoint(tmp_path / "c.pt", run(labels), [])
    assert load_checkpoint(tmp_path / "c.pt", run(labels)) == []
    with pytest.raises(InputError, match=r"written with (labels|split) = "):
        load_checkpoint(tmp_path / "c.pt", run(labels[::-1].copy()))


def test_non_finite_weights_are_not_scored_as_a_guess(method: str) -> None:
    training = start(tiny(method, lr=1e30), test_from=0)
    last = finish(training)[-1]
    for name in ("val_accuracy", "test_accuracy", "val_accuracy_standard_error", "val_map", "test_map", "val_rank1"):
        assert math.isnan(last.get(name, math.nan))
    assert any(math.isnan(last[name]) for name in settings_type(method).objectives)
