"""Checkpoints: what a run needs to go on as if it had never stopped, in one file that is whole or absent."""

from __future__ import annotations

import pickle
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch

from tune_lnl.errors import InputError
from tune_lnl.files import whole_file
from tune_lnl.training.loop import Report, Training

UNREADABLE = (
    OSError,
    EOFError,
    RuntimeError,
    LookupError,
    ValueError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
    pickle.UnpicklingError,
)
"""What reading a damaged archive raises, depending on where the damage is."""


def write_whole(path: Path, content: dict[str, Any]) -> None:
    """``torch.save`` that a crash leaves either done or not begun: written beside, flushed, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path, durable=True) as beside:
        torch.save(content, beside)


def save_checkpoint(path: Path, training: Training, reports: list[Report]) -> None:
    """Write the state between two epochs, with the reports so far: a report lost on its way is sent again from here."""
    content = {
        "config": training.config.flat(),
        "fingerprints": training.fingerprints,
        "reports": reports,
        "state": training.state_dict(),
    }
    write_whole(path, content)


class DamagedCheckpointError(InputError):
    """The file cannot be read as a checkpoint."""


def load_checkpoint(path: Path, training: Training) -> list[Report]:
    """Bring ``training`` to the checkpoint's epoch.

    Returns:
        the reports of the epochs that lie behind it.

    Raises:
        DamagedCheckpointError: the file is torn or no checkpoint at all.
        InputError: it belongs to another config or other data (named).
    """
    content = _read(path, training.device)
    for part, own in (("config", training.config.flat()), ("fingerprints", training.fingerprints)):
        for key in own.keys() | content[part].keys():
            stored, wanted = content[part].get(key), own.get(key)
            if stored != wanted:
                raise InputError(f"{path}: written with {key} = {stored!r}, this trial has {wanted!r}")
    try:
        training.load_state_dict(content["state"])
    except torch.OutOfMemoryError:
        raise
    except (LookupError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"{path}: its state does not fit ({error}); delete it to start the trial anew") from None
    reports: list[Report] = content["reports"]
    return reports


def _read(path: Path, device: torch.device) -> dict[str, Any]:
    try:
        content = checked_load(path, device)
    except torch.OutOfMemoryError:  # a RuntimeError that says nothing against the file
        raise
    except UNREADABLE as error:
        raise DamagedCheckpointError(f"{path}: not a readable checkpoint ({error})") from None
    kinds = {"config": dict, "fingerprints": dict, "reports": list, "state": dict}
    if not isinstance(content, dict) or any(not isinstance(content.get(key), kind) for key, kind in kinds.items()):
        raise InputError(f"{path}: not a checkpoint, which holds {', '.join(kinds)}; delete it to start the trial anew")
    return content


def checked_load(path: Path, device: torch.device) -> Any:
    """What ``torch.save`` wrote, tensors and plain values alone; nothing in the file is run.

    Raises:
        pickle.UnpicklingError: it holds other objects.
        Exception: any of UNREADABLE, where it is damaged.
    """
    # torch.load does not compare checksums: a flipped bit would just be another weight.
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(f"bad checksum of {damaged}")
    return torch.load(path, map_location=device, weights_only=True)
