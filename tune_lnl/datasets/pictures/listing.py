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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tune_lnl.datasets.base import Labels
from tune_lnl.datasets.formats import is_image_name
from tune_lnl.errors import CorruptDataError, InputError, shown

UNKNOWN = -1
NAMES_PER_CHUNK = 65536
LEFTOVERS = frozenset(
    {
        *("__macosx", "network trash folder", "temporary items", "thevolumesettingsfolder"),  # macOS
        *("$recycle.bin", "recycler", "recycled", "system volume information", "found.000"),  # Windows
        *("@eadir", "#recycle", "#snapshot", "~snapshot", "@recycle", "@recently-snapshot", "@tmp"),  # network storage
        *("lost+found", "lost.dir", "__pycache__"),  # Linux, Android, Python
    }
)
"""Folders that operating systems, archivers, storage devices and notebooks add, in lower case; they hold no data."""
OUTSIDE = "it is outside the folder, by its name or through a link"
NAMES_TOLD = 1000
"""Number of skipped files whose names are kept; the others are only counted."""


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
        self._home = Path(os.path.realpath(self.root))
        self._inside: set[Path] = set()
        self._links: set[str] = set()
        """Links to folders that are not followed."""
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
            self.skipped.setdefault(name, reason)

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

        Links to folders inside the root are followed. Other links to folders are skipped and named.

        Raises:
            InputError: a folder that cannot be read.
        """
        return sorted(entry.name for entry in self._entries(folder) if self._is_folder(entry))

    def images_in(self, name: str) -> Iterator[tuple[str, os.stat_result]]:
        """Yield (name, status) of all image files in and below the folder `name`, in a fixed order.

        Links inside the root are followed, but no folder is read twice. Links that lead out of the root, to nothing, or
        to a folder that holds the link are skipped and named.

        Raises:
            InputError: a folder that cannot be read.
        """
        waiting = [name]
        read = {os.path.realpath(self.root / name)}
        while waiting:
            at = waiting.pop()
            inner = []
            for entry in sorted(self._entries(self.root / at), key=lambda entry: entry.name):
                below = f"{at}/{entry.name}" if at else entry.name
                if self._is_folder(entry):
                    real = os.path.realpath(entry.path)
                    if real not in read:
                        read.add(real)
                        inner.append(below)
                    continue
                status = self._status_of(entry, below)
                if status is not None:
                    yield below, status
            waiting.extend(reversed(inner))

    def images_directly_in(self, folder: Path) -> list[str]:
        """Return the sorted names of the image files in `folder` itself. Raises InputError if it cannot be read."""
        return sorted(entry.name for entry in self._entries(folder) if is_image_name(entry.name) and not entry.is_dir())

    def skip_images_of(self, name: str, reason: str) -> None:
        """Count the image files in the folder `name` itself as skipped."""
        for image in self.images_directly_in(self.root / name):
            self.skip(f"{name}/{image}" if name else image, reason)

    def status(self, name: str) -> os.stat_result:
        """Return the status of the file `name`.

        Raises:
            OSError: it is outside the root, by its name or through a link; it does not exist; it is no file.
        """
        if "\0" in name:
            raise FileNotFoundError("the name contains a null character")
        path = self.root / name
        if path.parent not in self._inside:
            if not self._is_inside(path.parent):
                raise PermissionError(OUTSIDE)
            self._inside.add(path.parent)
        if path.is_symlink() and not self._is_inside(path):
            raise PermissionError(OUTSIDE)
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise IsADirectoryError("it is not a file")
        return status

    def _is_folder(self, entry: os.DirEntry[str]) -> bool:
        """Return whether the entry is a folder to read, or a link to one inside that does not hold the link."""
        if not entry.is_symlink():
            return entry.is_dir(follow_symlinks=False)
        real = Path(os.path.realpath(entry.path))
        name = Path(entry.path).relative_to(self.root).as_posix()
        try:
            is_folder = stat.S_ISDIR(real.stat().st_mode)
        except OSError:  # absent, or links that lead to each other
            self._skip_link(name, "it is a link to nothing")
            return False
        if not is_folder:
            return False
        if not real.is_relative_to(self._home):
            self._skip_link(name, "it is a link to a folder outside")
            return False
        if Path(os.path.realpath(Path(entry.path).parent)).is_relative_to(real):
            self._skip_link(name, "it is a link to a folder that holds the link")
            return False
        return True

    def _skip_link(self, name: str, reason: str) -> None:
        # A layout is looked at several times; a link is counted once.
        if name not in self._links:
            self._links.add(name)
            self.skip(name, reason)

    def _status_of(self, entry: os.DirEntry[str], name: str) -> os.stat_result | None:
        if name in self._links:
            return None
        if not is_image_name(entry.name):
            self.ignored[Path(entry.name).suffix.lower()] += 1
            return None
        try:
            if entry.is_symlink() and not self._is_inside(Path(entry.path)):
                self.skip(name, "it is a link to a file outside")
                return None
            status = entry.stat()
        except OSError as error:
            self.skip(name, f"it is a link to nothing, or cannot be read ({error.strerror})")
            return None
        if not stat.S_ISREG(status.st_mode):
            self.skip(name, "it is not a file")
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
                    yield entry
        except OSError as error:
            raise InputError(f"{shown(str(folder))} cannot be read: {error.strerror}\ncheck its permissions") from error

    def _is_inside(self, path: Path) -> bool:
        return Path(os.path.realpath(path)).is_relative_to(self._home)


def is_leftover(name: str) -> bool:
    """Return whether a file or folder of this name is hidden or holds no data; see LEFTOVERS."""
    return name.startswith(".") or name.lower() in LEFTOVERS


def add_class_folders(
    builder: ListBuilder, folder: str, class_names: Sequence[str], folders: Mapping[str, Sequence[str]] | None = None
) -> None:
    """Add every image in the folders of each class; class k is `class_names[k]`.

    Images come in the order of their folders' names as text (1, 10, 2), which label files follow, whatever the order of
    the classes.

    Args:
        builder: collects the images.
        folder: the folder that holds the class folders, relative to the root; "" is the root.
        class_names: the classes; one without a folder has no images.
        folders: the folders of a class, by its name; None: one folder of the same name.
    """
    label_of = {
        own: label
        for label, name in enumerate(class_names)
        for own in ((name,) if folders is None else folders.get(name, ()))
    }
    for own, label in sorted(label_of.items()):
        inside = f"{folder}/{own}" if folder else own
        if (builder.root / inside).is_dir():
            for image, status in builder.images_in(inside):
                builder.add(image, status, label)


def require_training_images(found: PictureList, looked_for: str) -> PictureList:
    """Return `found` if a classifier can be trained on it.

    Raises:
        InputError: no training image, or training images of fewer than two classes.
    """
    root = shown(str(found.root))
    first = next((f"; the first is {shown(name)}: {shown(why)}" for name, why in found.skipped.items()), "")
    skipped = f"; {found.skipped_count:,} files were skipped{first}" if found.skipped_count else ""
    if found.training == 0:
        most = ", ".join(f"{shown(ending) or 'no ending'} {count:,}" for ending, count in most_common(found.ignored))
        ignored = f"; {sum(found.ignored.values()):,} other files: {most}" if found.ignored else ""
        notes = "".join(f"; {note}" for note in found.notes[:3])
        raise InputError(f"{root} has no training image{skipped}{ignored}{notes}\nlooked for {looked_for}")
    classes = np.unique(found.labels[: found.training])
    if len(classes) < 2:
        only = shown(found.class_names[int(classes[0])])
        raise InputError(
            f"{root} has training images of one class only ({only}); a classifier needs at least two{skipped}\n"
            "give the folder that holds one folder for each class"
        )
    return found


def most_common(ignored: Mapping[str, int], listed: int = 10) -> list[tuple[str, int]]:
    """Return the most common endings of files that are no images, with their counts."""
    return sorted(ignored.items(), key=lambda item: (-item[1], item[0]))[:listed]
