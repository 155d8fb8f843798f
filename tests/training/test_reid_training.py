"""The base of the re-ID methods and the steps of each, on a tiny set of coloured persons."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_persons import TEST_PERSONS, TRAIN_PERSONS, data_dir
from tiny_runs import EPOCHS, finish, sections, start, surroundings, tiny, without_times
from torch import Tensor

from tune_lnl.config.reid import MilestoneSettings
from tune_lnl.config.trial import build_config
from tune_lnl.datasets.augment.views import normalise
from tune_lnl.datasets.reid.predictions import load_predictions, patterned_file
from tune_lnl.errors import InputError
from tune_lnl.methods.core import co_refine_loss, refine_weight, self_refine_loss
from tune_lnl.metrics.reid import cosine_distances, rank_metrics
from tune_lnl.models.reid import ReidNetwork, build_reid_model
from tune_lnl.training.core import CoreTraining, SelfRefineTraining
from tune_lnl.training.loop import Surroundings
from tune_lnl.training.networks import Totals
from tune_lnl.training.patterned import save_clean_predictions
from tune_lnl.training.purifynet import PurifyTraining
from tune_lnl.training.registry import start_training
from tune_lnl.training.reid import ReidTraining

REID = ["core", "purifynet", "reid_standard", "self_refine"]


def reid(method: str, **changes: Any) -> ReidTraining:
    training = start(tiny(method, **changes), test_from=0)
    assert isinstance(training, ReidTraining)
    return training


def core(**changes: Any) -> CoreTraining:
    training = reid("core", **changes)
    assert isinstance(training, CoreTraining)
    return training


# ---- learning rates


@pytest.mark.parametrize(
    ("milestones", "factors"),
    [
        ([20, 50], [(0, 1.0), (19, 1.0), (20, 0.1), (49, 0.1), (50, 0.01), (59, 0.01)]),
        (None, [(0, 1.0), (19, 1.0), (20, 0.1), (59, 0.1)]),
    ],
    ids=["released", "paper"],
)
def test_the_lr_drops_where_published(milestones: list[int] | None, factors: list[tuple[int, float]]) -> None:
    fixed: dict[str, Any] = {"epochs": 60, "refine_epochs": 40, "lr": 0.01, "lr_milestones": milestones}
    plans = build_config(sections("core", **fixed), "test").settings.plans()
    for epoch, factor in factors:
        assert plans["lr"][epoch] == pytest.approx(0.01 * factor)
        assert plans["head_lr"][epoch] == pytest.approx(0.1 * factor)


def test_the_baselines_drop_their_lr_after_a_third() -> None:
    settings = tiny("reid_standard", epochs=60).settings
    assert isinstance(settings, MilestoneSettings)
    assert [settings.lr_factor_at(epoch) for epoch in (19, 20, 59)] == pytest.approx([1.0, 0.1, 0.1])


@pytest.mark.parametrize("milestones", [[50, 20], [0], [3, 3]])
def test_milestones_ascend(milestones: list[int]) -> None:
    with pytest.raises(InputError, match="lr_milestones ascend and are at least 1"):
        tiny("core", lr_milestones=milestones)


def test_head_and_backbone_have_their_own_lr_in_the_optimizer() -> None:
    training = core(head_lr_multiplier=4.0)
    training.run_epoch()
    for suffix, optimizer in training.optimizers.items():
        network = training.networks[suffix]
        assert isinstance(network, ReidNetwork)
        backbone, head = optimizer.param_groups
        assert (backbone["lr"], head["lr"]) == pytest.approx((0.05, 0.2))
        assert {id(each) for each in head["params"]} == {id(each) for each in network.head_parameters()}
        assert {id(each) for each in backbone["params"]} == {id(each) for each in network.backbone_parameters()}


# ---- data


@pytest.mark.parametrize("method", REID)
def test_validation_persons_are_not_trained_on(method: str) -> None:
    data = reid(method).data
    persons = data.source.train.identities
    held_out = set(persons[data.validation_query]) | set(persons[data.validation_gallery])
    assert len(held_out) == round(0.3 * TRAIN_PERSONS)
    assert held_out.isdisjoint(persons[data.train_rows])
    assert held_out | set(persons[data.train_rows]) == set(range(1, TRAIN_PERSONS + 1))


def test_a_batch_has_the_images_of_its_labels() -> None:
    training = reid("reid_standard", dataset={"noise": "none"})
    batch = next(iter(training.batches(0)))
    rows = training.data.train_rows[batch.index.numpy()]
    expected = torch.from_numpy(training.data.source.train_resized[rows]).permute(0, 3, 1, 2)
    assert isinstance(batch.images, torch.Tensor)
    assert torch.equal(batch.images, expected)
    numbers = training.data.identity_numbers[batch.labels.numpy()]
    assert np.array_equal(numbers, training.data.source.train.identities[rows])


def test_a_view_is_a_crop_of_the_input_size_and_the_same_for_both_networks() -> None:
    training = core()
    training._begin_epoch(0)
    seen: list[Tensor] = []
    for network in training.networks.values():
        network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    training.train_step(next(iter(training.batches(0))), 0, Totals())
    assert seen[0].shape[1:] == (3, 32, 16)
    assert torch.equal(seen[0], seen[1])


def test_a_single_image_left_over_joins_the_batch_before() -> None:
    images = reid("reid_standard").images_per_epoch()
    training = reid("reid_standard", batch_size=(images - 1) // 2)
    sizes = [len(batch.labels) for batch in training.batches(0)]
    assert sum(sizes) == images
    assert min(sizes) > 1


def test_networks_start_apart() -> None:
    networks = core().networks
    one, other = (torch.cat([p.flatten() for p in networks[suffix].parameters()]) for suffix in ("", "_peer"))
    assert not torch.equal(one, other)


# ---- stages


def losses_of(training: CoreTraining, epoch: int) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
    """Losses, logits and labels of the first step of an epoch."""
    kept: dict[str, dict[str, Tensor]] = {}
    step = training.step
    training.step = lambda losses: (kept.update(losses={**losses}), step(losses))[1]  # type: ignore[method-assign]
    forward = training.forward

    def keep_logits(batch: Any) -> dict[str, Tensor]:
        kept["logits"] = forward(batch)
        return kept["logits"]

    training.forward = keep_logits  # type: ignore[method-assign]
    training._begin_epoch(epoch)
    batch = next(iter(training.batches(epoch)))
    training.train_step(batch, epoch, Totals())
    return kept["losses"], kept["logits"], batch.labels


def test_self_starts_at_plain_cross_entropy() -> None:
    losses, logits, labels = losses_of(core(), 0)
    for suffix, loss in losses.items():
        torch.testing.assert_close(loss, F.cross_entropy(logits[suffix], labels))


@pytest.mark.parametrize("source", ["given", "refined"])
def test_self_weighs_own_labels_by_the_loss_of_the_epoch_before_of_each_network(source: str) -> None:
    training = core(epochs=5, refine_weight_from=source)
    training.run_epoch()
    before = training.run_epoch()
    assert before["train_loss"] < before["train_loss_given"]
    name = "train_loss_given" if source == "given" else "train_loss"
    losses, logits, labels = losses_of(training, 2)
    for suffix, loss in losses.items():
        weight = refine_weight(before[f"{name}{suffix}"])
        torch.testing.assert_close(loss, self_refine_loss(logits[suffix], labels, weight))
    assert before[f"{name}"] != before[f"{name}_peer"]


def test_own_label_weight_is_reported_as_it_was_in_effect() -> None:
    reports = finish(core())
    assert reports[0]["own_label_weight"] == 0.0
    assert reports[1]["own_label_weight"] == refine_weight(reports[0]["train_loss_given"])
    assert "own_label_weight" not in reports[2]
    assert [report["stage"] for report in reports] == [1, 1, 2, 2]


def test_co_refining_learns_from_the_peer_and_never_from_given_labels() -> None:
    training = core()
    losses, logits, _ = losses_of(training, 2)
    torch.testing.assert_close(losses[""], co_refine_loss(logits[""], logits["_peer"]))
    torch.testing.assert_close(losses["_peer"], co_refine_loss(logits["_peer"], logits[""]))

    def after_stage_two(labels: Tensor) -> dict[str, Tensor]:
        training = core()
        for _ in range(2):
            training.run_epoch()
        training.given_labels = labels
        finish(training)
        return copy.deepcopy(training.networks[""].state_dict())

    given = training.given_labels
    one, other = after_stage_two(given), after_stage_two(given.roll(1))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_both_networks_are_updated_after_both_losses() -> None:
    """The released code computes both losses before either step; the peer's labels must not be the updated one's."""
    training = core()
    order: list[str] = []
    for suffix, network in training.networks.items():
        network.register_forward_hook(lambda *_, suffix=suffix: order.append(f"forward{suffix}"))
        optimizer = training.optimizers[suffix]
        optimizer.register_step_pre_hook(lambda *_, suffix=suffix: order.append(f"step{suffix}"))
    training._begin_epoch(2)
    training.train_step(next(iter(training.batches(2))), 2, Totals())
    assert order == ["forward", "forward_peer", "step", "step_peer"]


def test_purifynet_replaces_labels_once_by_its_predictions_and_resumes_with_them() -> None:
    training = reid("purifynet")
    assert isinstance(training, PurifyTraining)
    for _ in range(2):
        training.run_epoch()
        assert torch.equal(training.labels, training.given_labels)
    network = copy.deepcopy(training.networks[""]).eval()
    training.run_epoch()
    images = torch.from_numpy(training.data.source.train.images[training.train_rows]).permute(0, 3, 1, 2)
    with torch.inference_mode():
        predicted = network(training.normalised(images)).argmax(dim=1)
    assert torch.equal(training.labels, predicted)
    assert not torch.equal(training.labels, training.given_labels)
    assert training.sample_weights.min() >= 0
    kept = training.labels.clone(), training.sample_weights.clone()
    training.run_epoch()
    assert torch.equal(training.labels, kept[0])
    assert torch.equal(training.sample_weights, kept[1])


# ---- evaluation


def test_test_figures_are_the_market_rules_on_published_features() -> None:
    training = reid("reid_standard", epochs=1, lr_milestones=[1], objective={"average_last": 1})
    report = training.run_epoch()
    network, source = training.networks[""], training.data.source
    assert isinstance(network, ReidNetwork)

    def features(images: np.ndarray) -> np.ndarray:
        pixels = normalise(
            torch.from_numpy(images.copy()).permute(0, 3, 1, 2), training.dataset.mean, training.dataset.std
        )
        with torch.inference_mode():
            plain, mirrored = (network.features(view) for view in (pixels, pixels.flip(3)))
        return (F.normalize(plain) + F.normalize(mirrored)).numpy()

    distances = cosine_distances(features(source.query.images), features(source.gallery.images))
    cmc, mean_ap = rank_metrics(
        distances, source.query.identities, source.gallery.identities, source.query.cameras, source.gallery.cameras
    )
    assert report["test_map"] == pytest.approx(100 * mean_ap, abs=0.01)
    ranks = [report[f"test_rank{k}"] for k in (1, 5, 10)]
    assert ranks == pytest.approx([100 * cmc[0], 100 * cmc[4], 100 * cmc[9]])
    assert 0 < report["test_map_standard_error"] < 100
    assert len(source.query.identities) == TEST_PERSONS * 3


def test_ap_convention_and_reranking_change_the_scores_alone() -> None:
    plain = reid("reid_standard", epochs=2, dataset={"noise_ratio": 0.5})
    base = finish(plain)
    for change in ({"ap": "market"}, {"rerank": True}):
        other = finish(reid("reid_standard", epochs=2, dataset={"noise_ratio": 0.5}, validation=change))
        assert [report["train_loss"] for report in other] == [report["train_loss"] for report in base]
        assert [report["test_map"] for report in other] != [report["test_map"] for report in base]
        if "ap" in change:
            assert other[-1]["test_rank1"] == base[-1]["test_rank1"]


def test_what_the_networks_think_of_the_labels_is_reported() -> None:
    reports = finish(core(dataset={"noise_ratio": 0.4}))
    for report in reports:
        for name in ("refined_accuracy", "refined_accuracy_peer", "agreement"):
            assert 0 <= report[name] <= 100
    given = finish(reid("reid_standard", dataset={"identities": "given", "noise": "none"}))
    assert not any(name.startswith("refined_accuracy") for name in given[-1])


def test_model_file_rebuilds_the_reported_network(tmp_path: Path) -> None:
    training = core()
    finish(training)
    torch.save(training.model_file(), tmp_path / "model.pt")
    content = torch.load(tmp_path / "model.pt", weights_only=True)
    network = build_reid_model(content["model"], len(content["classes"]), None)
    network.load_state_dict(content["weights"])
    x = torch.randn(4, *(content["preprocessing"]["image_shape"][place] for place in (2, 0, 1)))
    with torch.inference_mode():
        expected = training.networks[""].eval()(x)
        torch.testing.assert_close(network.eval()(x), expected)
    assert content["classes"] == [str(number) for number in training.data.identity_numbers]
    # It may start another network, whatever its number of persons.
    assert build_reid_model(content["model"], 5, tmp_path / "model.pt").features(x).shape == (4, 128)


def test_weights_that_a_run_starts_from_are_in_its_fingerprints(tmp_path: Path) -> None:
    first = core()
    finish(first)
    torch.save(first.model_file(), tmp_path / "model.pt")
    choice = {"name": "reid_small", "weights": str(tmp_path / "model.pt")}
    again = core(model=choice)
    one, other = (training.networks[""].state_dict()["backbone.0.weight"] for training in (first, again))
    assert torch.equal(one, other)
    assert again.fingerprints.keys() - first.fingerprints.keys() == {"weights"}


@pytest.mark.parametrize("stop", range(1, EPOCHS))
def test_resume_in_either_stage_gives_the_uninterrupted_numbers(stop: int) -> None:
    for method in ("core", "purifynet"):
        whole = without_times(finish(start(tiny(method))))
        first = start(tiny(method))
        for _ in range(stop):
            first.run_epoch()
        second = start(tiny(method))
        second.load_state_dict(copy.deepcopy(first.state_dict()))
        assert without_times(finish(second)) == whole[stop:]


def test_a_lost_network_is_no_crash() -> None:
    training = reid("self_refine", lr=1e30)
    assert isinstance(training, SelfRefineTraining)
    reports = finish(training)
    assert math.isnan(reports[-1]["val_map"])
    assert training.diverged(reports[-1]) is not None


# ---- patterned noise


def test_patterned_noise_needs_one_command_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNE_LNL_CACHE", str(tmp_path))
    config = tiny("core", dataset={"noise": "patterned", "noise_ratio": 0.3})
    with pytest.raises(InputError, match=r"python -m tune_lnl\.data prepare market1501 --patterned"):
        start_training(config, surroundings(config))
    said: list[str] = []
    overrides = ["dataset.height=32", "model={name: reid_small, weights: none}", "lr=0.02"]
    path = save_clean_predictions("market1501", data_dir(), "cpu", 3, overrides, said.append)
    training = start(config)
    assert isinstance(training, CoreTraining)
    source = training.data.source
    assert path == patterned_file(tmp_path, "market1501", source.fingerprint)
    assert load_predictions(path).source_fingerprint == source.fingerprint
    assert said[-1].startswith("test mAP")
    wrong = training.data.given_labels != training.data.true_labels
    assert wrong.mean() == pytest.approx(0.3, abs=0.06)
    # Augmentation stays on.
    training._begin_epoch(0)
    batch = next(iter(training.batches(0)))
    assert isinstance(batch.images, torch.Tensor)
    plain = training.normalised(batch.images[:, :, 2:34, 1:17])
    assert not torch.equal(training.view(batch), plain)


def test_the_training_of_the_clean_network_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    overrides = ["dataset.height=32", "model={name: reid_small, weights: none}", "lr=0.02"]

    def save(cache: Path, say: Callable[[str], None]) -> bytes:
        monkeypatch.setenv("TUNE_LNL_CACHE", str(cache))
        return save_clean_predictions("market1501", data_dir(), "cpu", 3, overrides, say).read_bytes()

    def stop(line: str) -> None:
        if line.startswith("epoch   3"):
            raise KeyboardInterrupt

    whole = save(tmp_path / "whole", lambda line: None)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path / "cut", stop)
    said: list[str] = []
    assert save(tmp_path / "cut", said.append) == whole
    assert [line[:9] for line in said if line.startswith("epoch")] == ["epoch   3"]
    assert not list((tmp_path / "cut").rglob("*.pt"))
    with pytest.raises(InputError, match=r"--patterned: the training diverged \(.*\); lower the lr"):
        save_clean_predictions("market1501", data_dir(), "cpu", 3, [*overrides, "lr=1e30"], said.append)


def test_predictions_are_for_persons_and_the_whole_training_set() -> None:
    with pytest.raises(InputError, match="re-identification datasets, and digits8no is for classification"):
        save_clean_predictions("digits8no", None, "cpu", 1, [], print)
    with pytest.raises(InputError, match="whole training set"):
        save_clean_predictions("market1501", data_dir(), "cpu", 1, ["dataset.subset=0.5"], print)


def test_a_run_without_a_match_in_validation_says_so() -> None:
    config = tiny("core", validation={"fraction": 0.0})
    report = start_training(config, Surroundings(data_dir(), test_from=None)).run_epoch()
    assert not any(name.startswith(("val_", "test_")) for name in report)
