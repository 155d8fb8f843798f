"""Person re-identification datasets: Market-1501, DukeMTMC-reID, CUHK03-NP, and their base classes.

Images are decoded and resized once, as published (CORE, released train_core.py: bicubic, 288x144 before the random crop
of training, 256x128 for evaluation), into a packed store that is memory-mapped by all trials of a node.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
from abc import abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from tune_lnl.config.datasets import Cuhk03Options, DatasetOptions, ReidOptions
from tune_lnl.datasets.base import Dataset, Images, Labels
from tune_lnl.datasets.description import Description, Packed
from tune_lnl.datasets.paths import DATA_VARIABLE, find_dataset_folder, read_errors_named, searched_folders
from tune_lnl.datasets.paths import cache_dir as default_cache_dir
from tune_lnl.datasets.reid.layouts import (
    CUHK03_NP_NAMES,
    CUHK03_OLD_NAMES,
    DISTRACTOR,
    DUKE_NAMES,
    MARKET_NAMES,
    OFFICIAL_FOLDERS,
    SPLITS,
    NameScheme,
    PersonFile,
    ReidFiles,
    find_layout,
    own_names,
    read_layout,
)
from tune_lnl.datasets.store import GrowingArray, PackedStore, Packing, SourceFiles, open_or_pack
from tune_lnl.errors import CorruptDataError, InputError, shown
from tune_lnl.steps import percent, step

# Part of the store's form: raise it when the decoding or the arrays change.
PACKING_VERSION = 1
ENLARGEMENT = 1.125  # training images before the random crop: 288 / 256 and 144 / 128
IMAGES_PER_BLOCK = 256


@dataclass(frozen=True)
class PersonImages:
    """Images of one split, n of them.

    Attributes:
        images: uint8 (n, H, W, 3) at the size of the network's input; a read-only memory map.
        paths: (n,) relative to the folder that holds the splits, with slashes; sorted.
        identities: int64 (n,) as in the file names; 0 for distractors in a gallery.
        cameras: int64 (n,) as in the file names.
    """

    images: Images
    paths: tuple[str, ...]
    identities: Labels
    cameras: Labels


@dataclass(frozen=True)
class ReidSource:
    """A dataset as published: three splits, before any noise, validation split or subset.

    Attributes:
        train: the training split.
        train_resized: uint8 (n, h, w, 3), the same images in the same order, 1.125 times the size of the network's
            input; training takes its random crops from them.
        query: the official query, a part of the test set.
        gallery: the official gallery, without junk, with distractors.
        junk: number of dropped images that show nobody in full.
        skipped: paths that were skipped because of their names or because they cannot be decoded; sorted.
        fingerprint: sha256 (hex) over pixels, identities and cameras of all splits, in order.
    """

    train: PersonImages
    train_resized: Images
    query: PersonImages
    gallery: PersonImages
    junk: int
    skipped: tuple[str, ...]
    fingerprint: str

    @property
    def distractors(self) -> int:
        """Number of gallery images of people who are no query."""
        return int(np.count_nonzero(self.gallery.identities == DISTRACTOR))


class ReidDataset(Dataset[ReidOptions]):
    """A dataset of people in files of a published layout. A subclass finds its root folder."""

    Options: ClassVar[type[DatasetOptions]] = ReidOptions
    image_shape: ClassVar[tuple[int, int, int]] = (256, 128, 3)
    mean = (0.485, 0.456, 0.406)
    std = (0.229, 0.224, 0.225)
    default_model = "reid_resnet50"

    schemes: ClassVar[tuple[NameScheme, ...]]
    """The forms of its file names."""
    inner_folders: ClassVar[tuple[str, ...]] = ()
    """Folders of the published archive that may stand between the root and the splits."""

    @abstractmethod
    def root_folder(self, data_dir: Path | None, cache_dir: Path, options: ReidOptions) -> Path:
        """Return the folder with the dataset's files, in one of the layouts of :mod:`tune_lnl.datasets.reid.layouts`.

        Raises:
            InputError: it does not exist; the message names the expected files and their origin.
        """

    def input_size(self, options: ReidOptions) -> tuple[int, int]:
        """Return (height, width) of the network's input in pixels."""
        if options.height is None:
            return self.image_shape[0], self.image_shape[1]
        return options.height, options.height // 2

    def read_names(self, data_dir: Path | None, cache_dir: Path, options: ReidOptions) -> ReidFiles:
        """List the dataset's files by their names, without opening any.

        Raises:
            InputError, CorruptDataError: as :meth:`load_source`, except for images that cannot be decoded.
        """
        root = self.root_folder(data_dir, cache_dir, options)
        with read_errors_named(root):
            layout = find_layout(root, self.inner_folders, options.boxes_folder, partial=True)
            if layout is None:
                raise CorruptDataError(f"{root} must hold {self._expected_folders(options)}\nget the dataset again")
            schemes = self.schemes if options.pattern is None else (own_names(options.pattern),)
            return read_layout(root, layout, schemes, options.split, options.on_error)

    def load_source(self, data_dir: Path | None, cache_dir: Path, options: ReidOptions) -> ReidSource:
        """Return the clean source; it is read from `data_dir` and packed into `cache_dir` on first use.

        Raises:
            InputError: the data is absent; the message names the expected files and their origin.
            CorruptDataError: a split is missing or empty, a file name has no published form, or an image cannot be
                decoded; the last two are skipped and counted with `on_error` "skip".
        """
        files = self.read_names(data_dir, cache_dir, options)
        base = files.layout.base
        # Boxes of both kinds may be equal in names and sizes, so the splits' folder is part of the key.
        inner = base.relative_to(files.root).as_posix()
        size = self.input_size(options)
        form = f"{PACKING_VERSION} {files.layout.name} {inner} {size[0]}x{size[1]}"
        if options.pattern is not None:
            form += f" {options.pattern}"
        everything = tuple(file.path for split in SPLITS for file in files.split(split))
        fail = options.on_error == "fail"
        store = open_or_pack(
            cache_dir, self.name, SourceFiles(base, form, everything), lambda packing: _pack(packing, files, size, fail)
        )
        unreadable: dict[str, str] = store.facts["unreadable"]
        if unreadable and fail:
            name, reason = next(iter(unreadable.items()))
            raise _unreadable_image(base / name, reason)
        return _source(files, store)

    def describe(self, options: ReidOptions, data_dir: Path | None) -> Description:
        # It needs the classes of this module, so it is imported where it is called.
        from tune_lnl.datasets.reid.describe import describe_persons

        return describe_persons(self, options, data_dir)

    def pack(self, options: ReidOptions, data_dir: Path | None) -> Packed | None:
        return Packed.around(self.load_source(data_dir, default_cache_dir(), options).train.images)

    def _expected_folders(self, options: ReidOptions) -> str:
        boxes = options.boxes_folder
        inside = "" if boxes is None else f"{boxes}/"
        official = ", ".join(inside + folder for folder in OFFICIAL_FOLDERS.values())
        return f"{official}, or train, query, gallery with a folder per identity"


