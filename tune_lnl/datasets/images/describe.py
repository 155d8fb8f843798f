"""The description of a dataset of images of one size, for `python -m tune_lnl.data check`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tune_lnl.config.datasets import NoisyLabelOptions
from tune_lnl.datasets.base import ImageDataset, NoisyData, Source, fingerprint_of
from tune_lnl.datasets.description import Description, changed, class_names_row, share, spread
from tune_lnl.datasets.paths import cache_dir


def describe_images(dataset: ImageDataset, options: NoisyLabelOptions, data_dir: Path | None) -> Description:
    """Return counts, classes, fingerprints, and measured against requested noise."""
    source = dataset.load_source(data_dir, cache_dir())
    data = dataset.load(options, data_dir)
    return Description(_rows(dataset, options, source, data), tuple(_faults(dataset, source)))


def _rows(
    dataset: ImageDataset, options: NoisyLabelOptions, source: Source, data: NoisyData
) -> tuple[tuple[str, str], ...]:
    height, width, channels = data.train_images.shape[1:]
    total = len(data.class_names)
    requested, opened = data.requested_noise, data.measured_open_share
    expected = None
    if requested is not None and opened is not None:
        expected = opened + (1.0 - opened) * requested  # open-set labels are all wrong
    return (
        ("dataset", f"{dataset.name}: {dataset.description}"),
        ("source", f"{len(source.train_labels):,} training and {len(source.test_labels):,} test images"),
        ("image", f"{height}x{width}, {channels} channel{'s' if channels > 1 else ''}"),
        ("classes", f"{data.num_classes} closed, {total - data.num_classes} open"),
        class_names_row(data.class_names),
        ("training", f"{len(data.rows):,} samples; {spread(data.given_labels, data.num_classes)} per given label"),
        ("test", f"{len(data.test_rows):,} samples; {spread(data.test_labels, data.num_classes)} per class"),
        ("closed-set noise", f"requested {share(data.requested_noise)}, measured {share(data.measured_noise)}"),
        ("total noise", f"expected {share(expected)}, measured {share(data.measured_total_noise)}"),
        ("open-set share", f"requested {share(dataset.open_ratio)}, measured {share(data.measured_open_share)}"),
        ("noise", f"{options.noise}, seed {options.noise_seed}" if data.matrix is not None else f"{options.noise}"),
        ("source sha256", data.fingerprints["source"]),
        ("labels sha256", data.fingerprints["labels"]),
    )


def _faults(dataset: ImageDataset, source: Source) -> list[str]:
    faults = []
    if source.train_images.shape[1:] != dataset.image_shape or source.test_images.shape[1:] != dataset.image_shape:
        faults.append(f"images must be {dataset.image_shape}, got {source.train_images.shape[1:]}")
    for split, images, labels in (
        ("training", source.train_images, source.train_labels),
        ("test", source.test_images, source.test_labels),
    ):
        if len(images) != len(labels):
            faults.append(f"the {split} split has {len(images):,} images and {len(labels):,} labels")
        empty = np.flatnonzero(np.bincount(labels, minlength=dataset.num_source_classes) == 0)
        if len(empty):
            faults.append(f"the {split} split has no sample of {len(empty)} classes, the first is class {empty[0]}")
    found = fingerprint_of(source.train_images, source.train_labels, source.test_images, source.test_labels)
    if found != source.fingerprint:
        faults.append(changed(found, source.fingerprint))
    return faults
