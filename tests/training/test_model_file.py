"""Model files: complete as written; foreign, damaged and dangerous ones are refused in a sentence."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import finish, start, tiny

from tune_lnl.errors import CorruptDataError, InputError
from tune_lnl.training.checkpoint import save_checkpoint
from tune_lnl.training.classification import ClassifierTraining
from tune_lnl.training.model_file import load_classifier


@pytest.fixture(scope="module")
def training() -> ClassifierTraining:
    found = start(tiny("standard", dataset={"subset": 0.3}), test_from=0)
    assert isinstance(found, ClassifierTraining)
    finish(found)
    return found


@pytest.fixture
def content(training: ClassifierTraining) -> dict[str, Any]:
    return training.model_file()


def saved(folder: Path, content: Any) -> Path:
    torch.save(content, folder / "model.pt")
    return folder / "model.pt"


def test_it_says_everything_that_its_use_needs(content: dict[str, Any]) -> None:
    assert set(content) == {"format", "task", "model", "weights", "classes", "preprocessing", "config"}
    assert content["task"] == "classification"
    assert content["classes"] == [str(digit) for digit in range(8)]
    assert content["preprocessing"] == {
        "image_shape": [8, 8, 1],
        "resize": 8,
        "square": True,
        "mean": [0.3062],
        "std": [0.3764],
    }
    assert content["config"]["method"] == "standard"


def test_the_network_comes_back(training: ClassifierTraining, content: dict[str, Any], tmp_path: Path) -> None:
    data = training.data.noisy
    pixels = torch.from_numpy(data.test_images[data.test_rows])
    with torch.inference_mode():
        normalised = training.normalised(pixels.permute(0, 3, 1, 2))
        expected = training.networks[""].eval()(normalised)
    for place in (saved(tmp_path, content), tmp_path):
        classifier = load_classifier(place)
        assert torch.equal(classifier.logits(pixels), expected)
        assert not classifier.network.training
        assert classifier.image_shape == (8, 8, 1)
        assert classifier.config == training.config.flat()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.pt does not exist\n`train` writes one as model\.pt"):
        load_classifier(tmp_path / "absent.pt")
    with pytest.raises(InputError, match="is a folder without one"):
        load_classifier(tmp_path)


class Hostile:
    """Runs a command when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.mark}",)


def test_code_in_a_file_is_never_run(content: dict[str, Any], tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    file = saved(tmp_path, content | {"config": {"x": Hostile(mark)}})
    with pytest.raises(InputError, match="more than tensors and plain values; it was not opened"):
        load_classifier(file)
    file.write_bytes(pickle.dumps(Hostile(mark)))
    with pytest.raises(CorruptDataError, match="no model file"):
        load_classifier(file)
    assert not mark.exists()


def test_other_files_are_refused(tmp_path: Path, training: ClassifierTraining, content: dict[str, Any]) -> None:
    file = tmp_path / "model.pt"
    file.write_text("epochs: 3")
    with pytest.raises(CorruptDataError, match="no model file, or a damaged one"):
        load_classifier(file)
    save_checkpoint(file, training, [])
    with pytest.raises(InputError, match="no model file of tune_lnl"):
        load_classifier(file)
    with pytest.raises(InputError, match="no model file of tune_lnl"):
        load_classifier(saved(tmp_path, content["weights"]))
    with pytest.raises(InputError, match="no model file of tune_lnl"):
        load_classifier(saved(tmp_path, torch.zeros(3)))


def test_a_damaged_file_is_told(tmp_path: Path, content: dict[str, Any]) -> None:
    file = saved(tmp_path, content)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CorruptDataError, match="damaged"):
        load_classifier(file)
    middle = len(whole) // 2
    file.write_bytes(whole[:middle] + bytes([whole[middle] ^ 0xFF]) + whole[middle + 1 :])
    with pytest.raises(InputError):
        load_classifier(file)


def changed(content: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    first, _, second = path.partition(".")
    if not second:
        return content | {first: value}
    return content | {first: content[first] | {second: value}}


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("format", "tune_lnl model 7", "no model file of tune_lnl"),
        ("classes", None, "no usable classes"),
        ("weights", [], "no usable weights"),
        ("classes", ["only"], "at least two classes, got 1"),
        ("classes", [1, 2], "at least two classes"),
        ("classes", ["a", "b"], "weights do not fit"),
        ("weights", {"layer": 3}, "not all tensors"),
        ("weights", {}, "weights do not fit"),
        ("model", "resnet1", "There is no model 'resnet1'"),
        ("preprocessing", {"image_shape": [8, 8, 1]}, "does not hold the preprocessing"),
        ("preprocessing.resize", None, "does not hold the preprocessing"),
        ("preprocessing.image_shape", [8, 9, 1], "8 x 9 pixels"),
        ("preprocessing.image_shape", [8, 8, 4], "4 channels"),
        ("preprocessing.image_shape", [8, 8], "sides must be whole numbers"),
        ("preprocessing.image_shape", [10**9, 10**9, 3], "sides must be whole numbers"),
        ("preprocessing.resize", 10**9, "sides must be whole numbers"),
        ("preprocessing.resize", 7, "cannot be cropped to 8"),
        ("preprocessing.square", 1, "cannot be cropped"),
        ("preprocessing.mean", [0.1, 0.2], "mean must be 1 numbers"),
        ("preprocessing.std", [0.0], "std must be finite and positive"),
        ("preprocessing.std", [float("nan")], "std must be finite and positive"),
    ],
)
def test_a_part_that_cannot_be_used_is_named(
    path: str, value: Any, told: str, content: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=told):
        load_classifier(saved(tmp_path, changed(content, path, value)))


def test_a_network_for_persons_is_refused(tmp_path: Path) -> None:
    persons = start(tiny("reid_standard")).model_file()
    assert persons["task"] == "re-identification"
    with pytest.raises(InputError, match="is for re-identification: its network gives features"):
        load_classifier(saved(tmp_path, persons))
