"""Given labels from a file: `noise: {file: PATH, column: NAME}`.

Formats: npy, npz (column = array name), parquet, csv, tsv, and the published CIFAR-N files (Wei et al. 2022:
CIFAR-10_human.pt, CIFAR-100_human.pt). No file can run code when it is read.

For image files a label is a class number or a class name, and a table may have a column `path`: its rows are then
matched with the images by that path, in any order. Otherwise row k is the k-th readable training image.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tune_lnl.datasets.base import Labels
from tune_lnl.datasets.label_columns import READERS, Columns, plain_name, read_columns
from tune_lnl.datasets.pictures.names import LONGEST_NUMBER, PATH_SPELLINGS, cell_text, class_name
from tune_lnl.errors import InputError, nearest, shown
from tune_lnl.files import without_apostrophe

CLEAN_COLUMNS = ("clean_label", "true_label")
PATH_COLUMN = "path"
INDEX_COLUMNS = ("id", "index", "unnamed: 0", "__index_level_0__", "")
"""Columns that number the rows, as pandas and R write them; they are never labels."""
LARGEST_LABEL = 2**31 - 1


def read_label_file(path: str | Path, column: str | None = None) -> Labels:
    """Return the labels in a file, int64 (N,), none negative.

    Args:
        path: its suffix gives the format: npy, npz, parquet, csv, tsv or pt.
        column: the column, array or key; optional if the file has only one besides the clean labels.

    Raises:
        InputError: no such file or column, an unknown format, a file with pickled objects, or values that are not whole
            numbers from 0 up.
    """
    file = _existing(path)
    columns = read_columns(file)
    return _whole_numbers(columns[_chosen(file, columns, column)](), file)


def given_labels(path: str | Path, column: str | None, true_labels: Labels) -> Labels:
    """Return the labels in a file, checked against the dataset: int64 (N,), one per training sample in its order.

    Args:
        path, column: as for :func:`read_label_file`.
        true_labels: (N,) the dataset's own labels. If the file has clean labels too, they must be equal to these.

    Raises:
        InputError: as for :func:`read_label_file`; also another number of labels, or another order of the rows.
    """
    file = _existing(path)
    columns = read_columns(file)
    labels = _whole_numbers(columns[_chosen(file, columns, column)](), file)
    if len(labels) != len(true_labels):
        raise InputError(
            f"{file} must hold one label per training sample: {len(true_labels):,}, got {len(labels):,}\n"
            "give labels of the whole training set, in the dataset's own order; dataset.subset is applied after"
        )
    for name in CLEAN_COLUMNS:
        if name in columns:
            _require_same_order(_whole_numbers(columns[name](), file), true_labels, file, name)
    return labels


def picture_labels(
    path: str | Path, column: str | None, class_names: Sequence[str], image_names: Sequence[str], root: Path = Path()
) -> Labels:
    """Return the labels of :func:`matched_picture_labels`."""
    return matched_picture_labels(path, column, class_names, image_names, root)[0]


def matched_picture_labels(
    path: str | Path, column: str | None, class_names: Sequence[str], image_names: Sequence[str], root: Path
) -> tuple[Labels, tuple[str, ...]]:
    """Return the labels in a file for a list of image files, int64 (N,), and remarks on rows that were not used.

    Args:
        path, column: as for :func:`read_label_file`.
        class_names: the names of the closed classes, by class number.
        image_names: (N,) paths of the readable training images, relative to `root`, with slashes.
        root: the dataset's folder.

    Raises:
        InputError: as for :func:`read_label_file`; also labels that are no class, another number of labels, and with a
            column `path` an image without a row or with two labels.
    """
    file = _existing(path)
    columns = read_columns(file)
    paths = next((name for name in columns if plain_name(name) == PATH_COLUMN), None)
    labels = _texts(columns[_chosen(file, columns, column, without=(PATH_COLUMN,))](), file)
    notes: tuple[str, ...] = ()
    if paths is not None:
        labels, notes = _labels_of_images(_texts(columns[paths](), file), labels, image_names, root, file)
    elif len(labels) != len(image_names):
        raise InputError(
            f"{file} must hold one label per readable training image: {len(image_names):,}, got {len(labels):,}\n"
            "`python -m tune_lnl.data check` names the unreadable ones; a table with the columns path and label is "
            "matched by path, in any order"
        )
    return _class_numbers(labels, class_names, file), notes


def _texts(values: NDArray[Any], file: Path) -> list[str | None]:
    """Return the cells of a column as text, None for empty ones; see :func:`cell_text`."""
    if values.ndim != 1:
        raise InputError(f"{file}: labels must be one-dimensional, got shape {values.shape}\nsave one label per sample")
    texts: list[str | None] = []
    for value in values.tolist():
        try:
            texts.append(cell_text(value))
        except TypeError as error:
            raise InputError(
                f"{file}: a label must be text or a whole number, got {error} in row {len(texts) + 1}\n"
                "write one label in each cell"
            ) from error
    return texts


def _labels_of_images(
    paths: Sequence[str | None], labels: Sequence[str | None], image_names: Sequence[str], root: Path, file: Path
) -> tuple[list[str | None], tuple[str, ...]]:
    """Return the label of each image by its path, and remarks on rows of no training image and repeated rows."""
    if len(paths) != len(labels):
        raise InputError(f"{file}: path and labels must have the same length\nwrite the file again")
    images_of: dict[str, list[int]] = {}
    for image, name in enumerate(image_names):
        images_of.setdefault(class_name(name), []).append(image)
    found: dict[int, str | None] = {}
    strangers, repeated = [], 0
    for path, label in zip(paths, labels, strict=True):
        images = next((images_of[key] for key in _path_keys(path or "", root) if key in images_of), [])
        if not images:
            strangers.append(path or "a row without a path")
        elif images[0] in found and found[images[0]] != label:
            raise InputError(
                f"{file}: {shown(str(path))} is listed twice, under different labels\nkeep one row for each image"
            )
        else:
            repeated += images[0] in found
            found.update(dict.fromkeys(images, label))
    missing = [name for image, name in enumerate(image_names) if image not in found]
    if missing:
        other = f"; a row that is no training image is {shown(strangers[0])}" if strangers else ""
        raise InputError(
            f"{file} has no label for {len(missing):,} of {len(image_names):,} training images, the first is "
            f"{shown(missing[0])}{other}\ngive every image a row; paths are relative to the dataset's folder"
        )
    notes = []
    if strangers:
        notes.append(
            f"{len(strangers):,} rows of {file.name} are no training image, the first is {shown(strangers[0])}"
        )
    if repeated:
        notes.append(f"{repeated:,} rows of {file.name} repeat the label of another row")
    return [found[image] for image in range(len(image_names))], tuple(notes)


def _path_keys(path: str, root: Path) -> Iterator[str]:
    """Yield the spellings of a path in a label file that are compared with those of the images."""
    for spelling in (path, without_apostrophe(path), *(change(path) for change in PATH_SPELLINGS.values())):
        name = Path(os.path.normpath(spelling))
        yield class_name((name.relative_to(root) if name.is_relative_to(root) else name).as_posix())


def _class_numbers(labels: Sequence[str | None], class_names: Sequence[str], file: Path) -> Labels:
    """Return class numbers for labels that are class names, or else class numbers.

    Folders 1 to 12: a number is the folder's name, unless one of the numbers is the name of none.
    """
    number_of = {name: number for number, name in enumerate(class_names)}
    texts = [
        label if label is None or label in number_of else class_name(without_apostrophe(label)) for label in labels
    ]
    named = [text in number_of for text in texts]
    if all(named):
        return np.array([number_of[str(text)] for text in texts], dtype=np.int64)
    numbers = [_whole_number(text) for text in texts]
    wrong = next((row for row, number in enumerate(numbers) if number is None and not named[row]), None)
    if wrong is not None:
        told = texts[wrong]
        raise InputError(
            f"{file}: labels must be class names{'' if any(named) else ' or class numbers'}, got "
            f"{'nothing' if told is None else shown(told)} in row {wrong + 1}\n"
            + ("give every training sample a label" if told is None else nearest(told, class_names))
        )
    if None in numbers:
        wrong = named.index(False)
        raise InputError(
            f"{file}: labels must be all class names or all class numbers, got {texts[wrong]} in row {wrong + 1}\n"
            f"{nearest(str(texts[wrong]), class_names)}"
        )
    found = np.array(numbers, dtype=np.int64)
    if found.max(initial=0) >= len(class_names):
        raise InputError(
            f"{file}: labels must be in 0..{len(class_names) - 1} ({len(class_names)} classes), got {found.max()}\n"
            f"class 0 is {shown(class_names[0])}, class {len(class_names) - 1} is {shown(class_names[-1])}; "
            "class names can be given instead of numbers"
        )
    return found


def _whole_number(text: str | None) -> int | None:
    """Return the value of a whole number from 0 to the largest of 32 bits, None for other text."""
    if text is None or not (text.isascii() and text.isdecimal()) or len(text) > LONGEST_NUMBER:
        return None
    return int(text) if int(text) <= LARGEST_LABEL else None


def _require_same_order(clean: Labels, true_labels: Labels, file: Path, name: str) -> None:
    different = int(np.count_nonzero(clean != true_labels))
    if different:
        raise InputError(
            f"{file} is in another row order than the dataset: {different:,} of {len(clean):,} entries of {name} "
            "are not the dataset's own labels\n"
            "use the copy of the dataset that the labels were made for (CIFAR-N: the official archive), or reorder them"
        )


def _existing(path: str | Path) -> Path:
    file = Path(path).expanduser()
    if file.suffix.lower() not in READERS:
        raise InputError(
            f"dataset.noise.file must end in {', '.join(READERS)}, got {file}\nconvert it, csv is simplest"
        )
    if not file.is_file():
        raise InputError(
            f"dataset.noise.file: no such file: {file}\ncheck the path; a relative one starts at {Path.cwd()}"
        )
    return file


def _chosen(file: Path, columns: Columns, column: str | None, without: tuple[str, ...] = ()) -> str:
    if column is not None:
        same = [name for name in columns if name == column] or [
            n for n in columns if plain_name(n) == plain_name(column)
        ]
        if len(same) != 1:
            raise InputError(f"{file} has no column {column!r}\n{nearest(column, columns)}")
        return same[0]
    candidates = [name for name in columns if plain_name(name) not in (*CLEAN_COLUMNS, *INDEX_COLUMNS, *without)]
    if len(candidates) != 1:
        raise InputError(
            f"{file} holds {len(columns)} columns: {', '.join(map(shown, columns)) or 'none'}\n"
            "name the one with the noisy labels: dataset.noise.column"
        )
    return candidates[0]


def _whole_numbers(values: NDArray[Any], file: Path) -> Labels:
    if values.ndim != 1:
        raise InputError(
            f"{file}: labels must be one-dimensional, got shape {values.shape}\nsave one number per sample"
        )
    if values.dtype.kind not in "iuf":
        if values.dtype.kind not in "OUS":
            raise InputError(f"{file}: labels must be whole numbers, got {values.dtype}\nsave class numbers, not names")
        texts = _texts(values, file)
        numbers = [_whole_number(text) for text in texts]
        if None in numbers:
            row = numbers.index(None)
            raise InputError(
                f"{file}: labels must be whole numbers from 0 up, got {shown(texts[row] or 'nothing')} in row "
                f"{row + 1} ({numbers.count(None):,} such rows)\ngive every training sample a class number, not a name"
            )
        return np.array(numbers, dtype=np.int64)
    wrong = np.flatnonzero(~((values >= 0) & (values <= LARGEST_LABEL) & (values == np.floor(values))))
    if len(wrong):
        raise InputError(
            f"{file}: labels must be whole numbers from 0 up, got {values[wrong[0]]} in row {wrong[0] + 1} "
            f"({len(wrong):,} such rows)\ngive every training sample a label"
        )
    return values.astype(np.int64)
