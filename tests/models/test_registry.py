"""The contract of registered models, and failing lookups."""

from __future__ import annotations

import io

import pytest
import torch
from torch import nn

from tune_lnl.errors import InputError
from tune_lnl.models.registry import MODELS, build_model, model_names

IMAGE_SHAPES = {
    "cnn7": (32, 32, 3),
    "cnn7_narrow": (32, 32, 3),
    "cnn_digits": (8, 8, 1),
    "resnet18": (64, 64, 3),
    "resnet50": (64, 64, 3),
}


def seeded_model(name: str, seed: int = 0, num_classes: int = 10) -> nn.Module:
    torch.manual_seed(seed)
    return build_model(name, num_classes, IMAGE_SHAPES[name])


def some_images(name: str, batch: int) -> torch.Tensor:
    height, width, channels = IMAGE_SHAPES[name]
    return torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(7))


def test_every_model_is_under_contract() -> None:
    assert model_names() == sorted(IMAGE_SHAPES) == sorted(MODELS)


@pytest.mark.parametrize("name", model_names())
@pytest.mark.parametrize("num_classes", [2, 8, 100])
def test_maps_images_to_logits(name: str, num_classes: int) -> None:
    logits = seeded_model(name, num_classes=num_classes)(some_images(name, 5))
    assert logits.shape == (5, num_classes)
    assert logits.dtype == torch.float32
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("name", model_names())
def test_learns_from_a_batch_of_one(name: str) -> None:
    model = seeded_model(name)
    loss = nn.functional.cross_entropy(model(some_images(name, 1)), torch.tensor([3]))
    loss.backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(loss)
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert torch.isfinite(parameter.grad).all()


@pytest.mark.parametrize("name", model_names())
def test_the_global_seed_decides_the_weights(name: str) -> None:
    first, again, other = (seeded_model(name, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("name", model_names())
def test_weights_go_through_a_file(name: str) -> None:
    model = seeded_model(name, seed=1)
    model(some_images(name, 16))  # moves the running statistics away from their start
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    copy = seeded_model(name, seed=2)
    copy.load_state_dict(torch.load(file, weights_only=True))
    images = some_images(name, 4)
    assert torch.equal(model.eval()(images), copy.eval()(images))


@pytest.mark.parametrize("name", model_names())
@pytest.mark.parametrize("training", [True, False])
def test_channels_last_gives_the_same_logits(name: str, training: bool) -> None:
    images = some_images(name, 6)
    expected = seeded_model(name).train(training)(images)
    model = seeded_model(name).train(training).to(memory_format=torch.channels_last)
    result = model(images.to(memory_format=torch.channels_last))
    # Fifty layers of batch statistics enlarge what the order of additions changes.
    tolerance = 2e-3 if name == "resnet50" else 1e-4
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=tolerance)


@pytest.mark.parametrize("name", model_names())
def test_images_of_an_unsuitable_size_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="got 7x7"):
        build_model(name, 10, (7, 7, 3))


def test_unknown_name_gives_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'cnn7'"):
        build_model("cnn", 10, (32, 32, 3))


@pytest.mark.parametrize("num_classes", [-1, 0, 1])
def test_fewer_than_two_classes_are_refused(num_classes: int) -> None:
    with pytest.raises(InputError, match=f"at least 2 classes; got {num_classes}"):
        build_model("cnn_digits", num_classes, (8, 8, 1))
