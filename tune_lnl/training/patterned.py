"""The predictions that patterned identity noise needs, by a network trained on the true identities.

Patterned noise renames an image to the most likely person besides the true one, as a clean network sees it (CORE,
released eval_utils.py, lines 187-218). The released code reads a checkpoint of that network, which none of its scripts
writes. Here ``python -m tune_lnl.data prepare NAME --patterned`` trains it; its predictions are kept, not its weights.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tune_lnl.config.overrides import parse_overrides
from tune_lnl.datasets.paths import cache_dir
from tune_lnl.datasets.registry import get_dataset
from tune_lnl.datasets.reid.predictions import patterned_file, save_predictions
from tune_lnl.datasets.reid.sets import ReidDataset
from tune_lnl.errors import InputError
from tune_lnl.models.reid import ReidNetwork
from tune_lnl.training.accelerator import choose_device
from tune_lnl.training.failures import DivergedError
from tune_lnl.training.loop import Report, Surroundings
from tune_lnl.training.registry import start_training
from tune_lnl.training.reid import EVALUATION_BATCH, ReidTraining
from tune_lnl.training.run import TrainingFiles, run_training
from tune_lnl.training.seeds import resolve_config

STARTS: dict[str, dict[str, Any]] = {
    "reid_resnet50": {"epochs": 60, "lr": 0.01, "head_lr_multiplier": 10.0, "batch_size": 32},
    "reid_small": {"epochs": 20, "lr": 0.05, "head_lr_multiplier": 1.0, "batch_size": 32},
}
"""The default settings for each network; those of ResNet-50 are the published ones."""


def save_clean_predictions(
    name: str,
    data_dir: Path | None,
    device: str,
    epochs: int | None,
    overrides: Sequence[str],
    say: Callable[[str], None],
) -> Path:
    """Train plain cross-entropy on the true identities of the whole training set and save its predictions for them.

    An interrupted training is continued by the same call.

    Returns:
        the file, in the place where patterned noise looks for it.

    Raises:
        InputError: not a re-ID dataset; settings, data or device cannot be used; or the training diverged.
    """
    dataset = get_dataset(name)
    if not isinstance(dataset, ReidDataset):
        raise InputError(f"--patterned is for re-identification datasets, and {name} is for {dataset.task}")
    sections = {
        "method": "reid_standard",
        "dataset": {"name": name, "noise": "none"},
        "validation": {"fraction": 0.0},
        "objective": {"average_last": 1},
        "fixed": {**STARTS[dataset.default_model], "model": dataset.default_model, "threads": torch.get_num_threads()},
    }
    config = resolve_config(sections, parse_overrides(overrides), epochs, f"{name} --patterned")
    if config.validation.fraction or config.dataset.classes is not None or config.dataset.subset < 1:
        raise InputError("--patterned trains on the whole training set; leave out validation, classes and subset")
    last = config.settings.epochs - 1
    training = start_training(config, Surroundings(data_dir, choose_device(device), test_from=last))
    assert isinstance(training, ReidTraining)
    source = training.data.source
    path = patterned_file(cache_dir(), name, source.fingerprint)
    # Named after the config, so that the state of other settings is not looked at.
    key = hashlib.sha256(json.dumps(config.flat(), sort_keys=True).encode()).hexdigest()
    checkpoint = path.with_name(f"{path.stem}.{key[:16]}.pt")
    say(f"training {config.settings.epochs} epochs on the true identities of {name}, {training.device}")
    if checkpoint.exists():
        say(f"continuing from {checkpoint}")

    def say_epoch(report: Report) -> None:
        say(f"epoch {training.epoch:>3}: train accuracy {report['train_accuracy']:.2f}, {report['seconds']:.1f} s")

    try:
        report = run_training(training, TrainingFiles(checkpoint), on_epoch=say_epoch)[-1]
    except DivergedError as error:
        raise InputError(f"--patterned: the training diverged ({error}); lower the lr: --set lr=...") from None
    say(f"test mAP {report['test_map']:.2f}, rank-1 {report['test_rank1']:.2f}")
    save_predictions(path, _ranking(training), training.data.identity_numbers, source.fingerprint)
    checkpoint.unlink(missing_ok=True)
    return path


@torch.inference_mode()
def _ranking(training: ReidTraining) -> np.ndarray:
    """Return labels (N, C) for every training image, not augmented, the most likely first."""
    network = training.networks[""]
    assert isinstance(network, ReidNetwork)
    network.eval()
    rows, parts = training.train_rows, []
    for start in range(0, len(rows), EVALUATION_BATCH):
        pixels = training.images(training.data.source.train.images, rows[start : start + EVALUATION_BATCH])
        logits = network(training.normalised(pixels))
        parts.append(logits.float().argsort(dim=1, descending=True, stable=True).cpu().numpy())
    return np.concatenate(parts)
