"""The one place that knows which GPU there is, whether torch can use it, and how much of it a training may take."""

from __future__ import annotations

import os
import re
import warnings
from contextlib import suppress
from pathlib import Path

import torch

from tune_lnl.errors import InputError, first_line

_cap = 1.0
"""The share of its GPU's memory that this process may take."""

DRIVER = Path("/proc/driver/nvidia")
WHEELS = ((580, "cu130"), (525, "cu126"), (450, "cu118 (torch 2.6 or 2.7)"))
"""The first driver of a CUDA version, and the name of PyTorch's index with wheels that such a driver runs."""


def obstacle() -> str | None:
    """Return why torch cannot use a GPU that is in this machine, and what to do; ``None``: it can, or there is none.

    A GPU that ``CUDA_VISIBLE_DEVICES`` hides counts as none. No memory of the GPU is taken.
    """
    counted, reason = _counted()
    if counted and reason is None:
        return None
    if not counted:
        if os.environ.get("CUDA_VISIBLE_DEVICES", "0") in ("", "-1", "NoDevFiles") or not _cards():
            return None
        counted = _cards()
        reason = reason or "torch sees none of them"
    driver = driver_version()
    built = torch.version.cuda or torch.version.hip
    of = f"built for CUDA {built}" if torch.version.cuda else f"built for ROCm {built}" if built else "built for CPUs"
    return (
        f"this machine has {counted} GPU(s) that torch cannot use: {reason}\n"
        f"NVIDIA driver {driver or 'unknown'}, torch {torch.__version__} {of}\n"
        f"{_remedy(driver)}; or use --device cpu"
    )


def _counted() -> tuple[int, str | None]:
    """Return (number of GPUs that torch counts, why none of them can be used or ``None``)."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        counted, available = torch.cuda.device_count(), torch.cuda.is_available()
    if available:
        return max(1, counted), None
    said = next((first_line(Warning(str(each.message))) for each in told if "CUDA" in str(each.message)), "")
    return counted, said or ("the driver does not run this torch's CUDA" if counted else None)


def _cards() -> int:
    """Return the number of NVIDIA cards whose driver is loaded."""
    try:
        return sum(1 for _ in (DRIVER / "gpus").iterdir())
    except OSError:
        return 0


def driver_version() -> str | None:
    """Return the version of the loaded NVIDIA driver, such as ``510.73.05``; ``None``: there is none."""
    try:
        text = (DRIVER / "version").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    found = re.search(r"\b(\d{3,}\.\d+(?:\.\d+)*)\b", text)
    return found[1] if found else None


def _remedy(driver: str | None) -> str:
    index = next((index for first, index in WHEELS if driver and int(driver.split(".")[0]) >= first), None)
    wanted = (
        f"install torch from PyTorch's index for {index}"
        if index
        else (
            "install torch from PyTorch's index that suits the driver ("
            + ", ".join(f"{index} from driver {first} on" for first, index in WHEELS)
            + ")"
        )
    )
    return f"{wanted}, or a newer driver"


def gpu_count() -> int:
    """Return the number of GPUs that torch counts, usable or not; :func:`obstacle` tells which."""
    return torch.cuda.device_count()


def card_name(index: int = 0) -> str:
    """Return the model of a GPU as its driver names it; ``GPU`` where the driver does not answer."""
    try:
        return torch.cuda.get_device_name(index)
    except (RuntimeError, AssertionError):
        return "GPU"


def choose_device(device: str) -> str:
    """Return ``cpu`` or ``cuda``; ``auto`` takes the GPU if there is one.

    Raises:
        InputError: cuda was asked for and there is none, or a GPU is there and cannot be used; ``auto`` does not fall
            back on the CPU then, where a training may take a hundred times as long.
    """
    if device == "cpu":
        return device
    found = obstacle()
    if found is not None:
        raise InputError(f"--device {device}: {found}")
    if not torch.cuda.is_available():
        if device == "cuda":
            raise InputError("--device cuda needs a CUDA GPU, and torch sees none here; use --device auto or cpu")
        return "cpu"
    broken = failing_card() if torch.cuda.device_count() else None
    if broken is not None:
        raise InputError(f"--device {device}: {broken}; use another card (CUDA_VISIBLE_DEVICES), or --device cpu")
    return "cuda"


def failing_card(index: int = 0, dtype: torch.dtype = torch.float32) -> str | None:
    """Return why a GPU fails at a first product in this type; ``None``: it works. It takes memory for a context."""
    try:
        ones = torch.ones(64, 64, dtype=dtype, device=f"cuda:{index}")
        total = float((ones @ ones).sum())
    except (RuntimeError, AssertionError) as error:
        return f"GPU {index} fails at its first product: {first_line(error)}"
    return None if total == 64.0**3 else f"GPU {index} computes wrongly: a sum of {64**3} ones gave {total:g}"


def set_arithmetic(device: str, precision: str, deterministic: bool) -> None:
    """Set what torch leaves to the process: how float32 products of a GPU are computed, and which kernels may do it.

    By itself torch rounds the inputs of a float32 convolution to TF32, and takes kernels whose sums are in an order of
    their own. On a CPU nothing is set.
    """
    if device != "cuda":
        return
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    # Tries kernels at the first batch of a shape and keeps the fastest, which may differ from run to run.
    torch.backends.cudnn.benchmark = not deterministic
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts
    torch.use_deterministic_algorithms(deterministic)


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


def release_memory() -> None:
    """Give the memory that torch keeps for later back to the GPU; a GPU that has failed is left alone."""
    with suppress(RuntimeError):
        torch.cuda.empty_cache()


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
