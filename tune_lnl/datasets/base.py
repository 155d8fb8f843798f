"""The contract of a dataset: what it is called, what its images look like, and how its clean source is loaded."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from tune_lnl.config.datasets import DatasetOptions

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]


class ImageRows(Protocol):
    """Images that are read by row: an array, a memory map, or files that are decoded when they are asked for."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, H, W, C)."""

    def __len__(self) -> int:
        """N."""

    def __getitem__(self, rows: Any, /) -> Any:
        """uint8 (n, H, W, C) for n rows, (H, W, C) for a single one."""


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


class Dataset(ABC):
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
        """What a method must be for to train on it: "classification" or "re-identification"."""
        return self.Options.task

    def is_present(self, data_dir: Path | None, cache_dir: Path) -> bool:
        """Whether its data is found without a download. True for a built-in dataset."""
        return True


class ImageDataset(Dataset):
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
        """The clean source; found in `data_dir` (only read), packed into `cache_dir` on first use.

        Raises:
            InputError: the data is not there; the message says what was looked for and where to get it.
            CorruptDataError: the data is there but damaged.
        """


def fingerprint_of(train_images: Images, train_labels: Labels, test_images: Images, test_labels: Labels) -> str:
    """sha256 (hex) over shape, pixels and labels of both splits; the same on every machine."""
    digest = hashlib.sha256()
    for images, labels in ((train_images, train_labels), (test_images, test_labels)):
        digest.update(repr(images.shape).encode())
        digest.update(np.ascontiguousarray(images).data)
        digest.update(np.ascontiguousarray(labels, dtype="<i8").data)
    return digest.hexdigest()
