"""Stratified choices over a training set: the held-out validation split, the folds of a cross-validation and
`dataset.subset`.

All use the legacy RandomState, whose stream numpy has frozen: a config must reproduce its results, so a split must be
the same with every numpy version.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tune_lnl.errors import InputError

MAX_VALIDATION_FRACTION = 0.9


def split_validation(
    labels: NDArray[np.int64], fraction: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return training and validation positions: int64, sorted, disjoint, together 0..n-1; stratified by label.

    The validation part has round(n * fraction) samples, distributed over the classes by largest remainder; a class with
    one sample stays in training, and no class loses all its samples.

    Args:
        labels: (n,) given (noisy) labels: the split may not see the true ones.
        fraction: in [0, 0.9]; 0 gives an empty validation part.
        seed: 0 to 2**32 - 1.

    Raises:
        InputError: a fraction out of range, or too few samples to fill both parts.
    """
    if not 0.0 <= fraction <= MAX_VALIDATION_FRACTION:
        raise InputError(
            f"validation.fraction must be in [0, {MAX_VALIDATION_FRACTION}], got {fraction!r}\n"
            "0.1 is usual; 0 trains on all samples"
        )
    if fraction == 0:
        return np.arange(len(labels), dtype=np.int64), np.empty(0, dtype=np.int64)
    groups = _shuffled_groups(labels, seed)
    sizes = np.array([len(group) for group in groups], dtype=np.int64)
    counts = _apportion(sizes, fraction, least=np.zeros_like(sizes), most=np.maximum(sizes - 1, 0))
    validation = _first_of_each(groups, counts)
    training = np.setdiff1d(np.arange(len(labels), dtype=np.int64), validation, assume_unique=True)
    if not len(validation) or not len(training):
        raise InputError(
            f"validation.fraction {fraction!r} of {len(labels)} samples leaves {len(training)} for training and "
            f"{len(validation)} for validation; both need at least one\nuse a larger dataset.subset or another fraction"
        )
    return training, validation


def stratified_subset(classes: NDArray[np.int64], share: float, seed: int) -> NDArray[np.int64]:
    """Return sorted positions, int64, of round(n * share) samples: each class by its share, at least one of each.

    Args:
        classes: (n,) the classes to stratify by.
        share: in (0, 1].
        seed: 0 to 2**32 - 1.
    """
    if not 0.0 < share <= 1.0:
        raise InputError(f"dataset.subset must be in (0, 1], got {share!r}\n1 keeps all samples")
    groups = _shuffled_groups(classes, seed)
    sizes = np.array([len(group) for group in groups], dtype=np.int64)
    return _first_of_each(groups, _apportion(sizes, share, least=np.ones_like(sizes), most=sizes))


def split_folds(labels: NDArray[np.int64], folds: int, seed: int) -> NDArray[np.int64]:
    """Return the fold in which each sample is held out: int64 (n,) in 0..folds - 1, or -1 for no fold.

    Stratified by label: the sizes of the folds, and the samples of each label in them, differ by one at most. The only
    sample of a label is never held out, because the label could not be learnt without it.

    Args:
        labels: (n,) given (noisy) labels.
        folds: at least 2.
        seed: 0 to 2**32 - 1.

    Raises:
        InputError: fewer than two folds, or too few samples to fill them.
    """
    if folds < 2:
        raise InputError(f"out-of-sample predictions need at least 2 folds, got {folds}\n5 are usual")
    fold = np.full(len(labels), -1, dtype=np.int64)
    dealt = 0
    for group in _shuffled_groups(labels, seed):
        if len(group) > 1:
            # Continue where the last label ended, so that many small labels still give folds of equal size.
            fold[group] = (dealt + np.arange(len(group))) % folds
            dealt += len(group)
    if dealt < folds:
        raise InputError(
            f"{folds} folds need at least {folds} samples whose label occurs more than once, got {dealt}\n"
            "use fewer folds or a larger dataset.subset"
        )
    return fold


def _shuffled_groups(labels: NDArray[np.int64], seed: int) -> list[NDArray[np.int64]]:
    """Return the positions of each label, labels ascending, each group shuffled."""
    stream = np.random.RandomState(seed)
    return [stream.permutation(np.flatnonzero(labels == label)).astype(np.int64) for label in np.unique(labels)]


def _first_of_each(groups: list[NDArray[np.int64]], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    chosen = [group[:count] for group, count in zip(groups, counts, strict=True)]
    return np.sort(np.concatenate([*chosen, np.empty(0, dtype=np.int64)]))


def _apportion(
    sizes: NDArray[np.int64], share: float, least: NDArray[np.int64], most: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the sample count of each group: largest remainder to a total of round(sum * share), within the bounds."""
    quotas = sizes * share
    counts: NDArray[np.int64] = np.clip(np.floor(quotas).astype(np.int64), least, most)
    total = round(int(sizes.sum()) * share)
    while counts.sum() < total and np.any(counts < most):
        shortfall = np.where(counts < most, quotas - counts, -np.inf)
        counts[int(np.argmax(shortfall))] += 1
    return counts
