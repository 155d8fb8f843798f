"""Checkpoints: the state from which a training continues as if it had never stopped, in a whole file or none."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Thread
from types import MappingProxyType
from typing import IO, Any, BinaryIO, cast

import torch
from torch import Tensor

from tune_lnl.errors import InputError
from tune_lnl.files import whole_file
from tune_lnl.models.tensor_file import UNREADABLE, checked_load
from tune_lnl.training.loop import Report, Training

CHECKPOINT_SECONDS = 30.0
"""Seconds from one checkpoint of a training to the next, at least. A killed training repeats the epochs since the last.

Written after every epoch, checkpoints of a search on several GPUs would be hundreds of megabytes per second."""


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


def content_of(
    training: Training, reports: list[Report], gathered: Mapping[str, Tensor] = MappingProxyType({})
) -> dict[str, Any]:
    """Return the content of a checkpoint between two epochs: a copy in host memory, which later epochs do not change.

    Args:
        reports: of the epochs so far. A search sends them again from here: a report can be lost before a crash.
        gathered: further tensors that belong to the epochs so far.
    """
    content = {
        "config": training.config.flat(),
        "fingerprints": training.fingerprints,
        "reports": list(reports),
        "state": _host_copy(training.state_dict()),
        "gathered": _host_copy(dict(gathered)),
    }
    if training.device.type == "cuda":
        torch.cuda.synchronize(training.device)  # one wait for all copies; a GPU that has failed raises here
    return content


def _host_copy(value: Any) -> Any:
    """Copy containers and tensors, those of a GPU to pinned memory without waiting for each; torch keeps that memory
    for the next copies."""
    if isinstance(value, Tensor):
        if value.device.type == "cpu":
            return value.detach().clone()
        pinned = torch.empty_like(value, device="cpu", pin_memory=True)
        return pinned.copy_(value.detach(), non_blocking=True)
    if isinstance(value, dict):
        copied = copy.copy(value)  # keeps what torch attaches to the state of a network
        copied.update({key: _host_copy(item) for key, item in value.items()})
        return copied
    if isinstance(value, list | tuple):
        copies = [_host_copy(item) for item in value]
        return copies if isinstance(value, list) else tuple(copies)
    return value


def save_checkpoint(
    path: Path, training: Training, reports: list[Report], gathered: Mapping[str, Tensor] = MappingProxyType({})
) -> None:
    """Write the state between two epochs at once; the arguments are those of :func:`content_of`.

    Raises:
        OSError: the file cannot be written; an earlier checkpoint at ``path`` is unchanged.
    """
    write_whole(path, content_of(training, reports, gathered))


class CheckpointWriter:
    """Writes the checkpoints of one training from a thread, at most every :data:`CHECKPOINT_SECONDS`.

    An error in the thread is raised by the next call.

    Args:
        path: of the checkpoint; each replaces the one before.
        on_saved: called in the thread after each.
    """

    def __init__(self, path: Path, on_saved: Callable[[], None] = lambda: None) -> None:
        self._path = path
        self._on_saved = on_saved
        self._writing: Thread | None = None
        self._error: Exception | None = None
        self._unwritten: dict[str, Any] | None = None
        self._next = 0.0

    def keep(self, content: dict[str, Any], now: bool = False) -> None:
        """Take the state after an epoch: write it if the last checkpoint is old enough, else keep it for :meth:`flush`.

        Args:
            content: from :func:`content_of`.
            now: write it in any case, and return once it is on the disk.

        Raises:
            OSError: this checkpoint cannot be written, or the one before could not.
        """
        self._unwritten = content
        if self._writing is not None and not self._writing.is_alive():
            self._wait()
        if now:
            self.flush()
        elif self._writing is None and time.monotonic() >= self._next:
            self._begin()

    def flush(self) -> None:
        """Write the newest state, if it is not written yet, and wait until it is on the disk.

        Raises:
            OSError: it cannot be written, or the one before could not.
        """
        self._wait()
        if self._unwritten is not None:
            self._begin()
            self._wait()

    def discard(self) -> None:
        """Forget the newest state, if it is not written yet; wait until the thread has ended."""
        self._unwritten = None
        if self._writing is not None:
            self._writing.join()

    def _begin(self) -> None:
        content, self._unwritten = self._unwritten, None
        self._next = time.monotonic() + CHECKPOINT_SECONDS
        assert content is not None
        self._writing = Thread(target=self._write, args=(content,), name="checkpoint")
        self._writing.start()

    def _write(self, content: dict[str, Any]) -> None:
        try:
            write_whole(self._path, content)
            self._on_saved()
        except Exception as error:
            self._error = error

    def _wait(self) -> None:
        if self._writing is not None:
            self._writing.join()
        self._writing = None
        error, self._error = self._error, None
        if error is not None:
            raise error


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
    content = _read(path)
    config = {**training.settings.added, **content["config"]}
    parts = ((config, training.config.flat()), (content["fingerprints"], training.fingerprints))
    for stored, own in parts:
        for key in own.keys() | stored.keys():
            if stored.get(key) != own.get(key):
                raise InputError(
                    f"{path}: written with {key} = {stored.get(key)!r}, this training has {own.get(key)!r}"
                )
    try:
        training.load_state_dict(content["state"])
    except torch.OutOfMemoryError:
        raise
    except (LookupError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"{path}: its state does not fit ({error}); delete it to train anew") from None
    if gathered is not None:
        gathered.update(content.get("gathered", {}))
    reports: list[Report] = content["reports"]
    return reports


def _read(path: Path) -> dict[str, Any]:
    try:
        content = checked_load(path, torch.device("cpu"))
    except torch.OutOfMemoryError:  # a RuntimeError, but not the fault of the file
        raise
    except UNREADABLE as error:
        raise DamagedCheckpointError(f"{path}: not a readable checkpoint ({error})") from None
    kinds = {"config": dict, "fingerprints": dict, "reports": list, "state": dict}
    if not isinstance(content, dict) or any(not isinstance(content.get(key), kind) for key, kind in kinds.items()):
        raise InputError(f"{path}: not a checkpoint, which holds {', '.join(kinds)}; delete it to train anew")
    return content