class ReidFolders(ReidDataset):
    """A published dataset in the data dir."""

    folder: ClassVar[str]
    title: ClassVar[str]
    origin: ClassVar[str]
    """The page or people that provide it."""

    def root_folder(self, data_dir: Path | None, cache_dir: Path, options: ReidOptions) -> Path:
        found = self._find(data_dir, cache_dir, options.boxes_folder)
        if found is None:
            searched = " and ".join(str(folder) for folder in searched_folders(self.folder, data_dir, cache_dir))
            raise InputError(
                f"{self.name} needs {self.title}: none found in {searched}\n"
                f"looked for {self._expected_folders(options)}\n"
                f"get it from {self.origin}, and pass --data-dir DIR or set {DATA_VARIABLE}\n"
                "the search space core_sprites needs no data at all"
            )
        return found

    def is_present(self, data_dir: Path | None, cache_dir: Path) -> bool:
        return self._find(data_dir, cache_dir, boxes=None) is not None

    def _find(self, data_dir: Path | None, cache_dir: Path, boxes: str | None) -> Path | None:
        def holds_data(folder: Path) -> bool:
            # A folder of another name may hold another dataset, so there all three splits are required.
            own = folder.resolve().name in (self.folder, *self.inner_folders)
            with read_errors_named(folder):
                return find_layout(folder, self.inner_folders, boxes, partial=own) is not None

        return find_dataset_folder(self.folder, data_dir, holds_data, cache_dir)


