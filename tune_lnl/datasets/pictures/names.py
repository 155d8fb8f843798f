"""Names of classes and splits, and spellings of paths: one rule each for folders, tables and label files."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from decimal import Decimal
from functools import partial
from typing import Any
from urllib.parse import unquote

import numpy as np

from tune_lnl.errors import shown

TRAIN_NAMES = ("train", "training")
TEST_NAMES = ("test", "testing", "val", "valid", "validation", "eval", "evaluation", "dev")
"""Names of a split, by :func:`split_name`. The first of TEST_NAMES that is there is the test set."""
MISSING_NAMES = frozenset(["none", "null", "nan", "na", "n/a", "<na>", "?", "unknown", "unlabeled", "unlabelled"])
"""Labels that often stand for a missing one, in lower case."""
LONGEST_NUMBER = 40
NUMBER = re.compile(r"[+-]?([0-9]{1,300}(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")
WHOLE = re.compile(r"[+-]?(0|[1-9][0-9]*)(\.0*)?([eE][+-]?[0-9]{1,2})?")
"""A whole number in any spelling but one with leading zeros, which is a code; also a fraction such as 1e-3."""
PATH_SPELLINGS: Mapping[str, Callable[[str], str]] = {
    "have backslashes, which are read as slashes": lambda path: path.replace("\\", "/"),
    "are URLs of files, which are decoded": lambda path: unquote(path.removeprefix("file://")),
    "are read in Unicode's composed form": partial(unicodedata.normalize, "NFC"),
    "are read in Unicode's decomposed form": partial(unicodedata.normalize, "NFD"),
}
"""Other spellings of a path in a table, tried where the file does not exist, and said."""


def class_name(folder_name: str) -> str:
    """Return the class of a folder name or a label: text in Unicode's composed form (NFC).

    Bytes that are no UTF-8 are written as ``\\xe9``, so that every file and every console can hold the name. Whole
    numbers of any spelling (1, 1.0, +1, 1e0) give the same text.
    """
    text = folder_name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    if len(text) <= LONGEST_NUMBER and WHOLE.fullmatch(text) and (number := Decimal(text)) == int(number):
        return str(int(number))
    return unicodedata.normalize("NFC", text)


def cell_text(value: Any) -> str | None:
    """Return a cell of a table or label file as text, None for an empty one; see :func:`class_name`.

    Raises:
        TypeError: the cell holds a list, a mapping or an array.
    """
    if isinstance(value, bytes):
        value = value.decode("utf-8", "surrogateescape")
    if isinstance(value, list | dict | tuple | np.ndarray):
        raise TypeError(type(value).__name__)
    if value is None or value != value:
        return None
    return class_name(str(value).replace("\0", "").strip()) or None


def look_alike(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Return groups of names that differ only in case, spaces, hyphens, invisible signs, width, or as numbers."""
    groups: dict[str, list[str]] = {}
    for name in names:
        visible = "".join(sign for sign in unicodedata.normalize("NFKC", name) if unicodedata.category(sign) != "Cf")
        joined = re.sub(r"(?<!^)[\s_-]+", "", visible.strip()).casefold()
        number = joined.replace(",", "")
        groups.setdefault(str(Decimal(number).normalize()) if NUMBER.fullmatch(number) else joined, []).append(name)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def in_order(names: Collection[str]) -> list[str]:
    """Sort class names: numbers by value if all are numbers, so that 10 comes after 9, else by their characters."""
    if all(NUMBER.fullmatch(name) for name in names):
        return sorted(names, key=lambda name: (Decimal(name), name))
    return sorted(names)


def split_name(text: str) -> str:
    """Return the name of a split without case, spaces and signs, and without a word such as "set" at its end."""
    return re.sub(r"[\s_-]|(?<=.)(set|data|images|split)$", "", text.strip().casefold())


def odd_names(classes: Sequence[str]) -> list[str]:
    """Return remarks on class names that look alike, or like a missing label."""
    named = [", ".join(f"'{shown(name)}'" for name in group) for group in look_alike(classes)[:5]]
    remarks = [f"classes whose names look alike: {group}" for group in named]
    missing = [name for name in classes if name.casefold() in MISSING_NAMES]
    if missing:
        remarks.append(
            f"classes named like a missing label: {', '.join(shown(name) for name in missing)}; "
            "leave the label of such images empty if nobody knows it"
        )
    return remarks
