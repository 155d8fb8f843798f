"""digits8no: scikit-learn's handwritten digits as a small noisy dataset that needs no download.

Ten classes, eight closed (0-7) and two open (8, 9), as CIFAR-80N has eighty and twenty. 1,797 grey images of 8x8 pixels
(UCI Optical Recognition of Handwritten Digits, test part).
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np

from tune_lnl.config.datasets import DatasetOptions, DigitsOptions
from tune_lnl.datasets.base import ImageDataset, Source, fingerprint_of
from tune_lnl.datasets.split import split_validation

TEST_FRACTION = 0.3
SPLIT_SEED = 0
BRIGHTEST = 16  # scikit-learn's pixels are counts of set points in a 4x4 block, 0..16


class Digits8NO(ImageDataset):
    """The built-in digits with closed-set and open-set noise."""

    name = "digits8no"
    folder = None
    description = "scikit-learn's digits with label noise among 8 classes and 2 open-set classes; built in"
    Options: ClassVar[type[DatasetOptions]] = DigitsOptions
    num_source_classes = 10
    open_ratio = 0.2
    image_shape = (8, 8, 1)
    # Of the training split's pixels, scaled to [0, 1].
    mean = (0.3062,)
    std = (0.3764,)
    weak_augmentation = "digits_weak"
    strong_augmentation = "digits_strong"
    default_model = "cnn_digits"

    def load_source(self, data_dir: Path | None, cache_dir: Path) -> Source:
        """Return the digits, split 70 / 30 by a fixed seed, stratified. The directories are not used."""
        from sklearn.datasets import load_digits  # slow to import

        digits = load_digits()
        images = np.rint(digits.images * (255 / BRIGHTEST)).astype(np.uint8)[..., None]
        labels = digits.target.astype(np.int64)
        train, test = split_validation(labels, TEST_FRACTION, SPLIT_SEED)
        parts = images[train], labels[train], images[test], labels[test]
        return Source(*parts, class_names=tuple(str(digit) for digit in range(10)), fingerprint=fingerprint_of(*parts))
