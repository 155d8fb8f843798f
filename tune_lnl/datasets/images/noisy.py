"""Prepare a classification dataset for training: choose classes, corrupt labels, keep a subset.

The order is fixed: classes, then noise for every kept sample in dataset order, then the subset. So the labels of a
subset are those of the full run, and a search on a share of the data has the noise of the final run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tune_lnl.config.datasets import DatasetOptions, FolderOptions, NoiseFile, NoisyLabelOptions, PictureOptions
from tune_lnl.datasets.base import ImageDataset, ImageRows, Labels, Source, TrainingForm
from tune_lnl.datasets.label_file import given_labels, read_label_file
from tune_lnl.datasets.noise import closed_class_count, corrupt_labels, instance_noise, transition_matrix
from tune_lnl.datasets.paths import cache_dir
from tune_lnl.datasets.pictures.noisy import PictureDataset, Pictures
from tune_lnl.datasets.registry import get_dataset, get_image_dataset
from tune_lnl.datasets.split import stratified_subset
from tune_lnl.errors import InputError


@dataclass(frozen=True)
class NoisyData:
    """Training set with noisy labels, test set of the closed classes. n training and m test samples, K classes.

    Attributes:
        train_images: uint8 (N, H, W, C), the whole source: an array, a memory map, or files that are decoded on
            request; sample i is `train_images[rows[i]]`.
        rows: int64 (n,), sorted rows of the source: the training samples.
        given_labels: int64 (n,) in 0..K-1, the noisy labels.
        true_labels: int64 (n,) original classes, K and above for open-set samples; None if unknown.
        open_set: bool (n,), samples of open classes; None if unknown.
        test_images: uint8 (M, H, W, C), the whole source; sample i is `test_images[test_rows[i]]`.
        test_rows: int64 (m,), sorted; closed classes only, never a subset; empty without a test set.
        test_labels: int64 (m,) in 0..K-1, clean.
        num_classes: K, the closed classes, which a model predicts.
        class_names: (C,) names of all kept classes, the closed ones first.
        matrix: (C, C) transition matrix from which the labels were drawn; None if they were not drawn from one.
        fingerprints: sha256 (hex); "source": pixels and labels of the source; "labels": given labels and their rows.
        requested_noise: requested closed-set noise ratio, in [0, 1); None for labels from a file or the data's own.
        form: the network's input and augmentations.
        train_names: path of each of the N source images relative to `root`; None for images that are no files.
        root: the folder of these paths.
    """

    train_images: ImageRows
    rows: Labels
    given_labels: Labels
    true_labels: Labels | None
    open_set: NDArray[np.bool_] | None
    test_images: ImageRows
    test_rows: Labels
    test_labels: Labels
    num_classes: int
    class_names: tuple[str, ...]
    matrix: NDArray[np.float64] | None
    fingerprints: dict[str, str]
    requested_noise: float | None
    form: TrainingForm
    train_names: Sequence[str] | None = None
    root: Path | None = None

    @property
    def measured_noise(self) -> float | None:
        """Share of closed-class training samples with a wrong label; None if unknown or without such samples."""
        if self.true_labels is None or self.open_set is None:
            return None
        wrong = (self.given_labels != self.true_labels)[~self.open_set]
        return float(wrong.mean()) if wrong.size else None

    @property
    def measured_total_noise(self) -> float | None:
        """Share of all training samples with a wrong label, including open-set ones; None if unknown."""
        return None if self.true_labels is None else float(np.mean(self.given_labels != self.true_labels))

    @property
    def measured_open_share(self) -> float | None:
        """Share of open-set samples in the training set; None if unknown."""
        return None if self.open_set is None else float(np.mean(self.open_set))


def load_noisy(options: DatasetOptions, data_dir: Path | None) -> NoisyData:
    """Load the dataset of `options` for training.

    `classes=N` keeps the first N source classes, of which floor(N * (1 - open_ratio)) are closed. Noise is drawn for
    all kept samples, then `subset` keeps its share, stratified by original class, at least one sample per class.

    Args:
        options: a dataset's own options, from `registry.parse_options`.
        data_dir: the data dir; None: the environment variable TUNE_LNL_DATA, then the cache.

    Raises:
        InputError: data or noise file are absent or unusable, or the dataset has fewer classes than requested.
        CorruptDataError: the data is damaged.
        TypeError: options of a dataset without label noise.
    """
    if isinstance(options, PictureOptions):
        return noisy_pictures(options, load_pictures(options, data_dir))
    if not isinstance(options, NoisyLabelOptions):
        raise TypeError(f"options must be NoisyLabelOptions or PictureOptions, got {type(options).__name__}")
    dataset = get_image_dataset(options.name)
    total, closed = class_counts(dataset, options.classes)
    source = dataset.load_source(data_dir, cache_dir())

    kept = np.flatnonzero(source.train_labels < total)
    true = np.asarray(source.train_labels[kept], dtype=np.int64)
    given, matrix = _noisy_labels(options, dataset, source, kept, total, closed)
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
        fingerprints={"source": source.fingerprint, "labels": _labels_fingerprint(kept, given)},
        requested_noise=requested_noise(options),
        form=dataset.form(),
    )


def load_pictures(options: PictureOptions, data_dir: Path | None) -> Pictures:
    """Load a dataset of image files, read and packed, before any noise or subset.

    Raises:
        InputError, CorruptDataError: as :func:`load_noisy`.
        TypeError: options of another kind of dataset.
    """
    dataset = get_dataset(options.name)
    if not isinstance(dataset, PictureDataset):
        raise TypeError(f"{options.name} must be a PictureDataset, got {type(dataset).__name__}")
    return dataset.load(data_dir, cache_dir(), options)


def noisy_pictures(options: PictureOptions, pictures: Pictures) -> NoisyData:
    """Prepare image files for training, with their own labels, labels from a file, or synthetic noise.

    Only readable images are used. `classes=N` keeps samples whose listed label is below N; true labels from N on are
    then open-set.
    """
    found, done = pictures.listed, pictures.examined
    closed, total = _kept_classes(options, pictures)
    train, test = done.rows[: done.training], done.rows[done.training :]
    true = found.labels[train] if _drawn(options) else None
    if true is None and found.true_labels is not None:
        true = found.true_labels[train]
    kept = np.flatnonzero(found.labels[train] < closed)
    given, matrix = _given_to_pictures(options, pictures, train, kept, closed)
    true = None if true is None else true[kept]
    if options.subset < 1.0:
        chosen = stratified_subset(given if true is None else true, options.subset, options.subset_seed)
        kept, given, true = kept[chosen], given[chosen], None if true is None else true[chosen]
    test_labels = found.labels[test]
    test_rows = np.flatnonzero(test_labels < closed)
    return NoisyData(
        train_images=done.training_images(),
        rows=kept,
        given_labels=given,
        true_labels=true,
        open_set=None if true is None else true >= closed,
        test_images=done.test_images(),
        test_rows=test_rows,
        test_labels=test_labels[test_rows],
        num_classes=closed,
        class_names=found.class_names[:total],
        matrix=matrix,
        fingerprints={"source": done.fingerprint, "labels": _labels_fingerprint(kept, given)},
        requested_noise=options.closed_ratio if isinstance(options, FolderOptions) and _drawn(options) else None,
        form=pictures.form,
        train_names=found.names.chosen(train),
        root=found.root,
    )


def _drawn(options: PictureOptions) -> bool:
    """Return whether synthetic noise is drawn."""
    return isinstance(options.label_noise, str) and options.label_noise != "none"


def _kept_classes(options: PictureOptions, pictures: Pictures) -> tuple[int, int]:
    """Return the numbers of (closed classes, all classes) to keep."""
    found = pictures.listed
    if _drawn(options) and found.true_labels is not None:
        raise InputError(
            f"dataset.noise {options.label_noise} needs true labels to corrupt, but {found.form} has noisy and true "
            "ones\nset dataset.noise=none to study its own noise, or make a table whose label is the true one"
        )
    closed = found.num_classes if options.classes is None else options.classes
    if closed > found.num_classes:
        raise InputError(
            f"dataset.classes must be at most {found.num_classes} for {options.name}, got {options.classes}"
        )
    return closed, closed if found.true_labels is None else len(found.class_names)


def _given_to_pictures(
    options: PictureOptions, pictures: Pictures, train: Labels, kept: Labels, closed: int
) -> tuple[Labels, NDArray[np.float64] | None]:
    """Return the labels of the kept samples and, for noise from a matrix, that matrix."""
    labels = pictures.listed.labels[train]
    noise = options.label_noise
    if isinstance(noise, NoiseFile):
        labels = read_label_file(noise.file, noise.column)
        if len(labels) != len(train):
            raise InputError(
                f"{noise.file} must hold one label per readable training image: {len(train):,}, got "
                f"{len(labels):,}\n`python -m tune_lnl.data check {options.name}` names the unreadable ones"
            )
    given = labels[kept]
    if given.max(initial=0) >= closed:
        raise InputError(
            f"labels of the kept images must be in 0..{closed - 1} ({closed} classes), got {given.max()}\n"
            "use labels made for this dataset and number of classes"
        )
    if not _drawn(options):
        return given, None
    assert isinstance(options, FolderOptions), "only these have synthetic noise"
    if noise == "instance":
        thumbnails = pictures.examined.thumbnails[: len(train)].reshape(len(train), -1)[kept]
        return instance_noise(thumbnails, given, closed, options.closed_ratio, options.noise_seed), None
    matrix = transition_matrix(str(noise), closed, options.closed_ratio)
    return corrupt_labels(given, matrix, options.noise_seed), matrix


def class_counts(dataset: ImageDataset, classes: int | None) -> tuple[int, int]:
    """Return (kept classes, closed ones among them) for `dataset.classes`, before any data is read.

    Raises:
        InputError: more classes than the dataset has, or so few that fewer than two are closed.
    """
    total = dataset.num_source_classes if classes is None else classes
    if total > dataset.num_source_classes:
        raise InputError(
            f"dataset.classes must be at most {dataset.num_source_classes} for {dataset.name}, got {total}"
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


def _labels_fingerprint(rows: Labels, given: Labels) -> str:
    digest = hashlib.sha256()
    for numbers in (rows, given):
        digest.update(np.ascontiguousarray(numbers, dtype="<i8").data)
    return digest.hexdigest()
