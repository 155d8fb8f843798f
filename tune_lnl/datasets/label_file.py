"""Given labels from a file: `noise: {file: PATH, column: NAME}`.

Formats: npy, npz (column = array name), parquet, csv, tsv, and the published CIFAR-N files (Wei et al. 2022:
CIFAR-10_human.pt, CIFAR-100_human.pt). No file can run code when it is read.

For image files a label is a class number or a class name, and a table may have a column `path`: its rows are then
matched with the images by that path, in any order. Otherwise row k is the k-th readable training image.
"""

from __future__ import annotations

import codecs
import csv
import zipfile
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tune_lnl.datasets.base import Labels
from tune_lnl.datasets.pictures.listing import class_name
from tune_lnl.errors import InputError, first_line, nearest, shown
from tune_lnl.files import without_apostrophe

CLEAN_COLUMNS = ("clean_label", "true_label")
PATH_COLUMN, ID_COLUMN = "path", "id"
DELIMITERS = (",", ";", "\t", "|")
FORMATS = (".npy", ".npz", ".parquet", ".csv", ".tsv", ".pt")
# A million labels take 8 MB; a file that unpacks to more than this is no label file.
MAX_UNPACKED_BYTES = 2**30

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
    labels = _whole_numbers(columns[_chosen(file, columns, column, without=(ID_COLUMN,))](), file)
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
    path: str | Path, column: str | None, class_names: Sequence[str], image_names: Sequence[str]
) -> Labels:
    """Return the labels in a file for a list of image files: int64 (N,).

    Args:
        path, column: as for :func:`read_label_file`.
        class_names: the names of the closed classes, by class number.
        image_names: (N,) paths of the readable training images, relative to the dataset's folder, with slashes.

    Raises:
        InputError: as for :func:`read_label_file`; also labels that are no class, another number of labels, and with a
            column `path` an image without a row or with two.
    """
    file = _existing(path)
    columns = _columns(file)
    values = columns[_chosen(file, columns, column, without=(PATH_COLUMN,))]()
    if PATH_COLUMN in columns:
        rows = _rows_of_images([str(name) for name in columns[PATH_COLUMN]()], image_names, file)
        if len(rows) and max(rows) >= len(values):
            raise InputError(f"{file}: path and labels must have the same length\nwrite the file again")
        values = values[rows]
    elif len(values) != len(image_names):
        raise InputError(
            f"{file} must hold one label per readable training image: {len(image_names):,}, got {len(values):,}\n"
            "`python -m tune_lnl.data check` names the unreadable ones; a table with the columns path and label is "
            "matched by path, in any order"
        )
    return _class_numbers(values, class_names, file)


def _rows_of_images(paths: Sequence[str], image_names: Sequence[str], file: Path) -> list[int]:
    """Return the row of each image."""
    row_of: dict[str, int] = {}
    for row, given in enumerate(paths):
        name = _path_key(without_apostrophe(given.strip()))
        if name in row_of:
            raise InputError(f"{file}: {shown(name)} is listed twice\nkeep one row for each image")
        row_of[name] = row
    keys = [_path_key(name) for name in image_names]
    missing = [name for name, key in zip(image_names, keys, strict=True) if key not in row_of]
    if missing:
        raise InputError(
            f"{file} has no label for {len(missing):,} of {len(image_names):,} training images, the first is "
            f"{shown(missing[0])}\ngive every image a row; paths are relative to the dataset's folder"
        )
    return [row_of[key] for key in keys]


def _path_key(path: str) -> str:
    """Return a path in the one spelling that a label file and the images are compared by."""
    return class_name(path).replace("\\", "/").removeprefix("./")


