"""Small CIFAR data in every published layout, for tests."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import tarfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torchvision.datasets
from numpy.typing import NDArray
from PIL import Image

from tune_lnl.datasets.base import Images, Labels
from tune_lnl.datasets.images.cifar import Cifar, Cifar10N, Cifar100NC
from tune_lnl.datasets.images.cifar_spec import CifarSpec

TRAIN_PER_CLASS = 4
TEST_PER_CLASS = 2
LAYOUTS = ("archive", "folder", "parquet", "class-folders")


@dataclass(frozen=True)
class Split:
    images: Images
    labels: Labels


@dataclass(frozen=True)
class TinyCifar:
    """A CIFAR with a few random images per class, and its spec with those counts."""

    spec: CifarSpec
    train: Split
    test: Split


def tiny_cifar(dataset: type[Cifar], monkeypatch: pytest.MonkeyPatch) -> TinyCifar:
    """Make `dataset` expect a few images per class (there is no such setting), and draw these images."""
    owner = Cifar100NC if issubclass(dataset, Cifar100NC) else Cifar10N
    classes = len(owner.spec.classes)
    spec = replace(owner.spec, counts=(TRAIN_PER_CLASS * classes, TEST_PER_CLASS * classes))
    monkeypatch.setattr(owner, "spec", spec)
    stream = np.random.default_rng(0)
    return TinyCifar(spec, _split(stream, classes, TRAIN_PER_CLASS), _split(stream, classes, TEST_PER_CLASS))


def _split(stream: np.random.Generator, classes: int, per_class: int) -> Split:
    labels = stream.permutation(np.repeat(np.arange(classes), per_class)).astype(np.int64)
    return Split(stream.integers(0, 256, (len(labels), 32, 32, 3), dtype=np.uint8), labels)


def write_layout(layout: str, root: Path, tiny: TinyCifar, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write `tiny` in one of LAYOUTS into `root` and return it; set torchvision's checksums for the official ones."""
    root.mkdir(parents=True, exist_ok=True)
    if layout == "archive":
        write_archive(root, tiny.spec, official_batches(tiny), monkeypatch)
    elif layout == "folder":
        write_official_folder(root, tiny.spec, official_batches(tiny), monkeypatch)
    elif layout == "parquet":
        write_parquet(root, tiny)
    else:
        write_class_folders(root, tiny)
    return root


def official_batches(tiny: TinyCifar) -> dict[str, bytes]:
    """Return pickled batches by name, as in the official archive: uint8 (N, 3072), channels first, and labels."""
    batches: dict[str, bytes] = {}
    for names, split in zip(tiny.spec.batches, (tiny.train, tiny.test), strict=True):
        for name, rows in zip(names, np.array_split(np.arange(len(split.labels)), len(names)), strict=True):
            pixels = split.images[rows].transpose(0, 3, 1, 2).reshape(len(rows), -1)
            labels = split.labels[rows].tolist()
            batches[name] = pickle.dumps({"data": pixels, tiny.spec.pickle_labels: labels}, protocol=2)
    return batches


def write_archive(root: Path, spec: CifarSpec, batches: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write an archive of `batches` and set its checksum; set those of the batches if all of them are in it."""
    path = root / spec.archive
    with tarfile.open(path, "w:gz") as tar:
        for name, content in batches.items():
            member = tarfile.TarInfo(f"{spec.folder}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    if set(batches) == {name for names in spec.batches for name in names}:
        publish(spec, batches, monkeypatch)
    monkeypatch.setattr(getattr(torchvision.datasets, spec.torchvision_class), "tgz_md5", md5(path.read_bytes()))
    return path


def write_official_folder(
    root: Path, spec: CifarSpec, batches: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> Path:
    folder = root / spec.folder
    folder.mkdir(parents=True)
    for name, content in batches.items():
        (folder / name).write_bytes(content)
    publish(spec, batches, monkeypatch)
    return folder


def publish(spec: CifarSpec, batches: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """Set torchvision's checksums to those of these batches."""
    published = getattr(torchvision.datasets, spec.torchvision_class)
    for attribute, names in zip(("train_list", "test_list"), spec.batches, strict=True):
        monkeypatch.setattr(published, attribute, [[name, md5(batches[name])] for name in names])


def write_parquet(root: Path, tiny: TinyCifar, train_shards: int = 2) -> list[Path]:
    paths = []
    for split, data, shards in (("train", tiny.train, train_shards), ("test", tiny.test, 1)):
        for index, rows in enumerate(np.array_split(np.arange(len(data.labels)), shards)):
            path = root / f"{split}-{index:05d}-of-{shards:05d}.parquet"
            encoded = [png(data.images[row]) for row in rows]
            write_shard(path, tiny.spec.label_column, encoded, data.labels[rows].tolist())
            paths.append(path)
    return paths


def write_shard(path: Path, label_column: str, encoded: list[bytes], labels: list[int]) -> None:
    image = pa.array(
        [{"bytes": content, "path": None} for content in encoded],
        pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    )
    pq.write_table(pa.table({"img": image, label_column: pa.array(labels, pa.int64())}), path)


def write_class_folders(root: Path, tiny: TinyCifar) -> None:
    for split, data in (("train", tiny.train), ("test", tiny.test)):
        for row, label in enumerate(data.labels):
            folder = root / split / tiny.spec.classes[label]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{row:05d}.png").write_bytes(png(data.images[row]))


def png(pixels: NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG")
    return stream.getvalue()


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def stored_meta(cache: Path) -> dict[str, object]:
    """Return meta.json of the only store in the cache."""
    (path,) = (cache / "packed").glob("*/meta.json")
    meta: dict[str, object] = json.loads(path.read_text())
    return meta
