"""The contract of a dataset: what it is called, what its images look like, and how its clean source is loaded."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol

import numpy as np
from numpy.typing import NDArray
from typing_extensions import TypeVar

from tune_lnl.config.datasets import DatasetOptions, NoisyLabelOptions
from tune_lnl.datasets.description import Description, Packed
from tune_lnl.datasets.paths import cache_dir as default_cache_dir

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]


class ImageRows(Protocol):
    """Images that are read by row: an array, a memory map, or files that are decoded when they are asked for."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, H, W, C)."""

    def __len__(self) -> int:
        """Return N."""

    def __getitem__(self, rows: Any, /) -> Any:
        """Return uint8 (n, H, W, C) for n rows, (H, W, C) for a single one."""


@dataclass(frozen=True)
class TrainingForm:
    """How a network sees a dataset.

    Attributes:
        image_shape: (height, width, channels) of its input.
        weak_augmentation, strong_augmentation: names of :mod:`tune_lnl.datasets.augment.views`.
        default_model: a name of :mod:`tune_lnl.models.registry`.
    """

    image_shape: tuple[int, int, int]
    weak_augmentation: str
    strong_augmentation: str
    default_model: str


@dataclass(frozen=True)
class Source:
    """A dataset as published: both splits, before any noise, subset or class selection.

    Attributes:
        train_images: uint8 (N, H, W, C); a read-only memory map where the dataset is packed.
        train_labels: int64 (N,), original classes in 0..len(class_names) - 1.
        test_images: uint8 (M, H, W, C).
        test_labels: int64 (M,).
        class_names: name of class k at position k.
        fingerprint: sha256 (hex) over pixels and labels of both splits, in order.
    """

    train_images: Images
    train_labels: Labels
    test_images: Images
    test_labels: Labels
    class_names: tuple[str, ...]
    fingerprint: str


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
        whole: number of training samples before `dataset.subset` was applied; None if unknown.
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
    whole: int | None = None

    def share_of_whole(self, subset: float) -> str | None:
        """Return ``216 of 1,438 images (dataset.subset 0.15)``; None where nothing is left out."""
        if self.whole is None or self.whole == len(self.rows):
            return None
        return f"{len(self.rows):,} of {self.whole:,} images (dataset.subset {subset:g})"

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


OptionsT = TypeVar("OptionsT", bound=DatasetOptions, default=DatasetOptions)


class Dataset(ABC, Generic[OptionsT]):
    """A registered dataset, whatever it is for. One file per dataset (family), one line in the registry."""

    name: ClassVar[str]
    folder: ClassVar[str | None]
    """Its folder inside the data dir; None for a built-in one."""
    description: ClassVar[str]
    Options: ClassVar[type[DatasetOptions]]
    image_shape: ClassVar[tuple[int, int, int]]
    """(height, width, channels)."""
    mean: ClassVar[tuple[float, ...]]
    """Per channel, of pixels scaled to [0, 1]."""
    std: ClassVar[tuple[float, ...]]
    default_model: ClassVar[str]

    @property
    def task(self) -> str:
        """The task of the methods that can train on it: "classification" or "re-identification"."""
        return self.Options.task

    def is_present(self, data_dir: Path | None, cache_dir: Path) -> bool:
        """Return whether the data is found without a download. True for a built-in dataset."""
        return True

    def availability(self, data_dir: Path | None, cache_dir: Path) -> str:
        """Return the state of its data, as `data list` prints it."""
        if self.folder is None:
            return "built in"
        return "here" if self.is_present(data_dir, cache_dir) else "not here"

    @abstractmethod
    def describe(self, options: OptionsT, data_dir: Path | None) -> Description:
        """Load the data and compare them with the options.

        Args:
            options: of the class `Options`.
            data_dir: explicit data dir, or None.

        Raises:
            InputError: the data is absent, or an option does not fit it.
            CorruptDataError: the data is damaged.
        """

    @abstractmethod
    def pack(self, options: OptionsT, data_dir: Path | None) -> Packed | None:
        """Pack the pixels into the cache, or open the packed ones. Return None for a dataset without files.

        Raises:
            InputError, CorruptDataError: as :meth:`describe`.
        """


class ClassDataset(Dataset[OptionsT]):
    """A dataset of images with one class each, whatever form the images have."""

    @abstractmethod
    def load(self, options: OptionsT, data_dir: Path | None) -> NoisyData:
        """Return the data to train on: classes chosen, labels corrupted, a subset kept.

        Raises:
            InputError: data or noise file absent or unusable, or more classes asked for than there are.
            CorruptDataError: the data is damaged.
        """


class ImageDataset(ClassDataset[NoisyLabelOptions]):
    """A dataset of images of one size, one class each."""

    num_source_classes: ClassVar[int]
    open_ratio: ClassVar[float]
    """Share of the source classes, the last ones: open-set, in training under random closed labels."""
    weak_augmentation: ClassVar[str]
    strong_augmentation: ClassVar[str]

    def form(self) -> TrainingForm:
        """How a network sees it."""
        return TrainingForm(self.image_shape, self.weak_augmentation, self.strong_augmentation, self.default_model)

    @abstractmethod
    def load_source(self, data_dir: Path | None, cache_dir: Path) -> Source:
        """Load the clean source: found in `data_dir` (only read), packed into `cache_dir` on first use.

        Raises:
            InputError: the data is not there; the message says what was looked for and where to get it.
            CorruptDataError: the data is there but damaged.
        """

    # The functions below need the classes of this module, so they are imported where they are called.

    def load(self, options: NoisyLabelOptions, data_dir: Path | None) -> NoisyData:
        from tune_lnl.datasets.images.noisy import noisy_images

        return noisy_images(self, options, data_dir)

    def describe(self, options: NoisyLabelOptions, data_dir: Path | None) -> Description:
        from tune_lnl.datasets.images.describe import describe_images

        return describe_images(self, options, data_dir)

    def pack(self, options: NoisyLabelOptions, data_dir: Path | None) -> Packed | None:
        del options
        return Packed.around(self.load_source(data_dir, default_cache_dir()).train_images)


def fingerprint_of(train_images: Images, train_labels: Labels, test_images: Images, test_labels: Labels) -> str:
    """Return the sha256 (hex) over shape, pixels and labels of both splits; the same on every machine."""
    digest = hashlib.sha256()
    for images, labels in ((train_images, train_labels), (test_images, test_labels)):
        digest.update(repr(images.shape).encode())
        digest.update(np.ascontiguousarray(images).data)
        digest.update(np.ascontiguousarray(labels, dtype="<i8").data)
    return digest.hexdigest()


def labels_fingerprint(rows: Labels, given: Labels) -> str:
    """Return sha256 (hex) over the given labels and the rows of the source that they belong to."""
    digest = hashlib.sha256()
    for numbers in (rows, given):
        digest.update(np.ascontiguousarray(numbers, dtype="<i8").data)
    return digest.hexdigest()
