"""The paired difference, by hand and by repeated samples."""

from __future__ import annotations

import numpy as np
import pytest

from tune_lnl.metrics.paired import paired_difference


def test_a_difference_by_hand() -> None:
    found = paired_difference(np.array([1, 1, 1, 0]), np.array([1, 0, 0, 0]))
    assert found.value == 0.5
    # Two of four images differ: of four draws none differs with probability 1/16, all with 1/16.
    assert (found.low, found.high) == (0.0, 1.0)


def test_trials_that_agree_have_no_error_whatever_their_accuracy() -> None:
    same = np.arange(100) % 2
    assert paired_difference(same, same) == paired_difference(same[:1], same[:1])
    assert paired_difference(same, same).high == 0


def test_the_interval_holds_the_true_difference_as_often_as_it_says_and_is_narrow() -> None:
    random, inside, widths = np.random.default_rng(0), 0, []
    for seed in range(300):
        # Right together on 60%, apart on 10%: 8% against 2%.
        kind = random.choice(4, size=400, p=[0.6, 0.08, 0.02, 0.3])
        found = paired_difference(kind <= 1, (kind == 0) | (kind == 2), 500, seed)
        inside += found.low <= 0.06 <= found.high
        widths.append(found.high - found.low)
    assert inside / 300 == pytest.approx(0.95, abs=0.04)
    independent = 2 * 1.96 * np.sqrt((0.68 * 0.32 + 0.62 * 0.38) / 400)
    assert np.mean(widths) < 0.5 * independent


def test_different_images_are_refused() -> None:
    for first, other in ((np.ones(3), np.ones(4)), (np.ones(0), np.ones(0)), (np.ones((2, 2)), np.ones((2, 2)))):
        with pytest.raises(ValueError, match="need"):
            paired_difference(first, other)
