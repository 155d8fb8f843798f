"""Prepare a classification dataset for training: choose classes, corrupt labels, keep a subset.

The order is fixed: classes, then noise for every kept sample in dataset order, then the subset. So the labels of a
subset are those of the full run, and a search on a share of the data has the noise of the final run.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tune_lnl.config.datasets import DatasetOptions, NoiseFile, NoisyLabelOptions
from tune_lnl.datasets.base import ImageDataset, Labels, NoisyData, Source, labels_fingerprint
from tune_lnl.datasets.label_file import given_labels
from tune_lnl.datasets.noise import closed_class_count, corrupt_labels, transition_matrix
from tune_lnl.datasets.paths import cache_dir
from tune_lnl.datasets.registry import get_class_dataset
from tune_lnl.datasets.split import stratified_subset
from tune_lnl.errors import InputError


def load_noisy(options: DatasetOptions, data_dir: Path | None) -> NoisyData:
    """Load the dataset of `options` for training.

    Args:
        options: a dataset's own options, from `registry.parse_options`.
        data_dir: the data dir; None: the environment variable TUNE_LNL_DATA, then the cache.

    Raises:
        InputError: a dataset for something else; or as :meth:`tune_lnl.datasets.base.ClassDataset.load`.
        CorruptDataError: data that is there but damaged.
    """
    loaded: NoisyData = get_class_dataset(options.name).load(options, data_dir)
    return loaded


def noisy_images(dataset: ImageDataset, options: NoisyLabelOptions, data_dir: Path | None) -> NoisyData:
    """Return images of one size, ready to train on.

    `classes=N` keeps the first N source classes, of which floor(N * (1 - open_ratio)) are closed. Noise is drawn for
    all kept samples, then `subset` keeps its share, stratified by original class, at least one sample per class.

    Raises:
        InputError, CorruptDataError: as :meth:`tune_lnl.datasets.base.ClassDataset.load`.
    """
    total, closed = class_counts(dataset, options.classes)
    source = dataset.load_source(data_dir, cache_dir())

    kept = np.flatnonzero(source.train_labels < total)
    true = np.asarray(source.train_labels[kept], dtype=np.int64)
    given, matrix = _noisy_labels(options, dataset, source, kept, total, closed)
    whole = len(kept)
    if options.subset < 1.0:
        chosen = stratified_subset(true, options.subset, options.subset_seed)
        kept, true, given = kept[chosen], true[chosen], given[chosen]
    test_rows = np.flatnonzero(source.test_labels < closed)
    return NoisyData(
        train_images=source.train_images,
        rows=kept,
        given_labels=given,
        true_labels=true,
        open_set=true >= closed,
        test_images=source.test_images,
        test_rows=test_rows,
        test_labels=np.asarray(source.test_labels[test_rows], dtype=np.int64),
        num_classes=closed,
        class_names=source.class_names[:total],
        matrix=matrix,
        fingerprints={"source": source.fingerprint, "labels": labels_fingerprint(kept, given)},
        requested_noise=requested_noise(options),
        form=dataset.form(),
        whole=whole,
    )


def class_counts(dataset: ImageDataset, classes: int | None) -> tuple[int, int]:
    """Return (kept classes, closed ones among them) for `dataset.classes`, before any data is read.

    Raises:
        InputError: more classes than the dataset has, or so few that fewer than two are closed.
    """
    total = dataset.num_source_classes if classes is None else classes
    if total > dataset.num_source_classes:
        raise InputError(
            f"dataset.classes must be at most {dataset.num_source_classes} for {dataset.name}, got {total}\nuse fewer"
        )
    closed = closed_class_count(total, dataset.open_ratio)
    if closed < 2:
        raise InputError(
            f"at least two closed classes are needed; dataset.classes={total} leaves {closed} of {dataset.name} "
            f"(open share {dataset.open_ratio})\nkeep more classes"
        )
    return total, closed


def requested_noise(options: NoisyLabelOptions) -> float | None:
    """Return the requested closed-set noise ratio; 0 for noise "none", None for labels from a file."""
    if isinstance(options.noise, NoiseFile):
        return None
    return 0.0 if options.noise == "none" else options.closed_ratio


def _noisy_labels(
    options: NoisyLabelOptions, dataset: ImageDataset, source: Source, kept: Labels, total: int, closed: int
) -> tuple[Labels, NDArray[np.float64] | None]:
    if isinstance(options.noise, NoiseFile):
        given = given_labels(options.noise.file, options.noise.column, source.train_labels)[kept]
        if given.max(initial=0) >= closed:
            raise InputError(
                f"{options.noise.file}: labels of the kept samples must be in 0..{closed - 1} "
                f"({closed} closed classes), got {given.max()}\nuse labels made for this dataset and number of classes"
            )
        return given, None
    matrix = transition_matrix(options.noise, total, options.closed_ratio, dataset.open_ratio)
    return corrupt_labels(source.train_labels[kept], matrix, options.noise_seed), matrix
