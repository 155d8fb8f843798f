"""Ceiling and chance of held-out accuracies, by hand and against what a perfect network scores."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tune_lnl.datasets.base import NoisyData
from tune_lnl.datasets.bounds import ScoreBounds, score_bounds
from tune_lnl.datasets.images.noisy import load_noisy
from tune_lnl.datasets.registry import parse_options


def digits(noise: str, ratio: float) -> NoisyData:
    return load_noisy(parse_options({"name": "digits8no", "noise": noise, "closed_ratio": ratio}), None)


@pytest.mark.parametrize(
    ("noise", "ratio"), [("none", 0.0), ("asymmetric", 0.4), ("symmetric", 0.2), ("symmetric", 0.8)]
)
def test_a_perfect_network_scores_the_ceiling(noise: str, ratio: float) -> None:
    data = digits(noise, ratio)
    bounds = score_bounds(data, 400)
    # Eight closed classes of ten: (1 - ratio) of their labels are right, one in eight of the others by chance.
    open_share = float((data.true_labels >= 8).mean()) if data.true_labels is not None else 0.0
    assert bounds.ceiling == pytest.approx(100 * ((1 - open_share) * (1 - ratio) + open_share / 8))
    assert data.true_labels is not None
    guess = np.where(data.true_labels < 8, data.true_labels, np.arange(len(data.rows)) % 8)
    assert 100 * (guess == data.given_labels).mean() == pytest.approx(bounds.ceiling, abs=3)
    assert bounds.chance == pytest.approx(12.5)
    assert bounds.origin == "noise matrix"
    assert ScoreBounds.stored(bounds.to_dict()) == bounds


def test_without_a_matrix_the_true_labels_count_and_without_these_an_estimate() -> None:
    data = replace(digits("asymmetric", 0.4), matrix=None)
    bounds = score_bounds(data, 400)
    assert bounds.origin == "true labels"
    assert bounds.ceiling == pytest.approx(50.6, abs=3)
    estimated = score_bounds(replace(data, true_labels=None, open_set=None), 400)
    assert estimated.origin == "estimate"
    assert estimated.low is not None
    assert estimated.low < 50.6 < (estimated.high or 0)
    assert "by an estimate, a perfect network scores about" in estimated.sentence()
    tiny = replace(data, true_labels=None, rows=data.rows[:50], given_labels=data.given_labels[:50])
    assert score_bounds(tiny, 10).ceiling is None


def test_the_largest_class_is_the_guess_where_classes_are_unbalanced() -> None:
    data = digits("none", 0.0)
    given = np.where(np.arange(len(data.rows)) % 2 == 0, 3, data.given_labels)
    assert score_bounds(replace(data, given_labels=given), 400).chance > 50


def test_sentences() -> None:
    bounds = ScoreBounds(50.4, None, None, 1.25, 90, 80, "noise matrix")
    assert bounds.sentence() == (
        "held-out labels are noisy: a perfect network scores about 50, guessing scores about 1.25"
    )
    assert bounds.too_few() is not None
    assert "90 held-out images of 80 classes are too few" in str(bounds.too_few())
    assert replace(bounds, held_out=4000).too_few() is None
    assert bounds.is_guessing(1.0, 0.99)
    assert not bounds.is_guessing(40.0, 2.0)
    assert score_bounds(digits("symmetric", 0.8), 400, clean=True).ceiling == 100
