"""Given labels from a file: `noise: {file: PATH, column: NAME}`.

Formats: npy, npz (column = array name), parquet, csv, tsv, and the published CIFAR-N files (Wei et al. 2022:
CIFAR-10_human.pt, CIFAR-100_human.pt). No file can run code when it is read.

For image files a label is a class number or a class name, and a table may have a column `path`: its rows are then
matched with the images by that path, in any order. Otherwise row k is the k-th readable training image.
"""

from __future__ import annotations

import codecs
import csv
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tune_lnl.datasets.base import Labels
from tune_lnl.datasets.pictures.names import LONGEST_NUMBER, PATH_SPELLINGS, cell_text, class_name
from tune_lnl.errors import InputError, first_line, nearest, shown
from tune_lnl.files import without_apostrophe

CLEAN_COLUMNS = ("clean_label", "true_label")
PATH_COLUMN = "path"
INDEX_COLUMNS = ("id", "index", "unnamed: 0", "__index_level_0__", "")
"""Columns that number the rows, as pandas and R write them; they are never labels."""
DELIMITERS = (",", ";", "\t", "|")
FORMATS = (".npy", ".npz", ".parquet", ".csv", ".tsv", ".pt")
# A million labels take 8 MB; a file that unpacks to more than this is no label file.
MAX_UNPACKED_BYTES = 2**30
LARGEST_LABEL = 2**31 - 1
GZIP = b"\x1f\x8b"

Columns = Mapping[str, Callable[[], NDArray[Any]]]


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
    columns = _columns(file)
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
    columns = _columns(file)
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
    columns = _columns(file)
    paths = next((name for name in columns if _plain(name) == PATH_COLUMN), None)
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


def _plain(name: str) -> str:
    """Return the name of a column as it is compared: in lower case, without spaces around it."""
    return name.strip().casefold()


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
    if file.suffix.lower() not in FORMATS:
        raise InputError(
            f"dataset.noise.file must end in {', '.join(FORMATS)}, got {file}\nconvert it, csv is simplest"
        )
    if not file.is_file():
        raise InputError(
            f"dataset.noise.file: no such file: {file}\ncheck the path; a relative one starts at {Path.cwd()}"
        )
    return file


def _columns(file: Path) -> Columns:
    readers = {".npy": _npy, ".npz": _npz, ".parquet": _parquet, ".csv": _csv, ".tsv": _csv, ".pt": _pt}
    return readers[file.suffix.lower()](file)


def _chosen(file: Path, columns: Columns, column: str | None, without: tuple[str, ...] = ()) -> str:
    if column is not None:
        same = [name for name in columns if name == column] or [n for n in columns if _plain(n) == _plain(column)]
        if len(same) != 1:
            raise InputError(f"{file} has no column {column!r}\n{nearest(column, columns)}")
        return same[0]
    candidates = [name for name in columns if _plain(name) not in (*CLEAN_COLUMNS, *INDEX_COLUMNS, *without)]
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


# ---- formats -------------------------------------------------------------------------------------------------------


def _npy(file: Path) -> Columns:
    try:
        # Mapped, so that a header that claims more data than the file has fails instead of allocating memory.
        values = np.load(file, mmap_mode="r", allow_pickle=False)
    except (zipfile.BadZipFile, ValueError, OSError, EOFError) as error:
        raise _unreadable(file, error) from error
    if not isinstance(values, np.ndarray):
        raise InputError(f"{file} is not a npy file\nname a npz file .npz")
    return {"labels": lambda: values}


def _npz(file: Path) -> Columns:
    try:
        with zipfile.ZipFile(file) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > MAX_UNPACKED_BYTES:
            raise InputError(f"{file} unpacks to {unpacked:,} bytes, too much for labels\nkeep only the label array")
        arrays = np.load(file, allow_pickle=False)
        names = list(arrays.files)
    except (zipfile.BadZipFile, ValueError, OSError, EOFError) as error:
        raise error if isinstance(error, InputError) else _unreadable(file, error) from error

    def read(name: str) -> NDArray[Any]:
        try:
            return np.asarray(arrays[name])
        except (zipfile.BadZipFile, ValueError, OSError, EOFError) as error:
            raise _unreadable(file, error) from error

    return {name: _bound(read, name) for name in names}


def _unreadable(file: Path, error: Exception) -> InputError:
    return InputError(
        f"{file} cannot be read as plain numbers: {error}\n"
        "files are not unpickled; where you made it, save it again: numpy.save(path, labels.astype('int64'))"
    )


