"""The user's own images: a folder with a folder per class, or a table of paths and labels.

Class folders: `ROOT/<class>/...` or, if `ROOT/train/` exists and has folders, `ROOT/train/<class>/...`; images may lie
in deeper folders. `ROOT/test/<class>/...`, if it exists, is the test set (another name: `test_folder`).

Table (csv, tsv or parquet): columns `path` (relative to the table's folder, or absolute and inside it) and `label`;
optionally `true_label`, which makes the noise known, and `split` (`train` or `test`). A class that only occurs as a
true label is open-set.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from tune_lnl.config.datasets import DatasetOptions, FolderOptions
from tune_lnl.datasets.pictures.decoding import WorkingSize
from tune_lnl.datasets.pictures.listing import (
    UNKNOWN,
    ListBuilder,
    PictureList,
    add_class_folders,
    in_order,
    is_image_name,
    is_leftover,
    require_training_images,
)
from tune_lnl.datasets.pictures.noisy import PictureDataset, Pictures
from tune_lnl.datasets.pictures.rows import Survey
from tune_lnl.errors import InputError, shown

TRAIN_FOLDER = "train"
TABLES = (".csv", ".tsv", ".parquet")
NEEDED = ("path", "label")
OPTIONAL = ("true_label", "split")
ROWS_PER_BATCH = 65536
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
            return require_training_images(_TableReader(root, options.on_error).read(), "rows with a path and a label")
        return require_training_images(
            _class_folders(root, options), "<class>/<image> or train/<class>/<image>, with jpg, png and the like"
        )

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
        raise InputError(f"dataset.root must be a folder or end in {', '.join(TABLES)}, got {shown(root)}")
    if not path.is_dir() and not path.is_file():
        raise InputError(f"dataset.root: no such folder or file: {shown(root)}\ncheck the path")
    return path


# ---- class folders


def _class_folders(root: Path, options: FolderOptions) -> PictureList:
    builder = ListBuilder(root, "class folders", options.on_error)
    folders = builder.folders_in(root)
    inside = TRAIN_FOLDER if TRAIN_FOLDER in folders and builder.folders_in(root / TRAIN_FOLDER) else ""
    has_test = options.test_folder in folders and bool(builder.folders_in(root / options.test_folder))
    classes = builder.folders_in(root / inside) if inside else folders
    if not inside and has_test:
        classes = [name for name in classes if name != options.test_folder]
    unread = [name for name in folders if name not in (TRAIN_FOLDER, options.test_folder)] if inside else []
    if unread:
        builder.notes.append(
            f"folders next to {TRAIN_FOLDER} that are not read: {', '.join(shown(name) for name in unread[:5])}; "
            "one of them can be the test set: dataset.test_folder"
        )
    for stray in sorted(entry.name for entry in os.scandir(root / inside) if entry.is_file()):
        if is_image_name(stray) and not is_leftover(stray):
            builder.skip(f"{inside}/{stray}" if inside else stray, "it is in no class folder")
    classes = _with_images(builder, root / inside, classes)
    add_class_folders(builder, inside, classes)
    builder.begin_test()
    if has_test:
        strangers = sorted(set(builder.folders_in(root / options.test_folder)) - set(classes))
        if strangers:
            raise InputError(
                f"the test set has {len(strangers)} classes without a training folder, the first is "
                f"{shown(strangers[0])}\nadd training images of these classes, or remove them from "
                f"{shown(options.test_folder)}"
            )
        add_class_folders(builder, options.test_folder, classes)
    return builder.finish(classes)


def _with_images(builder: ListBuilder, folder: Path, classes: Sequence[str]) -> list[str]:
    """Return the classes that have an image; note the others."""
    filled = [name for name in classes if _has_image(folder / name)]
    empty = [shown(name) for name in classes if name not in set(filled)]
    if empty:
        builder.notes.append(f"{len(empty)} folders without an image are no classes: {', '.join(empty[:5])}")
    return filled


def _has_image(folder: Path) -> bool:
    """Return whether there is an image in or below the folder. Raises InputError if a folder cannot be read."""

    def refuse(error: OSError) -> None:
        unread = shown(str(error.filename))
        raise InputError(f"{unread} cannot be read: {error.strerror}\ncheck its permissions") from error

    for _, folders, files in os.walk(folder, onerror=refuse):
        if any(is_image_name(file) and not is_leftover(file) for file in files):
            return True
        folders[:] = [name for name in folders if not is_leftover(name)]
    return False


# ---- tables


@dataclass(frozen=True)
class _Row:
    """One row: its number (from 1, without the header) and its cells; None for an empty cell."""

    number: int
    path: str | None
    label: str | None
    true_label: str | None
    split: str | None


class _TableReader:
    def __init__(self, file: Path, on_error: str) -> None:
        self._file = file
        self._builder = ListBuilder(file.parent, f"table {file.name}", on_error)
        self._seen: dict[str, int] = {}
        """Label of each path."""
        self._labels: dict[str, int] = {}
        """The closed classes."""
        self._all: dict[str, int] = {}
        """The closed classes and those that only occur as true labels."""

    def read(self) -> PictureList:
        """Read the classes, then the files in a second pass, training rows before test rows."""
        closed, true = set[str](), set[str]()
        has_test = False
        for row in self._rows():
            test = self._is_test(row)
            has_test |= test
            if row.label is not None and not test:
                closed.add(row.label)
            if row.true_label is not None:
                true.add(row.true_label)
        names = in_order(closed)
        self._labels = {name: label for label, name in enumerate(names)}
        everything = [*names, *in_order(true - closed)]
        self._all = {name: label for label, name in enumerate(everything)}
        self._add_rows(test=False)
        self._builder.begin_test()
        if has_test:
            self._add_rows(test=True)
        return self._builder.finish(everything, len(names))

    def _add_rows(self, *, test: bool) -> None:
        for row in self._rows():
            if self._is_test(row) == test:
                self._add(row, test=test)

    def _add(self, row: _Row, *, test: bool) -> None:
        where = f"row {row.number:,} of {self._file.name}"
        if row.path is None:
            self._builder.skip(where, "it has no path")
            return
        label = row.true_label if test and row.true_label is not None else row.label
        if label is None:
            self._builder.skip(row.path, f"it has no label ({where})")
            return
        if label not in (self._labels if not test else self._all):
            raise InputError(f"{where}: the test set has class {shown(label)}, which no training row has")
        number, true = self._all[label], UNKNOWN if row.true_label is None else self._all[row.true_label]
        if test and number >= len(self._labels):
            # The test set has closed classes only: an open-set image can only be predicted wrongly.
            self._builder.skip(row.path, f"its true class {shown(label)} is no class of the training labels ({where})")
            return
        name = self._name(row.path)
        if self._is_repeated(name, number, where):
            return
        try:
            status = self._builder.status(name)
        except OSError as error:
            self._builder.skip(name, f"it cannot be read ({error.strerror or error}; {where})")
            return
        self._builder.add(name, status, number, true)

    def _name(self, path: str) -> str:
        given = Path(path)
        if given.is_absolute():
            if given.is_relative_to(self._builder.root):
                return given.relative_to(self._builder.root).as_posix()
            return path  # the builder refuses it as outside
        return Path(os.path.normpath(path)).as_posix()

    def _is_repeated(self, name: str, label: int, where: str) -> bool:
        if name not in self._seen:
            self._seen[name] = label
            return False
        if self._seen[name] != label:
            raise InputError(
                f"{where}: {shown(name)} is listed twice, under different labels\nkeep one row for each image"
            )
        self._builder.skip(name, f"it is listed twice ({where})")
        return True

    def _is_test(self, row: _Row) -> bool:
        if row.split not in (None, "train", "test"):
            raise InputError(
                f"row {row.number:,} of {self._file.name}: split must be train or test, got {shown(str(row.split))}\n"
                "validation is split off for you; mark such rows train"
            )
        return row.split == "test"

    def _rows(self) -> Iterator[_Row]:
        number = 0
        for batch in self._batches():
            cells = [batch.get(name) for name in (*NEEDED, *OPTIONAL)]
            for values in zip(*(column or [None] * len(batch["path"]) for column in cells), strict=True):
                number += 1
                path, label, true, split = (_text(value) for value in values)
                yield _Row(number, path, label, true, split)

    def _batches(self) -> Iterator[dict[str, list[Any]]]:
        import pyarrow as pa

        try:
            yield from _parquet_batches(self._file) if self._file.suffix.lower() == ".parquet" else self._csv_batches()
        except (pa.ArrowException, UnicodeDecodeError, csv.Error) as error:
            raise InputError(f"{self._file} cannot be read: {error}\nwrite it again, with a header line") from error
        except OSError as error:
            raise InputError(f"{self._file} cannot be read: {error}\ncheck its permissions") from error

    def _csv_batches(self) -> Iterator[dict[str, list[Any]]]:
        delimiter = "\t" if self._file.suffix.lower() == ".tsv" else ","
        with self._file.open(newline="", encoding="utf-8-sig") as lines:
            reader = csv.reader(lines, delimiter=delimiter)
            header = [name.strip() for name in next(reader, [])]
            _require_columns(header, self._file)
            columns = {name: header.index(name) for name in (*NEEDED, *OPTIONAL) if name in header}
            batch: dict[str, list[Any]] = {name: [] for name in columns}
            for row in reader:
                if not row:
                    continue
                for name, column in columns.items():
                    batch[name].append(row[column] if column < len(row) else None)
                if len(batch["path"]) == ROWS_PER_BATCH:
                    yield batch
                    batch = {name: [] for name in columns}
            yield batch


def _parquet_batches(file: Path) -> Iterator[dict[str, list[Any]]]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(file) as table:
        header = list(table.schema_arrow.names)
        _require_columns(header, file)
        wanted = [name for name in (*NEEDED, *OPTIONAL) if name in header]
        for batch in table.iter_batches(ROWS_PER_BATCH, columns=wanted):
            yield batch.to_pydict()


def _require_columns(header: Sequence[str], file: Path) -> None:
    missing = [name for name in NEEDED if name not in header]
    if missing or len(set(header)) != len(header):
        found = ", ".join(shown(name) for name in header) or "none"
        raise InputError(
            f"{file} must have columns {' and '.join(NEEDED)}, each once, got {found}\n"
            f"name them in the first line; {' and '.join(OPTIONAL)} are optional"
        )


def _text(value: Any) -> str | None:
    """Return a cell as text, None for an empty one. Whole numbers of any type give the same text."""
    if value is None or value != value:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value).strip()
    return text or None
