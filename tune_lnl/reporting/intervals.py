"""Intervals around figures: of an accuracy on a sample, of a mean over a few runs, of a difference."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95
Z95 = 1.959964
"""The normal distribution's 97.5% point."""


@dataclass(frozen=True)
class Estimate:
    """A value with its 95% interval, where it has one."""

    value: float
    low: float | None = None
    high: float | None = None

    @classmethod
    def measured(cls, value: float, standard_error: float | None) -> Estimate:
        """Return the normal interval of one measurement, value +- 1.96 standard errors."""
        if standard_error is None:
            return cls(value)
        return cls(value, value - Z95 * standard_error, value + Z95 * standard_error)

    @classmethod
    def mean_of(cls, values: Sequence[float]) -> Estimate:
        """Return Student's interval of a mean over independent runs, (S,); one run alone has none.

        ValueError for no values.
        """
        if not values:
            raise ValueError("the mean of no values is not defined")
        mean = statistics.fmean(values)
        if len(values) < 2:
            return cls(mean)
        from scipy import stats  # slow to import

        half = (
            float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1))
            * statistics.stdev(values)
            / math.sqrt(len(values))
        )
        return cls(mean, mean - half, mean + half)

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.value:.2f}"
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


def difference(first: float, first_error: float | None, other: float, other_error: float | None) -> Estimate:
    """Return first - other of two measurements with standard errors, taken as independent.

    Two configs judged on one held-out split are positively correlated, so the interval is rather too wide.
    """
    if first_error is None or other_error is None:
        return Estimate(first - other)
    return Estimate.measured(first - other, math.hypot(first_error, other_error))
