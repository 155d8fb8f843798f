"""Checkpoints: what a run needs to go on as if it had never stopped, in one file that is whole or absent."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch

from tune_lnl.errors import InputError
from tune_lnl.trainables.training import Report, Training


def write_whole(path: Path, content: dict[str, Any]) -> None:
    """``torch.save`` that a crash leaves either done or not begun: written beside, flushed, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with beside.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def save_checkpoint(path: Path, training: Training, reports: list[Report]) -> None:
    """Write the state between two epochs, with the reports so far: a report lost on its way is sent again from here."""
    content = {
        "config": training.config.flat(),
        "fingerprints": training.fingerprints,
        "reports": reports,
        "state": training.state_dict(),
    }
    write_whole(path, content)


def load_checkpoint(path: Path, training: Training) -> list[Report]:
    """Bring ``training`` to the checkpoint's epoch.

    Returns:
        the reports of the epochs that lie behind it.

    Raises:
        InputError: the file is damaged, or belongs to another config or other data (named).
    """
    try:
        content = torch.load(path, map_location=training.device, weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise InputError(f"{path}: not a readable checkpoint ({error}); delete it to start the trial anew") from None
    for part, own in (("config", training.config.flat()), ("fingerprints", training.fingerprints)):
        for key in own.keys() | content[part].keys():
            stored, wanted = content[part].get(key), own.get(key)
            if stored != wanted:
                raise InputError(f"{path}: written with {key} = {stored!r}, this trial has {wanted!r}")
    training.load_state_dict(content["state"])
    reports: list[Report] = content["reports"]
    return reports