def _class_numbers(values: NDArray[Any], class_names: Sequence[str], file: Path) -> Labels:
    """Return class numbers for labels that are class numbers or class names."""
    if values.ndim == 1 and values.dtype.kind in "OUST":
        # One gap in a column of numbers makes text of them all.
        gap = [value is None or value != value for value in values.tolist()]
        number_of = {name: number for number, name in enumerate(class_names)}
        texts = [
            "" if empty else _label_text(str(value), number_of)
            for value, empty in zip(values.tolist(), gap, strict=True)
        ]
        if all(text in number_of for text in texts):
            return np.array([number_of[text] for text in texts], dtype=np.int64)
        wrong, text = next((row, text) for row, text in enumerate(texts) if text not in number_of)
        if any(text in number_of for text in texts):
            raise InputError(
                f"{file}: labels must be class names, got {shown(text) or 'nothing'} in row {wrong}\n"
                f"{nearest(text, class_names)}"
            )
    labels = _whole_numbers(values, file)
    # Folders 1 to 12: the number is the folder's name, unless it is the name of none.
    named = {name: number for number, name in enumerate(class_names)}
    if all(str(label) in named for label in np.unique(labels).tolist()):
        return np.array([named[str(label)] for label in labels.tolist()], dtype=np.int64)
    if labels.max(initial=0) >= len(class_names):
        raise InputError(
            f"{file}: labels must be in 0..{len(class_names) - 1} ({len(class_names)} classes), got {labels.max()}\n"
            f"class 0 is {shown(class_names[0])}, class {len(class_names) - 1} is {shown(class_names[-1])}; "
            "class names can be given instead of numbers, as text"
        )
    return labels


def _label_text(text: str, class_names: Collection[str]) -> str:
    """Return a label in the spelling of class names, without the apostrophe of an exported file."""
    text = class_name(text.strip())
    return text if text in class_names else class_name(without_apostrophe(text))


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
        if column not in columns:
            raise InputError(f"{file} has no column {column!r}\n{nearest(column, columns)}")
        return column
    candidates = [name for name in columns if name not in (*CLEAN_COLUMNS, *without)]
    if len(candidates) != 1:
        raise InputError(
            f"{file} holds {len(columns)} columns: {', '.join(columns) or 'none'}\n"
            "name the one with the noisy labels: dataset.noise.column"
        )
    return candidates[0]


def _whole_numbers(values: NDArray[Any], file: Path) -> Labels:
    if values.ndim != 1:
        raise InputError(
            f"{file}: labels must be one-dimensional, got shape {values.shape}\nsave one number per sample"
        )
    if not (np.issubdtype(values.dtype, np.integer) or np.issubdtype(values.dtype, np.floating)):
        raise InputError(f"{file}: labels must be whole numbers, got {values.dtype}\nsave class numbers, not names")
    wrong = np.flatnonzero(~((values >= 0) & (values <= np.iinfo(np.int32).max) & (values == np.floor(values))))
    if len(wrong):
        raise InputError(
            f"{file}: labels must be whole numbers from 0 up, got {values[wrong[0]]} in row {wrong[0]} "
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
        raise InputError(f"{file} is not a whole parquet file: {error}\nwrite it again") from error

    def read(name: str) -> NDArray[Any]:
        try:
            return np.asarray(pq.read_table(file, columns=[name]).column(0).to_numpy())
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{file}: column {name!r} cannot be read: {error}\nwrite the file again") from error

    return {name: _bound(read, name) for name in names}


def _csv(file: Path) -> Columns:
    import pyarrow as pa
    import pyarrow.csv as pv

    try:
        delimiter, encoding = table_form(file)
        with file.open(newline="", encoding=encoding) as lines:
            header = next(csv.reader(lines, delimiter=delimiter), [])
        if not header or len(set(header)) != len(header):
            raise InputError(f"{file} must start with a line of distinct column names, got {header}\nadd a header")
        # A bare list of numbers is a common export: its first line is a label, not a name.
        headless = all(name.strip().isdecimal() for name in header)
        table = pv.read_csv(
            file,
            read_options=pv.ReadOptions(
                autogenerate_column_names=headless, encoding="utf8" if encoding == "utf-8-sig" else encoding
            ),
            parse_options=pv.ParseOptions(delimiter=delimiter),
        )
    except (pa.ArrowException, OSError, UnicodeError, csv.Error) as error:
        raise InputError(f"{file} cannot be read as csv: {error}\nwrite it again, with a header") from error
    read: Callable[[str], NDArray[Any]] = lambda name: np.asarray(table.column(name).to_numpy())  # noqa: E731
    return {name: _bound(read, name) for name in table.column_names}


def table_form(file: Path) -> tuple[str, str]:
    """Return the delimiter and the encoding of a text table, by its byte order mark and its first line.

    Spreadsheet programs write semicolons in many countries, and UTF-16 as "Unicode text".
    """
    with file.open("rb") as content:
        start = content.read(65536)
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
