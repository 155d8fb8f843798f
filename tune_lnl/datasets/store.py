"""The packed store: memory-mapped arrays made from one source, shared by all trials of a node.

Layout, in the cache: `packed/<dataset>-<key>/` holds one `.npy` file per array, and `meta.json`. The key covers the
names, sizes and modification times of the source files, so a changed source is packed again. A store is written into a
temporary directory and renamed, under a lock: a directory with the final name is complete, and only one process packs.
`meta.json` records the size of each file and its own checksum; a store that does not match is packed again.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from tune_lnl.datasets.base import Images
from tune_lnl.errors import CorruptDataError, InputError
from tune_lnl.files import is_disk_full
from tune_lnl.steps import step

# Part of the key: raise it when the layout changes. Stores of other versions are neither read nor removed.
STORE_VERSION = 2
NAMES_RECORDED = 32


@dataclass(frozen=True)
class SourceFiles:
    """The files that a dataset is read from.

    Attributes:
        root: the dataset's folder.
        form: which published form they are in, e.g. "parquet", and every option that changes the packed arrays.
        files: in the order they are read.
    """

    root: Path
    form: str
    files: tuple[Path, ...]


@dataclass(frozen=True)
class PackedStore:
    """An open store.

    Attributes:
        folder: its directory.
        arrays: read-only memory maps.
        facts: JSON values that the packing recorded with the arrays.
        fingerprint: sha256 (hex) over the content, as defined by the dataset's family.
    """

    folder: Path
    arrays: Mapping[str, NDArray[Any]]
    facts: Mapping[str, Any]
    fingerprint: str

    def nbytes(self) -> int:
        """Return the size on disk in bytes."""
        return sum(file.stat().st_size for file in self.folder.iterdir())


class GrowingArray:
    """A npy file of uint8 items that is written item by item; a context manager that completes the file at its end.

    Attributes:
        shape: (items written so far, *shape of an item).
        sha256: hash of the items' bytes.
    """

    def __init__(self, path: Path, item_shape: tuple[int, ...]) -> None:
        self.shape: tuple[int, ...] = (0, *item_shape)
        self.sha256 = hashlib.sha256()
        self._file = path.open("wb")
        self._data_start = self._write_header()

    def append(self, items: Images) -> None:
        """Write uint8 items (n, *shape of an item)."""
        assert items.dtype == np.uint8, "the header says uint8"
        assert items.shape[1:] == self.shape[1:], f"items of shape {self.shape[1:]}"
        content = np.ascontiguousarray(items).data
        self._file.write(content)
        self.sha256.update(content)
        self.shape = (self.shape[0] + len(items), *self.shape[1:])

    def __enter__(self) -> GrowingArray:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        with self._file:
            if kind is None:
                self._file.seek(0)
                end = self._write_header()
                assert end == self._data_start, "numpy leaves room in the header for a first axis that grows"
                self._file.flush()
                os.fsync(self._file.fileno())

    def _write_header(self) -> int:
        descr = np.lib.format.dtype_to_descr(np.dtype(np.uint8))
        header = {"descr": descr, "fortran_order": False, "shape": self.shape}
        np.lib.format.write_array_header_1_0(self._file, header)
        return self._file.tell()


class Packing:
    """The arrays of a store that is being written."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, name: str, values: NDArray[Any]) -> None:
        """Write a whole array."""
        with (self._folder / f"{name}.npy").open("wb") as file:
            np.save(file, values, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())

    def growing(self, name: str, item_shape: tuple[int, ...] = ()) -> GrowingArray:
        """Open a uint8 array that is written item by item, so that it need not fit into memory."""
        return GrowingArray(self._folder / f"{name}.npy", item_shape)


