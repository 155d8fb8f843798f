"""Summaries of accuracies over epochs and runs. Fractions in [0, 1]."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence


def mean_and_std(values: Sequence[float]) -> tuple[float, float]:
    """Return mean and population standard deviation, as ACT reports them (released main.py, lines 320-343).

    With NaN or infinity among the values the deviation is NaN.

    Raises:
        ValueError: no values.
    """
    if not values:
        raise ValueError("the mean of no values is not defined")
    if not all(math.isfinite(value) for value in values):
        return sum(values) / len(values), math.nan
    mean = statistics.fmean(values)
    return mean, math.sqrt(statistics.fmean([(value - mean) ** 2 for value in values]))


def standard_error(accuracy_fraction: float, n: int) -> float:
    """Return the binomial standard error sqrt(a (1 - a) / n) of an accuracy `a` measured on `n` samples.

    Raises:
        ValueError: `a` is not in [0, 1], or `n` is below 1.
    """
    if not 0 <= accuracy_fraction <= 1:
        raise ValueError(f"an accuracy is a fraction from 0 to 1, got {accuracy_fraction}")
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    return math.sqrt(accuracy_fraction * (1 - accuracy_fraction) / n)
