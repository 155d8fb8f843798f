"""Packed and decoded images are equal; stores are kept, rebuilt and bounded in memory."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from picture_trees import write_class_folders, write_image

from tune_lnl.config.datasets import FolderOptions
from tune_lnl.datasets.images.noisy import load_noisy
from tune_lnl.datasets.paths import cache_dir
from tune_lnl.datasets.pictures.folder import ImageFolder
from tune_lnl.datasets.pictures.noisy import Pictures
from tune_lnl.datasets.pictures.rows import DecodedPixels, PackedPixels, PictureRows
from tune_lnl.datasets.registry import parse_options
from tune_lnl.errors import CorruptDataError

CLASSES = ["a", "b", "c"]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUNE_LNL_CACHE", str(tmp_path / "cache"))
    write_class_folders(tmp_path / "mine", CLASSES, 4)
    write_class_folders(tmp_path / "mine" / "test", CLASSES, 1, seed=50)
    return tmp_path / "mine"


def options(root: Path, **settings: Any) -> FolderOptions:
    parsed = parse_options({"name": "folder", "root": str(root), **settings})
    assert isinstance(parsed, FolderOptions)
    return parsed


def read(root: Path, **settings: Any) -> Pictures:
    return ImageFolder().read(None, cache_dir(), options(root, **settings))


def stores(root: Path) -> list[Path]:
    return sorted(path for path in (root.parent / "cache" / "packed").iterdir() if path.is_dir())


@pytest.mark.parametrize("resolution", [32, 80])
def test_packed_and_decoded_pixels_are_the_same(resolution: int, root: Path) -> None:
    packed = read(root, resolution=resolution).examined
    decoded = read(root, resolution=resolution, cache_budget=0.0).examined
    assert isinstance(packed.pixels, PackedPixels)
    assert isinstance(decoded.pixels, DecodedPixels)
    assert packed.fingerprint == decoded.fingerprint
    assert np.array_equal(packed.thumbnails, decoded.thumbnails)
    for one, other in zip(
        (packed.training_images(), packed.test_images()),
        (decoded.training_images(), decoded.test_images()),
        strict=True,
    ):
        rows = np.arange(len(one))[::-1]
        assert np.array_equal(one[rows], other[rows])
        for mine, theirs in zip(one.uncropped(rows), other.uncropped(rows), strict=True):
            assert np.array_equal(mine, theirs)
    square = resolution == 32
    shapes = {image.shape for image in packed.training_images().uncropped(np.arange(4))}
    assert shapes == ({(32, 32, 3)} if square else {(91, 128, 3), (113, 91, 3)})


def test_rows_are_of_their_split(root: Path) -> None:
    done = read(root).examined
    train, test = done.training_images(), done.test_images()
    assert (train.shape, test.shape) == ((12, 32, 32, 3), (3, 32, 32, 3))
    assert train[0].shape == (32, 32, 3)
    assert np.array_equal(train[2:4], train[np.array([2, 3])])
    chosen = np.zeros(12, dtype=np.bool_)
    chosen[[2, 3]] = True
    assert np.array_equal(train[chosen], train[2:4])
    assert train[np.array([], dtype=np.int64)].shape == (0, 32, 32, 3)
    assert not np.array_equal(train[0], test[0])
    for wrong in (12, -1, np.array([0, 12])):
        with pytest.raises(IndexError, match=r"0\.\.11"):
            train[wrong]


def test_images_are_decoded_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = read(root).examined
    monkeypatch.setattr("tune_lnl.datasets.pictures.rows.decode", None)
    assert read(root).examined.fingerprint == first.fingerprint
    assert len(stores(root)) == 1


def test_a_changed_file_is_read_again(root: Path) -> None:
    first = read(root).examined
    path = write_image(root / "a" / "000.jpg", 77)
    second = read(root).examined
    assert first.fingerprint != second.fingerprint
    os.utime(path, ns=(1, 1))
    assert read(root).examined.fingerprint == second.fingerprint
    assert len(stores(root)) == 3


@pytest.mark.parametrize("name", ["meta.json", "pixels.npy", "thumbnails.npy"])
def test_a_damaged_store_is_made_again(name: str, root: Path) -> None:
    first = read(root).examined
    os.truncate(first.store.folder / name, 10)
    second = read(root).examined
    assert second.fingerprint == first.fingerprint
    assert (second.store.folder / name).stat().st_size > 10


def test_changed_pixels_are_noticed(root: Path) -> None:
    done = read(root).examined
    assert not done.pixels_changed()
    pixels = np.load(done.store.folder / "pixels.npy", mmap_mode="r+")
    pixels[100] ^= 1
    pixels.flush()
    assert done.pixels_changed()


def test_images_beyond_the_budget_are_not_packed(root: Path) -> None:
    needed = read(root, resolution=64).surveyed.packed_bytes(read(root, resolution=64).examined.size)
    assert needed == pytest.approx(15 * 64 * 64 * 3 * 1.1, rel=1e-6)
    assert read(root, resolution=64, cache_budget=1.001 * needed / 1e9).examined.packed
    assert not read(root, resolution=64, cache_budget=0.999 * needed / 1e9).examined.packed


def test_packed_images_leave_room_on_the_disk(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = os.statvfs(root)
    monkeypatch.setattr(
        "tune_lnl.datasets.pictures.rows.shutil.disk_usage", lambda place: type("Usage", (), {"free": 1000})
    )
    assert free.f_bavail > 0
    assert not read(root).examined.packed


def test_a_file_that_breaks_during_a_run_is_named(root: Path) -> None:
    images = read(root, cache_budget=0.0).examined.training_images()
    (root / "a" / "001.jpg").write_bytes(b"gone")
    with pytest.raises(CorruptDataError, match=r"a/001\.jpg could be decoded before and now cannot"):
        images[1]
    assert images[0].shape == (32, 32, 3)


def test_equal_files_are_found(root: Path) -> None:
    (root / "b" / "copy.jpg").write_bytes((root / "a" / "000.jpg").read_bytes())
    contents = read(root).examined.contents
    assert len(np.unique(contents, axis=0)) == len(contents) - 1


def test_names_go_with_the_images(root: Path) -> None:
    (root / "a" / "001.jpg").write_bytes(b"")
    data = load_noisy(options(root), None)
    assert data.train_names is not None
    assert data.root == root
    assert [data.train_names[row] for row in range(4)] == ["a/000.jpg", "a/002.jpg", "a/003.jpg", "b/000.jpg"]
    assert isinstance(data.train_images, PictureRows)
    assert len(data.train_names) == len(data.train_images) == 11


@pytest.mark.slow
def test_a_long_list_stays_small(tmp_path: Path) -> None:
    count, classes = 200_000, 20
    for label in range(classes):
        (tmp_path / "mine" / f"class_{label:02d}").mkdir(parents=True)
        for number in range(count // classes):
            os.close(os.open(tmp_path / "mine" / f"class_{label:02d}" / f"{number:07d}.jpg", os.O_CREAT))
    tracemalloc.start()
    found = ImageFolder().list_files(None, tmp_path, options(tmp_path / "mine"))
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found) == count
    assert kept + found.names.nbytes < 200 * count
    assert peak + found.names.nbytes < 400 * count
