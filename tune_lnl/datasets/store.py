"""The packed store: one directory of memory-mapped arrays per source content, shared by all trials of a node.

Layout, under the cache: `packed/<dataset>-<key>/` with `{train,test}_{images,labels}.npy` and `meta.json`. The key
covers the names, sizes and modification times of the source files, so that a changed source is packed anew. A store is
built in a temporary directory and renamed, under a lock: what carries the final name is complete, and only one process
packs. A store whose files do not have the sizes that `meta.json` recorded is rebuilt, never trusted.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from tune_lnl.datasets.base import Images, Labels, Source, fingerprint_of
from tune_lnl.errors import CorruptDataError, InputError

# Part of the key: raise it when the layout or the decoding changes, and old stores are left alone.
STORE_VERSION = 1
Opened = TypeVar("Opened")
ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")


@dataclass(frozen=True)
class SourceFiles:
    """The files a dataset is read from.

    Attributes:
        root: the dataset's folder.
        form: which published form they are in, e.g. "parquet".
        files: in the order they are read.
    """

    root: Path
    form: str
    files: tuple[Path, ...]


@dataclass(frozen=True)
class DecodedArrays:
    """What goes into a store: uint8 (N, H, W, C) images and int64 (N,) labels of both splits."""

    train_images: Images
    train_labels: Labels
    test_images: Images
    test_labels: Labels
    class_names: tuple[str, ...]


@dataclass(frozen=True)
class _Meta:
    key: str
    dataset: str
    form: str
    source_files: list[str]
    source_file_count: int
    class_names: list[str]
    fingerprint: str
    bytes: dict[str, int]


def open_or_pack(cache_dir: Path, dataset: str, source: SourceFiles, decode: Callable[[], DecodedArrays]) -> Source:
    """The packed source, memory-mapped read-only; packed with `decode` first where no sound store exists.

    Args:
        cache_dir: the cache; `packed/` is made in it.
        dataset: name of the data (not of the noise on it): datasets that differ in noise only share a store.
        source: where the data comes from; decides the store's key.
        decode: reads the source files; called at most once, under the lock.

    Raises:
        CorruptDataError: from `decode`, or when the source changed while it was read.
        InputError: the cache cannot be written.
    """
    return open_or_build(
        cache_dir, dataset, source, _open, lambda building, key: _pack(building, key, dataset, source, decode)
    )


def open_or_build(
    cache_dir: Path,
    dataset: str,
    source: SourceFiles,
    open_store: Callable[[Path], Opened | None],
    build: Callable[[Path, str], None],
) -> Opened:
    """What `open_store` makes of the store of this source content, which `build` writes first where there is none.

    Args:
        cache_dir, dataset, source: as for :func:`open_or_pack`.
        open_store: given a store's directory; None where it is absent or damaged.
        build: given an empty directory to write the store's files into, and the store's key; called at most once,
            under the lock. The directory gets the store's name when all is written.

    Raises:
        CorruptDataError: from `build`, or when the source changed while it was read.
        InputError: the cache cannot be written.
    """
    store = store_path(cache_dir, dataset, source)
    opened = open_store(store)
    if opened is not None:
        return opened
    try:
        store.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(store.with_name(f"{store.name}.lock")):
            opened = open_store(store)
            if opened is not None:
                return opened
            _remove_leftovers(store)
            _build(store, dataset, source, build)
    except OSError as error:
        raise InputError(
            f"the packed store cannot be written to {store}: {error}\n"
            "free some space there, or set TUNE_LNL_CACHE to a directory that can be written"
        ) from error
    opened = open_store(store)
    if opened is None:
        raise CorruptDataError(
            f"the store {store} was damaged right after it was packed\ncheck the disk under the cache"
        )
    return opened


def store_path(cache_dir: Path, dataset: str, source: SourceFiles) -> Path:
    """Where the store of this source content is, or will be."""
    return cache_dir / "packed" / f"{dataset}-{_key(dataset, source)}"


def _key(dataset: str, source: SourceFiles) -> str:
    digest = hashlib.sha256(f"{STORE_VERSION}\n{dataset}\n{source.form}\n".encode())
    for file in source.files:
        stat = file.stat()
        name = file.relative_to(source.root).as_posix()
        digest.update(f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16]


def _open(store: Path) -> Source | None:
    """The store, or None where it is absent or damaged."""
    try:
        recorded = json.loads((store / "meta.json").read_text(encoding="utf-8"))
        meta = _Meta(**recorded)
        if not store.name.endswith(f"-{meta.key}"):
            return None
        if any((store / f"{name}.npy").stat().st_size != meta.bytes[name] for name in ARRAYS):
            return None
        arrays = {name: map_array(store / f"{name}.npy") for name in ARRAYS}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        # Absent, torn or from another hand: all of them mean "pack it again".
        return None
    return Source(**arrays, class_names=tuple(meta.class_names), fingerprint=meta.fingerprint)


def map_array(path: Path) -> NDArray[Any]:
    """A npy file as a read-only memory map. Raises OSError or ValueError."""
    array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    return array


def _build(store: Path, dataset: str, source: SourceFiles, build: Callable[[Path, str], None]) -> None:
    building, damaged = _leftovers(store)
    building.mkdir()
    try:
        build(building, store.name.removeprefix(f"{dataset}-"))
        if store_path(store.parent.parent, dataset, source) != store:
            raise CorruptDataError(
                f"the files in {source.root} changed while they were read\n"
                "wait until they are complete, then start again"
            )
        if store.exists():
            # A damaged store: moved away first, because a directory cannot be renamed over one that is not empty.
            store.rename(damaged)
        building.rename(store)
    finally:
        _remove_leftovers(store)


def _pack(building: Path, key: str, dataset: str, source: SourceFiles, decode: Callable[[], DecodedArrays]) -> None:
    decoded = _decoded(source, decode)
    sizes = {name: _save(building / f"{name}.npy", getattr(decoded, name)) for name in ARRAYS}
    meta = _Meta(
        key=key,
        dataset=dataset,
        form=source.form,
        source_files=_first_names(source, 32),
        source_file_count=len(source.files),
        class_names=list(decoded.class_names),
        fingerprint=fingerprint_of(
            decoded.train_images, decoded.train_labels, decoded.test_images, decoded.test_labels
        ),
        bytes=sizes,
    )
    write_through(building / "meta.json", json.dumps(asdict(meta), indent=1).encode())


def _decoded(source: SourceFiles, decode: Callable[[], DecodedArrays]) -> DecodedArrays:
    try:
        return decode()
    except OSError as error:
        # Told apart from a cache that cannot be written.
        raise InputError(f"the files in {source.root} cannot be read: {error}\ncheck their permissions") from error


def _save(path: Path, array: NDArray[Any]) -> int:
    with path.open("wb") as file:
        np.save(file, array, allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())
    return path.stat().st_size


def write_through(path: Path, content: bytes) -> None:
    """Write a small file and have it on the disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _first_names(source: SourceFiles, count: int) -> list[str]:
    names: Sequence[Path] = source.files[:count]
    return [ascii(file.relative_to(source.root).as_posix())[1:-1] for file in names]


def _remove_leftovers(store: Path) -> None:
    """What a packing that died left behind, or a damaged store. Only called under the lock of this store."""
    for leftover in _leftovers(store):
        if leftover.exists():
            shutil.rmtree(leftover)


def _leftovers(store: Path) -> tuple[Path, Path]:
    return store.with_name(f"{store.name}.building"), store.with_name(f"{store.name}.damaged")
