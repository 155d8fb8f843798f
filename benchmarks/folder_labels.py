"""Write a folder of real images with partly wrong labels: classes of CIFAR-100 as image files in class folders.

    python benchmarks/folder_labels.py FOLDER [--data-dir DIR] [--classes 10] [--per-class 500] [--ratio 0.3]
        [--noise asymmetric|symmetric] [--seed 0]

Writes FOLDER/images/<given class>/<number>.<jpg|png>, every other file a PNG, and FOLDER/images/test/<class>/...;
next to it FOLDER/labels.csv with path, label, true_label and split of the same files, to evaluate label verdicts.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from tune_lnl.cli import Parser, guarded
from tune_lnl.datasets.images.noisy import load_noisy
from tune_lnl.datasets.registry import parse_options
from tune_lnl.errors import InputError

JPEG_QUALITY = 95


def parser() -> argparse.ArgumentParser:
    p = Parser(prog="benchmarks/folder_labels.py", description=__doc__)
    p.add_argument("folder", type=Path, metavar="FOLDER")
    p.add_argument("--data-dir", type=Path)
    p.add_argument("--classes", type=int, default=10)
    p.add_argument("--per-class", type=int, default=500)
    p.add_argument("--ratio", type=float, default=0.3, help="share of each class that is filed under another")
    p.add_argument("--noise", choices=["asymmetric", "symmetric"], default="asymmetric")
    p.add_argument("--seed", type=int, default=0)
    return p


def write_folder(
    folder: Path, data_dir: Path | None, classes: int, per_class: int, ratio: float, noise: str, seed: int
) -> Path:
    """Write the folder and return the path of its table.

    Raises:
        InputError: the folder exists already, or CIFAR-100 is absent.
    """
    if folder.exists():
        raise InputError(f"{folder} exists already; name a new folder")
    options = parse_options(
        {
            "name": "cifar100nc",
            "classes": classes,
            "subset": per_class / 500,
            "noise": noise,
            "closed_ratio": ratio,
            "noise_seed": seed,
        }
    )
    data = load_noisy(options, data_dir)
    assert data.true_labels is not None, "the labels of CIFAR-100 are known"
    names, table = data.class_names, folder / "labels.csv"
    rows: list[tuple[str, str, str, str]] = []
    for number, (row, given, true) in enumerate(zip(data.rows, data.given_labels, data.true_labels, strict=True)):
        path = f"images/{names[given]}/{number:05d}{('.jpg', '.png')[number % 2]}"
        _write(folder / path, data.train_images[row])
        rows.append((path, names[given], names[true], "train"))
    for number, (row, label) in enumerate(zip(data.test_rows, data.test_labels, strict=True)):
        path = f"images/test/{names[label]}/{number:05d}.png"
        _write(folder / path, data.test_images[row])
        rows.append((path, names[label], names[label], "test"))
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("path", "label", "true_label", "split"))
        writer.writerows(rows)
    wrong = float(np.mean(data.given_labels != data.true_labels))
    print(f"{len(data.rows):,} training images in {folder}, {100 * wrong:.2f}% under a wrong label; {table}")
    return table


def _write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=JPEG_QUALITY)


@guarded
def main(argv: list[str] | None = None) -> int:
    a = parser().parse_args(argv)
    write_folder(a.folder, a.data_dir, a.classes, a.per_class, a.ratio, a.noise, a.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
