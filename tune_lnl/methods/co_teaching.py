"""Co-teaching: two networks, each trained on the samples that the other finds easiest.

Source: Han et al., "Co-teaching: Robust Training of Deep Neural Networks with Extremely Noisy Labels", NeurIPS 2018
(Algorithm 1), and the released code, repository bhanML/Co-teaching (``main.py``, ``loss.py``).

Of a batch of B samples in epoch T (counted from 1, as the paper does):

1. ``R(T) = 1 - τ min(T^c / T_k, 1)``: the share of the batch that is remembered
   (:func:`tune_lnl.config.small_loss.remember_rate`). The paper's Algorithm 1 has c = 1 and T_k = 10; τ is taken to be
   the noise rate.
2. ``D1`` are the R(T) B samples with the smallest cross-entropy of network 1, ``D2`` those of network 2.
3. Network 1 steps on its mean cross-entropy over D2, network 2 on its own over D1.

Where this differs from the released code:

- The ramp. The code takes ``linspace(0, τ^c, T_k)``, which forgets nothing in the first epoch, and raises τ, not T, to
  the power c; the formula here is the paper's. Both forget τ from epoch T_k on (with c = 1).
- The number of samples. Algorithm 1 asks for at least R(T) B samples, so it is rounded up here; the code rounds down,
  which can leave a small batch without any.
- The step. The code divides the mean over the selected samples by their number once more, which makes every step
  smaller by that factor; for Adam, which it uses, this makes little difference. Here, as in the paper, the mean is the
  loss.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tune_lnl.methods.standard import Network, cross_entropy, in_full_precision


@dataclass(frozen=True)
class CoTeachingLosses:
    """The losses of one batch, and the samples each network was trained on; all tensors stay on the device.

    Attributes:
        first, second: scalar losses of the networks, independent of each other; call ``backward()`` on each.
        first_logits, second_logits: detached logits on the batch, (B, C).
        first_selected: samples the first network was trained on, chosen by the second, bool (B,).
        second_selected: samples the second network was trained on, chosen by the first, bool (B,).
    """

    first: Tensor
    second: Tensor
    first_logits: Tensor
    second_logits: Tensor
    first_selected: Tensor
    second_selected: Tensor


def small_losses(losses: Tensor, rate: float) -> Tensor:
    """Return a mask, bool (B,), of the smallest of the losses (B,): at least ``rate`` times B samples.

    Of equal losses the earlier one counts as smaller; one that is not a number counts as the largest.

    Raises:
        ValueError: ``rate`` is not in (0, 1].
    """
    if not 0 < rate <= 1:
        raise ValueError(f"the share to remember lies in (0, 1], got {rate}")
    # 1 - 0.3 is a little more than 0.7: without the slack ten samples would give eight.
    count = math.ceil(rate * len(losses) - 1e-9)
    order = losses.detach().argsort(stable=True)
    return torch.zeros_like(losses, dtype=torch.bool).index_fill_(0, order[:count], True)


def mean_over(values: Tensor, selected: Tensor) -> Tensor:
    """Return the mean of ``values`` (B,) where ``selected`` (B,) holds, at least once; no shape depends on the data."""
    return torch.where(selected, values, torch.zeros_like(values)).sum() / selected.sum()


def co_teaching_losses(
    first: Network, second: Network, x: Tensor, labels: Tensor, rate: float, label_smoothing: float = 0.0
) -> CoTeachingLosses:
    """Return the losses of a batch in an epoch that remembers the share ``rate`` of it.

    Args:
        first, second: map ``x`` to logits (B, C); run in this order.
        x: the batch, weakly augmented.
        labels: given labels, int64 (B,).
        rate: R(T), in (0, 1]; see :func:`tune_lnl.config.small_loss.remember_rate`.
        label_smoothing: of every cross-entropy, those of the selection included.
    """
    logits = in_full_precision(first(x)), in_full_precision(second(x))
    losses = [cross_entropy(each, labels, label_smoothing) for each in logits]
    chosen = [small_losses(each, rate) for each in losses]
    return CoTeachingLosses(
        first=mean_over(losses[0], chosen[1]),
        second=mean_over(losses[1], chosen[0]),
        first_logits=logits[0].detach(),
        second_logits=logits[1].detach(),
        first_selected=chosen[1],
        second_selected=chosen[0],
    )
