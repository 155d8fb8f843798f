"""The device of a training, and its share of the memory."""

from __future__ import annotations

import torch

from tune_lnl.errors import InputError


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
        torch.cuda.set_per_process_memory_fraction(1.0 if fraction is None else fraction)
