"""The difference of two trials that were scored on the same images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

DRAWS = 2000


@dataclass(frozen=True)
class PairedDifference:
    """A difference of two means over the same images, a fraction.

    Attributes:
        value: first - other.
        low, high: its 95% interval.
    """

    value: float
    low: float
    high: float


def paired_difference(first: NDArray[Any], other: NDArray[Any], draws: int = DRAWS, seed: int = 0) -> PairedDifference:
    """Return the difference of two trials' shares of right images, with a bootstrap interval over the images.

    In every draw both trials have the same images, so that images which are easy or mislabelled for both count for
    neither. Binomial errors of each trial alone, taken as independent, give an interval that is several times too wide
    where the trials agree on most images.

    Args:
        first, other: (M,), whether each image is right, or its score.

    Raises:
        ValueError: no image, or different numbers of them.
    """
    if np.ndim(first) != 1 or not len(first) or np.shape(first) != np.shape(other):
        raise ValueError(f"need (M,) and (M,), M at least 1; got {np.shape(first)} and {np.shape(other)}")
    gaps = np.asarray(first, dtype=np.float64) - np.asarray(other, dtype=np.float64)
    # Only how often each value of the gap is drawn matters: three values where both are right or wrong.
    values, counts = np.unique(gaps, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(len(gaps), counts / len(gaps), size=draws)
    low, high = np.quantile(drawn @ values / len(gaps), (0.025, 0.975))
    return PairedDifference(float(gaps.mean()), float(low), float(high))
