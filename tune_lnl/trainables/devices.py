"""Which device a single training run uses."""

from __future__ import annotations

import torch

from tune_lnl.errors import InputError


def choose_device(device: str) -> str:
    """``auto`` takes the GPU where there is one.

    Raises:
        InputError: cuda asked for where there is none.
    """
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise InputError("--device cuda needs a CUDA GPU, and torch sees none here; use --device auto or cpu")
    return ("cuda" if available else "cpu") if device == "auto" else device
