"""PurifyNet's ramp, instance weights and loss: by hand, and class by class with scipy's Beta density."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import scipy.stats
import torch
import torch.nn.functional as F

from tune_lnl.methods.core import self_refine_loss
from tune_lnl.methods.purifynet import instance_weights, purify_weight, weighted_cross_entropy

# ---- the ramp


@pytest.mark.parametrize(
    ("epoch", "expected"), [(0, math.exp(-2)), (12, math.exp(-2 * 0.8**2)), (24, math.exp(-0.72)), (25, 0.5), (60, 0.5)]
)
def test_purify_weight_by_hand(epoch: int, expected: float) -> None:
    assert purify_weight(epoch) == pytest.approx(expected)


def test_purify_weight_never_falls_again() -> None:
    weights = [purify_weight(epoch, 10) for epoch in range(40)]
    assert weights == sorted(weights)
    assert weights[-1] == 0.5


def test_purify_weight_scales_with_its_ramp() -> None:
    assert purify_weight(3, 30) == pytest.approx(purify_weight(6, 60))


@pytest.mark.parametrize(("epoch", "epochs"), [(-1, 60), (0, 0)])
def test_purify_weight_refuses_what_is_no_epoch(epoch: int, epochs: int) -> None:
    with pytest.raises(ValueError, match="epoch"):
        purify_weight(epoch, epochs)


def test_the_first_stage_mixes_labels_with_the_ramp() -> None:
    logits = torch.tensor([[math.log(3.0), 0.0]])
    loss = self_refine_loss(logits, torch.tensor([1]), purify_weight(60))
    assert loss.item() == pytest.approx(0.5 * math.log(4) + 0.5 * math.log(4 / 3))


# ---- instance weights


def weights_class_by_class(features: npt.NDArray[Any], labels: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    weights = np.full(len(labels), math.nan)
    for label in np.unique(labels):
        own = features[labels == label].astype(np.float64)
        distances = np.linalg.norm(own - own.mean(axis=0), axis=1)
        weights[labels == label] = scipy.stats.beta.pdf((distances - distances.min()) / np.ptp(distances), 2, 6)
    return weights


def test_instance_weights_by_hand() -> None:
    """On a line, 0, 0, 0, 0 and 10: mean 2, distances 2 (scaled 0) and 8 (scaled 1): weight 0 for all.

    With 3 and -3 about a mean of 0, and points at 0, 1 and -1: distances 3, 0, 1, scaled 1, 0, 1/3, and
    42 · 1/3 · (2/3)^5 = 1.8436.
    """
    ends = torch.tensor([[0.0], [0.0], [0.0], [0.0], [10.0]])
    np.testing.assert_allclose(instance_weights(ends, torch.zeros(5, dtype=torch.long), 1), 0, atol=1e-6)
    line = torch.tensor([[3.0], [-3.0], [0.0], [1.0], [-1.0]])
    middle = 42 / 3 * (2 / 3) ** 5
    np.testing.assert_allclose(
        instance_weights(line, torch.zeros(5, dtype=torch.long), 1), [0, 0, 0, middle, middle], atol=1e-6
    )


def test_instance_weights_agree_with_the_density_class_by_class() -> None:
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(200, 9)).astype(np.float32), rng.integers(0, 12, 200)
    labels[labels == 5] = 6  # an empty class
    found = instance_weights(torch.from_numpy(features), torch.from_numpy(labels), 12)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, weights_class_by_class(features, labels), rtol=1e-5, atol=1e-6)


def test_classes_without_a_scale_have_weight_one() -> None:
    """One image; two, always equally far from their mean; three copies; a triangle about its centre."""
    rng = np.random.default_rng(1)
    two = rng.normal(size=(2, 7)) * 100 + 1000
    copies = np.repeat(rng.normal(size=(1, 7)), 3, axis=0)
    triangle = np.zeros((3, 7))
    triangle[:, :2] = [[math.cos(a), math.sin(a)] for a in (0.1, 0.1 + 2 * math.pi / 3, 0.1 + 4 * math.pi / 3)]
    features = np.concatenate([rng.normal(size=(1, 7)), two, copies, triangle]).astype(np.float32)
    labels = torch.tensor([0, 1, 1, 2, 2, 2, 3, 3, 3])
    np.testing.assert_array_equal(instance_weights(torch.from_numpy(features), labels, 4), np.ones(9))


def test_an_outlier_counts_for_nothing() -> None:
    rng = np.random.default_rng(2)
    features = torch.from_numpy(rng.normal(size=(30, 4)))
    features[7] += 50
    weights = instance_weights(features, torch.zeros(30, dtype=torch.long), 1)
    assert weights[7] == 0
    assert (weights >= 0).all()


def test_instance_weights_carry_no_gradient() -> None:
    features = torch.randn(6, 3, requires_grad=True)
    assert not instance_weights(features, torch.tensor([0, 0, 0, 1, 1, 1]), 2).requires_grad


def test_instance_weights_of_nothing() -> None:
    assert instance_weights(torch.empty(0, 3), torch.empty(0, dtype=torch.long), 4).shape == (0,)


def test_instance_weights_refuse_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="need features"):
        instance_weights(torch.zeros(3, 2), torch.zeros(2, dtype=torch.long), 2)
    with pytest.raises(ValueError, match="from 0 to 1"):
        instance_weights(torch.zeros(2, 2), torch.tensor([0, 2]), 2)


# ---- the loss of stage 2


def test_weighted_cross_entropy_by_hand() -> None:
    """CE log 4 with weight 2, CE log 4/3 with weight 0.5: the mean over two samples, whatever the weights sum to."""
    logits = torch.tensor([[math.log(3.0), 0.0], [math.log(3.0), 0.0]], dtype=torch.float64, requires_grad=True)
    loss = weighted_cross_entropy(logits, torch.tensor([1, 0]), torch.tensor([2.0, 0.5]))
    assert loss.item() == pytest.approx((2 * math.log(4) + 0.5 * math.log(4 / 3)) / 2)
    loss.backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    np.testing.assert_allclose(logits.grad, [[0.75, -0.75], [-0.0625, 0.0625]], atol=1e-12)


def test_equal_weights_are_plain_cross_entropy() -> None:
    logits, labels = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 1, 0])
    found = weighted_cross_entropy(logits, labels, torch.ones(5))
    assert found.item() == pytest.approx(F.cross_entropy(logits, labels).item())
    assert weighted_cross_entropy(logits[:1], labels[:1], torch.zeros(1)).item() == 0


def test_weighted_cross_entropy_of_bfloat16_is_float32() -> None:
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(1)).bfloat16()
    loss = weighted_cross_entropy(logits, torch.tensor([0, 1, 2, 0]), torch.ones(4))
    assert loss.dtype == torch.float32


def test_one_weight_per_sample() -> None:
    with pytest.raises(ValueError, match="one weight per sample"):
        weighted_cross_entropy(torch.zeros(2, 3), torch.tensor([0, 1]), torch.ones(2, 1))
