"""The user's own images: a folder with a folder per class, or a table of paths and labels.

Class folders: `ROOT/<class>/...` or `ROOT/train/<class>/...`; images may lie in deeper folders.
`ROOT/test/<class>/...`, if it exists, is the test set. Splits are found in any case and by their common names
(TRAIN_NAMES, TEST_NAMES).

Table (csv, tsv or parquet): columns `path` (relative to the table's folder, or absolute and inside it) and `label`;
optionally `true_label`, which makes the noise known, and `split`. A class that only occurs as a true label is open-set.

Both forms follow the same rules: classes are text in Unicode's composed form, numbers are ordered by value, a class
has at least one training image that can be read, and every file or name that was skipped or changed is counted and
named.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from tune_lnl.config.datasets import DatasetOptions, FolderOptions
from tune_lnl.datasets.pictures.class_folders import read_class_folders
from tune_lnl.datasets.pictures.decoding import WorkingSize
from tune_lnl.datasets.pictures.listing import UNKNOWN, PictureList, require_training_images
from tune_lnl.datasets.pictures.noisy import PictureDataset, Pictures
from tune_lnl.datasets.pictures.rows import Survey
from tune_lnl.datasets.pictures.table import TABLES, TableReader
from tune_lnl.errors import InputError, shown

LARGEST_SQUARE = 64
"""Up to this side, images are kept square and padded before the crop, as in CIFAR; larger ones are kept larger."""
RESIZE_RATIO = 256 / 224

RESOLUTIONS = (32, 64, 128, 224)
MANY_IMAGES = 20_000
STEPS = 60_000
"""Intended number of gradient steps at batch 128, within MIN_EPOCHS to MAX_EPOCHS epochs."""
MIN_EPOCHS, MAX_EPOCHS = 10, 100


@dataclass(frozen=True)
class FolderDefaults:
    """Defaults for a folder: input side in pixels, network, and length of a full trial."""

    resolution: int
    model: str
    epochs: int


def sensible_defaults(images: int, short_side: int) -> FolderDefaults:
    """Choose resolution, model and epochs by the number of training images and their median shorter side in pixels.

    The resolution is the largest of 32, 64, 128 and 224 that needs no upscaling (32 for smaller images). At 32 the
    model is the seven-layer CNN, which needs no ImageNet weights; above it ResNet-18, and at 224 ResNet-50 from 20,000
    images on. The length gives about the same number of gradient steps for any number of images, within 10 to 100
    epochs in steps of ten.
    """
    resolution = max((side for side in RESOLUTIONS if side <= short_side), default=RESOLUTIONS[0])
    epochs = round(STEPS * 128 / max(images, 1) / 10) * 10
    return FolderDefaults(resolution, default_model(resolution, images), min(MAX_EPOCHS, max(MIN_EPOCHS, epochs)))


def default_model(resolution: int, images: int) -> str:
    """Return the default network for an input side and a number of training images; see :func:`sensible_defaults`."""
    if resolution == RESOLUTIONS[0]:
        return "cnn7"
    return "resnet50" if resolution > RESOLUTIONS[-2] and images >= MANY_IMAGES else "resnet18"


class ImageFolder(PictureDataset[FolderOptions]):
    """Images of the user, in any folder."""

    name = "folder"
    folder = None
    description = "your own images: dataset.root is a folder of class folders, or a csv, tsv or parquet file"
    Options: ClassVar[type[DatasetOptions]] = FolderOptions
    image_shape = (224, 224, 3)

    def list_files(self, data_dir: Path | None, cache_dir: Path, options: FolderOptions) -> PictureList:
        del data_dir, cache_dir
        root = _existing(options.root)
        if root.is_file():
            found = TableReader(root, options.on_error).read()
            return require_training_images(found, "rows with a path, relative to the table's folder, and a label")
        looked_for = "<class>/<image> or train/<class>/<image>, with jpg, png and the like"
        return require_training_images(read_class_folders(root, options), looked_for)

    def read(self, data_dir: Path | None, cache_dir: Path, options: FolderOptions) -> Pictures:
        """Read the images, and drop classes without a training image that can be decoded."""
        found = super().read(data_dir, cache_dir, options)
        readable = found.examined.rows[: found.examined.training]
        return replace(found, listed=_without_empty_classes(found.listed, readable, found.examined.unreadable))

    def working_size(self, options: FolderOptions, seen: Survey) -> WorkingSize:
        crop = options.resolution
        if crop is None:
            crop = sensible_defaults(seen.training, seen.short_side).resolution
        square = crop <= LARGEST_SQUARE
        return WorkingSize(crop if square else round(crop * RESIZE_RATIO), crop, square)

    def availability(self, data_dir: Path | None, cache_dir: Path) -> str:
        return "yours"

    def suggestions(self, pictures: Pictures) -> list[tuple[str, str]]:
        fit = sensible_defaults(pictures.examined.training, pictures.surveyed.short_side)
        return [("suits it", f"resolution {fit.resolution}, model {fit.model}, --epochs {fit.epochs}")]

    def model_for(self, size: WorkingSize, seen: Survey) -> str:
        """Return the default network for the resolution in use, which a user may have set."""
        return default_model(size.crop, seen.training)


def _existing(root: str | None) -> Path:
    if root is None:
        raise InputError(
            "dataset.root must be set: the folder with your class folders, or a csv, tsv or parquet file\n"
            "for example --set dataset.root=my_images"
        )
    path = Path(root)
    if path.is_file() and path.suffix.lower() not in TABLES:
        raise InputError(
            f"dataset.root must be a folder or end in {', '.join(TABLES)}, got {shown(root)}\n"
            "give the folder of the images, or write a table with the columns path and label"
        )
    if not path.is_dir() and not path.is_file():
        raise InputError(f"dataset.root: no such folder or file: {shown(root)}\ncheck the path")
    return path


def _without_empty_classes(
    listed: PictureList, readable: NDArray[np.int64], unreadable: Mapping[str, str]
) -> PictureList:
    """Return the list without closed classes of which no training image is readable; labels are numbered anew.

    Args:
        listed: the images.
        readable: int64 (n,): rows of the training images that can be decoded.
        unreadable: the reasons of those that cannot, by name.

    Raises:
        InputError: fewer than two classes are left.
    """
    closed = listed.num_classes
    counts = np.bincount(listed.labels[readable], minlength=closed)
    if counts.all():
        return listed
    kept, dropped = np.flatnonzero(counts), np.flatnonzero(counts == 0)
    if len(kept) < 2:
        first = [*unreadable.items()][:1]
        raise InputError(
            f"{shown(str(listed.root))} has readable training images of one class only "
            f"({shown(listed.class_names[int(kept[0])])}); a classifier needs at least two\n"
            + "".join(f"the first file that cannot be read is {shown(name)}: {shown(why)}" for name, why in first)
        )
    true = listed.true_labels
    still_true = dropped[np.isin(dropped, [] if true is None else true[readable])]
    order = np.concatenate([kept, still_true, np.arange(closed, len(listed.class_names))])
    # Images of a dropped class get a number above all classes, so that they are in no set.
    number = np.full(len(listed.class_names), len(order), dtype=np.int64)
    number[order] = np.arange(len(order))
    files = np.bincount(listed.labels, minlength=closed)
    named = ", ".join(f"{shown(listed.class_names[label])} ({files[label]:,} files)" for label in dropped[:5].tolist())
    more = ", ..." if len(dropped) > 5 else ""
    note = f"{len(dropped)} classes without a readable training image are left out: {named}{more}"
    return replace(
        listed,
        class_names=tuple(listed.class_names[label] for label in order.tolist()),
        num_classes=len(kept),
        labels=number[listed.labels],
        true_labels=None if true is None else np.where(true == UNKNOWN, UNKNOWN, number[true]),
        notes=(*listed.notes, note),
    )
