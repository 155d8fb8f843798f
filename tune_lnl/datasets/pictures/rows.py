"""Decode images of any size once: find unreadable files, and pack the pixels at the working size where they fit.

The results lie in a packed store, see :mod:`tune_lnl.datasets.store`. Its key covers the names, sizes and modification
times of the files and their labels. The array `pixels` holds the resized images one after the other, and is
memory-mapped by all trials of a node. Where it would exceed the cache budget it is left out, and images are decoded on
request, to the same pixels.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from abc import ABC, abstractmethod
from array import array
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tune_lnl.datasets.base import Images
from tune_lnl.datasets.pictures.decoding import (
    Decoded,
    UnreadableImageError,
    WorkingSize,
    decode,
    decode_pixels,
    dimensions,
    middle,
    stored_size,
)
from tune_lnl.datasets.pictures.listing import NAMES_TOLD, Names, PictureList
from tune_lnl.datasets.store import PackedStore, Packing, SourceFiles, open_or_pack, store_path
from tune_lnl.errors import CorruptDataError, shown
from tune_lnl.steps import percent, step

# Part of the store's form: raise it when the decoding or the files change.
PACKING_VERSION = 2
SURVEYED = 256
IMAGES_PER_BLOCK = 256
MARGIN = 1.1
"""Sizes are estimated from a sample of the files, and multiplied by this."""
SPARE_DISK = 0.9
"""Share of the free space under the cache that packed images may take."""


@dataclass(frozen=True)
class Survey:
    """Facts from the headers of a sample of the files.

    Attributes:
        files: number of listed images, training and test.
        training: number of training images.
        short_side: median of the shorter sides, in pixels; 0 where no header was readable.
        sizes: int64 (n, 2), width and height of the sampled images.
    """

    files: int
    training: int
    short_side: int
    sizes: NDArray[np.int64]

    def packed_bytes(self, size: WorkingSize) -> int:
        """Estimate the size of all images at this working size."""
        if not len(self.sizes):
            return 0
        areas = [np.prod(stored_size(int(width), int(height), size)) for width, height in self.sizes]
        return int(MARGIN * 3 * float(np.mean(areas)) * self.files)


def survey(found: PictureList) -> Survey:
    """Read the headers of evenly spaced files, at most SURVEYED of them."""
    rows = np.unique(np.linspace(0, len(found) - 1, min(SURVEYED, len(found))).round().astype(np.int64))
    with _pool() as pool:
        sizes = [size for size in pool.map(dimensions, [found.path(int(row)) for row in rows]) if size is not None]
    known = np.array(sizes, dtype=np.int64).reshape(-1, 2)
    return Survey(len(found), found.training, int(np.median(known.min(axis=1))) if len(known) else 0, known)


@dataclass(frozen=True)
class Examined:
    """A list of files that have all been decoded once.

    Attributes:
        size: the working size.
        rows: int64 (n,), sorted: rows of the list whose files are sound.
        training: number of training images among them; they come first.
        shapes: int32 (n, 2): (height, width) of the original images.
        thumbnails: uint8 (n, 8, 8, 3), a read-only memory map.
        contents: uint8 (n, 16): equal for files of the same bytes.
        kinds: number of images of each format and colour form.
        unreadable: the reason why a file cannot be decoded, by its name; the first NAMES_TOLD of them.
        unreadable_count: the number of unreadable files.
        pixels: the source of the images.
        store: the packed store.
        packed: whether it holds the pixels.
    """

    size: WorkingSize
    rows: NDArray[np.int64]
    training: int
    shapes: NDArray[np.int32]
    thumbnails: Images
    contents: Images
    kinds: dict[str, int]
    unreadable: dict[str, str]
    unreadable_count: int
    pixels: PixelSource
    store: PackedStore
    packed: bool

    def training_images(self) -> PictureRows:
        return PictureRows(self.pixels, 0, self.training, self.size)

    def test_images(self) -> PictureRows:
        return PictureRows(self.pixels, self.training, len(self.rows), self.size)

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) over names, labels and bytes of the sound files."""
        return self.store.fingerprint

    def pixels_changed(self) -> bool:
        """Return whether packed pixels differ from those that were written. Reads them all."""
        if not self.packed:
            return False
        found = hashlib.sha256(np.ascontiguousarray(self.store.arrays["pixels"]).data).hexdigest()
        return bool(found != self.store.facts["pixels_sha256"])


# ---- reading pixels


class PixelSource(ABC):
    """Images at the working size, by row of :class:`Examined`."""

    @abstractmethod
    def read(self, rows: NDArray[np.int64]) -> list[Images]:
        """Return uint8 (h, w, 3) for each row."""


