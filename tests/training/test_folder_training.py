"""Training on image files: a folder of one's own, from files to metrics."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_runs import finish, without_times

from tune_lnl.config.classifier import ClassifierSettings
from tune_lnl.config.registry import settings_type
from tune_lnl.config.trial import TrialConfig, build_config
from tune_lnl.config.yaml import dump_yaml
from tune_lnl.datasets.augment.views import SizedImages, normalise
from tune_lnl.errors import InputError
from tune_lnl.models.registry import build_model
from tune_lnl.train import main
from tune_lnl.training import classification
from tune_lnl.training.classification import ClassifierTraining, evaluation_batch
from tune_lnl.training.loop import Surroundings
from tune_lnl.training.registry import start_training, training_type

METHODS = ["act", "standard"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of 20 images, brighter from class to class, and six images to test on."""
    folder = tmp_path_factory.mktemp("folder") / "mine"
    stream = np.random.RandomState(0)
    for number in range(66):
        label = number % 3
        pixels = stream.randint(80 * label, 80 * label + 60, size=(32 + number % 5, 34, 3)).astype(np.uint8)
        path = folder / ("test" if number >= 60 else "train") / "abc"[label] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return folder


def config_of(root: Path, method: str, dataset: dict[str, Any] | None = None, **fixed: Any) -> TrialConfig:
    required = {"act": {"lr1": 0.02, "warmup_epochs": 1}, "standard": {}}[method]
    return build_config(
        {
            "method": method,
            "dataset": {"name": "folder", "root": str(root), **(dataset or {})},
            "validation": {"fraction": 0.2},
            "objective": {"average_last": 1},
            "fixed": {"epochs": 2, "lr": 0.02, "batch_size": 16, **required, **fixed},
        },
        "test",
    )


def begin(config: TrialConfig) -> ClassifierTraining:
    training = start_training(config, Surroundings(test_from=0))
    assert isinstance(training, ClassifierTraining)
    return training


@pytest.mark.parametrize("method", METHODS)
def test_a_folder_is_trained_on_at_32_pixels(method: str, root: Path) -> None:
    training = begin(config_of(root, method, threads=1))
    reports = finish(training)
    assert len(reports) == 2
    assert training.model_name == "cnn7"
    assert training.images_per_epoch() == 48
    for report in reports:
        assert all(math.isfinite(value) for value in report.values())
        assert {"val_accuracy", "test_accuracy", "train_loss"} <= report.keys()
    assert training.fingerprints.keys() == {"source", "labels", "split"}
    assert training_type(method).prepare(config_of(root, method), Surroundings()) == training.fingerprints


@pytest.mark.parametrize("method", METHODS)
def test_images_of_different_sizes_are_cropped(method: str, root: Path) -> None:
    config = config_of(
        root, method, {"resolution": 70}, model={"name": "resnet18", "weights": "none"}, epochs=2, batch_size=24
    )
    training = begin(config)
    batch = next(iter(training.batches(0)))
    assert isinstance(batch.images, SizedImages)
    training._begin_epoch(0)
    assert training.weak_view(batch.images).shape == training.strong_view(batch.images).shape == (24, 3, 70, 70)
    assert all(math.isfinite(value) for report in finish(training) for value in report.values())


def test_packed_or_not_the_numbers_are_the_same(root: Path) -> None:
    runs = [finish(begin(config_of(root, "act", {"cache_budget": budget}))) for budget in (20.0, 0.0)]
    assert without_times(runs[0]) == without_times(runs[1])


def test_batches_read_ahead_are_those_in_order(root: Path) -> None:
    training = begin(config_of(root, "standard", {"cache_budget": 0.0}))
    seen = []
    for batch in training.batches(3):
        again = training._batch(batch.index)
        assert isinstance(batch.images, torch.Tensor)
        assert isinstance(again.images, torch.Tensor)
        assert torch.equal(batch.images, again.images)
        assert torch.equal(batch.labels, again.labels)
        seen += batch.index.tolist()
    assert sorted(seen) == list(range(48))
    halfway = iter(training.batches(0))
    next(halfway)
    halfway.close()  # type: ignore[attr-defined]  # a run that is stopped in the middle


