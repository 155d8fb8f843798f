"""The device of a training, and its share of the memory."""

from __future__ import annotations

import torch

from tune_lnl.errors import InputError

_cap = 1.0
"""The share of its GPU's memory that this process may take."""


def choose_device(device: str) -> str:
    """Return ``cpu`` or ``cuda``; ``auto`` takes the GPU if there is one.

    Raises:
        InputError: cuda was asked for and there is none.
    """
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise InputError("--device cuda needs a CUDA GPU, and torch sees none here; use --device auto or cpu")
    return ("cuda" if available else "cpu") if device == "auto" else device


def cap_memory(device: str, fraction: float | None) -> None:
    """Limit what this process may allocate of its GPU's memory; on a CPU nothing is limited.

    An allocation beyond it fails as on a full GPU, so that a trial cannot take its neighbours' memory. Call it before
    the first allocation. It changes no number.

    Args:
        device: ``cpu`` or ``cuda``.
        fraction: share of the GPU's whole memory, in (0, 1]; ``None``: all of it.
    """
    if device == "cuda":
        global _cap
        _cap = 1.0 if fraction is None else fraction
        torch.cuda.set_per_process_memory_fraction(_cap)


RESIDENT_SHARE = 1 / 3
"""Of the memory that is free for this process: images beyond it are copied batch by batch."""
UNKNOWN_MEMORY = 2**30
"""Bytes of images that stay on a GPU whose driver does not say how much of its memory is free."""


def resident_bytes(device: torch.device) -> int:
    """Return how many bytes of images this process may keep on the device; 0 on a CPU, which has them already."""
    if device.type != "cuda":
        return 0
    try:
        free, total = torch.cuda.mem_get_info(device)
    except (RuntimeError, AssertionError, AttributeError):
        return UNKNOWN_MEMORY
    return int(RESIDENT_SHARE * min(free, _cap * total))
