"""Plain cross-entropy training: the baseline, and the cross-entropy that the other methods use."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Network = Callable[[Tensor], Tensor]
"""Maps a batch of inputs to logits (B, C)."""


class StandardLoss(NamedTuple):
    """The result of one batch: the scalar to call ``backward()`` on, and detached logits (B, C)."""

    loss: Tensor
    logits: Tensor


def in_full_precision(logits: Tensor) -> Tensor:
    """Return logits in at least float32: 8 or 11 bits of mantissa are too few for a softmax over many classes."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Return the cross-entropy of each sample, shape (B,), in at least float32 in any autocast mode.

    With smoothing ε over C classes the target is ``(1 - ε) onehot(y) + ε / C``.
    """
    return F.cross_entropy(in_full_precision(logits), labels, reduction="none", label_smoothing=label_smoothing)


def standard_loss(model: Network, x: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> StandardLoss:
    """Return the mean cross-entropy of a batch against its given labels.

    Args:
        model: maps ``x`` to logits (B, C).
        x: the batch, weakly augmented.
        labels: given (noisy) labels, int64 (B,).
        label_smoothing: share of the target spread evenly over all classes, in [0, 1).
    """
    logits = in_full_precision(model(x))
    return StandardLoss(cross_entropy(logits, labels, label_smoothing).mean(), logits.detach())