def _parquet(file: Path) -> Columns:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        names = list(pq.read_schema(file).names)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{file} is not a whole parquet file: {first_line(error)}\nwrite it again") from error
    _require_distinct(names, file)

    def read(name: str) -> NDArray[Any]:
        try:
            cells = pq.read_table(file, columns=[name]).column(0)
        except (pa.ArrowException, OSError) as error:
            raise InputError(
                f"{file}: column {shown(name)} cannot be read: {first_line(error)}\nwrite the file again"
            ) from error
        if pa.types.is_integer(cells.type) or pa.types.is_floating(cells.type):
            return np.asarray(cells.to_numpy())
        return np.fromiter(cells.to_pylist(), dtype=object, count=len(cells))

    return {name: _bound(read, name) for name in names}


def _csv(file: Path) -> Columns:
    """Read every cell as text, so that 007, True and 2021-01-01 stay as they are written."""
    header = next(_csv_rows(file), [])
    # A bare list of numbers is a common export: its first line is a label, not a name.
    headless = bool(header) and all(name.strip().isdecimal() for name in header)
    names = [f"f{number}" for number in range(len(header))] if headless else header
    _require_distinct(names, file)

    def read(name: str) -> NDArray[Any]:
        place = names.index(name)
        cells = [row[place] if place < len(row) else None for row in _csv_rows(file)]
        labels = cells if headless else cells[1:]
        if not labels:
            raise InputError(f"{file} has no row after its header line\ngive every training sample a row")
        return np.array(labels, dtype=object)

    return {name: _bound(read, name) for name in names}


def _csv_rows(file: Path) -> Iterator[list[str]]:
    """Yield the rows of a text table, the header first, without empty lines."""
    delimiter, encoding = table_form(file)
    try:
        with file.open(newline="", encoding=encoding) as lines:
            yield from (row for row in csv.reader(lines, delimiter=delimiter, strict=True) if row)
    except (OSError, UnicodeError, csv.Error) as error:
        raise InputError(
            f"{file} cannot be read as csv: {error}\nsave it again as UTF-8, with a header line"
        ) from error


def _require_distinct(header: Sequence[str], file: Path) -> None:
    if not header or len({_plain(name) for name in header}) != len(header):
        named = ", ".join(map(shown, header)) or "none"
        raise InputError(f"{file} must have distinct column names, got {named}\nname them in the first line")


def table_form(file: Path) -> tuple[str, str]:
    """Return the delimiter and the encoding of a text table, by its byte order mark and its first line.

    Spreadsheet programs write semicolons in many countries, and UTF-16 as "Unicode text".
    """
    with file.open("rb") as content:
        start = content.read(65536)
    if start.startswith(GZIP):
        raise InputError(f"{file} is compressed by gzip\nunpack it, and name the unpacked file")
    if start.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return max(DELIMITERS, key=start.decode("utf-32", "replace").split("\n", 1)[0].count), "utf-32"
    encoding = "utf-16" if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    if not start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) and b"\0" in start[:2]:
        encoding = "utf-16-be" if start.startswith(b"\0") else "utf-16-le"
    first = start.decode(encoding, "replace").split("\n", 1)[0]
    return max(DELIMITERS, key=first.count), encoding


def _pt(file: Path) -> Columns:
    """A published CIFAR-N file: a pickled dict of integer arrays.

    Loaded by torch's restricted unpickler, which builds nothing but what is listed: besides tensors and containers,
    here only numpy arrays of plain numbers. An object array would need a dtype that is not on the list.
    """
    import torch

    # numpy's private constructor of unpickled arrays, asked of an array because its module differs between versions.
    reconstruct: Callable[..., Any] = np.empty(0).__reduce__()[0]  # type: ignore[assignment]
    numbers = [type(np.dtype(name)) for name in ("int8", "int16", "int32", "int64", "uint8", "float32", "float64")]
    allowed: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
        # numpy 1 wrote the first name, numpy 2 writes the second.
        (reconstruct, "numpy.core.multiarray._reconstruct"),
        (reconstruct, "numpy._core.multiarray._reconstruct"),
        np.ndarray,
        np.dtype,
        *numbers,
    ]
    try:
        with torch.serialization.safe_globals(allowed):
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        # On hostile bytes the restricted unpickler throws what its instructions throw: struct.error, IndexError, ...
        reason = first_line(error)
        raise InputError(
            f"{file} is damaged, or holds more than arrays of numbers and is not unpickled: {reason}\n"
            "where you trust it, convert it: numpy.savez('labels.npz', **torch.load(path, weights_only=False))"
        ) from error
    if not isinstance(content, dict):
        raise InputError(f"{file} must hold a dict of label arrays, got {type(content).__name__}\nconvert it to npz")
    read: Callable[[str], NDArray[Any]] = lambda name: np.asarray(content[name])  # noqa: E731
    return {name: _bound(read, name) for name in content if isinstance(name, str)}


def _bound(read: Callable[[str], NDArray[Any]], name: str) -> Callable[[], NDArray[Any]]:
    return lambda: read(name)
