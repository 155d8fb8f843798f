"""Precision, recall, F1, AUROC and accuracies of a verdict, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tune_lnl.metrics.label_quality import auroc, label_quality


def test_by_hand() -> None:
    true = np.array([0, 1, 2, 0, 1, 3])  # class 3 is open
    given = np.array([0, 1, 1, 1, 0, 2])  # 2, 3, 4 and 5 are wrong
    corrected = np.array([0, 2, 2, 0, 0, 1])
    found = np.array([False, True, True, True, False, True])
    score = np.array([0.1, 0.7, 0.9, 0.8, 0.1, 0.6])
    quality = label_quality(true, given, corrected, found, score, 3)
    assert (quality.found, quality.wrong, quality.found_and_wrong) == (4, 4, 3)
    assert quality.precision == quality.recall == quality.f1 == 0.75
    # Right: .1 and .7. Above .1: .9 .8 .6 and half of .1; above .7: .9 .8. Of 4 x 2 pairs.
    assert quality.auroc == pytest.approx((3.5 + 2) / 8)
    assert quality.given_accuracy == pytest.approx(2 / 5)
    assert quality.corrected_accuracy == pytest.approx(3 / 5)


def test_what_is_not_defined_is_none() -> None:
    labels = np.array([0, 1])
    quality = label_quality(labels, labels, labels, np.zeros(2, dtype=np.bool_), np.zeros(2), 2)
    assert quality.precision is quality.recall is quality.f1 is quality.auroc is None
    assert quality.given_accuracy == quality.corrected_accuracy == 1.0
    opened = label_quality(labels + 2, labels, labels, np.ones(2, dtype=np.bool_), np.zeros(2), 2)
    assert opened.given_accuracy is opened.corrected_accuracy is None


def test_auroc_counts_pairs() -> None:
    stream = np.random.RandomState(0)
    score, positive = stream.randint(0, 12, 200).astype(np.float64), stream.rand(200) < 0.3
    above = score[positive][:, None] - score[~positive]
    assert auroc(score, positive) == pytest.approx(float(((above > 0) + 0.5 * (above == 0)).mean()))


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="lengths"):
        label_quality(np.zeros(2, int), np.zeros(2, int), np.zeros(2, int), np.zeros(1, bool), np.zeros(2), 2)
    with pytest.raises(ValueError, match="NaN"):
        auroc(np.array([0.0, math.nan]), np.array([True, False]))
