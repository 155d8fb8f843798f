"""The seven-layer CNN against its published numbers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tune_lnl.models.cnn7 import BatchNormForAnyBatch, SevenLayerCNN
from tune_lnl.models.registry import build_model

PUBLISHED_SIDE_BRANCH = 98_944


@pytest.mark.parametrize(("num_classes", "published"), [(100, 798_432), (80, 788_172)])
def test_parameters_are_the_published_ones_without_the_side_branch(num_classes: int, published: int) -> None:
    model = build_model("cnn7", num_classes, (32, 32, 3))
    assert sum(parameter.numel() for parameter in model.parameters()) == published - PUBLISHED_SIDE_BRANCH


def test_features_are_256() -> None:
    features = SevenLayerCNN(10).features(torch.zeros(2, 3, 32, 32))
    assert features.shape == (2, 16, 4, 4)


def test_convolutions_are_the_listed_ones() -> None:
    convolutions = [layer for layer in SevenLayerCNN(10).modules() if isinstance(layer, nn.Conv2d)]
    assert [layer.out_channels for layer in convolutions] == [64, 64, 128, 128, 196, 16]
    assert all(layer.kernel_size == (3, 3) and layer.padding == (1, 1) for layer in convolutions)
    assert all(layer.bias is not None for layer in convolutions)


def test_head_starts_he_normal_with_zero_bias() -> None:
    torch.manual_seed(0)
    linear = [layer for layer in SevenLayerCNN(100).classifier if isinstance(layer, nn.Linear)]
    for layer in linear:
        assert layer.weight.std().item() == pytest.approx((2 / layer.in_features) ** 0.5, rel=0.02)
        assert layer.bias.abs().max() == 0


def test_convolutions_keep_torchs_start() -> None:
    torch.manual_seed(0)
    expected = nn.Conv2d(3, 64, 3, padding=1)
    torch.manual_seed(0)
    first = SevenLayerCNN(10).features[0]
    assert isinstance(first, nn.Conv2d)
    assert torch.equal(first.weight, expected.weight)


def test_other_channel_counts() -> None:
    assert build_model("cnn7", 10, (32, 32, 1))(torch.zeros(2, 1, 32, 32)).shape == (2, 10)


def test_batch_of_one_uses_and_keeps_the_running_statistics() -> None:
    norm = BatchNormForAnyBatch(3)
    norm(torch.randn(50, 3) * 2 + 1)
    assert norm.running_mean is not None
    before = norm.running_mean.clone()
    one = torch.randn(1, 3)
    in_training = norm(one)
    assert torch.equal(norm.running_mean, before)
    assert torch.equal(in_training, norm.eval()(one))


def test_larger_batches_are_normalised_as_usual() -> None:
    ours, usual = BatchNormForAnyBatch(3), nn.BatchNorm1d(3)
    batch = torch.randn(8, 3)
    assert torch.equal(ours(batch), usual(batch))
    assert ours.running_var is not None
    assert usual.running_var is not None
    assert torch.equal(ours.running_var, usual.running_var)
