"""The answer of a dataset to `python -m tune_lnl.data check`, and the wording that the families share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tune_lnl.datasets.paths import cache_dir
from tune_lnl.errors import shown

CLASSES_NAMED = 20
CLASSES_SHOWN = 5


@dataclass(frozen=True)
class Description:
    """The data as found and as trained on.

    Attributes:
        rows: (name, value) pairs in the order in which they are printed.
        faults: what is wrong with the data; empty for sound data.
    """

    rows: tuple[tuple[str, str], ...]
    faults: tuple[str, ...] = ()


@dataclass(frozen=True)
class Packed:
    """The packed files of a dataset.

    Attributes:
        folder: their folder.
        nbytes: their size in bytes.
        whole: False if the images are too large for `dataset.cache_budget`, so that only the facts about the files are
            kept.
    """

    folder: Path
    nbytes: int
    whole: bool = True

    @classmethod
    def around(cls, images: NDArray[Any]) -> Packed | None:
        """Return the packed files that `images` is mapped from; None for an array in memory."""
        if not isinstance(images, np.memmap):
            return None
        folder = Path(str(images.filename)).parent
        return cls(folder, sum(file.stat().st_size for file in folder.iterdir()))


def share(value: float | None) -> str:
    """Return a share in percent."""
    return "unknown" if value is None else f"{100 * value:.2f}%"


def spread(labels: NDArray[np.int64], num_classes: int) -> str:
    """Return the smallest and the largest number of samples of a class."""
    counts = np.bincount(labels, minlength=num_classes)
    return f"{counts.min():,} to {counts.max():,}"


def changed(found: str, recorded: str) -> str:
    """Return the fault of packed pixels whose checksum is no longer the recorded one."""
    return (
        f"the packed pixels or labels have changed since they were packed: sha256 {found}, recorded "
        f"{recorded}\ndelete {cache_dir() / 'packed'}; it is packed again when needed"
    )


def class_names_row(names: Sequence[str]) -> tuple[str, str]:
    """Return the row of the class names: all of them up to CLASSES_NAMED, else the first ones and the last."""
    told = [shown(name) for name in names]
    if len(told) > CLASSES_NAMED:
        told = [*told[:CLASSES_SHOWN], "...", told[-1]]
    return "class names", ", ".join(told)
