"""Evidence about every given label of a training set: predictions by networks that have not seen the label, from a
cross-validation, and one training on all samples.

Each training writes its result into a folder when it is done, and checkpoints before, so an interrupted evaluation
continues. :mod:`tune_lnl.methods.label_verdicts` interprets the evidence.
"""

from __future__ import annotations

import functools
import hashlib
import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tune_lnl.config.trial import Fold, TrialConfig
from tune_lnl.datasets.base import NoisyData
from tune_lnl.datasets.images.noisy import load_noisy
from tune_lnl.datasets.split import split_folds
from tune_lnl.errors import InputError
from tune_lnl.files import whole_file
from tune_lnl.training.classification import ClassifierTraining
from tune_lnl.training.loop import Report, Surroundings, check_precision
from tune_lnl.training.registry import start_training, training_type
from tune_lnl.training.run import TrainingFiles, run_training

FORM = 1
"""Version of the result files; raise it when their content changes."""
HELD_OUT, SELECTED, BELIEF = "held_out", "selected", "belief"

OnEpoch = Callable[[int, int, Report], None]


@dataclass(frozen=True)
class LabelEvidence:
    """n samples, C classes, in the order of :class:`tune_lnl.datasets.images.noisy.NoisyData`.

    Attributes:
        held_out: by the suffix of each network (``""`` is the reported one) its probabilities float32 (n, C) for
            samples that it was not trained on, averaged over the last epochs; NaN where a label has one sample only.
        belief: float32 (n, C), label distributions of a training on all samples: the method's own running
            distribution where it keeps one, else the reported network's prediction after the last epoch.
        selected_share: float32 (n,): how often the method took the sample's label as clean, as a share of its chances,
            averaged over all trainings that contain the sample; None for methods that select nothing.
        fold: int64 (n,), the fold in which a sample was held out, or -1.
    """

    held_out: Mapping[str, NDArray[np.float32]]
    belief: NDArray[np.float32]
    selected_share: NDArray[np.float32] | None
    fold: NDArray[np.int64]


def label_config(config: TrialConfig) -> TrialConfig:
    """Return ``config`` for all the training data.

    Raises:
        InputError: its method does not predict the classes of single images.
    """
    if not issubclass(training_type(config.method), ClassifierTraining):
        raise InputError(
            f"labels are judged by methods of image classification, and {config.method} is for "
            f"{config.settings.task}\nexport the config instead: leave out --labels"
        )
    return replace(config, validation=config.validation.model_copy(update={"fraction": 0.0}), fold=None)


def gather_evidence(
    config: TrialConfig, folds: int, surroundings: Surroundings, folder: Path, on_epoch: OnEpoch
) -> tuple[NoisyData, LabelEvidence]:
    """Train once per fold and once on all samples, or read the results of an earlier call from ``folder``.

    Args:
        config: from :func:`label_config`.
        folds: K, at least 2.
        surroundings: data and device; no test set is scored.
        folder: for the result files. A file of another config, data or number of folds is not used.
        on_epoch: called with (training, trainings, report) after every epoch; the last training is on all samples.

    Raises:
        InputError: data or settings that cannot be used.
        DivergedError: a training diverged, so there is nothing to judge labels by.
    """
    check_precision(config.settings.precision, surroundings.device)
    surroundings = replace(surroundings, test_from=None)
    fingerprints = training_type(config.method).prepare(config, surroundings)
    data = load_noisy(config.dataset, surroundings.data_dir)
    fold = split_folds(data.given_labels, folds, config.validation.seed)
    results = []
    for number in range(folds + 1):
        part = config if number == folds else replace(config, fold=Fold(number, folds))
        key = _key(part, fingerprints)
        path = folder / ("all.npz" if number == folds else f"fold-{number + 1}-of-{folds}.npz")
        found = _read(path, key)
        if found is None:
            # Named after the key, so that the state of another config or other data is not looked at.
            checkpoint = path.with_name(f"{path.stem}.{key[:16]}.pt")
            found = _train(part, surroundings, checkpoint, functools.partial(on_epoch, number, folds + 1))
            _write(path, key, found)
            checkpoint.unlink(missing_ok=True)
        results.append(found)
    return data, _together(results, data, fold)


def _train(
    config: TrialConfig, surroundings: Surroundings, checkpoint: Path, on_epoch: Callable[[Report], None]
) -> dict[str, Any]:
    training = start_training(config, surroundings)
    assert isinstance(training, ClassifierTraining)
    averaged = config.objective.average_last
    sums: dict[str, Tensor] = {}

    def add_predictions(report: Report) -> None:
        if config.fold is not None and training.epoch > config.settings.epochs - averaged:
            for suffix, values in training.probabilities(training.data.validation).items():
                part = torch.from_numpy(values).double() / averaged
                sums[suffix] = sums[suffix] + part if suffix in sums else part
        on_epoch(report)

    run_training(training, TrainingFiles(checkpoint), on_epoch=add_predictions, gathered=sums)
    result: dict[str, Any] = {f"{HELD_OUT}{suffix}": values.float().cpu().numpy() for suffix, values in sums.items()}
    result |= {"trained_on": training.data.train, "held_out_samples": training.data.validation}
    selected = training.selected_shares()
    if selected is not None:
        result[SELECTED] = selected
    if config.fold is None:
        result[BELIEF] = training.beliefs()
    return result


def _together(results: list[dict[str, Any]], data: NoisyData, fold: NDArray[np.int64]) -> LabelEvidence:
    count = len(data.given_labels)
    held_out: dict[str, NDArray[np.float32]] = {}
    selected, chances = np.zeros(count), np.zeros(count)
    for result in results:
        if SELECTED in result:
            selected[result["trained_on"]] += result[SELECTED]
            chances[result["trained_on"]] += 1
        for name, values in result.items():
            if name.startswith(HELD_OUT) and name != "held_out_samples":
                whole = held_out.setdefault(
                    name.removeprefix(HELD_OUT), np.full((count, data.num_classes), np.nan, np.float32)
                )
                whole[result["held_out_samples"]] = values
    share = (selected / np.maximum(chances, 1)).astype(np.float32) if chances.any() else None
    return LabelEvidence(held_out, results[-1][BELIEF], share, fold)


# ---- result files


def _key(config: TrialConfig, fingerprints: Mapping[str, str]) -> str:
    fold = None if config.fold is None else [config.fold.number, config.fold.folds]
    # Without the split, which depends on the validation share that this config does not have.
    data = {name: value for name, value in fingerprints.items() if name != "split"}
    # With the removed settings, so that results of earlier versions still count.
    facts = {"form": FORM, "config": config.flat_as_before(), "fold": fold, "fingerprints": data}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _read(path: Path, key: str) -> dict[str, Any] | None:
    """Return the result, or ``None`` where it is absent, damaged or has another key."""
    try:
        with np.load(path, allow_pickle=False) as file:
            if str(file["key"]) != key:
                return None
            return {name: file[name] for name in file.files if name != "key"}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _write(path: Path, key: str, result: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {name: np.asarray(value) for name, value in result.items()}
    with whole_file(path, durable=True) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, key=np.array(key), **arrays)
