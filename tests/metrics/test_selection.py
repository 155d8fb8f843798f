"""Precision, recall and F1 of a selection, by hand, with the cases where they are not defined."""

from __future__ import annotations

import pytest

from tune_lnl.metrics.selection import (
    SelectionQuality,
    selection_percentages,
    selection_quality,
)


def test_quality_by_hand() -> None:
    quality = selection_quality(selected=4, clean=5, selected_and_clean=3)
    assert quality.precision == pytest.approx(3 / 4)
    assert quality.recall == pytest.approx(3 / 5)
    assert quality.f1 == pytest.approx(2 * 0.75 * 0.6 / (0.75 + 0.6))


def test_everything_selected_and_clean() -> None:
    assert selection_quality(5, 5, 5) == SelectionQuality(1.0, 1.0, 1.0)


def test_nothing_selected_has_no_precision() -> None:
    assert selection_quality(0, 5, 0) == SelectionQuality(precision=None, recall=0.0, f1=None)


def test_nothing_clean_has_no_recall() -> None:
    assert selection_quality(5, 0, 0) == SelectionQuality(precision=0.0, recall=None, f1=None)


def test_nothing_at_all() -> None:
    assert selection_quality(0, 0, 0) == SelectionQuality(None, None, None)


def test_only_noisy_ones_selected() -> None:
    assert selection_quality(3, 4, 0) == SelectionQuality(0.0, 0.0, 0.0)


@pytest.mark.parametrize("counts", [(1, 2, 2), (2, 1, 2), (3, 3, -1)])
def test_impossible_counts_are_refused(counts: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="selected_and_clean"):
        selection_quality(*counts)


def test_percentages_leave_out_what_is_not_defined() -> None:
    assert selection_percentages(4, 5, 3) == pytest.approx(
        {"selection_precision": 75.0, "selection_recall": 60.0, "selection_f1": 200 * 0.75 * 0.6 / 1.35}
    )
    assert selection_percentages(0, 5, 0) == {"selection_recall": 0.0}
    assert selection_percentages(0, 0, 0) == {}