class Market1501(ReidFolders):
    """Market-1501 (Zheng et al. 2015): 751 training identities, 750 for testing, six cameras."""

    name = "market1501"
    folder = "market1501"
    title = "Market-1501"
    description = "Market-1501 with identity noise among its 751 training identities"
    origin = "its authors' page (Zheng et al., Scalable Person Re-identification, ICCV 2015)"
    schemes = (MARKET_NAMES,)
    inner_folders = ("Market-1501-v15.09.15",)


class DukeMTMC(ReidFolders):
    """DukeMTMC-reID (Zheng et al. 2017): 702 training identities, 702 for testing, eight cameras."""

    name = "dukemtmc"
    folder = "dukemtmc-reid"
    title = "DukeMTMC-reID"
    description = "DukeMTMC-reID with identity noise among its 702 training identities"
    origin = "those who hold a licensed copy (Zheng et al., ICCV 2017; the authors withdrew the public download)"
    schemes = (DUKE_NAMES,)
    inner_folders = ("DukeMTMC-reID",)


class Cuhk03(ReidFolders):
    """CUHK03 under the new protocol (Zhong et al. 2017): 767 training identities, 700 for testing."""

    name = "cuhk03"
    folder = "cuhk03-np"
    title = "CUHK03-NP"
    description = "CUHK03 (new protocol) with identity noise among its 767 training identities"
    origin = "the page of the new protocol (Zhong et al., Re-ranking with k-reciprocal Encoding, CVPR 2017)"
    Options: ClassVar[type[DatasetOptions]] = Cuhk03Options
    schemes = (CUHK03_NP_NAMES, CUHK03_OLD_NAMES)
    inner_folders = ("cuhk03-np",)

    def is_present(self, data_dir: Path | None, cache_dir: Path) -> bool:
        return any(self._find(data_dir, cache_dir, boxes) is not None for boxes in ("detected", "labeled"))


def training_size(size: tuple[int, int]) -> tuple[int, int]:
    """Return (height, width) of resized training images for an input of this size: 288x144 for 256x128."""
    return round(size[0] * ENLARGEMENT), round(size[1] * ENLARGEMENT)


def source_fingerprint(source: ReidSource) -> str:
    """Compute the fingerprint of pixels, identities and cameras anew. Reads all pixels."""
    splits = (source.train, source.query, source.gallery)
    arrays = (source.train.images, source.train_resized, source.query.images, source.gallery.images)
    digests = [(array.shape, hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()) for array in arrays]
    return _fingerprint(digests, [(split.identities, split.cameras) for split in splits])


# ---- the packed store ----------------------------------------------------------------------------------------------


