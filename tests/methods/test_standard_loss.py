from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from tune_lnl.methods.standard import cross_entropy, standard_loss


def test_standard_loss_by_hand() -> None:
    """Logits (log 3, 0) give p = (3/4, 1/4): CE is log 4/3 for label 0 and log 4 for label 1."""
    z = nn.Parameter(torch.tensor([[math.log(3), 0.0], [math.log(3), 0.0]]))
    loss, logits = standard_loss(lambda _: z, torch.zeros(2), torch.tensor([0, 1]))
    assert loss.item() == pytest.approx((math.log(4 / 3) + math.log(4)) / 2, rel=1e-6)
    assert not logits.requires_grad
    assert torch.equal(logits, z)
    loss.backward()  # type: ignore[no-untyped-call]
    assert z.grad is not None
    torch.testing.assert_close(z.grad, torch.tensor([[-0.125, 0.125], [0.375, -0.375]]))


def test_label_smoothing_spreads_over_all_classes() -> None:
    """ε = 0.4, C = 2: target (0.8, 0.2), so 0.8 log 4/3 + 0.2 log 4."""
    z = torch.tensor([[math.log(3), 0.0]])
    loss, _ = standard_loss(lambda _: z, torch.zeros(1), torch.tensor([0]), label_smoothing=0.4)
    assert loss.item() == pytest.approx(0.8 * math.log(4 / 3) + 0.2 * math.log(4), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_give_a_float32_loss(dtype: torch.dtype) -> None:
    z = torch.tensor([[4.0, 0.5, -3.0]])
    assert cross_entropy(z.to(dtype), torch.tensor([2])).dtype == torch.float32
    torch.testing.assert_close(cross_entropy(z.to(dtype), torch.tensor([2])), cross_entropy(z, torch.tensor([2])))


def test_double_precision_stays_double() -> None:
    assert cross_entropy(torch.zeros(1, 3, dtype=torch.float64), torch.tensor([0])).dtype == torch.float64
