"""The base of the image classification methods: batches, optimizers, scores."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_runs import EPOCHS, WARMUP, finish, start, tiny, weights, without_times

from tune_lnl.config.trial import Fold
from tune_lnl.datasets.augment.views import augment, normalise
from tune_lnl.datasets.base import NoisyData
from tune_lnl.datasets.images.noisy import load_noisy
from tune_lnl.datasets.split import split_folds
from tune_lnl.errors import InputError
from tune_lnl.models.cnn_digits import DigitsCNN
from tune_lnl.training import classification, networks
from tune_lnl.training.act import ActTraining
from tune_lnl.training.classification import ClassifierTraining
from tune_lnl.training.loop import Surroundings
from tune_lnl.training.networks import Totals
from tune_lnl.training.randomness import stream
from tune_lnl.training.registry import start_training


def classifier(method: str = "standard", **changes: Any) -> ClassifierTraining:
    training = start(tiny(method, **changes))
    assert isinstance(training, ClassifierTraining)
    return training


# ---- batches


def test_an_epoch_shows_every_training_image_once() -> None:
    training = classifier()
    batches = list(training.batches(0))
    sizes = [len(batch.labels) for batch in batches]
    assert sizes[:-1] == [32] * (len(sizes) - 1)
    assert 0 < sizes[-1] <= 32
    index = torch.cat([batch.index for batch in batches])
    assert index.sort().values.tolist() == list(range(training.images_per_epoch()))


def test_the_order_is_of_the_seed_and_the_epoch() -> None:
    def order(training: ClassifierTraining, epoch: int) -> list[int]:
        return torch.cat([batch.index for batch in training.batches(epoch)]).tolist()

    training = classifier()
    assert order(training, 1) == order(training, 1) == order(classifier(), 1)
    assert order(training, 1) != order(training, 0)
    assert order(training, 1) != order(classifier(seed=1), 1)


def test_a_batch_holds_the_images_and_given_labels_of_its_index() -> None:
    training = classifier()
    data = training.data
    for batch in training.batches(0):
        samples = data.train[batch.index.numpy()]
        assert isinstance(batch.images, torch.Tensor)
        expected = data.noisy.train_images[data.noisy.rows[samples]]
        assert np.array_equal(batch.images.permute(0, 2, 3, 1).numpy(), expected)
        assert batch.labels.tolist() == data.noisy.given_labels[samples].tolist()
        assert batch.images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("batches", [1, 2, 100])
def test_images_that_stay_on_the_device_and_are_augmented_together_train_the_same(
    batches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = classifier("act")
    size = len(copied.data.train) * 64
    with monkeypatch.context() as patched:
        patched.setattr(networks, "STRETCH_PIXELS", batches * copied.settings.batch_size * 64)
        patched.setattr(networks, "resident_bytes", lambda device: size)
        resident = classifier("act")
        patched.setattr(networks, "resident_bytes", lambda device: size - 1)
        assert classifier("act").resident is None, "too many"
        assert copied.resident is None
        assert resident.resident is not None
        assert resident.resident.shape == (len(resident.data.train), 8, 8, 1)
        assert resident.stretch_batches() == batches
        for training in (copied, resident):
            training._begin_epoch(2)
        for ours, theirs in zip(resident.batches(2), copied.batches(2), strict=True):
            assert torch.equal(ours.index, theirs.index)
            assert torch.equal(ours.labels, theirs.labels)
            assert torch.equal(resident.weak_view(ours.images), copied.weak_view(theirs.images))
            assert torch.equal(resident.strong_view(ours.images), copied.strong_view(theirs.images))
        assert resident.train_epoch(2) == copied.train_epoch(2)
        assert resident.evaluate(2) == copied.evaluate(2)


def test_training_and_validation_share_no_image() -> None:
    data = classifier().data
    assert set(data.train.tolist()).isdisjoint(data.validation.tolist())
    assert len(data.train) + len(data.validation) == len(data.noisy.rows)
    assert data.validation_labels.tolist() == data.noisy.given_labels[data.validation].tolist()


def test_the_split_is_the_same_for_every_training_seed_and_setting() -> None:
    assert classifier(seed=3, lr=0.2).fingerprints == classifier().fingerprints
    assert classifier("act").fingerprints == classifier().fingerprints
    other = classifier(validation={"seed": 1}).fingerprints
    assert {name for name, print_ in other.items() if print_ != classifier().fingerprints[name]} == {"split"}


def test_clean_says_which_given_labels_are_true() -> None:
    data = classifier().data
    assert data.clean is not None
    assert data.noisy.true_labels is not None
    expected = [data.noisy.given_labels[i] == data.noisy.true_labels[i] for i in data.train]
    assert data.clean.tolist() == expected
    assert 0 < sum(expected) < len(expected)


def test_clean_validation_judges_true_labels_of_closed_classes() -> None:
    noisy, clean = classifier().data, classifier(validation={"labels": "clean"}).data
    assert clean.noisy.true_labels is not None
    true = clean.noisy.true_labels
    assert clean.train.tolist() == noisy.train.tolist()
    assert clean.validation.tolist() == [i for i in noisy.validation.tolist() if true[i] < 8]
    assert len(clean.validation) < len(noisy.validation)
    assert clean.validation_labels.tolist() == true[clean.validation].tolist()


def without_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    load = load_noisy

    def load_given_only(*args: Any) -> NoisyData:
        return dataclasses.replace(load(*args), true_labels=None, open_set=None)

    monkeypatch.setattr(classification, "load_noisy", load_given_only)


def test_clean_validation_needs_true_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    without_truth(monkeypatch)
    with pytest.raises(InputError, match="needs true labels, and this dataset has none; set it to noisy"):
        classifier(validation={"labels": "clean"})


@pytest.mark.parametrize("method", ["standard", "act"])
def test_training_needs_no_true_labels(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    known = finish(classifier(method))
    without_truth(monkeypatch)
    blind = finish(classifier(method))
    quality = {"selection_precision", "selection_recall", "selection_f1"}
    for seen, unseen in zip(without_times(known), without_times(blind), strict=True):
        assert unseen == {name: value for name, value in seen.items() if name not in quality}


def augmentation_seeds(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> dict[str, list[int]]:
    """The seed of each epoch's augmentation stream, by policy."""
    seeds: dict[str, list[int]] = {}

    def recorded(policy: str, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        seen = seeds.setdefault(policy, [])
        if generator.initial_seed() not in seen:
            seen.append(generator.initial_seed())
        return augment(policy, images, generator)

    monkeypatch.setattr(classification, "augment", recorded)
    finish(classifier("act", warmup_epochs=0, **changes))
    return seeds


def test_augmentation_is_of_the_seed_the_epoch_and_the_view(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = augmentation_seeds(monkeypatch)
    assert {policy: len(each) for policy, each in seeds.items()} == {"digits_weak": EPOCHS, "digits_strong": EPOCHS}
    assert set(seeds["digits_weak"]).isdisjoint(seeds["digits_strong"])
    assert augmentation_seeds(monkeypatch, lr=0.01) == seeds
    other = augmentation_seeds(monkeypatch, seed=1)
    assert all(set(other[policy]).isdisjoint(seeds[policy]) for policy in seeds)


# ---- networks and optimizers


def test_a_network_is_the_datasets_own_unless_named() -> None:
    assert classifier().model_name == classifier(model=None).model_name == "cnn_digits"
    assert isinstance(classifier().networks[""], DigitsCNN)


def test_sgd_is_nesterov_where_there_is_momentum() -> None:
    (group,) = classifier(momentum=0.7, weight_decay=0.01).optimizers[""].param_groups
    assert (group["momentum"], group["nesterov"], group["weight_decay"]) == (0.7, True, 0.01)
    (group,) = classifier(momentum=0.0).optimizers[""].param_groups
    assert not group["nesterov"]


def test_adam_has_the_published_betas() -> None:
    optimizer = classifier(optimizer="adam", weight_decay=0.01).optimizers[""]
    assert isinstance(optimizer, torch.optim.Adam)
    (group,) = optimizer.param_groups
    assert (group["betas"], group["weight_decay"]) == ((0.9, 0.999), 0.01)


def test_every_parameter_is_in_its_networks_optimizer() -> None:
    training = classifier("act")
    for suffix, network in training.networks.items():
        held = {id(p) for group in training.optimizers[suffix].param_groups for p in group["params"]}
        assert held == {id(p) for p in network.parameters()}


def test_the_first_step_is_that_of_the_formula() -> None:
    changes = {"batch_size": 10_000, "momentum": 0.9, "weight_decay": 0.01, "label_smoothing": 0.2, "warmup_lr": 0.03}
    training, twin = classifier("standard", **changes), classifier("standard", **changes)
    network = twin.networks[""]
    twin.weak = stream(0, 0, "weak augmentation")
    (batch,) = twin.batches(0)
    logits = network(twin.weak_view(batch.images))
    loss = F.cross_entropy(logits, batch.labels, label_smoothing=0.2)
    gradients = torch.autograd.grad(loss, list(network.parameters()))

    report = training.run_epoch()
    assert report["lr"] == 0.03
    assert report["train_loss"] == pytest.approx(float(loss.detach()), rel=1e-5)
    right = (logits.argmax(dim=1) == batch.labels).double().mean()
    assert report["train_accuracy"] == pytest.approx(100 * float(right))
    for after, before, gradient in zip(
        training.networks[""].parameters(), network.parameters(), gradients, strict=True
    ):
        # Nesterov's first step is (1 + momentum) times the decayed gradient.
        expected = before - 0.03 * 1.9 * (gradient + 0.01 * before)
        assert torch.allclose(after, expected, rtol=1e-4, atol=1e-6)


# ---- scores


@pytest.mark.parametrize("split", ["val", "test"])
def test_scores_are_those_of_plain_torch(split: str) -> None:
    training = start(tiny("standard"), test_from=0)
    assert isinstance(training, ClassifierTraining)
    report = training.run_epoch()
    noisy = training.data.noisy
    if split == "val":
        pixels = noisy.train_images[noisy.rows[training.data.validation]]
        labels = training.data.validation_labels
    else:
        pixels, labels = noisy.test_images[noisy.test_rows], noisy.test_labels
    network = training.networks[""].eval()
    dataset = training.data.dataset
    with torch.no_grad():
        images = normalise(torch.from_numpy(pixels).permute(0, 3, 1, 2), dataset.mean, dataset.std)
        logits = network(images)
    losses = F.cross_entropy(logits, torch.from_numpy(labels), reduction="none").double().numpy()
    share = float((logits.argmax(dim=1).numpy() == labels).mean())
    n = len(labels)
    assert report[f"{split}_accuracy"] == pytest.approx(100 * share)
    assert report[f"{split}_accuracy_standard_error"] == pytest.approx(100 * math.sqrt(share * (1 - share) / n))
    assert report[f"{split}_loss"] == pytest.approx(losses.mean(), rel=1e-5)
    assert report[f"{split}_loss_standard_error"] == pytest.approx(losses.std(ddof=1) / math.sqrt(n), rel=1e-5)


def test_scores_do_not_depend_on_the_evaluation_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    training = start(tiny("act"), test_from=0)
    training.run_epoch()
    whole = training.evaluate(0)
    monkeypatch.setattr(classification, "EVALUATION_BATCH", 7)
    assert training.evaluate(0) == pytest.approx(whole, rel=1e-5)


def test_a_checkpoint_without_predictions_gives_none_only_within_the_last_epochs() -> None:
    for stop, kept in ((2, True), (3, False)):
        training = start(tiny("standard"))
        for _ in range(stop):
            training.run_epoch()
        state = training.state_dict()
        del state["heldout"]  # as earlier versions wrote it
        again = start(tiny("standard"))
        again.load_state_dict(state)
        finish(again)
        assert (again.heldout_predictions() is not None) == kept


def test_scoring_changes_nothing() -> None:
    training = start(tiny("act"), test_from=0)
    training.run_epoch()
    before = weights(training)
    assert training.evaluate(0) == training.evaluate(0)
    after = weights(training)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_test_set_is_scored_from_the_asked_epoch_on_and_changes_nothing() -> None:
    tested = finish(start(tiny("act"), test_from=EPOCHS - 1))
    untested = finish(start(tiny("act")))
    assert [any(name.startswith("test") for name in report) for report in tested] == [False] * (EPOCHS - 1) + [True]
    for with_test, without in zip(without_times(tested), without_times(untested), strict=True):
        assert {name: value for name, value in with_test.items() if not name.startswith("test")} == without


def test_totals_are_means_per_image_and_sums_of_the_rest() -> None:
    totals = Totals()
    for loss, right in ((3.0, 1), (5.0, 2)):
        totals.add("train_loss", torch.tensor(loss, requires_grad=True))
        totals.add("train_accuracy_ntm", torch.tensor(right))
        totals.add("selected", torch.tensor(right))
    assert totals.means(4) == {"train_loss": 2.0, "train_accuracy_ntm": 75.0, "selected": 3.0}


# ---- stopping in the middle, and estimates


class StopHereError(Exception):
    pass


@pytest.mark.parametrize("at", [0, 2, 3])
def test_a_run_can_be_stopped_before_any_batch(at: int) -> None:
    calls = 0

    def stop() -> None:
        nonlocal calls
        if calls == at:
            raise StopHereError
        calls += 1

    training = start_training(tiny("standard"), Surroundings(between_batches=stop))
    assert len(list(classifier().batches(0))) == 3, "so the call after three is the first of the evaluation"
    with pytest.raises(StopHereError):
        training.run_epoch()
    assert training.epoch == 0


def test_being_asked_between_batches_changes_nothing() -> None:
    asked = start_training(tiny("act"), Surroundings(between_batches=lambda: None))
    assert without_times(finish(asked)) == without_times(finish(start(tiny("act"))))


@pytest.mark.parametrize("method", ["standard", "act"])
@pytest.mark.parametrize(("batch_size", "batches"), [(16, 3), (16, 1000), (10_000, 3)])
def test_the_time_of_an_epoch_is_estimated_from_its_first_batches(method: str, batch_size: int, batches: int) -> None:
    training = classifier(method, batch_size=batch_size)
    for epoch in (0, EPOCHS - 1):
        assert 0 <= training.seconds_per_epoch(epoch, batches) < math.inf


# ---- folds, and what they predict


def test_a_fold_is_held_out_and_not_scored_along_the_way() -> None:
    config = dataclasses.replace(tiny("standard", validation={"fraction": 0.0}), fold=Fold(1, 3))
    training = start(config)
    assert isinstance(training, ClassifierTraining)
    data = training.data
    fold = split_folds(data.noisy.given_labels, 3, config.validation.seed)
    assert data.validation.tolist() == np.flatnonzero(fold == 1).tolist()
    assert sorted([*data.train, *data.validation]) == list(range(len(fold)))
    assert not any(name.startswith("val_") for report in finish(training) for name in report)


@pytest.mark.parametrize("method", ["act", "standard"])
def test_probabilities_are_the_softmax_of_each_network(method: str) -> None:
    training = classifier(method)
    training.run_epoch()
    data = training.data
    found = training.probabilities(data.validation)
    assert found.keys() == training.networks.keys()
    images = training.images(data.noisy.train_images, data.noisy.rows[data.validation])
    for suffix, network in training.networks.items():
        with torch.inference_mode():
            expected = network.eval()(training.normalised(images)).softmax(dim=1)
        assert found[suffix] == pytest.approx(expected.numpy(), abs=1e-6)


def test_what_training_mirrors_is_seen_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    training = classifier()
    samples = training.data.validation
    plain = training.probabilities(samples)[""]
    monkeypatch.setattr(classification, "mirrors", lambda name: True)
    both = training.probabilities(samples)[""]
    images = training.images(training.data.noisy.train_images, training.data.noisy.rows[samples])
    with torch.inference_mode():
        mirrored = training.networks[""].eval()(training.normalised(images.flip(3))).softmax(dim=1)
    assert both == pytest.approx((plain + mirrored.numpy()) / 2, abs=1e-6)


def test_a_method_without_a_record_believes_its_network() -> None:
    training = classifier()
    assert training.selected_shares() is None
    assert np.array_equal(training.beliefs(), training.probabilities(training.data.train)[""])


def test_act_believes_its_label_distributions_and_counts_selections_after_the_warmup() -> None:
    training = classifier("act")
    finish(training)
    assert isinstance(training, ActTraining)
    counts = training.state.counts.numpy()
    assert training.selected_shares() == pytest.approx((counts - WARMUP) / (EPOCHS - WARMUP))
    assert counts.min() == WARMUP < counts.max() <= EPOCHS
    assert np.array_equal(training.beliefs(), training.state.label_ema.numpy())
