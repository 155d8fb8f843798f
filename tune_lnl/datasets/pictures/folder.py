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

import csv
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tune_lnl.config.datasets import DatasetOptions, FolderOptions
from tune_lnl.datasets.formats import is_image_name
from tune_lnl.datasets.label_file import table_form
from tune_lnl.datasets.pictures.decoding import WorkingSize
from tune_lnl.datasets.pictures.listing import (
    PATH_SPELLINGS,
    UNKNOWN,
    ListBuilder,
    PictureList,
    add_class_folders,
    cell_text,
    class_name,
    in_order,
    is_leftover,
    look_alike,
    require_training_images,
)
from tune_lnl.datasets.pictures.noisy import PictureDataset, Pictures
from tune_lnl.datasets.pictures.rows import Survey
from tune_lnl.errors import InputError, nearest, shown

TRAIN_NAMES = ("train", "training")
TEST_NAMES = ("test", "testing", "val", "valid", "validation", "eval", "evaluation", "dev")
"""Names of a split, by :func:`_split_name`. The first of TEST_NAMES that is there is the test set."""
SPLIT_WORD = re.compile(
    rf"(?i)(?<![a-z])({'|'.join((*TRAIN_NAMES, *TEST_NAMES))}|trainval|pred|(train|test|val)(set|data))(?![a-z])"
)
"""A folder whose name has one of these words is a split where all the others have one, too."""
MISSING_NAMES = frozenset(["none", "null", "nan", "na", "n/a", "<na>", "?", "unknown", "unlabeled", "unlabelled"])
"""Labels that often stand for a missing one, in lower case."""
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
            found = _TableReader(root, options.on_error).read()
            return require_training_images(found, "rows with a path, relative to the table's folder, and a label")
        looked_for = "<class>/<image> or train/<class>/<image>, with jpg, png and the like"
        return require_training_images(_class_folders(root, options), looked_for)

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


# ---- class folders


def _class_folders(root: Path, options: FolderOptions) -> PictureList:
    builder = ListBuilder(root, "class folders", options.on_error)
    folders = builder.folders_in(root)
    inside = _split_folder(builder, folders, TRAIN_NAMES, "training")
    test = _test_folder(builder, folders, inside, options.test_folder)
    _note_splits(builder, folders, inside, test)
    for place in dict.fromkeys(["", inside, *([test] if test else [])]):
        builder.skip_images_of(place, "it is in no class folder")
    names = [name for name in builder.folders_in(root / inside) if inside or name != test]
    _require_classes(builder, inside, names)
    classes = _classes(builder, inside, names)
    ordered = in_order(classes)
    add_class_folders(builder, inside, ordered, classes)
    builder.begin_test()
    if test and classes:
        tested = _classes(builder, test, builder.folders_in(root / test))
        strangers = sorted(set(tested) - set(classes))
        if strangers:
            raise InputError(
                f"the test set has {len(strangers)} classes without a training folder, the first is "
                f"{shown(strangers[0])}; {nearest(strangers[0], ordered)}\n"
                f"add training images of these classes, or rename or remove them in {shown(test)}"
            )
        add_class_folders(builder, test, ordered, tested)
    _note_odd_names(builder, ordered)
    return builder.finish(ordered)


def _split_name(text: str) -> str:
    """Return the name of a split without case, spaces and signs, and without a word such as "set" at its end."""
    return re.sub(r"[\s_-]|(?<=.)(set|data|images|split)$", "", text.strip().casefold())


def _split_folder(builder: ListBuilder, folders: Sequence[str], names: Sequence[str], split: str) -> str:
    """Return the folder of a split, "" if none holds class folders; one with images comes before one without.

    Raises:
        InputError: two folders have its name.
    """
    found = []
    for name in names:
        same = [
            folder for folder in folders if _split_name(folder) == name and builder.folders_in(builder.root / folder)
        ]
        if len(same) > 1:
            raise InputError(
                f"{shown(str(builder.root))} has {' and '.join(same)}: which is the {split} set?\nrename all but one"
            )
        found += same
    return next((folder for folder in found if _has_image(builder.root / folder)), found[0] if found else "")


