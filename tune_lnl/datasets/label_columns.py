"""The columns of a label file, in each of its formats. No file can run code when it is read."""

from __future__ import annotations

import codecs
import csv
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tune_lnl.errors import InputError, first_line, shown

DELIMITERS = (",", ";", "\t", "|")
# A million labels take 8 MB; a file that unpacks to more than this is no label file.
MAX_UNPACKED_BYTES = 2**30
GZIP = b"\x1f\x8b"

Columns = Mapping[str, Callable[[], NDArray[Any]]]


def read_columns(file: Path) -> Columns:
    """Return the columns, arrays or keys of a file by their names, each read when it is called.

    Args:
        file: one whose suffix is in :data:`READERS`.

    Raises:
        InputError: the file cannot be read as its suffix says, at once or when a column is read.
    """
    return READERS[file.suffix.lower()](file)


def plain_name(name: str) -> str:
    """Return the name of a column as it is compared: in lower case, without spaces around it."""
    return name.strip().casefold()


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
    if not header or len({plain_name(name) for name in header}) != len(header):
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


READERS: Mapping[str, Callable[[Path], Columns]] = {
    ".npy": _npy,
    ".npz": _npz,
    ".parquet": _parquet,
    ".csv": _csv,
    ".tsv": _csv,
    ".pt": _pt,
}
"""The formats of label files, by suffix."""
