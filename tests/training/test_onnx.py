"""The ONNX file gives the logits that torch gives, for any number of images."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_runs import start, tiny

from tune_lnl.datasets.pictures.decoding import WorkingSize
from tune_lnl.errors import InputError
from tune_lnl.models.registry import build_model
from tune_lnl.training.model_file import ImageClassifier, load_classifier
from tune_lnl.training.onnx import write_onnx


def classifier_of(name: str, shape: tuple[int, int, int], classes: int) -> ImageClassifier:
    torch.manual_seed(0)
    network = build_model(name, classes, shape)
    side, _, channels = shape
    names = tuple(f"class {number}" for number in range(classes))
    size = WorkingSize(side, side, True)
    return ImageClassifier(network.eval(), name, names, size, channels, (0.4,) * channels, (0.2,) * channels, {})


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("cnn_digits", (8, 8, 1)),
        pytest.param("cnn7", (32, 32, 3), marks=pytest.mark.slow),
        pytest.param("resnet18", (64, 64, 3), marks=pytest.mark.slow),
    ],
)
def test_logits_are_those_of_torch(name: str, shape: tuple[int, int, int], tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="needs the extra tune_lnl[onnx] and onnxruntime")
    pytest.importorskip("onnxscript", reason="needs the extra tune_lnl[onnx]")
    classifier = classifier_of(name, shape, 5)
    write_onnx(classifier, tmp_path / "model.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    session = runtime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    for count in (1, 2, 7):
        pixels = np.random.RandomState(count).randint(0, 256, (count, *shape)).astype(np.uint8)
        (found,) = session.run(["logits"], {"images": pixels})
        np.testing.assert_allclose(found, classifier.logits(torch.from_numpy(pixels)).numpy(), rtol=1e-3, atol=1e-4)
    facts = session.get_modelmeta().custom_metadata_map
    assert json.loads(facts["classes"]) == list(classifier.classes)
    assert (facts["resize"], facts["square"]) == (str(shape[0]), "True")


@pytest.mark.slow
def test_of_a_model_file(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="needs the extra tune_lnl[onnx]")
    torch.save(start(tiny("standard")).model_file(), tmp_path / "model.pt")
    write_onnx(load_classifier(tmp_path / "model.pt"), tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").stat().st_size > 1000


def test_without_the_extra_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(InputError, match=r"--onnx needs onnx: pip install 'tune_lnl\[onnx\]'"):
        write_onnx(classifier_of("cnn_digits", (8, 8, 1), 3), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []
