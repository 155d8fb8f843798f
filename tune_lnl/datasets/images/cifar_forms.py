"""Read CIFAR-100 and CIFAR-10 (Krizhevsky 2009) in all their common forms into arrays.

The input is not trusted: nothing is unpickled before its checksum is verified, and exactly the verified bytes are
unpickled; archive members are read in memory; an image is decoded only if its header says 32x32 RGB; links that leave
the dataset's folder are refused.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import os
import pickle
import re
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from tune_lnl.datasets.base import Images, Labels, Source, fingerprint_of
from tune_lnl.datasets.images.cifar_spec import SIDE, CifarSpec
from tune_lnl.datasets.pictures.listing import ListBuilder, is_leftover
from tune_lnl.datasets.pictures.names import in_order
from tune_lnl.errors import CorruptDataError, InputError
from tune_lnl.steps import step

SPLITS = ("train", "test")
# The names of Hugging Face's shards; older exports add a hash after the total.
SHARD_NAME = re.compile(r"(?P<split>train|test)-(?P<index>\d{5})-of-(?P<total>\d{5})(?:-[0-9a-f]+)?\.parquet")
# Three times the published archives: a larger file is refused instead of read into memory.
MAX_OFFICIAL_BYTES = 512 * 2**20
ROWS_PER_BATCH = 1024


class Form(ABC):
    """One form of a CIFAR dataset on disk."""

    name: ClassVar[str]

    @abstractmethod
    def describe(self, spec: CifarSpec) -> str:
        """Return the expected files, for messages."""

    @abstractmethod
    def is_in(self, root: Path, spec: CifarSpec, own_folder: bool) -> bool:
        """Return whether the folder `root` holds this form, complete or not.

        `own_folder`: the folder has the dataset's name. Otherwise its content must distinguish the two CIFARs.
        """

    @abstractmethod
    def files(self, root: Path, spec: CifarSpec) -> list[Path]:
        """List the files to read, in order. Raises CorruptDataError if one is missing, InputError for outside links."""

    @abstractmethod
    def read(self, root: Path, files: Sequence[Path], spec: CifarSpec) -> Source:
        """Decode and check the files. Raises CorruptDataError that names the file."""


class Archive(Form):
    """The official archive; it is never extracted to disk."""

    name = "archive"

    def describe(self, spec: CifarSpec) -> str:
        return spec.archive

    def is_in(self, root: Path, spec: CifarSpec, own_folder: bool) -> bool:
        return (root / spec.archive).is_file()

    def files(self, root: Path, spec: CifarSpec) -> list[Path]:
        return _within(root, [root / spec.archive])

    def read(self, root: Path, files: Sequence[Path], spec: CifarSpec) -> Source:
        (archive,) = files
        content = _read_limited(archive)
        _require_md5(content, _torchvision(spec).tgz_md5, str(archive))
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as tar:
            return _read_batches(spec, archive, lambda batch: _member(tar, f"{spec.folder}/{batch}", archive))


class OfficialFolder(Form):
    """The folder inside the official archive."""

    name = "folder"

    def describe(self, spec: CifarSpec) -> str:
        return f"{spec.folder}/"

    def is_in(self, root: Path, spec: CifarSpec, own_folder: bool) -> bool:
        return self._folder(root, spec) is not None

    def files(self, root: Path, spec: CifarSpec) -> list[Path]:
        folder = self._folder(root, spec)
        assert folder is not None, "files() is called where is_in() held"
        files = [folder / batch for split in spec.batches for batch in split]
        for file in files:
            if not file.is_file():
                raise CorruptDataError(f"{file} is missing: {spec.title} is incomplete\n{_GET_AGAIN}")
        return _within(root, files)

    def read(self, root: Path, files: Sequence[Path], spec: CifarSpec) -> Source:
        by_name = {file.name: file for file in files}
        return _read_batches(spec, files[0].parent, lambda batch: _read_limited(by_name[batch]))

    def _folder(self, root: Path, spec: CifarSpec) -> Path | None:
        if (root / spec.folder).is_dir():
            return root / spec.folder
        is_it = any((root / batch).is_file() for split in spec.batches for batch in split)
        return root if is_it else None


class Parquet(Form):
    """Hugging Face parquet shards: column `img` {bytes: PNG, path} and a label column."""

    name = "parquet"

    def describe(self, spec: CifarSpec) -> str:
        return f"train-*-of-*.parquet with a column {spec.label_column}"

    def is_in(self, root: Path, spec: CifarSpec, own_folder: bool) -> bool:
        shards = [shard for split in SPLITS for shard in _shards(root, split)]
        if not shards or own_folder:
            return bool(shards)
        try:
            return spec.label_column in _open_parquet(shards[0]).schema_arrow.names
        except CorruptDataError:
            return True  # it fails when it is read, with its name

    def files(self, root: Path, spec: CifarSpec) -> list[Path]:
        return _within(root, [shard for split in SPLITS for shard in _complete_shards(root, split)])

    def read(self, root: Path, files: Sequence[Path], spec: CifarSpec) -> Source:
        by_split = [[file for file in files if file.name.startswith(f"{split}-")] for split in SPLITS]
        for split, shards, expected in zip(SPLITS, by_split, spec.counts, strict=True):
            # From the footers, before any image is decoded.
            _require_count(root, split, sum(_open_parquet(shard).metadata.num_rows for shard in shards), expected)
        return _source(
            [_concatenate([_read_shard(shard, spec) for shard in shards]) for shards in by_split], spec.classes
        )


class ClassFolders(Form):
    """One folder per class: `train/<class>/*.png|jpg` and `test/<class>/*`, with any number of images."""

    name = "class-folders"

    def describe(self, spec: CifarSpec) -> str:
        return f"train/<class>/*.png and test/<class>/*.png with {len(spec.classes)} classes"

    def is_in(self, root: Path, spec: CifarSpec, own_folder: bool) -> bool:
        present = [(root / split).is_dir() for split in SPLITS]
        if own_folder:
            return any(present)
        if not all(present):
            return False
        names = [path.name for path in (root / "train").iterdir() if path.is_dir()]
        return sum(not is_leftover(name) for name in names) == len(spec.classes)

    def files(self, root: Path, spec: CifarSpec) -> list[Path]:
        for split in SPLITS:
            if not (root / split).is_dir():
                raise CorruptDataError(f"{root / split} is missing: {spec.title} is incomplete\n{_GET_AGAIN}")
        builder = ListBuilder(root, self.name, on_error="fail")
        names = [builder.folders_in(root / split) for split in SPLITS]
        for split, found in zip(SPLITS, names, strict=True):
            if len(found) != len(spec.classes) or found != names[0]:
                raise CorruptDataError(
                    f"{root / split} must hold one folder for each of the {len(spec.classes)} classes, the same in "
                    f"train and test; it holds {len(found)}\n{_GET_AGAIN}"
                )
        files = []
        for folder in (f"{split}/{name}" for split in SPLITS for name in in_order(names[0])):
            images = [root / image for image, _ in builder.images_in(folder)]
            if not images:
                raise CorruptDataError(f"{root / folder} holds no image\n{_GET_AGAIN}")
            files += images
        return files

    def read(self, root: Path, files: Sequence[Path], spec: CifarSpec) -> Source:
        folders = [file.relative_to(root).parts[:2] for file in files]
        class_names = tuple(in_order({name for _, name in folders}))
        label_of = {name: label for label, name in enumerate(class_names)}
        splits = []
        for split in SPLITS:
            images = [(str(file), file) for file, (part, _) in zip(files, folders, strict=True) if part == split]
            labels = np.array([label_of[name] for part, name in folders if part == split], dtype=np.int64)
            splits.append((_decode(images), labels))
        return _source(splits, class_names)


# The archive first: it has one checksum, while a folder next to it may be extracted in part.
FORMS: tuple[Form, ...] = (Archive(), OfficialFolder(), Parquet(), ClassFolders())

_GET_AGAIN = "get the data again, or point --data-dir at a complete copy"


def form_in(root: Path, spec: CifarSpec, own_folder: bool) -> Form | None:
    """Return the form of the data in the folder `root`, or None."""
    return next((form for form in FORMS if form.is_in(root, spec, own_folder)), None)


def published_archive(spec: CifarSpec) -> tuple[str, str]:
    """Return (URL, md5) of the official archive, as in torchvision."""
    published = _torchvision(spec)
    return published.url, published.tgz_md5


def _torchvision(spec: CifarSpec) -> Any:
    import torchvision.datasets  # imports torch, which only the official forms need

    return getattr(torchvision.datasets, spec.torchvision_class)


def _within(root: Path, paths: list[Path]) -> list[Path]:
    """Return the paths; raise InputError if one leaves `root` through a link."""
    home = root.resolve()
    for path in paths:
        if not path.resolve().is_relative_to(home):
            raise InputError(
                f"{path} is a link that leaves {root}; such links are not followed\nput the file itself there instead"
            )
    return paths


# ---- official batches ----------------------------------------------------------------------------------------------


def _read_limited(path: Path) -> bytes:
    size = path.stat().st_size
    if size > MAX_OFFICIAL_BYTES:
        raise CorruptDataError(f"{path} has {size:,} bytes, far more than the published file\n{_GET_AGAIN}")
    return path.read_bytes()


def _require_md5(content: bytes, expected: str, where: str) -> None:
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != expected:
        raise CorruptDataError(
            f"{where} does not have the published checksum: md5 {found}, expected {expected}\n{_GET_AGAIN}"
        )


def _member(tar: tarfile.TarFile, name: str, archive: Path) -> bytes:
    try:
        member = tar.getmember(name)
    except KeyError:
        raise CorruptDataError(f"{archive} lacks {name}\n{_GET_AGAIN}") from None
    content = tar.extractfile(member) if member.isreg() and member.size <= MAX_OFFICIAL_BYTES else None
    if content is None:
        raise CorruptDataError(f"{archive}: {name} is not a plain file of the published size\n{_GET_AGAIN}")
    return content.read()


def _read_batches(spec: CifarSpec, source: Path, content_of: Callable[[str], bytes]) -> Source:
    published = _torchvision(spec)
    checksums: dict[str, str] = dict([*published.train_list, *published.test_list])
    arrays: list[tuple[Images, Labels]] = []
    for split, batches, expected in zip(SPLITS, spec.batches, spec.counts, strict=True):
        parts = []
        for batch in batches:
            where = f"{source}: {batch}"
            content = content_of(batch)
            _require_md5(content, checksums[batch], where)
            unpickled = pickle.loads(content, encoding="latin1")
            # Pixels come as (N, 3 * 32 * 32), channels first.
            pixels = np.asarray(unpickled["data"], dtype=np.uint8).reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
            labels = np.asarray(unpickled[spec.pickle_labels], dtype=np.int64)
            parts.append((np.ascontiguousarray(pixels), _checked_labels(labels, spec, where)))
        arrays.append(_concatenate(parts))
        _require_count(source, split, len(arrays[-1][1]), expected)
    return _source(arrays, spec.classes)


# ---- parquet -------------------------------------------------------------------------------------------------------


def _shards(root: Path, split: str) -> list[Path]:
    names = sorted(path.name for path in root.iterdir() if path.is_file())
    return [root / name for name in names if (match := SHARD_NAME.fullmatch(name)) and match["split"] == split]


def _complete_shards(root: Path, split: str) -> list[Path]:
    shards = _shards(root, split)
    parts = [match for shard in shards if (match := SHARD_NAME.fullmatch(shard.name))]
    if not parts:
        raise CorruptDataError(f"{root} has no {split}-*-of-*.parquet: the {split} split is missing\n{_GET_AGAIN}")
    total = int(parts[0]["total"])
    found = [int(part["index"]) for part in parts]
    if found != list(range(total)) or any(int(part["total"]) != total for part in parts):
        raise CorruptDataError(
            f"{root} must hold each of {total} {split} shards once, "
            f"got {', '.join(shard.name for shard in shards)}\n{_GET_AGAIN}"
        )
    return shards


def _open_parquet(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise CorruptDataError(
            f"{path} is not a complete parquet file ({path.stat().st_size:,} bytes): {error}\n{_GET_AGAIN}"
        ) from error


def _read_shard(path: Path, spec: CifarSpec) -> tuple[Images, Labels]:
    labels: list[Labels] = []
    images = _decode(_shard_rows(path, spec, labels))
    return images, _checked_labels(np.concatenate([*labels, np.empty(0, dtype=np.int64)]), spec, str(path))


def _shard_rows(path: Path, spec: CifarSpec, labels: list[Labels]) -> Iterator[tuple[str, bytes]]:
    """Yield the location and encoded image of each row; append the labels of each batch to `labels`."""
    import pyarrow as pa

    file = _open_parquet(path)
    for column in ("img", spec.label_column):
        if column not in file.schema_arrow.names:
            raise CorruptDataError(
                f"{path} has no column {column!r}; its columns are {', '.join(file.schema_arrow.names)}\n{_GET_AGAIN}"
            )
    row = 0
    try:
        for batch in file.iter_batches(batch_size=ROWS_PER_BATCH, columns=["img", spec.label_column]):
            numbers = batch.column(spec.label_column)
            encoded = batch.column("img")
            if numbers.null_count or not pa.types.is_integer(numbers.type):
                raise CorruptDataError(f"{path}: {spec.label_column} must hold an integer in every row\n{_GET_AGAIN}")
            if not pa.types.is_struct(encoded.type) or encoded.type.get_field_index("bytes") < 0:
                raise CorruptDataError(f"{path}: img must be a struct with bytes, got {encoded.type}\n{_GET_AGAIN}")
            labels.append(numbers.to_numpy(zero_copy_only=False).astype(np.int64))
            for content in encoded.field("bytes").to_pylist():
                yield f"{path}, row {row}", content if isinstance(content, bytes) else b""
                row += 1
    except (pa.ArrowException, OSError) as error:
        raise CorruptDataError(f"{path} cannot be read after row {row}: {error}\n{_GET_AGAIN}") from error


# ---- images and labels ---------------------------------------------------------------------------------------------


def _decode(rows: Iterable[tuple[str, bytes | Path]]) -> Images:
    """Return uint8 (N, 32, 32, 3) in order; one thread per core (Pillow releases the interpreter's lock)."""

    def blocks() -> Iterator[list[tuple[str, bytes | Path]]]:
        remaining = iter(rows)
        while block := list(itertools.islice(remaining, ROWS_PER_BATCH)):
            yield block

    def decode_block(block: list[tuple[str, bytes | Path]]) -> Images:
        return np.stack([_decode_image(where, encoded) for where, encoded in block])

    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        decoded = [np.empty((0, SIDE, SIDE, 3), dtype=np.uint8)]
        for images in pool.map(decode_block, blocks()):
            decoded.append(images)
            step(f"packing images ... {sum(map(len, decoded)):,}")
        return np.concatenate(decoded)


def _decode_image(where: str, encoded: bytes | Path) -> Images:
    from PIL import Image

    try:
        with Image.open(
            io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded, formats=("PNG", "JPEG")
        ) as image:
            found = (*image.size, image.mode)
            if found == (SIDE, SIDE, "RGB"):
                return np.array(image, dtype=np.uint8)
    except Exception as error:
        # Decoders raise many kinds of errors on hostile bytes: OSError, SyntaxError, zlib.error, the bomb limit, ...
        raise CorruptDataError(f"{where}: the image cannot be decoded: {error}\n{_GET_AGAIN}") from error
    raise CorruptDataError(
        f"{where}: an image must be {SIDE}x{SIDE} RGB, got {found[0]}x{found[1]} {found[2]}\n{_GET_AGAIN}"
    )


def _source(splits: Sequence[tuple[Images, Labels]], class_names: tuple[str, ...]) -> Source:
    (train_images, train_labels), (test_images, test_labels) = splits
    fingerprint = fingerprint_of(train_images, train_labels, test_images, test_labels)
    return Source(train_images, train_labels, test_images, test_labels, class_names, fingerprint)


def _concatenate(parts: Sequence[tuple[Images, Labels]]) -> tuple[Images, Labels]:
    return np.concatenate([images for images, _ in parts]), np.concatenate([labels for _, labels in parts])


def _checked_labels(labels: Labels, spec: CifarSpec, where: str) -> Labels:
    if labels.size and (labels.min() < 0 or labels.max() >= len(spec.classes)):
        raise CorruptDataError(
            f"{where}: labels must be in 0..{len(spec.classes) - 1}, got {labels.min()}..{labels.max()}\n{_GET_AGAIN}"
        )
    return labels


def _require_count(source: Path, split: str, found: int, expected: int) -> None:
    if found != expected:
        raise CorruptDataError(f"{source}: the {split} split has {found:,} images, not {expected:,}\n{_GET_AGAIN}")
