"""Class folders: find the splits, the classes and their images."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tune_lnl.config.datasets import FolderOptions
from tune_lnl.datasets.formats import is_image_name
from tune_lnl.datasets.pictures.listing import ListBuilder, PictureList, add_class_folders, is_leftover
from tune_lnl.datasets.pictures.names import TEST_NAMES, TRAIN_NAMES, class_name, in_order, odd_names, split_name
from tune_lnl.errors import InputError, nearest, shown

SPLIT_WORD = re.compile(
    rf"(?i)(?<![a-z])({'|'.join((*TRAIN_NAMES, *TEST_NAMES))}|trainval|pred|(train|test|val)(set|data))(?![a-z])"
)
"""A folder whose name has one of these words is a split where all the others have one, too."""


def read_class_folders(root: Path, options: FolderOptions) -> PictureList:
    """List the images of class folders, training images first; see :mod:`tune_lnl.datasets.pictures.folder`.

    Raises:
        InputError: it is not clear which folders are the splits or the classes.
        CorruptDataError: a file cannot be used with `on_error` "fail".
    """
    builder = ListBuilder(root, "class folders", options.on_error)
    folders = builder.folders_in(root)
    inside = _split_folder(builder, folders, TRAIN_NAMES, "training")
    test = _test_folder(builder, folders, inside, options.test_folder)
    _note_splits(builder, folders, inside, test)
    for place in dict.fromkeys(["", inside, *([test] if test else [])]):
        builder.skip_images_of(place, "it is in no class folder")
    names = [name for name in builder.folders_in(root / inside) if inside or name != test]
    _require_classes(builder, inside, names)
    classes = _classes(builder, inside, names)
    ordered = in_order(classes)
    add_class_folders(builder, inside, ordered, classes)
    builder.begin_test()
    if test and classes:
        tested = _classes(builder, test, builder.folders_in(root / test))
        strangers = sorted(set(tested) - set(classes))
        if strangers:
            raise InputError(
                f"the test set has {len(strangers)} classes without a training folder, the first is "
                f"{shown(strangers[0])}; {nearest(strangers[0], ordered)}\n"
                f"add training images of these classes, or rename or remove them in {shown(test)}"
            )
        add_class_folders(builder, test, ordered, tested)
    builder.notes += odd_names(ordered)
    return builder.finish(ordered)


def _split_folder(builder: ListBuilder, folders: Sequence[str], names: Sequence[str], split: str) -> str:
    """Return the folder of a split, "" if none holds class folders; one with images comes before one without.

    Raises:
        InputError: two folders have its name.
    """
    found = []
    for name in names:
        same = [
            folder for folder in folders if split_name(folder) == name and builder.folders_in(builder.root / folder)
        ]
        if len(same) > 1:
            raise InputError(
                f"{shown(str(builder.root))} has {' and '.join(same)}: which is the {split} set?\nrename all but one"
            )
        found += same
    return next((folder for folder in found if _has_image(builder.root / folder)), found[0] if found else "")


def _test_folder(builder: ListBuilder, folders: Sequence[str], training: str, name: str) -> str:
    """Return the folder of the test set, "" if there is none: `name` (dataset.test_folder), else one of TEST_NAMES."""
    if name not in TEST_NAMES:
        return name if name in folders and builder.folders_in(builder.root / name) else ""
    # Without a training folder, the test set stands beside class folders, and holds folders of the same names.
    inner = {folder: {class_name(inside) for inside in builder.folders_in(builder.root / folder)} for folder in folders}
    classes = {class_name(folder) for folder in folders}
    possible = [
        folder for folder in folders if training or split_name(folder) == "test" or inner[folder] & (classes - {folder})
    ]
    return _split_folder(builder, possible, (name, *TEST_NAMES), "test")


def _note_splits(builder: ListBuilder, folders: Sequence[str], training: str, test: str) -> None:
    if training and training != "train":
        builder.notes.append(f"the training set is the folder {shown(training)}")
    if test and test != "test":
        builder.notes.append(f"the test set is the folder {shown(test)}")
    unread = [name for name in folders if training and name not in (training, test)]
    if not unread:
        return
    named = ", ".join(shown(name) for name in unread[:5]) + (", ..." if len(unread) > 5 else "")
    builder.notes.append(f"folders next to {shown(training)} that are not read: {named}")
    if not test:
        flat = [name for name in unread if split_name(name) in TEST_NAMES]
        builder.notes.append(
            f"{shown(flat[0])} has no class folders, so it is no test set"
            if flat
            else "one of them can be the test set: dataset.test_folder"
        )


def _require_classes(builder: ListBuilder, inside: str, folders: Sequence[str]) -> None:
    """Raise InputError where the folders look like splits or years of one set of classes, not like classes."""
    home = builder.root / inside
    splits = [name for name in folders if _has_image(home / name)]
    if len(splits) > 1 and all(SPLIT_WORD.search(name) for name in splits):
        raise InputError(
            f"the folders {', '.join(shown(name) for name in splits[:5])} in {shown(str(home))} are splits by their "
            "names, not classes\n"
            "name them train and test, with a folder for each class in them, or give dataset.root a table with the "
            "columns path and label"
        )
    if any(builder.images_directly_in(home / folder) for folder in folders):
        return
    inner = {
        folder: {name for name in builder.folders_in(home / folder) if _has_image(home / folder / name)}
        for folder in folders
    }
    inner = {folder: names for folder, names in inner.items() if names}
    holders = Counter(name for names in inner.values() for name in names)
    shared = sorted(name for name, count in holders.items() if count > 1)
    # A folder "images" in every class is a usual layout; two folders or more in each are classes or parts of them.
    if not inner or min(map(len, inner.values())) < 2 or (len(inner) > 1 and not shared):
        return
    root = shown(str(home))
    if len(inner) == 1:
        (only, names), *_ = inner.items()
        some = ", ".join(shown(name) for name in sorted(names)[:3])
        raise InputError(
            f"{root} holds one folder with images, and that holds the folders {some}\n"
            f"give dataset.root={shown(str(home / only))}"
        )
    raise InputError(
        f"the folders {', '.join(shown(name) for name in sorted(inner)[:5])} in {root} hold the same folders "
        f"({', '.join(shown(name) for name in shared[:3])}), so it is not clear which are the classes\n"
        "name the parts train and test, or give dataset.root one of them, or a table with the columns path and label"
    )


def _classes(builder: ListBuilder, inside: str, folders: Sequence[str]) -> dict[str, list[str]]:
    """Return the folders of each class that has an image; note the others."""
    filled: dict[str, list[str]] = {}
    empty = []
    for name in folders:
        if _has_image(builder.root / inside / name):
            filled.setdefault(class_name(name), []).append(name)
        else:
            path = f"{inside}/{name}" if inside else name
            empty.append(path)
            # Counts the files that are no images.
            list(builder.images_in(path))
    if empty:
        named = ", ".join(shown(name) for name in empty[:5])
        more = ", ..." if len(empty) > 5 else ""
        builder.notes.append(f"{len(empty)} folders without an image are no classes: {named}{more}")
    for name, own in filled.items():
        if len(own) > 1:
            builder.notes.append(f"{len(own)} folders are one class, {shown(name)}: their names are spellings of it")
        elif not own[0].isascii() and "\\x" in name:
            builder.notes.append(f"a folder's name is no UTF-8; its class is written {shown(name)}")
    return filled


def _has_image(folder: Path) -> bool:
    """Return whether there is an image in or below the folder. Raises InputError if a folder cannot be read."""

    def refuse(error: OSError) -> None:
        unread = shown(str(error.filename))
        raise InputError(f"{unread} cannot be read: {error.strerror}\ncheck its permissions") from error

    for _, folders, files in os.walk(folder, onerror=refuse):
        if any(is_image_name(file) and not is_leftover(file) for file in files):
            return True
        folders[:] = [name for name in folders if not is_leftover(name)]
        if any(os.path.islink(os.path.join(folder, name)) for name in folders):  # noqa: PTH114, PTH118
            return True
    return False
