"""Files of torch.save, read without running code in them and with their checksums compared."""

from __future__ import annotations

import pickle
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch

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
"""The errors that a damaged file raises, depending on where the damage is. OutOfMemoryError is a RuntimeError too."""
ZIP_START = b"PK"
OLD_START = b"\x80\x02"
"""How a file begins that was written before PyTorch 1.6: a pickle instead of a zip archive."""


def checked_load(path: Path, device: torch.device, *, allow_old: bool = False) -> Any:
    """Return the content of a file of torch.save: tensors and plain values alone; no code in the file is run.

    Args:
        path: the file.
        device: the tensors' device.
        allow_old: read files from before PyTorch 1.6, too; these carry no checksums.

    Raises:
        pickle.UnpicklingError: it holds other objects, or, with `allow_old`, it is no file of torch.save.
        Exception: any of UNREADABLE, where it is damaged.
    """
    if allow_old:
        with path.open("rb") as file:
            start = file.read(2)
        if start == OLD_START:
            return torch.load(path, map_location=device, weights_only=True)
        if start and start != ZIP_START:
            raise pickle.UnpicklingError("neither a zip archive nor a pickle")
    # torch.load does not compare checksums: a flipped bit would be read as another weight.
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(f"bad checksum of {damaged}")
    return torch.load(path, map_location=device, weights_only=True)