def _test_folder(builder: ListBuilder, folders: Sequence[str], training: str, name: str) -> str:
    """Return the folder of the test set, "" if there is none: `name` (dataset.test_folder), else one of TEST_NAMES."""
    if name not in TEST_NAMES:
        return name if name in folders and builder.folders_in(builder.root / name) else ""
    # Without a training folder, the test set stands beside class folders, and holds folders of the same names.
    inner = {folder: {class_name(inside) for inside in builder.folders_in(builder.root / folder)} for folder in folders}
    classes = {class_name(folder) for folder in folders}
    possible = [
        folder
        for folder in folders
        if training or _split_name(folder) == "test" or inner[folder] & (classes - {folder})
    ]
    return _split_folder(builder, possible, (name, *TEST_NAMES), "test")


def _note_splits(builder: ListBuilder, folders: Sequence[str], training: str, test: str) -> None:
    if training and training != "train":
        builder.notes.append(f"the training set is the folder {shown(training)}")
    if test and test != "test":
        builder.notes.append(f"the test set is the folder {shown(test)}")
    unread = [name for name in folders if training and name not in (training, test)]
    if not unread:
        return
    named = ", ".join(shown(name) for name in unread[:5]) + (", ..." if len(unread) > 5 else "")
    builder.notes.append(f"folders next to {shown(training)} that are not read: {named}")
    if not test:
        flat = [name for name in unread if _split_name(name) in TEST_NAMES]
        builder.notes.append(
            f"{shown(flat[0])} has no class folders, so it is no test set"
            if flat
            else "one of them can be the test set: dataset.test_folder"
        )


def _require_classes(builder: ListBuilder, inside: str, folders: Sequence[str]) -> None:
    """Raise InputError where the folders look like splits or years of one set of classes, not like classes."""
    home = builder.root / inside
    splits = [name for name in folders if _has_image(home / name)]
    if len(splits) > 1 and all(SPLIT_WORD.search(name) for name in splits):
        raise InputError(
            f"the folders {', '.join(shown(name) for name in splits[:5])} in {shown(str(home))} are splits by their "
            "names, not classes\n"
            "name them train and test, with a folder for each class in them, or give dataset.root a table with the "
            "columns path and label"
        )
    if any(builder.images_directly_in(home / folder) for folder in folders):
        return
    inner = {
        folder: {name for name in builder.folders_in(home / folder) if _has_image(home / folder / name)}
        for folder in folders
    }
    inner = {folder: names for folder, names in inner.items() if names}
    holders = Counter(name for names in inner.values() for name in names)
    shared = sorted(name for name, count in holders.items() if count > 1)
    # A folder "images" in every class is a usual layout; two folders or more in each are classes or parts of them.
    if not inner or min(map(len, inner.values())) < 2 or (len(inner) > 1 and not shared):
        return
    root = shown(str(home))
    if len(inner) == 1:
        (only, names), *_ = inner.items()
        some = ", ".join(shown(name) for name in sorted(names)[:3])
        raise InputError(
            f"{root} holds one folder with images, and that holds the folders {some}\n"
            f"give dataset.root={shown(str(home / only))}"
        )
    raise InputError(
        f"the folders {', '.join(shown(name) for name in sorted(inner)[:5])} in {root} hold the same folders "
        f"({', '.join(shown(name) for name in shared[:3])}), so it is not clear which are the classes\n"
        "name the parts train and test, or give dataset.root one of them, or a table with the columns path and label"
    )


