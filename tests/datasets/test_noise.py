"""Label noise: transition matrices, the draws as distributions, and identity noise."""

from __future__ import annotations

import random
import zlib

import numpy as np
import pyarrow.parquet as pq
import pytest
from real_data import real_cifar100

from tune_lnl.datasets.base import Labels
from tune_lnl.datasets.noise import (
    closed_class_count,
    corrupt_labels,
    patterned_identity_noise,
    random_identity_noise,
    transition_matrix,
)


@pytest.fixture(scope="module")
def cifar100_labels() -> Labels:
    shards = sorted(real_cifar100().glob("train-*.parquet"))
    return np.concatenate([pq.read_table(shard, columns=["fine_label"]).column(0).to_numpy() for shard in shards])


@pytest.mark.parametrize(
    ("kind", "open_ratio", "closed_ratio", "changed", "checksum"),
    [
        ("symmetric", 0.0, 0.2, 10079, 0xDCD9B41A),
        ("symmetric", 0.0, 0.8, 40014, 0xDC58B3F3),
        ("asymmetric", 0.0, 0.4, 19856, 0x83C70490),
        ("symmetric", 0.2, 0.2, 17981, 0x774508D9),
        ("symmetric", 0.2, 0.8, 41974, 0x82418823),
        ("asymmetric", 0.2, 0.4, 26060, 0xCF556276),
    ],
)
def test_the_published_draw_on_real_labels(
    cifar100_labels: Labels, kind: str, open_ratio: float, closed_ratio: float, changed: int, checksum: int
) -> None:
    # Made with the released data/noisy_cifar.py on the row order of the parquet shards, seed 0.
    noisy = corrupt_labels(cifar100_labels, transition_matrix(kind, 100, closed_ratio, open_ratio), seed=0)
    assert int(np.count_nonzero(noisy != cifar100_labels)) == changed
    assert zlib.crc32(noisy.astype("<i8").tobytes()) == checksum


def test_symmetric_matrix_by_hand() -> None:
    # K = floor(5 * 0.8) = 4 closed classes, r = 0.3: diagonal 0.7, others 0.1, open row 1/4.
    expected = np.full((5, 5), 0.1) + 0.6 * np.eye(5)
    expected[4] = 0.25
    expected[:, 4] = 0.0
    np.testing.assert_allclose(transition_matrix("symmetric", 5, 0.3, 0.2), expected, atol=1e-15)


def test_asymmetric_matrix_by_hand() -> None:
    expected = [[0.6, 0.4, 0, 0], [0, 0.6, 0.4, 0], [0.4, 0, 0.6, 0], [1 / 3, 1 / 3, 1 / 3, 0]]
    np.testing.assert_allclose(transition_matrix("asymmetric", 4, 0.4, 0.25), expected, atol=1e-15)


def test_without_noise_closed_labels_stay_and_open_ones_are_spread() -> None:
    expected = [[1, 0, 0, 0], [0, 1, 0, 0], [0.5, 0.5, 0, 0], [0.5, 0.5, 0, 0]]
    np.testing.assert_array_equal(transition_matrix("none", 4, 0.4, 0.5), expected)


def test_eighty_percent_of_a_hundred_classes_are_eighty() -> None:
    assert closed_class_count(100, 0.2) == 80
    # 1 - 0.9 is 0.09999999999999998: a bare int() would lose a class.
    assert closed_class_count(10, 0.9) == 1
    assert closed_class_count(7, 0.2) == 5


@pytest.mark.parametrize("kind", ["symmetric", "asymmetric", "none"])
def test_matrix_estimated_from_draws(kind: str) -> None:
    matrix = transition_matrix(kind, 6, 0.35, 1 / 3)
    labels = np.repeat(np.arange(6), 5000)
    noisy = corrupt_labels(labels, matrix, seed=7)
    estimate = np.stack([np.bincount(noisy[labels == label], minlength=6) / 5000 for label in range(6)])
    # Five standard deviations of a binomial share.
    np.testing.assert_array_less(np.abs(estimate - matrix), 5 * np.sqrt(matrix * (1 - matrix) / 5000) + 1e-12)
    assert not np.array_equal(noisy, corrupt_labels(labels, matrix, seed=8))
    assert np.array_equal(noisy, corrupt_labels(labels, matrix, seed=7))


