"""JoCoR: two networks trained by one loss on the samples that they fit and agree on best together.

Source: Wei et al., "Combating Noisy Labels by Agreement: A Joint Training Method with Co-Regularization", CVPR 2020
(equations 1 to 5, Algorithm 1), and the released code, repository hongxin001/JoCoR (``algorithm/loss.py``,
``algorithm/jocor.py``).

Of a batch, with the predictions p1 and p2 of the networks and the given label y:

1. ``ℓ_sup = CE(p1, y) + CE(p2, y)`` and ``ℓ_con = KL(p1 || p2) + KL(p2 || p1)``, for every sample.
2. ``ℓ = (1 - λ) ℓ_sup + λ ℓ_con``.
3. The R(t) B samples with the smallest ℓ are kept, R(t) as in Co-teaching
   (:func:`tune_lnl.config.small_loss.remember_rate`).
4. Both networks step on the mean of ℓ over them; gradients flow into both from both terms.

Where this differs from the released code: the ramp of R(t) and the rounding of R(t) B, as in
:mod:`tune_lnl.methods.co_teaching`. Divergences are computed from log-probabilities, which a probability that
underflows to 0 does not disturb.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from tune_lnl.methods.co_teaching import mean_over, small_losses
from tune_lnl.methods.standard import Network, cross_entropy, in_full_precision


@dataclass(frozen=True)
class JocorLoss:
    """The loss of one batch, and its samples; all tensors stay on the device.

    Attributes:
        loss: scalar, of both networks together; call ``backward()`` on it once.
        first_logits, second_logits: detached logits on the batch, (B, C).
        selected: samples both networks were trained on, bool (B,).
    """

    loss: Tensor
    first_logits: Tensor
    second_logits: Tensor
    selected: Tensor


def symmetric_divergence(first_logits: Tensor, second_logits: Tensor) -> Tensor:
    """Return ℓ_con, ``KL(p1 || p2) + KL(p2 || p1)`` of the softmaxes of two (B, C) logits, per sample (B,), in nats."""
    first, second = first_logits.log_softmax(dim=1), second_logits.log_softmax(dim=1)
    return ((first.exp() - second.exp()) * (first - second)).sum(dim=1)


def jocor_loss(
    first: Network,
    second: Network,
    x: Tensor,
    labels: Tensor,
    rate: float,
    co_lambda: float,
    label_smoothing: float = 0.0,
) -> JocorLoss:
    """Return the joint loss of a batch in an epoch that remembers the share ``rate`` of it.

    Args:
        first, second: map ``x`` to logits (B, C); run in this order.
        x: the batch, weakly augmented.
        labels: given labels, int64 (B,).
        rate: R(t), in (0, 1].
        co_lambda: λ, the weight of the agreement, in [0, 1].
        label_smoothing: of every cross-entropy, those of the selection included.
    """
    one, two = in_full_precision(first(x)), in_full_precision(second(x))
    supervised = cross_entropy(one, labels, label_smoothing) + cross_entropy(two, labels, label_smoothing)
    joint = (1 - co_lambda) * supervised + co_lambda * symmetric_divergence(one, two)
    selected = small_losses(joint, rate)
    return JocorLoss(mean_over(joint, selected), one.detach(), two.detach(), selected)
