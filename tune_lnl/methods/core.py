"""CORE, collaborative label refinement for person re-identification: the losses of its two stages.

First every network refines labels on its own (SELF): it fits a mixture of the given label and of its own prediction,
whose weight grows as its loss falls. Then two networks refine each other's labels (CORE): each fits the prediction of
the other, as a hard label and as a distribution. **In the second stage the given labels are not used at all.**

Sources: the CORE paper (its text known to us second-hand) and the released code, repository mangye16/ReID-Label-Noise
at commit 89aa11f (``loss.py`` lines 162-314, ``train_core.py``).

With ``z`` the logits of a network, ``p`` their softmax, ``ŷ`` their argmax and ``y`` the given label:

- SELF: ``(1 - λ) CE(z, y) + λ CE(z, ŷ)``, with ``λ = 1 / (1 + L)`` for a mean loss ``L`` of the epoch before; the first
  epoch has no such loss and uses ``λ = 0``, plain cross-entropy. The paper's ``L`` is the cross-entropy on given labels
  (Eq. 3-4, where ``w = 1 - λ``), the released code's the refined loss itself; the caller chooses.
- CORE, for network 1 (network 2 by symmetry): ``CE(z1, ŷ2) + κ · mean of -Σ_k p2_k log p1_k``; no gradient reaches
  network 2. The second term is ``KL(p2 || p1) + H(p2)``: its gradient is that of the KL divergence, but it does not
  fall to 0 unless ``p2`` is certain.

The selective variant keeps the label term only where the networks agree, ``δ_i = [ŷ1_i = ŷ2_i]``. The released class
for it, which no released script calls, takes the mean of the cross-entropy before it applies the mask, and so scales
all images alike by the share of agreement (``loss.py`` lines 297-298); ``selective="code"`` repeats that.

All softmaxes and means are at least float32. Of equal largest logits the first one is the prediction.
"""

from __future__ import annotations

import math
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from tune_lnl.methods.standard import cross_entropy, in_full_precision

Selective = Literal["none", "mask", "code"]

SELECTIVE: tuple[Selective, ...] = ("none", "mask", "code")


def refine_weight(mean_loss: float) -> float:
    """Return λ, the weight of a network's own labels: ``1 / (1 + mean_loss)``, in (0, 1] (CORE, Eq. 4).

    Args:
        mean_loss: mean training loss of the epoch before, at least 0.

    Raises:
        ValueError: the loss is negative or not finite.
    """
    if not math.isfinite(mean_loss) or mean_loss < 0:
        raise ValueError(f"a mean loss is finite and at least 0, got {mean_loss}")
    return 1.0 / (1.0 + mean_loss)


def self_refine_loss(logits: Tensor, labels: Tensor, weight: float) -> Tensor:
    """Return ``(1 - weight) CE(given labels) + weight CE(own argmax)``, batch mean (SELF; loss.py, lines 162-189).

    Args:
        logits: (B, C), B at least 1.
        labels: given (noisy) labels, int64 (B,).
        weight: λ in [0, 1]; 0 is plain cross-entropy, 1 ignores the given labels.

    Returns:
        scalar, in at least float32.

    Raises:
        ValueError: ``weight`` lies outside [0, 1].
    """
    if not 0 <= weight <= 1:
        raise ValueError(f"the weight of a network's own labels lies from 0 to 1, got {weight}")
    given = cross_entropy(logits, labels).mean()
    own = cross_entropy(logits, logits.detach().argmax(dim=1)).mean()
    return (1 - weight) * given + weight * own


def co_refine_loss(
    logits: Tensor, peer_logits: Tensor, soft_weight: float = 1.0, selective: Selective = "none"
) -> Tensor:
    """Return the loss of a network against the predictions of its peer (CORE; released loss.py, lines 225-314).

    Given labels are not used.

    Args:
        logits: of the network that learns, (B, C), B at least 1.
        peer_logits: of the other network on the same images, (B, C), from before either network's update; detached.
        soft_weight: κ, the factor of the soft-label cross-entropy; at least 0.
        selective: "none" (released script): the label term is the mean of ``CE_i`` with the peer's argmax as label;
            "mask": the mean over the whole batch of ``δ_i CE_i``, where ``δ_i`` is 1 if both networks predict the same;
            "code" (released "Plus" class): the mean of ``CE_i`` times the mean of ``δ_i``.

    Returns:
        scalar, in at least float32.

    Raises:
        ValueError: ``soft_weight`` is negative or not finite, or ``selective`` none of the three.
    """
    if not math.isfinite(soft_weight) or soft_weight < 0:
        raise ValueError(f"the weight of the soft labels is finite and at least 0, got {soft_weight}")
    peer_logits = peer_logits.detach()
    peer_labels = peer_logits.argmax(dim=1)
    losses = cross_entropy(logits, peer_labels)
    agreed = (logits.detach().argmax(dim=1) == peer_labels).to(losses.dtype)
    if selective == "none":
        label_term = losses.mean()
    elif selective == "mask":
        label_term = (agreed * losses).mean()
    elif selective == "code":
        label_term = losses.mean() * agreed.mean()
    else:
        raise ValueError(f"selective must be one of {', '.join(SELECTIVE)}, got {selective!r}")
    # The batch mean of -Σ_k p2_k log p1_k, p2 the peer's.
    soft_term = F.cross_entropy(in_full_precision(logits), in_full_precision(peer_logits).softmax(dim=1))
    return label_term + soft_weight * soft_term