def test_noise_put_in_is_selected_against(root: Path) -> None:
    last = finish(begin(config_of(root, "act", {"noise": "instance", "closed_ratio": 0.4})))[-1]
    assert 0 <= last["selection_precision"] <= 100


def test_the_model_file_says_how_images_are_prepared(root: Path) -> None:
    training = begin(config_of(root, "standard"))
    last = finish(training)[-1]
    content = training.model_file()
    assert content["classes"] == ["a", "b", "c"]
    assert content["preprocessing"]["image_shape"] == [32, 32, 3]
    network = build_model(content["model"], 3, (32, 32, 3))
    network.load_state_dict(content["weights"])
    noisy = training.data.noisy
    images = torch.from_numpy(noisy.test_images[noisy.test_rows]).permute(0, 3, 1, 2)
    preprocessing = content["preprocessing"]
    with torch.inference_mode():
        logits = network.eval()(normalise(images, preprocessing["mean"], preprocessing["std"]))
    right = (logits.argmax(dim=1) == torch.from_numpy(noisy.test_labels)).double().mean()
    assert 100 * float(right) == pytest.approx(last["test_accuracy"])


# ---- without a test set


def test_without_a_test_set_there_are_no_test_numbers(root: Path) -> None:
    report = begin(config_of(root / "train", "standard", epochs=1)).run_epoch()
    assert [name for name in report if name.startswith("test_")] == []
    assert "val_accuracy" in report


def test_train_says_that_there_is_no_test_set(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(dump_yaml(config_of(root / "train", "standard").sections()))
    output = tmp_path / "out"
    assert main([str(config), "--seeds", "0,1", "--device", "cpu", "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    assert "this dataset has no test set, so there are no test scores" in printed
    assert "objective" in printed
    assert "test_last10" not in printed
    summary = json.loads((output / "summary.json").read_text())
    assert set(summary["over_seeds"]) == {"objective"}
    assert (output / "model.pt").is_file()


# ---- the model setting


def test_a_model_is_a_name_or_a_name_and_weights(root: Path) -> None:
    for value, dumped in (
        ("cnn7", "cnn7"),
        (None, None),
        ({"name": "cnn7"}, "cnn7"),
        ({"name": "resnet18", "weights": "none"}, {"name": "resnet18", "weights": "none"}),
    ):
        config = config_of(root, "standard", model=value)
        assert config.flat()["model"] == dumped
        assert build_config(config.sections(), "test") == config


def test_weights_are_part_of_what_a_run_was(root: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    file = tmp_path / "w.pt"
    torch.save(build_model("resnet18", 5, (64, 64, 3)).state_dict(), file)
    model = {"name": "resnet18", "weights": str(file)}
    training = begin(config_of(root, "standard", {"resolution": 40}, model=model))
    assert training.fingerprints.keys() == {"source", "labels", "split", "weights"}
    saved = torch.load(file, weights_only=True)["backbone.conv1.weight"]
    assert torch.equal(training.networks[""].state_dict()["backbone.conv1.weight"], saved)


def test_missing_weights_are_told_before_the_data_is_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classification.ClassifierData, "load", None)
    config = config_of(root, "standard", model={"name": "resnet18", "weights": "absent.pth"})
    with pytest.raises(InputError, match=r"model\.weights must be imagenet, none or the path"):
        training_type("standard").prepare(config, Surroundings())


def test_large_images_are_scored_in_smaller_batches() -> None:
    assert [evaluation_batch((9, side, side, 3)) for side in (8, 32, 64, 224, 448)] == [1000, 1000, 976, 79, 19]
    assert evaluation_batch((9, 1024, 1024, 3)) == 16


def test_settings_of_all_classifiers_have_it() -> None:
    assert all(issubclass(settings_type(method), ClassifierSettings) for method in METHODS)
