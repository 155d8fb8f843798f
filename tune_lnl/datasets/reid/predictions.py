"""Predictions of a clean-trained network for the training persons, from which patterned noise is drawn."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tune_lnl.config.datasets import ReidOptions
from tune_lnl.datasets.base import Labels
from tune_lnl.datasets.label_columns import MAX_UNPACKED_BYTES
from tune_lnl.datasets.paths import cache_dir
from tune_lnl.datasets.reid.sets import ReidSource
from tune_lnl.errors import CorruptDataError, InputError
from tune_lnl.files import is_disk_full, whole_file


@dataclass(frozen=True)
class Predictions:
    """The predictions of a clean-trained network for the N training images of a source with C identities.

    Attributes:
        ranking: integers (N, C); row i: positions in `identity_numbers`, from most to least likely for image i.
        identity_numbers: int64 (C,) ascending, as in the file names.
        source_fingerprint: of the source; the images are in its order.
    """

    ranking: NDArray[Any]
    identity_numbers: Labels
    source_fingerprint: str


def predictions_for(options: ReidOptions, name: str, source: ReidSource) -> Predictions:
    """Return the predictions for a source: those of dataset.patterned_labels, else those in the cache.

    Raises:
        InputError: there are none, or they are for another source.
        CorruptDataError: they are damaged.
    """
    path = patterned_file(cache_dir(), name, source.fingerprint)
    if options.patterned_labels is not None:
        path = Path(options.patterned_labels).expanduser()
    if not path.is_file():
        raise InputError(
            f"patterned noise needs the predictions of a clean-trained network: no such file: {path}\n"
            f"make it, with the same --set dataset.KEY=VALUE: python -m tune_lnl.data prepare {name} "
            "--patterned\nor name another file: dataset.patterned_labels"
        )
    predictions = load_predictions(path)
    if predictions.source_fingerprint != source.fingerprint:
        raise InputError(
            f"{path} was made for another source: sha256 {predictions.source_fingerprint}, this one has "
            f"{source.fingerprint}\n"
            f"make it for this one: python -m tune_lnl.data prepare {name} --patterned"
        )
    if len(predictions.ranking) != len(source.train.identities) or not np.array_equal(
        predictions.identity_numbers, np.unique(source.train.identities)
    ):
        raise CorruptDataError(f"{path} does not rank this source's identities for each image\nmake it again")
    return predictions


def patterned_file(cache: Path, name: str, source_fingerprint: str) -> Path:
    """Return the cache's file for the predictions of a clean-trained network for this source."""
    return cache / "patterned" / f"{name}-{source_fingerprint[:16]}.npz"


def save_predictions(path: Path, ranking: NDArray[Any], identity_numbers: Labels, source_fingerprint: str) -> None:
    """Save the predictions of a clean-trained network; the file appears complete or not at all.

    Args:
        path: a npz file; its folder is made.
        ranking: integers (N, C), for each image of `source.train`, in order, the positions in `identity_numbers` from
            most to least likely.
        identity_numbers: (C,) the identities of `source.train`, ascending.
        source_fingerprint: of the source.

    Raises:
        ValueError: a ranking whose rows are not permutations of 0..C-1, or identities that do not ascend.
        InputError: the file cannot be written.
    """
    problem = _problem(np.asarray(ranking), np.asarray(identity_numbers))
    if problem is not None:
        raise ValueError(problem)
    columns = np.uint16 if len(identity_numbers) <= np.iinfo(np.uint16).max else np.int32
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path, durable=True) as unfinished, unfinished.open("wb") as file:
            np.savez(
                file,
                ranking=np.asarray(ranking).astype(columns),
                identity_numbers=np.asarray(identity_numbers, dtype=np.int64),
                source_fingerprint=np.array(source_fingerprint),
            )
    except OSError as error:
        if is_disk_full(error):
            raise
        raise InputError(
            f"the predictions cannot be written to {path}: {error}\nfree some space there, or set TUNE_LNL_CACHE"
        ) from error


def load_predictions(path: Path) -> Predictions:
    """Load a file of :func:`save_predictions`. Nothing is unpickled.

    Raises:
        InputError: the file cannot be opened.
        CorruptDataError: it is truncated, or of another kind.
    """
    again = "make it again: python -m tune_lnl.data prepare NAME --patterned"
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > MAX_UNPACKED_BYTES:
            raise CorruptDataError(f"{path} unpacks to {unpacked:,} bytes, too much for predictions\n{again}")
        with np.load(path, allow_pickle=False) as arrays:
            ranking, numbers = arrays["ranking"], arrays["identity_numbers"]
            fingerprint = str(arrays["source_fingerprint"])
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        raise InputError(f"{path} cannot be opened: {error}\n{again}") from error
    except (zipfile.BadZipFile, ValueError, KeyError, OSError, EOFError) as error:
        if isinstance(error, CorruptDataError):
            raise
        raise CorruptDataError(f"{path} is no complete file of saved predictions: {error}\n{again}") from error
    problem = _problem(ranking, numbers)
    if problem is not None:
        raise CorruptDataError(f"{path}: {problem}\n{again}")
    return Predictions(ranking, numbers.astype(np.int64), fingerprint)


def _problem(ranking: NDArray[Any], numbers: NDArray[Any]) -> str | None:
    """Return the reason why these are no predictions, or None."""
    if numbers.ndim != 1 or not np.issubdtype(numbers.dtype, np.integer) or np.any(np.diff(numbers) <= 0):
        return "identity_numbers must be ascending whole numbers"
    if ranking.ndim != 2 or not np.issubdtype(ranking.dtype, np.integer) or ranking.shape[1] != len(numbers):
        return f"ranking must hold whole numbers, one column for each of {len(numbers)} identities, got {ranking.shape}"
    if not np.array_equal(np.sort(ranking, axis=1), np.broadcast_to(np.arange(len(numbers)), ranking.shape)):
        return f"each row of ranking must hold each of 0..{len(numbers) - 1} once"
    return None


def second_identities(predictions: Predictions, identities: Labels, rows: Labels, training: Labels) -> Labels:
    """Return the most likely wrong identity of each of `rows`, int64 (n,): one of `training`, not the true one.

    Source: CORE, released eval_utils.py, lines 187-218: the first prediction if it is not the true identity, else the
    second.

    Args:
        predictions: of the source.
        identities: (N,) true identities of the training split.
        rows: (n,) rows of the training split.
        training: the allowed identities, at least two.
    """
    numbers = predictions.identity_numbers
    ranking = predictions.ranking[rows]
    allowed = np.isin(numbers, training)[ranking]
    own = np.searchsorted(numbers, identities[rows])
    best = np.argmax(allowed & (ranking != own[:, None]), axis=1)
    second: Labels = numbers[ranking[np.arange(len(rows)), best]]
    return second
