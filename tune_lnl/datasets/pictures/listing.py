"""Lists of image files and their labels, made from names alone, in bounded memory for millions of files.

A name is the path relative to the dataset's root, with slashes. Names are kept as the bytes of the file system, so that
every script and every encoding works.
"""

from __future__ import annotations

import hashlib
import os
import stat
from array import array
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tune_lnl.datasets.base import Labels
from tune_lnl.datasets.reid.layouts import IMAGE_SUFFIXES
from tune_lnl.errors import CorruptDataError, InputError, shown

UNKNOWN = -1
NAMES_PER_CHUNK = 65536
LEFTOVERS = frozenset({"__macosx", "@eadir", "#recycle", "$recycle.bin", "lost+found", "system volume information"})
"""Folders that operating systems, archivers and storage devices add, in lower case; they hold no data."""
NAMES_TOLD = 1000
"""Number of skipped files whose names are kept; the others are only counted."""
IMAGE_ENDINGS = tuple(sorted(IMAGE_SUFFIXES))


class Names(Sequence[str]):
    """Relative paths of many files in little memory; undecodable bytes become surrogates, as in `os`."""

    def __init__(self, packed: Any) -> None:
        self._packed = packed
        """pyarrow ChunkedArray of large_binary."""

    def __len__(self) -> int:
        return len(self._packed)

    def __getitem__(self, row: Any) -> Any:
        if isinstance(row, slice):
            return Names(self._packed[row])
        return os.fsdecode(self._packed[int(row)].as_py())

    def chosen(self, rows: NDArray[Any]) -> Names:
        """Return the names of these rows, in their order."""
        import pyarrow as pa

        return Names(pa.chunked_array([self._packed.take(pa.array(rows))], type=pa.large_binary()))

    @property
    def nbytes(self) -> int:
        """Size in memory."""
        return int(self._packed.nbytes)


@dataclass(frozen=True)
class PictureList:
    """Image files by their names, none opened; training images first, then test images, each in a fixed order.

    Attributes:
        root: the folder that names are relative to.
        form: the layout, e.g. "class folders".
        class_names: closed classes first; the others only occur as true labels.
        num_classes: number of closed classes: given labels are below it.
        names: (n,).
        training: number of training images, which come first; the others are the test set.
        labels: int64 (n,) given labels; for test images the best known ones.
        true_labels: int64 (n,), or None where they are unknown.
        verified: int8 (n,): whether the given label is right: 1 yes, 0 no, -1 not known. None where none is known.
        skipped: the reason why a file cannot be used, by its name; the first NAMES_TOLD of them.
        skipped_count: the number of such files.
        ignored: number of files that are no images by their names, by suffix (lower case, with the dot).
        notes: remarks on the layout, for the user.
        digest: sha256 (hex) over names, sizes and modification times of the files, and labels.
    """

    root: Path
    form: str
    class_names: tuple[str, ...]
    num_classes: int
    names: Names
    training: int
    labels: Labels
    true_labels: Labels | None
    verified: NDArray[np.int8] | None
    skipped: Mapping[str, str]
    skipped_count: int
    ignored: Mapping[str, int]
    notes: tuple[str, ...]
    digest: str

    def __len__(self) -> int:
        return len(self.labels)

    def path(self, row: int) -> Path:
        name: str = self.names[row]
        return self.root / name


