"""Food-101N (Lee et al. 2018) for training, the test list of Food-101 (Bossard et al. 2014) for testing.

Food-101N: `meta/classes.txt` (with a header line), `meta/imagelist.tsv` (`class/file`), `images/<class>/<file>`, and
optionally `meta/verified_{train,val}.tsv` (`class/file`, and 1 if people confirmed the label, else 0).
Food-101: `meta/classes.txt`, `meta/test.txt` (`class/id`), `images/<class>/<id>.jpg`; in a folder `food-101` inside
Food-101N's (nested, as in the released ACT code, main_food101n.py, line 298) or next to it (flat).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from tune_lnl.config.datasets import PictureOptions
from tune_lnl.datasets.pictures.listing import UNKNOWN, ListBuilder, PictureList, require_training_images
from tune_lnl.datasets.pictures.noisy import PublishedPictures, lines_of
from tune_lnl.errors import CorruptDataError, InputError

ARCHIVE_FOLDER = "Food-101N_release"
TEST_FOLDER = "food-101"
VERIFIED = ("meta/verified_train.tsv", "meta/verified_val.tsv")


class Food101N(PublishedPictures):
    """101 dishes from web searches; the test set is Food-101's."""

    name = "food101n"
    folder = "food-101n"
    title = "Food-101N and Food-101"
    description = "Food-101N: 101 dishes from web searches, with their own label noise; tested on Food-101"
    origin = "the pages of Food-101N (Lee et al., CleanNet, CVPR 2018) and Food-101 (Bossard et al., ECCV 2014)"
    looked_for = (
        "meta/classes.txt, meta/imagelist.tsv and images/<class>/<file> of Food-101N, and in food-101 inside it or "
        "next to it meta/test.txt and images/<class>/<id>.jpg of Food-101"
    )
    num_source_classes = 101
    image_shape = (224, 224, 3)
    resize_ratio = 256 / 224

    def holds_data(self, folder: Path) -> bool:
        return _training_root(folder) is not None

    def list_files(self, data_dir: Path | None, cache_dir: Path, options: PictureOptions) -> PictureList:
        folder = self.root_folder(data_dir, cache_dir)
        train = _training_root(folder)
        assert train is not None, "holds_data() held"
        test = _test_root(folder, train)
        # The folder above both, so that all names have the same root.
        root = Path(os.path.commonpath([train, test]))
        builder = ListBuilder(root, "nested" if test.is_relative_to(train) else "flat", options.on_error)
        classes = self._classes(train)
        labels = {name: label for label, name in enumerate(classes)}
        verified = _verified(train)
        for key in _keys(train / "meta" / "imagelist.tsv", train, labels):
            name = _inside(train, root, f"images/{key}")
            _add(builder, name, labels.get(key.partition("/")[0]), verified.get(key, UNKNOWN))
        builder.notes.append(f"{len(verified):,} labels checked by people")
        builder.begin_test()
        for key in _keys(test / "meta" / "test.txt", test, labels):
            name = _inside(test, root, f"images/{key}" if key.endswith(".jpg") else f"images/{key}.jpg")
            _add(builder, name, labels.get(key.partition("/")[0]), UNKNOWN)
        return require_training_images(builder.finish(classes), self.looked_for)

    def _classes(self, train: Path) -> list[str]:
        # Both lists are used sorted; the first line of Food-101N's is a header.
        classes = sorted(lines_of(train / "meta" / "classes.txt", train)[1:])
        if len(classes) != self.num_source_classes or len(set(classes)) != len(classes):
            raise CorruptDataError(
                f"{train / 'meta' / 'classes.txt'} must name {self.num_source_classes} different classes after its "
                f"header line, got {len(set(classes))}\nget the dataset again"
            )
        return classes


def _training_root(folder: Path) -> Path | None:
    candidates = (folder, folder / ARCHIVE_FOLDER)
    return next((root for root in candidates if (root / "meta" / "imagelist.tsv").is_file()), None)


def _test_root(folder: Path, train: Path) -> Path:
    candidates = (train / TEST_FOLDER, folder / TEST_FOLDER, train.parent / TEST_FOLDER, folder.parent / TEST_FOLDER)
    for root in candidates:
        if (root / "meta" / "test.txt").is_file():
            return root
    raise InputError(
        f"Food-101's test list was not found: no {TEST_FOLDER}/meta/test.txt in or next to {folder}\n"
        f"unpack Food-101 (Bossard et al., ECCV 2014) there; its images of {TEST_FOLDER}/images are the test set"
    )


def _keys(path: Path, root: Path, labels: dict[str, int]) -> Iterator[str]:
    """Return `class/file` of every line, sorted; a first line without a known class is a header."""
    lines = [line.split("\t")[0].strip() for line in lines_of(path, root)]
    if lines and lines[0].partition("/")[0] not in labels:
        lines = lines[1:]
    return iter(sorted(set(lines)))


def _verified(train: Path) -> dict[str, int]:
    found: dict[str, int] = {}
    for name in VERIFIED:
        if (train / name).is_file():
            for line in lines_of(train / name, train):
                key, _, mark = line.partition("\t")
                if mark.strip() in ("0", "1"):
                    found[key.strip()] = int(mark)
    return found


def _inside(part: Path, root: Path, name: str) -> str:
    return f"{part.relative_to(root).as_posix()}/{name}".removeprefix("./")


def _add(builder: ListBuilder, name: str, label: int | None, verified: int) -> None:
    if label is None:
        builder.skip(name, "its class is not in meta/classes.txt")
        return
    try:
        status = builder.status(name)
    except OSError as error:
        builder.skip(name, f"it is listed and cannot be read ({error.strerror or error})")
        return
    builder.add(name, status, label, verified=verified)
