"""Co-teaching by hand: the samples of each network, its loss on them, and the gradients."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from tune_lnl.config.small_loss import remember_rate
from tune_lnl.methods.co_teaching import co_teaching_losses, mean_over, small_losses

X = torch.zeros(4)
LABELS = torch.tensor([0, 0, 0, 0])


def odds(*values: float) -> nn.Parameter:
    """Logits whose softmax gives class 0 these odds against class 1: cross-entropy of label 0 is log(1 + 1 / odds)."""
    return nn.Parameter(torch.tensor([[math.log(value), 0.0] for value in values]))


@pytest.mark.parametrize(
    ("epoch", "rate"), [(0, 0.98), (1, 0.96), (4, 0.90), (8, 0.82), (9, 0.80), (10, 0.80), (199, 0.80)]
)
def test_remember_rate_of_the_paper(epoch: int, rate: float) -> None:
    """τ = 0.2, T_k = 10, c = 1: R(T) = 1 - 0.2 T / 10 until T = 10."""
    assert remember_rate(epoch, 0.2, 10) == pytest.approx(rate)


def test_remember_rate_with_an_exponent() -> None:
    """T^2 / 16 reaches 1 at T = 4; √T / 2 as well."""
    assert [remember_rate(epoch, 0.4, 16, 2.0) for epoch in range(5)] == pytest.approx(
        [1 - 0.4 / 16, 1 - 0.4 / 4, 1 - 0.4 * 9 / 16, 0.6, 0.6]
    )
    assert [remember_rate(epoch, 0.4, 2, 0.5) for epoch in (0, 1, 3, 8)] == pytest.approx(
        [0.8, 1 - 0.4 * math.sqrt(2) / 2, 0.6, 0.6]
    )


def test_nothing_is_forgotten_at_rate_0() -> None:
    assert {remember_rate(epoch, 0.0, 5) for epoch in range(10)} == {1.0}


@pytest.mark.parametrize(
    "bad", [(-1, 0.2, 10, 1.0), (0, 1.0, 10, 1.0), (0, -0.1, 10, 1.0), (0, 0.2, 0, 1.0), (0, 0.2, 1, 0)]
)
def test_remember_rate_refuses(bad: tuple[int, float, int, float]) -> None:
    with pytest.raises(ValueError, match="forget_rate in"):
        remember_rate(*bad)


@pytest.mark.parametrize(
    ("rate", "kept"),
    [(1.0, [0, 1, 2, 3]), (0.75, [1, 2, 3]), (0.74, [1, 2, 3]), (0.5, [1, 3]), (0.3, [1, 3]), (0.25, [3]), (0.01, [3])],
)
def test_at_least_that_share_is_kept(rate: float, kept: list[int]) -> None:
    selected = small_losses(torch.tensor([4.0, 1.0, 2.0, 0.5]), rate)
    assert selected.dtype == torch.bool
    assert selected.nonzero().flatten().tolist() == kept


@pytest.mark.parametrize("forget", [0.1, 0.2, 0.3, 0.4, 0.45, 0.6, 0.7, 0.8, 0.9])
def test_a_whole_number_of_samples_is_not_rounded_up(forget: float) -> None:
    selected = small_losses(torch.arange(100.0), 1 - forget)
    assert int(selected.sum()) == round(100 * (1 - forget))


def test_ties_and_what_is_no_number() -> None:
    assert small_losses(torch.tensor([1.0, 1.0, 1.0, 1.0]), 0.5).tolist() == [True, True, False, False]
    assert small_losses(torch.tensor([math.nan, 3.0, math.inf, 1.0]), 0.75).tolist() == [False, True, True, True]


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.1, math.nan])
def test_a_share_out_of_range_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="share to remember"):
        small_losses(torch.zeros(3), rate)


def test_mean_over_leaves_out_what_is_not_finite() -> None:
    values = torch.tensor([1.0, math.inf, 3.0, math.nan])
    assert mean_over(values, torch.tensor([True, False, True, False])).item() == 2.0


def test_each_network_learns_what_the_other_finds_easiest() -> None:
    """Network 1 is surest of samples 0 and 1, network 2 of 1 and 3: so network 1 gets {1, 3} and network 2 {0, 1}."""
    one, two = odds(7.0, 3.0, 1.0, 1 / 3), odds(1 / 3, 3.0, 1.0, 7.0)
    found = co_teaching_losses(lambda _: one, lambda _: two, X, LABELS, 0.5)
    assert found.first_selected.tolist() == [False, True, False, True]
    assert found.second_selected.tolist() == [True, True, False, False]
    # CE = log(1 + 1 / odds): log 8/7, log 4/3, log 2, log 4
    assert found.first.item() == pytest.approx((math.log(4 / 3) + math.log(4)) / 2, rel=1e-6)
    assert found.second.item() == pytest.approx((math.log(4) + math.log(4 / 3)) / 2, rel=1e-6)
    assert torch.equal(found.first_logits, one)
    assert torch.equal(found.second_logits, two)
    assert not found.first_logits.requires_grad


def test_gradients_by_hand() -> None:
    """(p - onehot) / 2 on the two chosen samples, 0 elsewhere; p(class 0) = odds / (1 + odds)."""
    one, two = odds(7.0, 3.0, 1.0, 1 / 3), odds(1 / 3, 3.0, 1.0, 7.0)
    found = co_teaching_losses(lambda _: one, lambda _: two, X, LABELS, 0.5)
    found.first.backward()  # type: ignore[no-untyped-call]
    assert two.grad is None
    assert one.grad is not None
    torch.testing.assert_close(one.grad, torch.tensor([[0.0, 0.0], [-0.125, 0.125], [0.0, 0.0], [-0.375, 0.375]]))
    found.second.backward()  # type: ignore[no-untyped-call]
    assert two.grad is not None
    torch.testing.assert_close(two.grad, torch.tensor([[-0.375, 0.375], [-0.125, 0.125], [0.0, 0.0], [0.0, 0.0]]))


def test_remembering_all_is_plain_training_of_both() -> None:
    one, two = odds(7.0, 3.0, 1.0, 1 / 3), odds(1.0, 1.0, 1.0, 1.0)
    found = co_teaching_losses(lambda _: one, lambda _: two, X, LABELS, 1.0)
    assert found.first.item() == pytest.approx(nn.functional.cross_entropy(one, LABELS).item())
    assert found.second.item() == pytest.approx(math.log(2))
    assert bool(found.first_selected.all())


def test_label_smoothing_enters_loss_and_selection() -> None:
    """ε = 0.4, C = 2: a sample of high odds loses 0.2 log(1 + odds) on the other class and is no longer the easiest."""
    one = odds(math.exp(20.0), 3.0)
    found = co_teaching_losses(lambda _: one, lambda _: one, X[:2], LABELS[:2], 0.5, label_smoothing=0.4)
    assert found.first_selected.tolist() == [False, True]
    assert found.first.item() == pytest.approx(0.8 * math.log(4 / 3) + 0.2 * math.log(4), rel=1e-6)


def test_a_lost_network_is_seen() -> None:
    found = co_teaching_losses(lambda _: torch.full((4, 2), math.nan), lambda _: odds(1, 2, 3, 4), X, LABELS, 0.5)
    assert math.isnan(found.first.item())
    assert math.isfinite(found.second.item())


def test_half_precision_networks_give_float32_losses() -> None:
    def half(_: Tensor) -> Tensor:
        return odds(7.0, 3.0, 1.0, 1 / 3).to(torch.bfloat16)

    found = co_teaching_losses(half, half, X, LABELS, 0.5)
    assert found.first.dtype == found.second_logits.dtype == torch.float32