def _classes(builder: ListBuilder, inside: str, folders: Sequence[str]) -> dict[str, list[str]]:
    """Return the folders of each class that has an image; note the others."""
    filled: dict[str, list[str]] = {}
    empty = []
    for name in folders:
        if _has_image(builder.root / inside / name):
            filled.setdefault(class_name(name), []).append(name)
        else:
            path = f"{inside}/{name}" if inside else name
            empty.append(path)
            # Counts the files that are no images.
            list(builder.images_in(path))
    if empty:
        named = ", ".join(shown(name) for name in empty[:5])
        more = ", ..." if len(empty) > 5 else ""
        builder.notes.append(f"{len(empty)} folders without an image are no classes: {named}{more}")
    for name, own in filled.items():
        if len(own) > 1:
            builder.notes.append(f"{len(own)} folders are one class, {shown(name)}: their names are spellings of it")
        elif not own[0].isascii() and "\\x" in name:
            builder.notes.append(f"a folder's name is no UTF-8; its class is written {shown(name)}")
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
        if any(os.path.islink(os.path.join(folder, name)) for name in folders):  # noqa: PTH114, PTH118
            return True
    return False


# ---- both forms


def _note_odd_names(builder: ListBuilder, classes: Sequence[str]) -> None:
    for group in look_alike(classes)[:5]:
        named = ", ".join(f"'{shown(name)}'" for name in group)
        builder.notes.append(f"classes whose names look alike: {named}")
    missing = [name for name in classes if name.casefold() in MISSING_NAMES]
    if missing:
        builder.notes.append(
            f"classes named like a missing label: {', '.join(shown(name) for name in missing)}; "
            "leave the label of such images empty if nobody knows it"
        )


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
        self._test_names: frozenset[str] = frozenset()
        self._unread_names: frozenset[str] = frozenset()
        self._respelled = Counter[str]()

    def read(self) -> PictureList:
        """Read the classes, then the files in a second pass, training rows before test rows."""
        closed, true = set[str](), set[str]()
        self._choose_splits()
        has_test = bool(self._test_names)
        without_truth = 0
        for row in self._rows():
            if self._is_unread(row):
                continue
            test = self._is_test(row)
            without_truth += row.true_label is None and not test
            if row.label is not None and not test:
                closed.add(row.label)
            if row.true_label is not None:
                true.add(row.true_label)
        names = in_order(closed)
        self._labels = {name: label for label, name in enumerate(names)}
        everything = [*names, *in_order(true - closed)]
        self._all = {name: label for label, name in enumerate(everything)}
        if true and without_truth:
            self._builder.notes.append(
                f"{without_truth:,} training rows have no true_label: the true labels count as unknown; "
                "give one in every row, or leave such rows out"
            )
        _note_odd_names(self._builder, names)
        self._add_rows(test=False)
        self._builder.begin_test()
        if has_test:
            self._add_rows(test=True)
        self._builder.notes += [f"{count:,} paths {change}" for change, count in self._respelled.items()]
        return self._builder.finish(everything, len(names))

    def _choose_splits(self) -> None:
        """Find the names of the splits, and which of them is the test set."""
        counts: dict[str, int] = {}
        for row in self._rows():
            split = None if row.split is None else _split_name(row.split)
            if split not in (None, *TRAIN_NAMES, *TEST_NAMES):
                raise InputError(
                    f"row {row.number:,} of {self._file.name}: split must be train or test, got "
                    f"{shown(str(row.split))}\n"
                    f"other names of the two are {', '.join((*TRAIN_NAMES[1:], *TEST_NAMES[1:]))}"
                )
            if split in TEST_NAMES:
                counts[split] = counts.get(split, 0) + 1
        first = next((name for name in TEST_NAMES if name in counts), None)
        self._test_names = frozenset() if first is None else frozenset([first])
        if first not in (None, "test"):
            self._builder.notes.append(f"the test set are the {counts[str(first)]:,} rows of split {first}")
        unread = {name: count for name, count in counts.items() if name != first}
        if unread:
            named = ", ".join(f"{name} {count:,}" for name, count in unread.items())
            self._builder.notes.append(f"rows of a split that is not read, next to {first}: {named}")
        self._unread_names = frozenset(unread)

    def _add_rows(self, *, test: bool) -> None:
        for row in self._rows():
            if self._is_test(row) == test and not self._is_unread(row):
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
        """Return the path relative to the root, in the first spelling whose file exists."""
        if not self._exists(path):
            for change, spelling in PATH_SPELLINGS.items():
                if self._exists(spelling(path)):
                    self._respelled[change] += 1
                    path = spelling(path)
                    break
        given = Path(path)
        if given.is_absolute() and given.is_relative_to(self._builder.root):
            return given.relative_to(self._builder.root).as_posix()
        return Path(os.path.normpath(path)).as_posix()

    def _exists(self, path: str) -> bool:
        try:
            return (self._builder.root / path).exists()
        except (OSError, ValueError):  # a name too long for a file, or with a zero byte
            return False

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
        return row.split is not None and _split_name(row.split) in self._test_names

    def _is_unread(self, row: _Row) -> bool:
        return row.split is not None and _split_name(row.split) in self._unread_names

    def _rows(self) -> Iterator[_Row]:
        number = 0
        for batch in self._batches():
            cells = [batch.get(name) for name in (*NEEDED, *OPTIONAL)]
            for values in zip(*(column or [None] * len(batch["path"]) for column in cells), strict=True):
                number += 1
                path = _path(values[0])
                try:
                    label, true, split = (cell_text(value) for value in values[1:])
                except TypeError as error:
                    raise InputError(
                        f"row {number:,} of {self._file.name}: a label must be text or a whole number, got {error}\n"
                        "write one label in each cell"
                    ) from error
                yield _Row(number, path, label, true, split)

    def _batches(self) -> Iterator[dict[str, list[Any]]]:
        import pyarrow as pa

        try:
            yield from _parquet_batches(self._file) if self._file.suffix.lower() == ".parquet" else self._csv_batches()
        except UnicodeError as error:
            raise InputError(
                f"{self._file} cannot be read: it is not UTF-8 ({error})\nsave it again as UTF-8, with a header line"
            ) from error
        except (pa.ArrowException, csv.Error) as error:
            raise InputError(f"{self._file} cannot be read: {error}\nwrite it again, with a header line") from error
        except OSError as error:
            raise InputError(f"{self._file} cannot be read: {error}\ncheck its permissions") from error

    def _csv_batches(self) -> Iterator[dict[str, list[Any]]]:
        delimiter, encoding = table_form(self._file)
        with self._file.open(newline="", encoding=encoding) as lines:
            reader = csv.reader(lines, delimiter=delimiter, strict=True)
            header = [name.strip().casefold() for name in next(reader, [])]
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
        found = {name.strip().casefold(): name for name in header}
        _require_columns([name.strip().casefold() for name in header], file)
        wanted = {name: found[name] for name in (*NEEDED, *OPTIONAL) if name in found}
        for batch in table.iter_batches(ROWS_PER_BATCH, columns=list(wanted.values())):
            cells = batch.to_pydict()
            yield {name: cells[column] for name, column in wanted.items()}


def _require_columns(header: Sequence[str], file: Path) -> None:
    """Raise InputError unless `header`, in lower case, has the needed columns, each once."""
    missing = [name for name in NEEDED if name not in header]
    if missing or any(header.count(name) > 1 for name in (*NEEDED, *OPTIONAL)):
        found = ", ".join(shown(name) for name in header) or "none"
        raise InputError(
            f"{file} must have columns {' and '.join(NEEDED)}, each once, got {found}\n"
            f"name them in the first line; {' and '.join(OPTIONAL)} are optional"
        )


def _path(value: Any) -> str | None:
    """Return a cell as a path, None for an empty one. Spaces at its ends are not removed from bytes."""
    if isinstance(value, bytes):
        return os.fsdecode(value) or None
    if value is None or value != value:
        return None
    return str(value).strip() or None