class PackedPixels(PixelSource):
    """Images from the memory-mapped store."""

    def __init__(self, store: PackedStore) -> None:
        self._flat, self._sizes, self._starts = (store.arrays[name] for name in ("pixels", "sizes", "starts"))

    def read(self, rows: NDArray[np.int64]) -> list[Images]:
        images = []
        for row in rows:
            height, width = (int(side) for side in self._sizes[row])
            start = int(self._starts[row])
            images.append(np.asarray(self._flat[start : start + 3 * height * width]).reshape(height, width, 3))
        return images


class DecodedPixels(PixelSource):
    """Images decoded from the files by a pool of threads: Pillow and torch release the interpreter's lock."""

    def __init__(self, root: Path, names: Names, size: WorkingSize) -> None:
        self._root = root
        self._names = names
        self._size = size
        self._pool: ThreadPoolExecutor | None = None

    def read(self, rows: NDArray[np.int64]) -> list[Images]:
        if self._pool is None:
            self._pool = _pool()
        return list(self._pool.map(self._one, rows.tolist()))

    def _one(self, row: int) -> Images:
        name = self._names[row]
        try:
            return decode_pixels(self._root / name, self._size)
        except UnreadableImageError as error:
            raise CorruptDataError(
                f"{shown(str(self._root / name))} could be decoded before and now cannot: {error}\n"
                "the files must not change during a run; start again when they are complete"
            ) from error


