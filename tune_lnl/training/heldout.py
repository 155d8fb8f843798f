"""The predictions of a finished training for its held-out images, and their file: numpy, without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tune_lnl.files import whole_file

HEADERS = 1024
"""Bytes of a file besides its arrays, at most."""


@dataclass(frozen=True)
class HeldOutPredictions:
    """The predictions of a finished training for its held-out images, open-set ones included.

    Attributes:
        probabilities: float32 (networks, M, C), the mean over the last ``objective.average_last`` epochs of each
            network's class probabilities; the reported network first; C closed classes; rows sum to 1.
        index: int64 (M,), positions in the training set (:class:`tune_lnl.datasets.base.NoisyData`), ascending.
        given: int64 (M,), given labels.
    """

    probabilities: np.ndarray
    index: np.ndarray
    given: np.ndarray


def write_heldout(path: Path, predictions: HeldOutPredictions) -> None:
    """Write ``probabilities`` as float16, ``index`` and ``given``: an ``.npz`` file, whole or not at all.

    It is not compressed, so that its size is known before the training (:func:`heldout_bytes`).

    Raises:
        OSError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path, durable=True) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            probabilities=predictions.probabilities.astype(np.float16),
            index=predictions.index.astype(np.int64),
            given=predictions.given.astype(np.int64),
        )


def read_heldout(path: Path) -> HeldOutPredictions:
    """Read what :func:`write_heldout` wrote; rows are normalised again after the rounding to float16.

    Raises:
        OSError, ValueError, KeyError, zipfile.BadZipFile: the file is absent, damaged, or another.
    """
    with np.load(path, allow_pickle=False) as file:
        probabilities = file["probabilities"].astype(np.float32)
        probabilities /= probabilities.sum(axis=2, keepdims=True)
        return HeldOutPredictions(probabilities, file["index"], file["given"])


def heldout_bytes(networks: int, images: int, classes: int) -> int:
    """Return the size of the file, at most."""
    return networks * images * classes * 2 + images * 16 + HEADERS
