"""Tables of paths and labels: csv, tsv or parquet."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tune_lnl.datasets.label_columns import table_form
from tune_lnl.datasets.pictures.listing import UNKNOWN, ListBuilder, PictureList
from tune_lnl.datasets.pictures.names import (
    PATH_SPELLINGS,
    TEST_NAMES,
    TRAIN_NAMES,
    cell_text,
    in_order,
    odd_names,
    split_name,
)
from tune_lnl.errors import InputError, shown

TABLES = (".csv", ".tsv", ".parquet")
NEEDED = ("path", "label")
OPTIONAL = ("true_label", "split")
ROWS_PER_BATCH = 65536


@dataclass(frozen=True)
class _Row:
    """One row: its number (from 1, without the header) and its cells; None for an empty cell."""

    number: int
    path: str | None
    label: str | None
    true_label: str | None
    split: str | None


class TableReader:
    """Reader of a table: its classes first, then its files in a second pass."""

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
        self._builder.notes += odd_names(names)
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
            split = None if row.split is None else split_name(row.split)
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
        return row.split is not None and split_name(row.split) in self._test_names

    def _is_unread(self, row: _Row) -> bool:
        return row.split is not None and split_name(row.split) in self._unread_names

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
