"""Clothing1M (Xiao et al. 2015): a million photographs of clothes, labelled by the text around them on shop pages.

Layout: `images/...`, and in the same folder or in `annotations/` the lists `noisy_train_key_list.txt` and
`clean_test_key_list.txt` (a path per line), `noisy_label_kv.txt` and `clean_label_kv.txt` (a path and a class number
per line); optionally `clean_train_key_list.txt`, `clean_val_key_list.txt` and `category_names_eng.txt`. The training
set is the noisy training list, the test set is the clean test list. Images with both a noisy and a clean label give the
share of wrong labels.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tune_lnl.config.datasets import PictureOptions
from tune_lnl.datasets.pictures.listing import UNKNOWN, ListBuilder, PictureList, require_training_images
from tune_lnl.datasets.pictures.noisy import PublishedPictures, lines_of
from tune_lnl.errors import CorruptDataError, InputError

LISTS = ("noisy_train_key_list.txt", "clean_test_key_list.txt", "noisy_label_kv.txt", "clean_label_kv.txt")
CLEAN_LISTS = ("clean_train_key_list.txt", "clean_val_key_list.txt")
NAMES = "category_names_eng.txt"
CLASSES = (
    *("T-Shirt", "Shirt", "Knitwear", "Chiffon", "Sweater", "Hoodie", "Windbreaker", "Jacket", "Downcoat", "Suit"),
    *("Shawl", "Dress", "Vest", "Underwear"),
)


class Clothing1M(PublishedPictures):
    """14 kinds of clothes from shop pages."""

    name = "clothing1m"
    folder = "clothing1m"
    title = "Clothing1M"
    description = (
        "Clothing1M: 14 kinds of clothes from shop pages, with their own label noise; tested on the clean list"
    )
    origin = "its authors, who give access for research (Xiao et al., CVPR 2015)"
    looked_for = f"images/..., {', '.join(LISTS)}; the lists may be in annotations/"
    num_source_classes = 14
    image_shape = (224, 224, 3)
    resize_ratio = 256 / 224

    def holds_data(self, folder: Path) -> bool:
        return _lists_folder(folder) is not None

    def list_files(self, data_dir: Path | None, cache_dir: Path, options: PictureOptions) -> PictureList:
        root = self.root_folder(data_dir, cache_dir)
        lists = _lists_folder(root)
        assert lists is not None, "holds_data() held"
        builder = ListBuilder(root, "key lists", options.on_error)
        noisy = self._labels(lists / LISTS[2], root)
        clean = self._labels(lists / LISTS[3], root)
        known = {key: (noisy[key], clean[key]) for key in noisy.keys() & clean.keys()}
        for key in _stream(lists / LISTS[0], root):
            true = clean.get(key, UNKNOWN)
            verified = UNKNOWN if true == UNKNOWN or key not in noisy else int(true == noisy[key])
            _add(builder, key, noisy.get(key), verified)
        builder.begin_test()
        for key in _stream(lists / LISTS[1], root):
            _add(builder, key, clean.get(key), UNKNOWN)
        if known:
            wrong = sum(one != other for one, other in known.values()) / len(known)
            builder.notes.append(
                f"{len(known):,} images have both labels: {100 * wrong:.2f}% of these noisy ones are wrong"
            )
        for name in CLEAN_LISTS:
            if (lists / name).is_file():
                builder.notes.append(f"{name}: {sum(1 for _ in _stream(lists / name, root)):,} images, not used")
        return require_training_images(builder.finish(_class_names(lists, root)), self.looked_for)

    def _labels(self, path: Path, root: Path) -> dict[str, int]:
        labels: dict[str, int] = {}
        for line in _stream(path, root):
            key, _, number = line.rpartition(" ")
            if not (number.isascii() and number.isdecimal() and int(number) < self.num_source_classes and key):
                raise CorruptDataError(
                    f"{path}: a line must be a path and a class number from 0 to {self.num_source_classes - 1}, got "
                    f"{line!a}\nget the list again"
                )
            labels[key.strip()] = int(number)
        return labels


def _lists_folder(folder: Path) -> Path | None:
    candidates = (folder, folder / "annotations")
    return next((lists for lists in candidates if all((lists / name).is_file() for name in LISTS)), None)


def _class_names(lists: Path, root: Path) -> tuple[str, ...]:
    if not (lists / NAMES).is_file():
        return CLASSES
    names = tuple(lines_of(lists / NAMES, root))
    if len(names) != len(CLASSES) or len(set(names)) != len(names):
        raise CorruptDataError(
            f"{lists / NAMES} must name {len(CLASSES)} different classes, got {len(set(names))}\nget the dataset again"
        )
    return names


def _stream(path: Path, root: Path) -> Iterator[str]:
    """Yield the lines that are not empty; a list of a million paths is never held in memory as a whole."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            for line in file:
                if line.strip():
                    yield line.strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}\nget the dataset in {root} again") from error


def _add(builder: ListBuilder, key: str, label: int | None, verified: int) -> None:
    if label is None:
        builder.skip(key, "it is listed and has no label")
        return
    try:
        status = builder.status(key)
    except OSError as error:
        builder.skip(key, f"it is listed and cannot be read ({error.strerror or error})")
        return
    builder.add(key, status, label, verified=verified)