@dataclass
class ListBuilder:
    """Collector of files; training images are added first."""

    root: Path
    form: str
    on_error: str

    def __post_init__(self) -> None:
        self._home = self.root.resolve()
        self._inside: set[Path] = set()
        self._chunks: list[Any] = []
        self._names: list[bytes] = []
        self._labels, self._true, self._verified = array("q"), array("q"), array("b")
        self._digest = hashlib.sha256(f"{self.form}\n".encode())
        self.skipped: dict[str, str] = {}
        self.skipped_count = 0
        self.ignored: Counter[str] = Counter()
        self._left_out: set[str] = set()
        self.notes: list[str] = []
        self._training: int | None = None

    def __len__(self) -> int:
        return len(self._labels)

    def begin_test(self) -> None:
        """Add all following files to the test set."""
        self._training = len(self)

    def add(self, name: str, status: os.stat_result, label: int, true: int = UNKNOWN, verified: int = UNKNOWN) -> None:
        encoded = os.fsencode(name)
        self._names.append(encoded)
        if len(self._names) == NAMES_PER_CHUNK:
            self._flush()
        self._labels.append(label)
        self._true.append(true)
        self._verified.append(verified)
        split = "test" if self._training is not None else "train"
        facts = f"\0{status.st_size}\0{status.st_mtime_ns}\0{split}\0{label}\0{true}\0{verified}\n"
        self._digest.update(encoded + facts.encode())

    def skip(self, name: str, reason: str) -> None:
        """Count a file that cannot be used. Raises CorruptDataError with `on_error` "fail"."""
        if self.on_error == "fail":
            raise CorruptDataError(
                f"{shown(name)}: {reason}\n"
                "correct or remove it, or skip and count such files: --set dataset.on_error=skip"
            )
        self.skipped_count += 1
        if len(self.skipped) < NAMES_TOLD:
            self.skipped[name] = reason

    def finish(self, class_names: Sequence[str], num_classes: int | None = None) -> PictureList:
        import pyarrow as pa

        self._flush()
        training = len(self) if self._training is None else self._training
        true = np.frombuffer(self._true, dtype=np.int64) if len(self) else np.empty(0, np.int64)
        verified = np.frombuffer(self._verified, dtype=np.int8) if len(self) else np.empty(0, np.int8)
        self._digest.update("\n".join(class_names).encode("utf-8", "surrogateescape"))
        if self._left_out:
            names = ", ".join(shown(name) for name in sorted(self._left_out))
            self.notes.append(f"folders that hold no data are left out: {names}")
        return PictureList(
            root=self.root,
            form=self.form,
            class_names=tuple(class_names),
            num_classes=len(class_names) if num_classes is None else num_classes,
            names=Names(pa.chunked_array(self._chunks, type=pa.large_binary())),
            training=training,
            labels=np.frombuffer(self._labels, dtype=np.int64) if len(self) else np.empty(0, np.int64),
            true_labels=true if training and bool((true[:training] != UNKNOWN).all()) else None,
            verified=verified if bool((verified != UNKNOWN).any()) else None,
            skipped=self.skipped,
            skipped_count=self.skipped_count,
            ignored=dict(self.ignored),
            notes=tuple(self.notes),
            digest=self._digest.hexdigest(),
        )

    def _flush(self) -> None:
        import pyarrow as pa

        if self._names:
            self._chunks.append(pa.array(self._names, type=pa.large_binary()))
            self._names = []

    # ---- the file system

    def folders_in(self, folder: Path) -> list[str]:
        """Return the sorted names of the folders in `folder`, without hidden ones.

        Raises:
            InputError: a link that leaves the root, or a folder that cannot be read.
        """
        return sorted(entry.name for entry in self._entries(folder) if entry.is_dir(follow_symlinks=False))

    def images_in(self, name: str) -> Iterator[tuple[str, os.stat_result]]:
        """Yield (name, status) of all image files in and below the folder `name`, in a fixed order.

        Links to files inside the root are followed, links to folders are not.

        Raises:
            InputError: a link that leaves the root, or a folder that cannot be read.
        """
        waiting = [name]
        while waiting:
            at = waiting.pop()
            inner = []
            for entry in sorted(self._entries(self.root / at), key=lambda entry: entry.name):
                below = f"{at}/{entry.name}" if at else entry.name
                if entry.is_dir(follow_symlinks=False):
                    inner.append(below)
                    continue
                status = self._status_of(entry, below)
                if status is not None:
                    yield below, status
            waiting.extend(reversed(inner))

    def status(self, name: str) -> os.stat_result:
        """Return the status of the file `name`, which must be inside the root.

        Raises:
            InputError: it is outside, by its name or through a link.
            OSError: it does not exist, or is no file.
        """
        if "\0" in name:
            raise FileNotFoundError("the name contains a null character")
        path = self.root / name
        if path.parent not in self._inside:
            self._require_inside(path.parent)
            self._inside.add(path.parent)
        if path.is_symlink():
            self._require_inside(path)
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise IsADirectoryError("it is not a file")
        return status

    def _status_of(self, entry: os.DirEntry[str], name: str) -> os.stat_result | None:
        if not is_image_name(entry.name):
            self.ignored[Path(entry.name).suffix.lower()] += 1
            return None
        try:
            status = entry.stat()
        except OSError as error:
            self.skip(name, f"it is a link to nothing, or cannot be read ({error.strerror})")
            return None
        if not stat.S_ISREG(status.st_mode):
            self.skip(name, "it is not a file; links to folders are not followed")
            return None
        return status

    def _entries(self, folder: Path) -> Iterator[os.DirEntry[str]]:
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if is_leftover(entry.name):
                        if not entry.name.startswith("."):
                            self._left_out.add(entry.name)
                        continue
                    if entry.is_symlink():
                        self._require_inside(Path(entry.path))
                    yield entry
        except OSError as error:
            raise InputError(f"{shown(str(folder))} cannot be read: {error.strerror}\ncheck its permissions") from error

    def _require_inside(self, path: Path) -> None:
        if not path.resolve().is_relative_to(self._home):
            raise InputError(
                f"{shown(str(path))} is outside {self.root}, by its name or through a link; only files inside are "
                "read\nput the files themselves there instead"
            )


def is_leftover(name: str) -> bool:
    """Return whether a file or folder of this name is hidden or holds no data; see LEFTOVERS."""
    return name.startswith(".") or name.lower() in LEFTOVERS


def is_image_name(name: str) -> bool:
    """Return whether the suffix is that of an image format."""
    return name.lower().endswith(IMAGE_ENDINGS)


def in_order(names: Collection[str]) -> list[str]:
    """Sort class names: numbers by value if all are numbers, so that 10 comes after 9, else by their characters."""
    if all(name.isascii() and name.isdecimal() for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def add_class_folders(builder: ListBuilder, folder: str, class_names: Sequence[str]) -> None:
    """Add every image in `folder`/<class>; class k is `class_names[k]`. A class without a folder has no images."""
    for label, name in enumerate(class_names):
        inside = f"{folder}/{name}" if folder else name
        if (builder.root / inside).is_dir():
            for image, status in builder.images_in(inside):
                builder.add(image, status, label)


def require_training_images(found: PictureList, looked_for: str) -> PictureList:
    """Return `found` if a classifier can be trained on it.

    Raises:
        InputError: no training image, or training images of fewer than two classes.
    """
    root = shown(str(found.root))
    if found.training == 0:
        skipped = f"; {found.skipped_count:,} files were skipped" if found.skipped_count else ""
        raise InputError(f"{root} has no training image{skipped}\nlooked for {looked_for}")
    classes = np.unique(found.labels[: found.training])
    if len(classes) < 2:
        only = shown(found.class_names[int(classes[0])])
        raise InputError(f"{root} has training images of one class only ({only}); a classifier needs at least two")
    return found