class PictureRows:
    """Images of one split: the network's square input by index, or uncropped images.

    `images[rows]` is the input of evaluation (the middle square, as in CenterCrop); training crops `uncropped(rows)`.
    """

    def __init__(self, source: PixelSource, start: int, stop: int, size: WorkingSize) -> None:
        self._source = source
        self._start = start
        self._count = stop - start
        self.size = size

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, crop, crop, 3)."""
        return (self._count, self.size.crop, self.size.crop, 3)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, rows: Any, /) -> Images:
        """Return uint8 (n, crop, crop, 3), or (crop, crop, 3) for a single row."""
        chosen = self._positions(rows)
        crop = self.size.crop
        images = [middle(image, crop, crop) for image in self._source.read(np.atleast_1d(chosen) + self._start)]
        stacked = np.stack(images) if images else np.empty((0, *self.shape[1:]), np.uint8)
        return stacked if np.ndim(chosen) else stacked[0]

    def _positions(self, rows: Any) -> NDArray[np.int64]:
        if isinstance(rows, slice):
            return np.arange(self._count)[rows]
        chosen = np.asarray(rows)
        if chosen.dtype == np.bool_:
            return np.flatnonzero(chosen)
        if chosen.size and not (chosen.min() >= 0 and chosen.max() < self._count):
            raise IndexError(f"rows must be in 0..{self._count - 1}, got {chosen.min()}..{chosen.max()}")
        return chosen.astype(np.int64)

    def uncropped(self, rows: NDArray[np.int64]) -> list[Images]:
        """Return uint8 (h, w, 3) for each row, the shorter side resized."""
        return self._source.read(np.atleast_1d(self._positions(rows)) + self._start)


def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None)


# ---- the store


def examine(
    cache_dir: Path, dataset: str, found: PictureList, seen: Survey, size: WorkingSize, on_error: str, budget: float
) -> Examined:
    """Decode every file once, or open the store of an earlier run.

    Args:
        cache_dir: the cache.
        dataset: its registered name.
        found, seen: the list, and the result of :func:`survey` for it.
        size: the working size.
        on_error: "fail": an unreadable file is an error.
        budget: GB that packed pixels may take.

    Raises:
        CorruptDataError: an unreadable file with `on_error` "fail", no readable training image, or files that changed
            while they were read.
        InputError: the cache cannot be written.
    """
    needed = seen.packed_bytes(size)
    packed = 0 < needed <= budget * 1e9
    if packed and not store_path(cache_dir, dataset, _source_files(found, size, packed)).exists():
        existing = next(path for path in (cache_dir, *cache_dir.absolute().parents) if path.exists())
        packed = needed <= SPARE_DISK * shutil.disk_usage(existing).free
    fail = on_error == "fail"
    store = open_or_pack(
        cache_dir,
        dataset,
        _source_files(found, size, packed),
        lambda packing: _Examination(packing, found, size, fail).run(packed),
    )
    unreadable: dict[str, str] = store.facts["unreadable"]
    if fail and unreadable:
        name, reason = next(iter(unreadable.items()))
        raise _unreadable(found.root / name, reason)
    rows = np.flatnonzero(store.arrays["readable"]).astype(np.int64)
    return Examined(
        size=size,
        rows=rows,
        training=int(np.count_nonzero(rows < found.training)),
        shapes=store.arrays["shapes"],
        thumbnails=store.arrays["thumbnails"],
        contents=store.arrays["contents"],
        kinds=store.facts["kinds"],
        unreadable=unreadable,
        unreadable_count=store.facts["unreadable_count"],
        pixels=PackedPixels(store) if packed else DecodedPixels(found.root, found.names.chosen(rows), size),
        store=store,
        packed=packed,
    )


def _source_files(found: PictureList, size: WorkingSize, packed: bool) -> SourceFiles:
    # The digest stands for the files: a million paths would take as much memory as everything else together.
    kind = f"pictures {PACKING_VERSION} {size.resize} {size.crop} {size.square} {'packed' if packed else 'examined'}"
    return SourceFiles(found.root, f"{kind} {found.digest}", ())


class _Examination:
    """Decodes all images of a list, block by block; per image less than 300 bytes stay in memory."""

    def __init__(self, packing: Packing, found: PictureList, size: WorkingSize, fail: bool) -> None:
        self._packing = packing
        self._found = found
        self._size = size
        self._fail = fail
        self._readable = np.zeros(len(found), dtype=np.bool_)
        self._thumbnails, self._contents = bytearray(), bytearray()
        self._shapes, self._sizes = array("i"), array("i")
        self._kinds: Counter[str] = Counter()
        self._digest = hashlib.sha256(f"pixels {PACKING_VERSION}\0".encode())
        self._unreadable: dict[str, str] = {}
        self._unreadable_count = 0

    def run(self, packed: bool) -> tuple[str, dict[str, Any]]:
        """Write the arrays, the pixels among them with `packed`; return the fingerprint and the facts."""
        found = self._found
        with contextlib.ExitStack() as stack:
            pool = stack.enter_context(_pool())
            pixels = stack.enter_context(self._packing.growing("pixels")) if packed else None
            for start in range(0, len(found), IMAGES_PER_BLOCK):
                if packed:
                    step(f"packing {self._found.root.name} ... {percent(start, len(found))}")
                rows = range(start, min(start + IMAGES_PER_BLOCK, len(found)))
                for row, image in zip(rows, pool.map(self._decoded, rows), strict=True):
                    if isinstance(image, str):
                        self._refuse(found.names[row], image)
                        continue
                    self._add(row, image)
                    if pixels is not None:
                        pixels.append(image.pixels.reshape(-1))
        if not self._readable[: found.training].any():
            first = next((f"; the first is {shown(name)}: {why}" for name, why in self._unreadable.items()), "")
            raise CorruptDataError(
                f"no training image in {found.root} can be read, of {found.training:,} files{first}\n"
                "check that they are whole images"
            )
        self._write_facts_of_images(packed)
        facts = {
            "kinds": dict(self._kinds),
            "unreadable": self._unreadable,
            "unreadable_count": self._unreadable_count,
            "pixels_sha256": None if pixels is None else pixels.sha256.hexdigest(),
        }
        return self._digest.hexdigest(), facts

    def _decoded(self, row: int) -> Decoded | str:
        try:
            return decode(self._found.path(row), self._size)
        except UnreadableImageError as error:
            return str(error)

    def _add(self, row: int, image: Decoded) -> None:
        self._readable[row] = True
        self._thumbnails += image.thumbnail.tobytes()
        self._contents += image.content
        self._shapes.extend((image.height, image.width))
        self._sizes.extend(image.pixels.shape[:2])
        self._kinds[image.kind] += 1
        facts = f"\0{row < self._found.training}\0{self._found.labels[row]}\0".encode()
        self._digest.update(os.fsencode(self._found.names[row]) + facts + image.content)

    def _refuse(self, name: str, reason: str) -> None:
        if self._fail:
            raise _unreadable(self._found.root / name, reason)
        self._unreadable_count += 1
        if len(self._unreadable) < NAMES_TOLD:
            self._unreadable[name] = reason

    def _write_facts_of_images(self, packed: bool) -> None:
        count = len(self._shapes) // 2
        self._packing.write("thumbnails", np.frombuffer(self._thumbnails, dtype=np.uint8).reshape(count, 8, 8, 3))
        self._packing.write("contents", np.frombuffer(self._contents, dtype=np.uint8).reshape(count, 16))
        self._packing.write("shapes", np.array(self._shapes, dtype=np.int32).reshape(count, 2))
        self._packing.write("readable", self._readable)
        if packed:
            sizes = np.array(self._sizes, dtype=np.int32).reshape(count, 2)
            ends = np.cumsum(3 * sizes.astype(np.int64).prod(axis=1))
            self._packing.write("sizes", sizes)
            self._packing.write("starts", np.concatenate([[0], ends[:-1]]).astype(np.int64))


def _unreadable(path: Path, reason: str) -> CorruptDataError:
    return CorruptDataError(
        f"{shown(str(path))}: the image cannot be used: {reason}\n"
        "remove or replace it, or skip and count such files: --set dataset.on_error=skip"
    )
