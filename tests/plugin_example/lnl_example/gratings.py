"""Gratings in six directions, drawn: clean labels, on which tune_lnl puts the noise that a space asks for."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np

from tune_lnl.config.datasets import DatasetOptions, NoisyLabelOptions
from tune_lnl.datasets.base import ImageDataset, Images, Labels, Source, fingerprint_of

SIDE = 8
NAMES = ("0°", "30°", "60°", "90°", "120°", "150°")


class Gratings(ImageDataset):
    """600 images to train on and 300 to test, grey, 8x8."""

    name = "gratings"
    folder = None  # built in: it needs no data dir
    description = "drawn gratings in six directions"
    Options: ClassVar[type[DatasetOptions]] = NoisyLabelOptions
    num_source_classes = len(NAMES)
    open_ratio = 0.0
    image_shape = (SIDE, SIDE, 1)
    mean = (0.5,)
    std = (0.3,)
    weak_augmentation = "digits_weak"
    strong_augmentation = "digits_strong"
    default_model = "cnn_digits"

    def load_source(self, data_dir: Path | None, cache_dir: Path) -> Source:
        parts = *_drawn(600, seed=0), *_drawn(300, seed=1)
        return Source(*parts, class_names=NAMES, fingerprint=fingerprint_of(*parts))


def _drawn(count: int, seed: int) -> tuple[Images, Labels]:
    """uint8 (count, 8, 8, 1) and int64 (count,); every class as often as the others."""
    stream = np.random.RandomState(seed)
    labels = np.arange(count, dtype=np.int64) % len(NAMES)
    angles = np.deg2rad(30.0 * labels)[:, None, None]
    y, x = np.mgrid[:SIDE, :SIDE]
    phases = stream.uniform(0, 2 * np.pi, (count, 1, 1))
    waves = np.sin(2 * np.pi / 4 * (x * np.cos(angles) + y * np.sin(angles)) + phases)
    pixels = 127 + 90 * waves + stream.normal(0, 20, (count, SIDE, SIDE))
    return np.clip(pixels, 0, 255).astype(np.uint8)[..., None], labels
