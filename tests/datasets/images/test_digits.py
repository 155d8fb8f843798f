"""The built-in digits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from tune_lnl.config.datasets import DigitsOptions
from tune_lnl.datasets.base import Source
from tune_lnl.datasets.images.digits import Digits8NO
from tune_lnl.datasets.images.noisy import load_noisy


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    cache = tmp_path_factory.mktemp("digits") / "cache"
    loaded = Digits8NO().load_source(None, cache)
    assert not cache.exists(), "built in: nothing is written"
    return loaded


def test_pixels_are_scaled_to_bytes(source: Source) -> None:
    published = load_digits()
    assert source.train_images.max() == 255
    back = {(image.astype(float) * 16 / 255).round().tobytes() for image in source.train_images[..., 0]}
    assert back <= {image.tobytes() for image in published.images}


def test_split_is_stratified_seventy_thirty(source: Source) -> None:
    assert (len(source.train_labels), len(source.test_labels)) == (1258, 539)
    total = np.bincount(load_digits().target)
    test = np.bincount(source.test_labels)
    assert np.array_equal(np.bincount(source.train_labels) + test, total)
    assert np.all(np.abs(test - 0.3 * total) < 1)


def test_normalisation_is_that_of_the_training_pixels(source: Source) -> None:
    pixels = source.train_images / 255
    assert Digits8NO.mean[0] == pytest.approx(pixels.mean(), abs=5e-5)
    assert Digits8NO.std[0] == pytest.approx(pixels.std(), abs=5e-5)


def test_default_is_forty_percent_asymmetric_noise_on_eight_classes() -> None:
    data = load_noisy(DigitsOptions(name="digits8no"), data_dir=None)
    assert data.true_labels is not None
    assert data.open_set is not None
    assert data.num_classes == 8
    wrong = (data.given_labels != data.true_labels) & ~data.open_set
    assert np.array_equal(data.given_labels[wrong], (data.true_labels[wrong] + 1) % 8)
    assert data.measured_noise == pytest.approx(0.4, abs=0.05)
    assert set(data.test_labels) == set(range(8))


def test_the_data_dir_is_not_needed(tmp_path: Path) -> None:
    data = load_noisy(DigitsOptions(name="digits8no"), data_dir=tmp_path / "absent")
    assert len(data.rows) == 1258
