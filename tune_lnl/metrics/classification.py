"""Accuracy, and how published numbers sum it up over epochs and runs. Fractions in [0, 1] throughout."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from torch import Tensor


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of rows of `logits` (B, C) whose largest entry is at `labels` int64 (B,); ties go to the lower class.

    ValueError for an empty batch or shapes that do not fit.
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(f"need logits (B, C) and labels (B,), got {tuple(logits.shape)} and {tuple(labels.shape)}")
    if labels.numel() == 0:
        raise ValueError("the accuracy of an empty batch is not defined")
    return int((logits.argmax(dim=1) == labels).sum().item()) / labels.numel()


def mean_and_std(values: Sequence[float]) -> tuple[float, float]:
    """Mean and population standard deviation, as ACT reports them (released main.py, lines 320-343).

    NaN and infinity in `values` come out as NaN deviation. ValueError for no values.
    """
    if not values:
        raise ValueError("the mean of no values is not defined")
    if not all(math.isfinite(value) for value in values):
        return sum(values) / len(values), math.nan
    mean = statistics.fmean(values)
    return mean, math.sqrt(statistics.fmean([(value - mean) ** 2 for value in values]))


def last_epochs_mean(values: Sequence[float], count: int) -> float:
    """Mean over the last `count` epochs, or over all of them where there are fewer; `values` has one entry an epoch.

    ACT reports `count` = 10. ValueError for no values or `count` < 1.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    return mean_and_std(values[-count:])[0]


def standard_error(accuracy_fraction: float, n: int) -> float:
    """Binomial standard error sqrt(a (1 - a) / n) of an accuracy `a` measured on `n` samples.

    ValueError unless 0 <= a <= 1 and n >= 1.
    """
    if not 0 <= accuracy_fraction <= 1:
        raise ValueError(f"an accuracy is a fraction from 0 to 1, got {accuracy_fraction}")
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    return math.sqrt(accuracy_fraction * (1 - accuracy_fraction) / n)
