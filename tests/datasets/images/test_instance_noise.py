"""Instance-dependent noise as a distribution."""

from __future__ import annotations

import numpy as np
import pytest

from tune_lnl.datasets.noise import instance_noise

CLASSES = 5


def drawn(
    count: int = 20_000, ratio: float = 0.4, seed: int = 0, features: int = 12
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    stream = np.random.RandomState(99)
    labels = stream.randint(CLASSES, size=count)
    values = stream.normal(size=(count, features)).astype(np.float32)
    return values, labels, instance_noise(values, labels, CLASSES, ratio, seed)


@pytest.mark.parametrize("ratio", [0.05, 0.2, 0.4])
def test_the_ratio_of_changed_labels(ratio: float) -> None:
    _, labels, noisy = drawn(ratio=ratio)
    # The truncated normal has its mean above a ratio near 0: for 0.05 at 0.05 + 0.1 * phi(0.5) / Phi(0.5) = 0.1009.
    expected = {0.05: 0.1009, 0.2: 0.2055, 0.4: 0.4}[ratio]
    changed = (labels != noisy).mean()
    assert abs(changed - expected) < 5 * np.sqrt(expected * (1 - expected) / len(labels))


def test_labels_stay_in_range_and_every_class_is_reached() -> None:
    _, labels, noisy = drawn()
    assert noisy.dtype == np.int64
    matrix = np.zeros((CLASSES, CLASSES))
    np.add.at(matrix, (labels, noisy), 1)
    assert (matrix > 0).all()


def test_the_target_depends_on_the_features() -> None:
    values, labels, noisy = drawn()
    flipped = (labels == 0) & (noisy != 0)
    # Of a class's flipped samples, those that go to one class are elsewhere than those that go to another.
    means = np.stack([values[flipped & (noisy == target)].mean(axis=0) for target in range(1, CLASSES)])
    spread = np.linalg.norm(means - means.mean(axis=0), axis=1)
    assert (spread > 0.2).all()


def test_equal_features_are_flipped_alike() -> None:
    labels = np.zeros(20_000, dtype=np.int64)
    values = np.repeat(np.random.RandomState(0).normal(size=(2, 12)), 10_000, axis=0)
    noisy = instance_noise(values, labels, CLASSES, 0.4, 0)
    shares = [
        np.bincount(noisy[part], minlength=CLASSES)[1:] / (noisy[part] != 0).sum()
        for part in np.split(np.arange(20_000), 2)
    ]
    assert abs(shares[0] - shares[1]).max() > 0.05
    # The first half's target probabilities by the formula: softmax of x W / sqrt(S), the sample's own class left out.
    weights = np.random.RandomState([0, 0]).standard_normal((12, CLASSES)) / np.sqrt(12)
    centre, spread = values.mean(axis=0), values.std(axis=0)
    for half, row in enumerate((values[0], values[-1])):
        scores = ((row - centre) / spread) @ weights
        expected = np.exp(scores[1:]) / np.exp(scores[1:]).sum()
        assert shares[half] == pytest.approx(expected, abs=0.04)


def test_the_seed_decides() -> None:
    _, _, first = drawn(2_000)
    _, _, again = drawn(2_000)
    _, _, other = drawn(2_000, seed=1)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_no_noise_at_ratio_0() -> None:
    _, labels, noisy = drawn(500, ratio=0.0)
    assert np.array_equal(labels, noisy)


def test_features_of_one_value_are_no_obstacle() -> None:
    labels = np.arange(1000) % CLASSES
    noisy = instance_noise(np.full((1000, 3), 7, dtype=np.uint8), labels, CLASSES, 0.5, 0)
    assert 0.3 < (noisy != labels).mean() < 0.7


@pytest.mark.parametrize(
    ("features", "labels", "classes", "ratio"),
    [
        (np.zeros((3, 2)), [0, 1], 2, 0.2),
        (np.zeros(2), [0, 1], 2, 0.2),
        (np.zeros((2, 2)), [0, 2], 2, 0.2),
        (np.zeros((2, 2)), [0, 0], 1, 0.2),
        (np.zeros((2, 2)), [0, 1], 2, 1.5),
        (np.zeros((2, 2)), [0.0, 1.0], 2, 0.2),
    ],
)
def test_misuse(features: np.ndarray, labels: list[float], classes: int, ratio: float) -> None:
    with pytest.raises(ValueError, match=r"features|labels|ratio"):
        instance_noise(features, labels, classes, ratio, 0)
