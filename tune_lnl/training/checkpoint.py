"""Checkpoints: the state from which a training continues as if it had never stopped, in a whole file or none."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, BinaryIO, cast

import torch
from torch import Tensor

from tune_lnl.errors import InputError
from tune_lnl.files import whole_file
from tune_lnl.models.tensor_file import UNREADABLE, checked_load
from tune_lnl.training.loop import Report, Training


def write_whole(path: Path, content: dict[str, Any]) -> None:
    """Write with ``torch.save`` to a temporary file, flush it to the disk, then rename it.

    Raises:
        OSError: the file cannot be written; ``path`` is unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path, durable=True) as temporary, temporary.open("wb") as file:
        disk = _Disk(file)
        try:
            torch.save(content, cast(IO[bytes], disk))
        except RuntimeError:
            if disk.error is None:
                raise
            raise disk.error from None


class _Disk:
    """A file that keeps its write error: torch makes a RuntimeError of it that does not name the cause."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self._file.flush()


def save_checkpoint(
    path: Path, training: Training, reports: list[Report], gathered: Mapping[str, Tensor] = MappingProxyType({})
) -> None:
    """Write the state between two epochs.

    Args:
        reports: of the epochs so far. A search sends them again from here: a report can be lost before a crash.
        gathered: further tensors, on the CPU, that belong to the epochs so far.

    Raises:
        OSError: the file cannot be written; an earlier checkpoint at ``path`` is unchanged.
    """
    content = {
        "config": training.config.flat(),
        "fingerprints": training.fingerprints,
        "reports": reports,
        "state": training.state_dict(),
        "gathered": dict(gathered),
    }
    write_whole(path, content)


class DamagedCheckpointError(InputError):
    """The file is torn, or no checkpoint at all."""


def load_checkpoint(path: Path, training: Training, gathered: dict[str, Tensor] | None = None) -> list[Report]:
    """Bring ``training`` to the checkpoint's epoch.

    Args:
        gathered: receives the further tensors of the checkpoint.

    Returns:
        the reports of the epochs before it.

    Raises:
        DamagedCheckpointError: the file is torn or no checkpoint at all.
        InputError: it belongs to another config or other data (named).
    """
    content = _read(path, training.device)
    for part, own in (("config", training.config.flat()), ("fingerprints", training.fingerprints)):
        for key in own.keys() | content[part].keys():
            stored, wanted = content[part].get(key), own.get(key)
            if stored != wanted:
                raise InputError(f"{path}: written with {key} = {stored!r}, this training has {wanted!r}")
    try:
        training.load_state_dict(content["state"])
    except torch.OutOfMemoryError:
        raise
    except (LookupError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"{path}: its state does not fit ({error}); delete it to train anew") from None
    if gathered is not None:
        gathered.update({name: tensor.cpu() for name, tensor in content.get("gathered", {}).items()})
    reports: list[Report] = content["reports"]
    return reports


def _read(path: Path, device: torch.device) -> dict[str, Any]:
    try:
        content = checked_load(path, device)
    except torch.OutOfMemoryError:  # a RuntimeError, but not the fault of the file
        raise
    except UNREADABLE as error:
        raise DamagedCheckpointError(f"{path}: not a readable checkpoint ({error})") from None
    kinds = {"config": dict, "fingerprints": dict, "reports": list, "state": dict}
    if not isinstance(content, dict) or any(not isinstance(content.get(key), kind) for key, kind in kinds.items()):
        raise InputError(f"{path}: not a checkpoint, which holds {', '.join(kinds)}; delete it to train anew")
    return content
