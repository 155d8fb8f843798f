"""Quality of verdicts on given labels, where the true labels are known. Fractions in [0, 1].

A sample is found if its verdict is not "keep". It is wrong if its true label is not the given one; open-set samples are
wrong. A ratio over nothing is None, never 0 or NaN, as in :mod:`tune_lnl.metrics.selection`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tune_lnl.metrics.selection import selection_quality


@dataclass(frozen=True)
class LabelQuality:
    """The quality of one verdict on one training set.

    Attributes:
        found, wrong, found_and_wrong: numbers of samples.
        precision: share of the found samples whose label is wrong.
        recall: share of the wrong labels that were found.
        f1: harmonic mean of the two.
        auroc: probability that a wrong label has a higher score than a right one, ties counted half.
        given_accuracy: share of given labels that are true, open-set samples left out.
        corrected_accuracy: share of corrected labels that are true, open-set samples left out.
    """

    found: int
    wrong: int
    found_and_wrong: int
    precision: float | None
    recall: float | None
    f1: float | None
    auroc: float | None
    given_accuracy: float | None
    corrected_accuracy: float | None


def label_quality(
    true: NDArray[np.int64],
    given: NDArray[np.int64],
    corrected: NDArray[np.int64],
    found: NDArray[np.bool_],
    score: NDArray[np.float64],
    num_classes: int,
) -> LabelQuality:
    """Return the quality of a verdict on n samples.

    Args:
        true: (n,) true classes; num_classes and above for open-set samples.
        given, corrected: (n,) in 0..num_classes - 1.
        found: (n,) whether the verdict calls the label wrong.
        score: (n,) larger for labels that are more likely wrong; any scale.
        num_classes: closed classes.

    Raises:
        ValueError: arrays of different lengths.
    """
    lengths = {len(values) for values in (true, given, corrected, found, score)}
    if len(lengths) != 1:
        raise ValueError(f"all arrays must have one entry per sample, got lengths {sorted(lengths)}")
    wrong = true != given
    both = int((found & wrong).sum())
    quality = selection_quality(int(found.sum()), int(wrong.sum()), both)
    closed = true < num_classes
    return LabelQuality(
        found=int(found.sum()),
        wrong=int(wrong.sum()),
        found_and_wrong=both,
        precision=quality.precision,
        recall=quality.recall,
        f1=quality.f1,
        auroc=auroc(score, wrong),
        given_accuracy=_share(given[closed] == true[closed]),
        corrected_accuracy=_share(corrected[closed] == true[closed]),
    )


def auroc(score: NDArray[np.float64], positive: NDArray[np.bool_]) -> float | None:
    """Return the area under the ROC curve, ties counted half; None if all samples are of one kind.

    Raises:
        ValueError: a score is NaN.
    """
    # Imported here because it takes half a second.
    from sklearn.metrics import roc_auc_score

    if np.isnan(score).any():
        raise ValueError("a score must be a number, got NaN")
    return None if positive.all() or not positive.any() else float(roc_auc_score(positive, score))


def _share(right: NDArray[np.bool_]) -> float | None:
    return float(right.mean()) if len(right) else None
