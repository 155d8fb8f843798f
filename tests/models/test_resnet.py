"""The ResNet classifiers: torchvision's backbone, a head of their own, weights that they start from."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torchvision.models
from torch import nn

from tune_lnl.errors import InputError
from tune_lnl.models.registry import build_model
from tune_lnl.models.resnet import ResNetClassifier
from tune_lnl.models.weights import default_weights

SHAPE = (64, 64, 3)


def built(name: str, classes: int = 7, weights: Path | None = None) -> ResNetClassifier:
    torch.manual_seed(0)
    network = build_model(name, classes, SHAPE, weights)
    assert isinstance(network, ResNetClassifier)
    return network


@pytest.mark.parametrize(
    ("name", "backbone", "features"), [("resnet18", 11_176_512, 512), ("resnet50", 23_508_032, 2048)]
)
def test_size_and_head(name: str, backbone: int, features: int) -> None:
    network = built(name, classes=101)
    assert sum(parameter.numel() for parameter in network.backbone.parameters()) == backbone
    assert network.classifier.weight.shape == (101, features)
    assert float(network.classifier.weight.detach().std()) == pytest.approx(math.sqrt(2 / features), rel=0.02)
    assert torch.equal(network.classifier.bias, torch.zeros(101))


def test_it_starts_from_torchvisions_weights(tmp_path: Path) -> None:
    torch.manual_seed(5)
    whole = torchvision.models.resnet18(weights=None)
    torch.save(whole.state_dict(), tmp_path / "w.pth")
    network = built("resnet18", weights=tmp_path / "w.pth").eval()
    whole.fc = nn.Identity()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(network.features(images), whole.eval()(images), rtol=1e-5, atol=1e-5)
    assert torch.equal(network.classifier.weight, built("resnet18").classifier.weight)


def test_it_starts_from_the_weights_of_another_run(tmp_path: Path) -> None:
    torch.save({"weights": built("resnet18", classes=3).state_dict()}, tmp_path / "model.pt")
    torch.manual_seed(9)
    network = build_model("resnet18", 7, SHAPE, tmp_path / "model.pt")
    assert isinstance(network, ResNetClassifier)
    assert torch.equal(
        network.backbone.state_dict()["conv1.weight"], built("resnet18").backbone.state_dict()["conv1.weight"]
    )


def test_a_single_image_of_the_smallest_size_is_trained_on() -> None:
    network = build_model("resnet18", 3, (32, 32, 3))
    loss = nn.functional.cross_entropy(network(torch.randn(1, 3, 32, 32)), torch.tensor([1]))
    loss.backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(loss)


def test_images_without_colour_are_refused() -> None:
    with pytest.raises(InputError, match="got 64x64 with 1 channels"):
        build_model("resnet18", 3, (64, 64, 1))


def test_a_network_without_a_backbone_takes_no_weights(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'cnn7' has no backbone.*\n.*model\.weights=none"):
        build_model("cnn7", 3, (32, 32, 3), tmp_path / "w.pth")


def test_imagenet_weights_are_the_default() -> None:
    assert default_weights("resnet18") == default_weights("resnet50") == "imagenet"
    assert default_weights("cnn7") == "none"