def _pack(packing: Packing, files: ReidFiles, size: tuple[int, int], fail: bool) -> tuple[str, dict[str, Any]]:
    """Decode and write split after split, with one block of images in memory; return the fingerprint and the facts."""
    unreadable: dict[str, str] = {}
    """The reason why an image cannot be decoded, by its path; in the order of the splits."""
    arrays: list[GrowingArray] = []
    kept: list[list[PersonFile]] = []
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        for split in SPLITS:
            sizes = {split: size, "train_resized": training_size(size)} if split == "train" else {split: size}
            listed = files.split(split)
            kept.append([])
            with contextlib.ExitStack() as stack:
                written = [stack.enter_context(packing.growing(name, (*each, 3))) for name, each in sizes.items()]
                for start in range(0, len(listed), IMAGES_PER_BLOCK):
                    step(f"packing the {split} split ... {percent(start, len(listed))}")
                    block = listed[start : start + IMAGES_PER_BLOCK]
                    # Pillow releases the interpreter's lock while it decodes and resizes.
                    decoded = pool.map(functools.partial(_decode, sizes=tuple(sizes.values())), block)
                    for file, images in zip(block, decoded, strict=True):
                        if isinstance(images, str):
                            if fail:
                                raise _unreadable_image(file.path, images)
                            unreadable[file.name] = images
                            continue
                        kept[-1].append(file)
                        for array, image in zip(written, images, strict=True):
                            array.append(image[None])
            if not kept[-1]:
                raise CorruptDataError(f"no image of the {split} split can be read\nget the dataset again")
            arrays.extend(written)
    digests = [(array.shape, array.sha256.hexdigest()) for array in arrays]
    people = [(_identities(split), _cameras(split)) for split in kept]
    return _fingerprint(digests, people), {"unreadable": unreadable}


def _decode(file: PersonFile, sizes: Sequence[tuple[int, int]]) -> list[Images] | str:
    """Return the image at each (height, width), uint8 (height, width, 3); or the reason why it cannot be decoded."""
    from PIL import Image

    try:
        with Image.open(file.path, formats=("PNG", "JPEG")) as image:
            pixels = image.width * image.height
            if Image.MAX_IMAGE_PIXELS is not None and pixels > Image.MAX_IMAGE_PIXELS:
                return f"{pixels:,} pixels are more than Pillow's limit of {Image.MAX_IMAGE_PIXELS:,}"
            person = image.convert("RGB")
        return [
            np.asarray(person.resize((width, height), Image.Resampling.BICUBIC), dtype=np.uint8)
            for height, width in sizes
        ]
    except MemoryError:
        raise
    except Exception as error:
        # Decoders raise many kinds of errors on hostile bytes: OSError, SyntaxError, zlib.error, the bomb limit, ...
        return str(error).replace(str(file.path), file.name) or type(error).__name__


def _unreadable_image(path: Path, reason: str) -> CorruptDataError:
    return CorruptDataError(
        f"{shown(str(path))}: the image cannot be decoded: {reason}\n"
        "get the dataset again, or skip and count such images: --set dataset.on_error=skip"
    )


def _source(files: ReidFiles, store: PackedStore) -> ReidSource:
    unreadable: dict[str, str] = store.facts["unreadable"]

    def people(split: str) -> PersonImages:
        kept = [file for file in files.split(split) if file.name not in unreadable]
        images = store.arrays[split]
        assert len(images) == len(kept), "the store's key covers the names"
        return PersonImages(images, tuple(file.name for file in kept), _identities(kept), _cameras(kept))

    return ReidSource(
        train=people("train"),
        train_resized=store.arrays["train_resized"],
        query=people("query"),
        gallery=people("gallery"),
        junk=files.junk,
        skipped=tuple(sorted([*files.skipped, *unreadable])),
        fingerprint=store.fingerprint,
    )


def _fingerprint(arrays: Sequence[tuple[tuple[int, ...], str]], people: Sequence[tuple[Labels, Labels]]) -> str:
    """Return the sha256 (hex) of shapes and digests of the pixels, and of identities and cameras."""
    digest = hashlib.sha256()
    for shape, pixels in arrays:
        digest.update(f"{[int(size) for size in shape]} {pixels}\n".encode())
    for identities, cameras in people:
        for numbers in (identities, cameras):
            digest.update(np.ascontiguousarray(numbers, dtype="<i8").data)
    return digest.hexdigest()


def _identities(files: Sequence[PersonFile]) -> Labels:
    return np.array([file.identity for file in files], dtype=np.int64)


def _cameras(files: Sequence[PersonFile]) -> Labels:
    return np.array([file.camera for file in files], dtype=np.int64)
