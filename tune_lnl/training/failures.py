"""The classes of failure, and the class of an exception."""

from __future__ import annotations

import traceback
from pathlib import Path

from tune_lnl.errors import InputError, first_line
from tune_lnl.files import is_disk_full
from tune_lnl.object_storage import StorageError

DIVERGED = "diverged"
"""A metric or a weight stopped being finite. It is a result about the settings and repels the sampler."""
OUT_OF_MEMORY = "out of memory"
"""Tried once more, alone on the machine."""
DATA_ERROR = "data error"
"""A file could not be read, or has other content than expected."""
DISK_FULL = "disk full"
"""Ends the search, resumably."""
STORAGE_AWAY = "object storage away"
"""The trial's files could not be uploaded: it continues from its last uploaded epoch, here or elsewhere."""
BUG = "bug"
"""Any other exception; not tried again."""
WORKER_DIED = "worker died"
"""The process died several times in the same epoch."""
DEVICE = "device"
"""The GPU failed. It says nothing about the settings: the trial continues in a new process, several times at most."""
STUCK = "stuck"
"""No report for the time of many epochs, twice."""


class DivergedError(ArithmeticError):
    """A loss or a weight is no longer finite."""


def classify(error: Exception) -> tuple[str, str]:
    """Return (class, first line of the cause) of an exception that a training raised; a bug with file and line."""
    kind = _class_of(error)
    line = first_line(error)
    if kind != BUG:
        return kind, line
    where = traceback.extract_tb(error.__traceback__)[-1]
    return kind, f"{type(error).__name__}: {line} ({Path(where.filename).name}:{where.lineno})"


def _class_of(error: Exception) -> str:
    # torch: only where a training has raised. Readers of a study need the names of the classes alone.
    from tune_lnl.torch_compat import is_device_failure, is_out_of_memory

    if isinstance(error, DivergedError):
        return DIVERGED
    if is_out_of_memory(error):
        return OUT_OF_MEMORY
    if is_device_failure(error):
        return DEVICE
    if is_disk_full(error):
        return DISK_FULL
    if isinstance(error, StorageError):
        return STORAGE_AWAY
    return DATA_ERROR if isinstance(error, InputError | OSError) else BUG
