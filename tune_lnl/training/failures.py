"""The classes of failure, and which one an exception belongs to."""

from __future__ import annotations

import traceback
from pathlib import Path

from tune_lnl.errors import InputError
from tune_lnl.files import is_disk_full
from tune_lnl.object_storage import StorageError
from tune_lnl.torch_compat import is_out_of_memory

DIVERGED = "diverged"
"""A metric or a weight stopped being finite. Says something about the settings: it repels the sampler."""
OUT_OF_MEMORY = "out of memory"
"""Tried once more with nothing beside it."""
DATA_ERROR = "data error"
"""A file could not be read, or is not what it should be."""
DISK_FULL = "disk full"
"""Ends the search, resumably."""
STORAGE_AWAY = "object storage away"
"""What the trial wrote could not be put into object storage: it goes on from its last kept epoch, here or elsewhere."""
BUG = "bug"
"""Anything else that the code raised; not tried again."""
WORKER_DIED = "worker died"
"""The process vanished again and again in the same epoch."""
STUCK = "stuck"
"""Silent for many epochs' time, twice."""


class DivergedError(ArithmeticError):
    """Training left the finite numbers."""


def classify(error: Exception) -> tuple[str, str]:
    """(class, first useful line of the cause) of what a trial raised."""
    kind = _class_of(error)
    lines = str(error).strip().splitlines() or [type(error).__name__]
    if kind != BUG:
        return kind, lines[0]
    where = traceback.extract_tb(error.__traceback__)[-1]
    return kind, f"{type(error).__name__}: {lines[0]} ({Path(where.filename).name}:{where.lineno})"


def _class_of(error: Exception) -> str:
    if isinstance(error, DivergedError):
        return DIVERGED
    if is_out_of_memory(error):
        return OUT_OF_MEMORY
    if is_disk_full(error):
        return DISK_FULL
    if isinstance(error, StorageError):
        return STORAGE_AWAY
    return DATA_ERROR if isinstance(error, InputError | OSError) else BUG
