"""Small datasets of image files in every published layout, with odd and broken files."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from tune_lnl.datasets.pictures.clothing import CLASSES
from tune_lnl.datasets.pictures.web import WebImages

SIDE = 24
"""Shorter side of the images in these trees: small, so that packing is fast."""
RESOLUTION = 16
"""The value of `dataset.resolution` in these tests."""
DISHES = [f"dish_{number:03d}" for number in range(101)]


def write_image(path: Path, seed: int, width: int = SIDE, height: int = SIDE, label: int = 0) -> Path:
    """Write a random image, brighter for a higher label; its suffix gives the format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stream = np.random.RandomState([seed, label])
    base = 40 + 10 * (label % 16)
    Image.fromarray(stream.randint(base, base + 60, (height, width, 3)).astype(np.uint8)).save(path)
    return path


def write_class_folders(
    root: Path, classes: Sequence[str], per_class: int, seed: int = 0, suffix: str = ".jpg"
) -> None:
    for label, name in enumerate(classes):
        for number in range(per_class):
            width, height = (SIDE, SIDE + 6) if number % 2 else (SIDE + 10, SIDE)
            write_image(root / name / f"{number:03d}{suffix}", seed + number, width, height, label)


def write_web(data_dir: Path, dataset: type[WebImages], train: int = 2, test: int = 1) -> Path:
    """Write `data_dir`/web-.../{train,val}/<class>/*.jpg."""
    root = data_dir / dataset.folder
    classes = [f"class_{number:03d}" for number in range(dataset.num_source_classes)]
    write_class_folders(root / "train", classes, train)
    write_class_folders(root / "val", classes, test, seed=100)
    return root


def write_food(data_dir: Path, layout: str, train: int = 2, test: int = 1) -> Path:
    """Write Food-101N into `data_dir`/food-101n; Food-101 inside it ("nested") or next to it ("flat")."""
    root = data_dir / "food-101n"
    write_class_folders(root / "images", DISHES, train)
    keys = [f"{dish}/{number:03d}.jpg" for dish in DISHES for number in range(train)]
    _write_lines(root / "meta" / "classes.txt", ["class_name", *DISHES])
    _write_lines(root / "meta" / "imagelist.tsv", ["class_name/key", *keys])
    header = "class_name/key\tverification_label"
    _write_lines(root / "meta" / "verified_train.tsv", [header, *(f"{key}\t1" for key in keys[:30])])
    _write_lines(root / "meta" / "verified_val.tsv", [header, *(f"{key}\t0" for key in keys[30:40])])
    tested = (root if layout == "nested" else data_dir) / "food-101"
    write_class_folders(tested / "images", DISHES, test, seed=100)
    _write_lines(tested / "meta" / "classes.txt", DISHES)
    _write_lines(tested / "meta" / "test.txt", [f"{dish}/{number:03d}" for dish in DISHES for number in range(test)])
    return root


def write_clothing(data_dir: Path, lists: str = "") -> Path:
    """Write five training and two test images per class; `lists` is the folder of the lists inside the root."""
    root = data_dir / "clothing1m"
    noisy: list[str] = []
    clean: list[str] = []
    train: list[str] = []
    test: list[str] = []
    for label in range(len(CLASSES)):
        for number in range(5):
            key = f"images/{number}/{label},{number}.jpg"
            write_image(root / key, number, label=label)
            given = (label + 1) % len(CLASSES) if number == 0 else label
            noisy.append(f"{key} {given}")
            train.append(key)
            if number < 2:
                clean.append(f"{key} {label}")
        for number in range(2):
            key = f"images/9/{label},{number}.jpg"
            write_image(root / key, 50 + number, label=label)
            clean.append(f"{key} {label}")
            test.append(key)
    place = root / lists
    _write_lines(place / "noisy_train_key_list.txt", train)
    _write_lines(place / "clean_test_key_list.txt", test)
    _write_lines(place / "clean_train_key_list.txt", train[:3])
    _write_lines(place / "noisy_label_kv.txt", noisy)
    _write_lines(place / "clean_label_kv.txt", clean)
    return root


def write_odd_files(folder: Path) -> dict[str, str]:
    """Files that can be used, as name -> what makes them odd; and `broken_files` of them that cannot."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.RandomState(0).randint(0, 256, (20, 30, 3)).astype(np.uint8)
    image = Image.fromarray(pixels)
    image.convert("CMYK").save(folder / "cmyk.jpg")
    image.convert("L").save(folder / "grey.png")
    image.convert("P").save(folder / "palette.gif")
    image.convert("RGBA").save(folder / "alpha.png")
    Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30) * 100).save(folder / "sixteen.png")
    rotated = Image.Exif()
    rotated[0x0112] = 6
    image.save(folder / "turned.jpg", exif=rotated)
    image.save(folder / "写真 ñ.png")
    image.save(folder / "UPPER.JPG", "JPEG")
    return {path.name: path.suffix for path in folder.iterdir()}


def write_broken_files(folder: Path) -> list[str]:
    """Write files that are images by their names but cannot be used."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = write_image(folder / "truncated.jpg", 1, 200, 200)
    content = whole.read_bytes()
    whole.write_bytes(content[: len(content) // 2])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.jpg").write_text("this is no image", encoding="utf-8")
    (folder / "bomb.png").write_bytes(bomb())
    return sorted(["truncated.jpg", "empty.jpg", "text.jpg", "bomb.png"])


def bomb() -> bytes:
    """A PNG of 30,000 x 30,000 pixels in a few kilobytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 30000, 30000, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