@pytest.mark.parametrize(
    ("kind", "classes", "closed_ratio", "open_ratio"),
    [
        ("symmetrical", 10, 0.2, 0.0),
        ("symmetric", 1, 0.2, 0.0),
        ("symmetric", 10, 1.1, 0.0),
        ("symmetric", 10, float("nan"), 0.0),
        ("asymmetric", 10, 0.2, 1.0),
        ("asymmetric", 10, 0.2, 0.9),
    ],
)
def test_matrix_arguments_are_checked(kind: str, classes: int, closed_ratio: float, open_ratio: float) -> None:
    with pytest.raises(ValueError, match=r"must be|needed"):
        transition_matrix(kind, classes, closed_ratio, open_ratio)


@pytest.mark.parametrize(
    ("labels", "matrix"),
    [
        ([0, 2], np.eye(2)),
        ([0, -1], np.eye(2)),
        ([0.5, 1.0], np.eye(2)),
        ([[0, 1]], np.eye(2)),
        ([0, 1], np.ones((2, 2))),
        ([0, 1], np.ones((2, 3)) / 3),
        ([0, 1], [[1.5, -0.5], [0, 1]]),
    ],
)
def test_draw_arguments_are_checked(labels: object, matrix: object) -> None:
    with pytest.raises(ValueError, match=r"labels|transition matrix"):
        corrupt_labels(np.asarray(labels), np.asarray(matrix), seed=0)


def test_random_identity_noise_follows_one_stream() -> None:
    labels = [7, 3, 7, 9, 3, 7, 9, 3, 7, 3]  # identity 3 at 1, 4, 7, 9; 7 at 0, 2, 5, 8; 9 at 3, 6
    stream = random.Random(5)
    expected = list(labels)
    for identity, places, count in ((3, [1, 4, 7, 9], 2), (7, [0, 2, 5, 8], 2), (9, [3, 6], 1)):
        for place in stream.sample(places, count):
            expected[place] = stream.sample([other for other in (3, 7, 9) if other != identity], 1)[0]
    noisy = random_identity_noise(labels, 0.5, seed=5)
    assert noisy.tolist() == expected
    assert int(np.count_nonzero(noisy != labels)) == 5


def test_half_a_sample_rounds_to_even() -> None:
    # 5 * 0.5 = 2.5 and 3 * 0.5 = 1.5 both round to 2.
    labels = np.repeat([0, 1], [5, 3])
    noisy = random_identity_noise(labels, 0.5)
    assert np.count_nonzero(noisy[:5] != 0) == 2
    assert np.count_nonzero(noisy[5:] != 1) == 2


def test_random_identity_noise_is_uniform_over_the_others() -> None:
    noisy = random_identity_noise(np.repeat(np.arange(5), 2000), 1.0)
    counts = np.bincount(noisy[:2000], minlength=5)
    assert counts[0] == 0
    np.testing.assert_allclose(counts[1:], 500, atol=5 * np.sqrt(2000 * 0.25 * 0.75))


def test_patterned_identity_noise_takes_the_second_labels() -> None:
    labels = [4, 8, 4, 8, 4, 8]
    second = [8, 4, 15, 4, 8, 15]
    stream = random.Random(1)
    drawn = [*stream.sample([0, 2, 4], 2), *stream.sample([1, 3, 5], 2)]
    expected = [second[place] if place in drawn else labels[place] for place in range(6)]
    assert patterned_identity_noise(labels, 2 / 3, second).tolist() == expected


def test_identity_noise_leaves_its_input_and_the_global_stream_alone() -> None:
    labels = np.repeat([0, 1], 10)
    state = random.getstate()
    random_identity_noise(labels, 0.5)
    assert labels.tolist() == [0] * 10 + [1] * 10
    assert random.getstate() == state


def test_identity_noise_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match="ratio must be in"):
        random_identity_noise([0, 1], 1.5)
    with pytest.raises(ValueError, match="at least two identities"):
        random_identity_noise([3, 3], 1.0)
    with pytest.raises(ValueError, match="one entry per label"):
        patterned_identity_noise([0, 1], 0.5, [1])
    assert random_identity_noise([3, 3], 0.0).tolist() == [3, 3]
