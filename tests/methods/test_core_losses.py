"""CORE's losses and gradients against numbers worked by hand and, independently, against float64 numpy formulas.

Gradients are those with respect to the logits: CE against a target gives softmax - target.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tune_lnl.methods.core import SELECTIVE, Selective, co_refine_loss, refine_weight, self_refine_loss

Array = npt.NDArray[np.float64]

LOG3 = math.log(3.0)


def softmax(z: Array) -> Array:
    shifted = np.exp(z - z.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))


def ce(z: Array, target: Array) -> Array:
    return np.asarray(-(target * np.log(softmax(z))).sum(axis=1))


def one_hot(labels: Any, classes: int) -> Array:
    return np.asarray(np.eye(classes)[np.asarray(labels)])


def leaf(values: Any, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(np.asarray(values), dtype=dtype, requires_grad=True)


def gradient(loss: Tensor, logits: Tensor) -> Array:
    loss.backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    return np.asarray(logits.grad.double().numpy())


# ---- the weight of a network's own labels


@pytest.mark.parametrize(("mean_loss", "expected"), [(0.0, 1.0), (1.0, 0.5), (3.0, 0.25), (1e12, 1e-12)])
def test_refine_weight_by_hand(mean_loss: float, expected: float) -> None:
    assert refine_weight(mean_loss) == pytest.approx(expected)


@given(st.floats(0, 1e6), st.floats(1e-3, 1e6))
def test_a_higher_loss_trusts_the_network_less(mean_loss: float, more: float) -> None:
    assert 0 < refine_weight(mean_loss + more) < refine_weight(mean_loss) <= 1


@pytest.mark.parametrize("mean_loss", [-1e-9, -2.0, math.nan, math.inf])
def test_refine_weight_refuses_what_no_cross_entropy_is(mean_loss: float) -> None:
    with pytest.raises(ValueError, match="at least 0"):
        refine_weight(mean_loss)


# ---- SELF


def test_self_refine_loss_by_hand() -> None:
    """Logits (log 3, 0): p = (3/4, 1/4). CE of the given label 1 is log 4, of the own label 0 log 4/3; λ = 1/4."""
    logits = leaf([[LOG3, 0.0]])
    loss = self_refine_loss(logits, torch.tensor([1]), 0.25)
    assert loss.item() == pytest.approx(0.75 * math.log(4) + 0.25 * math.log(4 / 3))
    # 3/4 (3/4 - 0, 1/4 - 1) + 1/4 (3/4 - 1, 1/4 - 0) = (1/2, -1/2)
    np.testing.assert_allclose(gradient(loss, logits), [[0.5, -0.5]], atol=1e-12)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_self_refine_loss_and_gradient(weight: float) -> None:
    z, labels = np.random.default_rng(0).normal(size=(5, 4)), [0, 3, 3, 1, 2]
    logits = leaf(z)
    loss = self_refine_loss(logits, torch.tensor(labels), weight)
    given_target, own_target = one_hot(labels, 4), one_hot(z.argmax(axis=1), 4)
    expected = (1 - weight) * ce(z, given_target).mean() + weight * ce(z, own_target).mean()
    assert loss.item() == pytest.approx(expected, abs=1e-12)
    target = (1 - weight) * given_target + weight * own_target
    np.testing.assert_allclose(gradient(loss, logits), (softmax(z) - target) / 5, atol=1e-12)


def test_self_refine_without_trust_is_cross_entropy_and_with_all_of_it_ignores_the_labels() -> None:
    logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    assert self_refine_loss(logits, labels, 0.0).item() == pytest.approx(F.cross_entropy(logits, labels).item())
    assert torch.equal(self_refine_loss(logits, labels, 1.0), self_refine_loss(logits, labels.flip(0), 1.0))


def test_self_refine_of_a_tie_takes_the_first_class() -> None:
    logits = leaf([[1.0, 1.0, 0.0]])
    with_tie = gradient(self_refine_loss(logits, torch.tensor([2]), 1.0), logits)
    np.testing.assert_allclose(with_tie, softmax(np.array([[1.0, 1.0, 0.0]])) - [[1, 0, 0]], atol=1e-12)


@pytest.mark.parametrize("weight", [-0.1, 1.1, math.nan])
def test_self_refine_refuses_a_weight_that_is_no_share(weight: float) -> None:
    with pytest.raises(ValueError, match="from 0 to 1"):
        self_refine_loss(torch.zeros(1, 2), torch.tensor([0]), weight)


# ---- CORE


def test_co_refine_loss_by_hand() -> None:
    """p1 = (3/4, 1/4), p2 = (1/4, 3/4): label term CE(z1, 1) = log 4; soft term 1/4 log 4/3 + 3/4 log 4; κ = 2."""
    logits, peer = leaf([[LOG3, 0.0]]), leaf([[0.0, LOG3]])
    loss = co_refine_loss(logits, peer, soft_weight=2.0)
    assert loss.item() == pytest.approx(math.log(4) + 2 * (0.25 * math.log(4 / 3) + 0.75 * math.log(4)))
    # (3/4 - 0, 1/4 - 1) + 2 (3/4 - 1/4, 1/4 - 3/4)
    np.testing.assert_allclose(gradient(loss, logits), [[1.75, -1.75]], atol=1e-12)


def test_selective_variants_by_hand() -> None:
    """Two samples, the networks agree on the second only; κ = 0 leaves the label term.

    CE is log 4 and log 4/3. Mask: (0 + log 4/3) / 2. Code: (log 4 + log 4/3) / 2 times the agreement of 1/2.
    """
    logits, peer = torch.tensor([[LOG3, 0.0], [LOG3, 0.0]]), torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    found = {name: co_refine_loss(logits, peer, 0.0, name).item() for name in SELECTIVE}
    assert found["none"] == pytest.approx((math.log(4) + math.log(4 / 3)) / 2)
    assert found["mask"] == pytest.approx(math.log(4 / 3) / 2)
    assert found["code"] == pytest.approx((math.log(4) + math.log(4 / 3)) / 4)


@pytest.mark.parametrize("selective", SELECTIVE)
@pytest.mark.parametrize("soft_weight", [0.0, 1.0, 0.4])
def test_co_refine_loss_and_gradient(selective: Selective, soft_weight: float) -> None:
    rng = np.random.default_rng(1)
    z1, z2 = rng.normal(size=(6, 4)), rng.normal(size=(6, 4))
    z1[:2, 1] = z2[:2, 1] = 3.0
    agreed = z1.argmax(axis=1) == z2.argmax(axis=1)
    assert 0 < agreed.sum() < 6
    hard, soft = one_hot(z2.argmax(axis=1), 4), softmax(z2)
    scale = {"none": np.ones(6), "mask": agreed.astype(float), "code": np.full(6, agreed.mean())}[selective]
    logits = leaf(z1)
    loss = co_refine_loss(logits, leaf(z2), soft_weight, selective)
    assert loss.item() == pytest.approx((scale * ce(z1, hard)).mean() + soft_weight * ce(z1, soft).mean(), abs=1e-12)
    expected = (scale[:, None] * (softmax(z1) - hard) + soft_weight * (softmax(z1) - soft)) / 6
    np.testing.assert_allclose(gradient(loss, logits), expected, atol=1e-12)


def test_masked_and_released_variants_differ_in_what_they_teach() -> None:
    logits, peer = leaf([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    assert not gradient(co_refine_loss(logits, peer, 0.0, "mask"), logits)[0].any()
    logits = leaf([[1.0, 0.0], [1.0, 0.0]])
    assert gradient(co_refine_loss(logits, peer, 0.0, "code"), logits)[0].any()


@pytest.mark.parametrize("selective", SELECTIVE)
def test_no_gradient_reaches_the_peer(selective: Selective) -> None:
    logits, peer = leaf([[1.0, 0.0, 0.5]]), leaf([[2.0, 0.1, 0.0]])
    co_refine_loss(logits, peer, selective=selective).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert peer.grad is None


def test_gradient_of_the_soft_term_is_that_of_the_kl_divergence() -> None:
    rng = np.random.default_rng(2)
    z1, z2 = rng.normal(size=(3, 5)), rng.normal(size=(3, 5))
    with_soft, label_only, kl = leaf(z1), leaf(z1), leaf(z1)
    peer = torch.tensor(z2)
    soft_gradient = gradient(co_refine_loss(with_soft, peer), with_soft) - gradient(
        co_refine_loss(label_only, peer, 0.0), label_only
    )
    divergence = F.kl_div(kl.log_softmax(1), peer.softmax(1), reduction="batchmean")
    np.testing.assert_allclose(soft_gradient, gradient(divergence, kl), atol=1e-12)


def test_a_tie_of_the_peer_gives_the_first_class() -> None:
    logits = leaf([[0.0, 2.0]])
    peer = torch.tensor([[1.0, 1.0]], dtype=torch.float64)
    assert co_refine_loss(logits, peer, 0.0).item() == pytest.approx(math.log(1 + math.exp(2)))
    assert co_refine_loss(logits, peer, 0.0, "mask").item() == 0


def test_batch_of_one_is_a_batch() -> None:
    logits, peer = torch.tensor([[0.3, -0.2, 0.1]]), torch.tensor([[0.0, 1.0, 0.2]])
    assert co_refine_loss(logits, peer).shape == self_refine_loss(logits, torch.tensor([2]), 0.5).shape == ()
    doubled = co_refine_loss(logits.repeat(2, 1), peer.repeat(2, 1))
    assert co_refine_loss(logits, peer).item() == pytest.approx(doubled.item())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [1e4, 1e30])
def test_extreme_logits_stay_finite(size: float, dtype: torch.dtype) -> None:
    values = [[size, -size, 0.0], [-size, size, 1.0]]
    logits = leaf(values, dtype)
    losses = self_refine_loss(logits, torch.tensor([1, 0]), 0.5), co_refine_loss(logits, torch.tensor(values).flip(0))
    for loss in losses:
        logits.grad = None
        assert math.isfinite(loss.item())
        assert np.isfinite(gradient(loss, logits)).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_give_float32_losses(dtype: torch.dtype) -> None:
    z1, z2 = np.random.default_rng(3).normal(size=(2, 4, 6))
    half1, half2 = torch.tensor(z1).to(dtype), torch.tensor(z2).to(dtype)
    labels = torch.tensor([0, 1, 2, 3])
    for half, full in (
        (self_refine_loss(half1, labels, 0.3), self_refine_loss(half1.double(), labels, 0.3)),
        (co_refine_loss(half1, half2), co_refine_loss(half1.double(), half2.double())),
    ):
        assert half.dtype == torch.float32
        assert half.item() == pytest.approx(full.item(), rel=1e-6)


@pytest.mark.parametrize("soft_weight", [-0.5, math.nan, math.inf])
def test_soft_weight_must_be_a_weight(soft_weight: float) -> None:
    with pytest.raises(ValueError, match="soft labels"):
        co_refine_loss(torch.zeros(1, 2), torch.zeros(1, 2), soft_weight)


def test_unknown_selection_is_refused() -> None:
    with pytest.raises(ValueError, match="none, mask, code"):
        co_refine_loss(torch.zeros(1, 2), torch.zeros(1, 2), selective="masked")  # type: ignore[arg-type]
