"""Predicting image files: the same pixels and logits as the training's evaluation, for files of every kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from odd_pictures import write_readable, write_unreadable
from PIL import Image
from tiny_runs import finish, start, tiny

from tune_lnl.config.trial import build_config
from tune_lnl.training import predict as predicting
from tune_lnl.training.classification import ClassifierTraining
from tune_lnl.training.loop import Surroundings
from tune_lnl.training.model_file import ImageClassifier, load_classifier
from tune_lnl.training.predict import Prediction, Unreadable, grey, image_files, predictions
from tune_lnl.training.registry import start_training


def read_back(training: ClassifierTraining, folder: Path) -> ImageClassifier:
    torch.save(training.model_file(), folder / "model.pt")
    return load_classifier(folder / "model.pt")


def on_folder(root: Path, **dataset: Any) -> ClassifierTraining:
    model = {"name": "resnet18" if dataset else "cnn7", "weights": "none"}
    config = build_config(
        {
            "method": "standard",
            "dataset": {"name": "folder", "root": str(root), **dataset},
            "validation": {"fraction": 0.2},
            "objective": {"average_last": 1},
            "fixed": {"epochs": 1, "lr": 0.02, "model": model},
        },
        "test",
    )
    training = start_training(config, Surroundings(test_from=0))
    assert isinstance(training, ClassifierTraining)
    return training


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes to train on; every odd file as the test set of the first."""
    folder = tmp_path_factory.mktemp("odd")
    for number in range(12):
        place = folder / "train" / "ab"[number % 2] / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (50, 40), (20 * number, 0, 0)).save(place)
    write_readable(folder / "test" / "a")
    return folder


@pytest.mark.parametrize("resolution", [None, 40, 70], ids=["square 32", "square 40", "crop 70"])
def test_files_of_every_kind_are_seen_as_in_evaluation(root: Path, resolution: int | None, tmp_path: Path) -> None:
    training = on_folder(root, **({} if resolution is None else {"resolution": resolution}))
    classifier = read_back(training, tmp_path)
    files = sorted((root / "test" / "a").iterdir())
    images = training.data.noisy.test_images[np.arange(len(files))]
    for file, expected in zip(files, images, strict=True):
        assert np.array_equal(predicting._pixels(classifier, file), expected), file.name
    with torch.inference_mode():
        logits = training.networks[""].eval()(training.normalised(torch.from_numpy(images).permute(0, 3, 1, 2)))
    shares = logits.softmax(dim=1)
    for found, share in zip(predictions(classifier, files, top=2), shares, strict=True):
        assert isinstance(found, Prediction)
        assert found.classes == tuple("ab"[number] for number in share.argsort(descending=True))
        assert found.confidences == pytest.approx(share.sort(descending=True).values.tolist(), abs=1e-5)


def test_digits_written_as_files_score_as_in_training(tmp_path: Path) -> None:
    training = start(tiny("standard", dataset={"subset": 0.5}), test_from=0)
    assert isinstance(training, ClassifierTraining)
    last = finish(training)[-1]
    classifier = read_back(training, tmp_path)
    data = training.data.noisy
    files = []
    for row in data.test_rows:
        files.append(tmp_path / f"{row:04d}.png")
        Image.fromarray(data.test_images[row][..., 0]).save(files[-1])
    right = 0
    for found, label in zip(predictions(classifier, files, batch_size=100), data.test_labels, strict=True):
        assert isinstance(found, Prediction)
        right += found.classes == (str(label),)
    assert 100 * right / len(files) == pytest.approx(last["test_accuracy"])


@pytest.mark.parametrize("batch_size", [1, 2, 5, 100])
def test_order_and_batches(root: Path, batch_size: int, tmp_path: Path) -> None:
    classifier = read_back(on_folder(root), tmp_path)
    good = sorted((root / "test" / "a").iterdir())
    bad = write_unreadable(tmp_path / "bad")
    files = [bad[0], *good[:3], *bad[1:], *good[3:], tmp_path / "absent.png"]
    found = list(predictions(classifier, files, batch_size=batch_size))
    assert [each.path for each in found] == files
    unreadable = [each for each in found if isinstance(each, Unreadable)]
    assert [each.path for each in unreadable] == [*bad, tmp_path / "absent.png"]
    assert all(each.reason for each in unreadable)
    assert "decompression bomb" in unreadable[3].reason


def test_nothing_is_read_further_ahead_than_one_batch(root: Path, tmp_path: Path) -> None:
    classifier = read_back(on_folder(root), tmp_path)
    (file, *_) = (root / "train" / "a").iterdir()
    asked: list[int] = []

    def files() -> Any:
        for number in range(1000):
            asked.append(number)
            yield file

    walk = predictions(classifier, files(), batch_size=4)
    next(walk)
    assert len(asked) == 8
    walk.close()  # type: ignore[attr-defined]


def test_grey_is_pillows() -> None:
    pixels = np.random.RandomState(0).randint(0, 256, (40, 30, 3)).astype(np.uint8)
    assert np.array_equal(grey(pixels)[..., 0], np.asarray(Image.fromarray(pixels).convert("L")))
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    assert np.array_equal(grey(np.repeat(levels, 3, axis=2)), levels)


def test_folders_are_walked_in_order_and_files_taken_as_given(tmp_path: Path) -> None:
    for name in ("b/2.png", "b/1.JPG", "b/c/0.png", "a.png", "b/notes.txt", "b/.hidden/3.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = list(image_files([tmp_path, tmp_path / "b" / "notes.txt"]))
    names = [str(path.relative_to(tmp_path)) for path in found]
    assert names == ["a.png", "b/1.JPG", "b/2.png", "b/c/0.png", "b/notes.txt"]


def test_a_link_that_leaves_the_folder_is_left_out_and_named(tmp_path: Path) -> None:
    (tmp_path / "outside.png").touch()
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link.png").symlink_to(tmp_path / "outside.png")
    notes: list[str] = []
    assert list(image_files([tmp_path / "in"], notes.append)) == []
    assert notes == [f"{tmp_path / 'in' / 'link.png'}: it is a link to a file outside"]
