"""The estimate of label noise on drawn images whose noise is known."""

from __future__ import annotations

import numpy as np
import pytest

from tune_lnl.datasets.estimate import anchor_estimate, estimate_noise, image_features

CLASSES = 6


def drawn(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images with a bright bar whose place and colour are of the class, in noise; their classes."""
    stream = np.random.RandomState(seed)
    labels = stream.randint(CLASSES, size=count)
    images = stream.randint(0, 90, size=(count, 32, 32, 3)).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[4 * label + 2 : 4 * label + 6, :, label % 3] += 120
    return images, labels


@pytest.mark.parametrize("ratio", [0.0, 0.2, 0.45])
def test_the_interval_holds_the_noise(ratio: float) -> None:
    images, labels = drawn(2000)
    stream = np.random.RandomState(1)
    flipped = stream.rand(len(labels)) < ratio
    given = np.where(flipped, (labels + 1 + stream.randint(CLASSES - 1, size=len(labels))) % CLASSES, labels)
    found = estimate_noise(images, np.arange(len(labels)), given)
    assert found is not None
    assert found.low <= flipped.mean() <= found.high
    assert found.high - found.low < 0.25
    assert found.samples == 2000
    assert found.anchors == 100
    assert not found.upper_bound
    assert estimate_noise(images, np.arange(len(labels)), given) == found


def test_the_rate_is_what_disagrees_at_the_sure_end() -> None:
    surest = np.linspace(0.99, 0.6, 400)
    probabilities = np.stack([surest, 1 - surest], axis=1)
    given = np.zeros(400, dtype=np.int64)
    given[:20] = [1] * 5 + [0] * 15
    given[20:40] = [1] * 6 + [0] * 14
    found = anchor_estimate(probabilities, given)
    assert (found.rate, found.anchors, found.samples) == (0.25, 20, 400)
    # Wilson, by hand: centre (0.25 + 1.96^2 / 40) / (1 + 1.96^2 / 20), half width 0.1855...
    assert found.low == pytest.approx(0.11186, abs=1e-4)
    assert found.high == pytest.approx(0.46870, abs=1e-4)
    assert found.agreement == pytest.approx(389 / 400)
    assert not found.upper_bound


def test_where_agreement_still_rises_the_estimate_is_a_bound() -> None:
    surest = np.linspace(0.99, 0.6, 2000)
    probabilities = np.stack([surest, 1 - surest], axis=1)
    given = np.zeros(2000, dtype=np.int64)
    given[:100] = np.arange(100) % 10 == 0
    given[100:200] = np.arange(100) % 2 == 0
    found = anchor_estimate(probabilities, given)
    assert (found.rate, found.low, found.upper_bound) == (0.1, 0.0, True)
    assert found.high > 0.1


def test_too_few_images_give_no_estimate() -> None:
    images, labels = drawn(40)
    assert estimate_noise(images, np.arange(40), labels) is None
    assert estimate_noise(images, np.arange(40), np.zeros(40, dtype=np.int64)) is None
    assert estimate_noise(images, np.arange(40), np.arange(40)) is None


def test_features_do_not_depend_on_the_size() -> None:
    images, _ = drawn(3)
    large = images.repeat(2, axis=1).repeat(2, axis=2)
    small_features, large_features = (image_features(each, np.arange(3)) for each in (images, large))
    assert small_features.shape == (3, 176)
    np.testing.assert_allclose(small_features, large_features)
