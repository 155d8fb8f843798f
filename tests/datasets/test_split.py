"""Validation splits, subsets and folds: stratified, seeded, disjoint."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tune_lnl.datasets.split import split_folds, split_validation, stratified_subset
from tune_lnl.errors import InputError


def test_counts_by_largest_remainder() -> None:
    # Quotas of 0.3 of 5, 4, 1 are 1.5, 1.2, 0.3; round(3.0) = 3: floors 1, 1, 0, and the one left goes to 1.5.
    labels = np.repeat([0, 1, 2], [5, 4, 1])
    training, validation = split_validation(labels, 0.3, seed=0)
    assert np.bincount(labels[validation], minlength=3).tolist() == [2, 1, 0]
    assert np.bincount(labels[training], minlength=3).tolist() == [3, 3, 1]


def test_a_class_is_never_emptied() -> None:
    # 0.9 of 2 is 1.8, but one of each pair stays in training.
    labels = np.repeat([0, 1, 2], 2)
    training, validation = split_validation(labels, 0.9, seed=0)
    assert np.bincount(labels[training]).tolist() == [1, 1, 1]
    assert len(validation) == 3


@given(
    labels=st.lists(st.integers(0, 5), min_size=2, max_size=80),
    fraction=st.floats(0.01, 0.9),
    seed=st.integers(0, 2**32 - 1),
)
def test_split_is_a_stratified_partition(labels: list[int], fraction: float, seed: int) -> None:
    array = np.array(labels, dtype=np.int64)
    try:
        training, validation = split_validation(array, fraction, seed)
    except InputError:
        sizes = np.bincount(array)
        assert round(len(labels) * fraction) == 0 or np.all(sizes <= 1)
        return
    assert training.dtype == validation.dtype == np.int64
    assert np.array_equal(np.sort(np.concatenate([training, validation])), np.arange(len(labels)))
    assert np.all(np.diff(training) > 0)
    assert np.all(np.diff(validation) > 0)
    assert len(validation) <= round(len(labels) * fraction)
    sizes, taken = np.bincount(array, minlength=6), np.bincount(array[validation], minlength=6)
    assert np.all(taken[sizes > 0] < sizes[sizes > 0])
    if np.all(taken[sizes > 0] < sizes[sizes > 0] - 1):  # no class at its limit: the total is exact
        assert len(validation) == round(len(labels) * fraction)
        assert np.all(np.abs(taken - sizes * fraction) < 1 + 1e-9)


def test_seed_decides_who_not_how_many() -> None:
    labels = np.repeat(np.arange(4), 25)
    first, again, other = (split_validation(labels, 0.2, seed)[1] for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert np.bincount(labels[other]).tolist() == [5, 5, 5, 5]


def test_the_stream_is_frozen() -> None:
    # A split is part of a config that reproduces: these positions may never change.
    _, validation = split_validation(np.repeat([0, 1], 10), 0.3, seed=123)
    assert validation.tolist() == [0, 4, 7, 13, 14, 15]


def test_fraction_zero_is_all_training() -> None:
    training, validation = split_validation(np.array([2, 2, 1]), 0.0, seed=0)
    assert training.tolist() == [0, 1, 2]
    assert validation.tolist() == []
    assert validation.dtype == np.int64


@pytest.mark.parametrize("fraction", [-0.1, 0.95, 1.0, float("nan")])
def test_fraction_out_of_range(fraction: float) -> None:
    with pytest.raises(InputError, match=r"validation\.fraction must be in \[0, 0\.9\]"):
        split_validation(np.zeros(10, dtype=np.int64), fraction, seed=0)


@pytest.mark.parametrize("labels", [[0, 1, 2], [0, 0], []])
def test_nothing_left_on_a_side(labels: list[int]) -> None:
    with pytest.raises(InputError, match="both need at least one"):
        split_validation(np.array(labels, dtype=np.int64), 0.2, seed=0)


def test_subset_is_stratified_and_seeded() -> None:
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [60, 30, 10]))
    kept = stratified_subset(labels, 0.1, seed=0)
    assert np.bincount(labels[kept]).tolist() == [6, 3, 1]
    assert np.all(np.diff(kept) > 0)
    assert not np.array_equal(kept, stratified_subset(labels, 0.1, seed=1))
    assert np.array_equal(stratified_subset(labels, 1.0, seed=0), np.arange(100))


def test_smaller_subset_lies_inside_a_larger_one() -> None:
    labels = np.repeat(np.arange(5), 40)
    assert set(stratified_subset(labels, 0.1, seed=4)) < set(stratified_subset(labels, 0.5, seed=4))


def test_subset_share_out_of_range() -> None:
    with pytest.raises(InputError, match=r"dataset\.subset must be in"):
        stratified_subset(np.array([0, 1]), 0.0, seed=0)


# ---- folds


def test_folds_are_stratified_and_of_one_size() -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(7), [2, 3, 11, 40, 5, 2, 38]))
    fold = split_folds(labels, 5, seed=3)
    assert np.ptp(np.bincount(fold, minlength=5)) <= 1
    for label in range(7):
        assert np.ptp(np.bincount(fold[labels == label], minlength=5)) <= 1
    assert np.array_equal(fold, split_folds(labels, 5, seed=3))
    assert not np.array_equal(fold, split_folds(labels, 5, seed=4))


def test_the_only_sample_of_a_label_is_never_held_out() -> None:
    labels = np.array([0] * 6 + [1] + [2] * 4)
    fold = split_folds(labels, 2, seed=0)
    assert np.flatnonzero(fold < 0).tolist() == [6]
    for number in range(2):
        assert set(labels[fold != number]) == {0, 1, 2}


@pytest.mark.parametrize(
    ("labels", "folds", "said"), [([0, 0, 1], 1, "at least 2 folds, got 1"), ([0, 0, 1, 1], 5, "5 folds need .* got 4")]
)
def test_folds_that_cannot_be(labels: list[int], folds: int, said: str) -> None:
    with pytest.raises(InputError, match=said):
        split_folds(np.array(labels), folds, seed=0)