def open_or_pack(
    cache_dir: Path, dataset: str, source: SourceFiles, pack: Callable[[Packing], tuple[str, Mapping[str, Any]]]
) -> PackedStore:
    """Return the store of this source; write it with `pack` first where no sound store exists.

    Args:
        cache_dir: the cache; `packed/` is made in it.
        dataset: name of the data (not of the noise on it): datasets that differ in noise only share a store.
        source: the source files; they decide the store's key.
        pack: writes the arrays, and returns the fingerprint and the facts to record. Called at most once, under the
            lock. It converts errors of the source's files; its OSErrors are taken for errors of the cache.

    Raises:
        CorruptDataError: from `pack`, or the source changed while it was read.
        InputError: from `pack`, or the cache cannot be written.
        OSError: the disk of the cache is full.
    """
    folder = store_path(cache_dir, dataset, source)
    opened = _open(folder)
    if opened is not None:
        return opened
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f"{folder.name}.lock")):
            opened = _open(folder)
            if opened is None:
                _pack(folder, dataset, source, pack)
                opened = _open(folder)
    except OSError as error:
        if is_disk_full(error):
            full = f"the packed store cannot be written to {folder}: {os.strerror(errno.ENOSPC)}"
            raise OSError(errno.ENOSPC, full, str(folder)) from error
        raise InputError(
            f"the packed store cannot be written to {folder}: {error}\n"
            "free some space there, or set TUNE_LNL_CACHE to a directory that can be written"
        ) from error
    if opened is None:
        raise CorruptDataError(f"the store {folder} was damaged right after packing\ncheck the disk under the cache")
    return opened


def store_path(cache_dir: Path, dataset: str, source: SourceFiles) -> Path:
    """Return the directory of this source's store, which may not exist yet."""
    digest = hashlib.sha256(f"{STORE_VERSION}\n{dataset}\n{source.form}\n".encode())
    for file in source.files:
        stat = file.stat()
        name = file.relative_to(source.root).as_posix()
        digest.update(f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    return cache_dir / "packed" / f"{dataset}-{digest.hexdigest()[:16]}"


def _open(folder: Path) -> PackedStore | None:
    """Return the store, or None where it is absent or damaged."""
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        checksum = meta.pop("sha256")
        if checksum != _checksum(meta) or meta["name"] != folder.name:
            return None
        arrays = {}
        for name, size in meta["bytes"].items():
            if (folder / name).stat().st_size != size:
                return None
            arrays[name.removesuffix(".npy")] = np.load(folder / name, mmap_mode="r", allow_pickle=False)
        return PackedStore(folder, arrays, meta["facts"], meta["fingerprint"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        # Absent, torn, or written by something else: in each case the store is packed again.
        return None


def _pack(
    folder: Path, dataset: str, source: SourceFiles, pack: Callable[[Packing], tuple[str, Mapping[str, Any]]]
) -> None:
    """Write the store. The caller holds its lock."""
    building, damaged = folder.with_name(f"{folder.name}.building"), folder.with_name(f"{folder.name}.damaged")

    def remove_leftovers() -> None:
        for leftover in (building, damaged):
            if leftover.exists():
                shutil.rmtree(leftover)

    step(f"packing {dataset} ...")
    remove_leftovers()  # of a packing that was killed
    building.mkdir()
    try:
        fingerprint, facts = pack(Packing(building))
        names = (file.relative_to(source.root).as_posix() for file in source.files[:NAMES_RECORDED])
        meta = {
            "name": folder.name,
            "form": source.form,
            "source_files": [ascii(name)[1:-1] for name in names],
            "source_file_count": len(source.files),
            "fingerprint": fingerprint,
            "facts": dict(facts),
            "bytes": {file.name: file.stat().st_size for file in sorted(building.iterdir())},
        }
        with (building / "meta.json").open("w", encoding="utf-8") as file:
            json.dump({**meta, "sha256": _checksum(meta)}, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        if store_path(folder.parent.parent, dataset, source) != folder:
            raise CorruptDataError(
                f"the files in {source.root} changed while they were read\n"
                "wait until they are complete, then start again"
            )
        if folder.exists():
            # A damaged store is moved away first: a directory cannot be renamed over one that is not empty.
            folder.rename(damaged)
        building.rename(folder)
    finally:
        remove_leftovers()


def _checksum(meta: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(meta).encode()).hexdigest()
