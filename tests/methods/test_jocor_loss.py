"""JoCoR by hand: the joint loss, the selected samples, and the gradients of both networks."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from tune_lnl.methods.jocor import jocor_loss, symmetric_divergence


def odds(*values: float) -> nn.Parameter:
    """Logits whose softmax gives class 0 these odds against class 1."""
    return nn.Parameter(torch.tensor([[math.log(value), 0.0] for value in values]))


def test_symmetric_divergence_by_hand() -> None:
    """p = (3/4, 1/4), q = (1/2, 1/2): (3/4 - 1/2)(log 3/4 - log 1/2) + (1/4 - 1/2)(log 1/4 - log 1/2) = 1/4 log 3."""
    assert symmetric_divergence(odds(3.0), odds(1.0)).item() == pytest.approx(math.log(3) / 4, rel=1e-6)
    assert symmetric_divergence(odds(1.0), odds(3.0)).item() == pytest.approx(math.log(3) / 4, rel=1e-6)
    assert symmetric_divergence(odds(3.0), odds(3.0)).item() == 0.0


def test_symmetric_divergence_is_the_sum_of_both_directions() -> None:
    generator = torch.Generator().manual_seed(0)
    one, two = (torch.randn(6, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    log_p, log_q = one.log_softmax(dim=1), two.log_softmax(dim=1)
    both = (log_p.exp() * (log_p - log_q)).sum(dim=1) + (log_q.exp() * (log_q - log_p)).sum(dim=1)
    torch.testing.assert_close(symmetric_divergence(one, two), both)


def test_a_probability_of_0_leaves_it_finite() -> None:
    one = nn.Parameter(torch.tensor([[200.0, 0.0]]))
    divergence = symmetric_divergence(one, torch.tensor([[0.0, 200.0]]))
    assert divergence.item() == pytest.approx(400.0)
    divergence.sum().backward()  # type: ignore[no-untyped-call]
    assert one.grad is not None
    assert bool(one.grad.isfinite().all())


def test_loss_by_hand() -> None:
    """λ = 0.4. Sample 0: p1 = (3/4, 1/4), p2 = (1/2, 1/2), label 0; sample 1 is far off for both and left out."""
    one, two = odds(3.0, 1 / 7), odds(1.0, 1 / 7)
    found = jocor_loss(lambda _: one, lambda _: two, torch.zeros(2), torch.tensor([0, 0]), 0.5, 0.4)
    assert found.selected.tolist() == [True, False]
    assert found.loss.item() == pytest.approx(0.6 * (math.log(4 / 3) + math.log(2)) + 0.4 * math.log(3) / 4, rel=1e-6)
    assert torch.equal(found.first_logits, one)
    assert torch.equal(found.second_logits, two)
    assert not found.second_logits.requires_grad


def test_gradients_by_hand() -> None:
    """With s = p(class 0) and logit z: dCE/dz = s - 1, dJ/dz1 = s1 (1 - s1)(z1 - z2) + s1 - s2, and the same for 2."""
    one, two = odds(3.0, 1 / 7), odds(1.0, 1 / 7)
    jocor_loss(lambda _: one, lambda _: two, torch.zeros(2), torch.tensor([0, 0]), 0.5, 0.4).loss.backward()  # type: ignore[no-untyped-call]
    first = 0.6 * -0.25 + 0.4 * (3 / 16 * math.log(3) + 0.25)
    second = 0.6 * -0.5 - 0.4 * (1 / 4 * math.log(3) + 0.25)
    assert one.grad is not None
    assert two.grad is not None
    torch.testing.assert_close(one.grad, torch.tensor([[first, -first], [0.0, 0.0]]))
    torch.testing.assert_close(two.grad, torch.tensor([[second, -second], [0.0, 0.0]]))


def test_agreement_decides_what_is_kept() -> None:
    """Sample 0 fits better on the whole, sample 1 is agreed on: λ turns the choice."""
    one, two = odds(50.0, 1.0), odds(1.0, 1.0)
    labels = torch.tensor([0, 0])
    kept = [
        jocor_loss(lambda _: one, lambda _: two, torch.zeros(2), labels, 0.5, weight).selected.tolist()
        for weight in (0.0, 0.9)
    ]
    assert kept == [[True, False], [False, True]]


def test_without_agreement_it_is_the_sum_of_both_cross_entropies() -> None:
    one, two = odds(3.0, 1.0), odds(1.0, 1 / 3)
    labels = torch.tensor([0, 1])
    found = jocor_loss(lambda _: one, lambda _: two, torch.zeros(2), labels, 1.0, 0.0)
    both = nn.functional.cross_entropy(one, labels) + nn.functional.cross_entropy(two, labels)
    assert found.loss.item() == pytest.approx(both.item())


def test_label_smoothing_is_of_both_cross_entropies() -> None:
    """ε = 0.4, C = 2: 0.8 log 4/3 + 0.2 log 4 each."""
    one = odds(3.0)
    found = jocor_loss(lambda _: one, lambda _: one, torch.zeros(1), torch.tensor([0]), 1.0, 0.5, label_smoothing=0.4)
    assert found.loss.item() == pytest.approx(0.8 * math.log(4 / 3) + 0.2 * math.log(4), rel=1e-6)


def test_a_lost_network_is_seen() -> None:
    lost = torch.full((2, 2), math.nan)
    assert math.isnan(
        jocor_loss(lambda _: lost, lambda _: odds(1, 2), lost, torch.tensor([0, 0]), 0.5, 0.1).loss.item()
    )


def test_half_precision_networks_give_a_float32_loss() -> None:
    def half(_: Tensor) -> Tensor:
        return odds(7.0, 3.0).to(torch.bfloat16)

    found = jocor_loss(half, half, torch.zeros(2), torch.tensor([0, 1]), 0.5, 0.1)
    assert found.loss.dtype == found.first_logits.dtype == torch.float32
