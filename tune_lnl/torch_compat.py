"""The places where torch offers no public way: its private symbols, and errors that only their sentence tells apart.

``tests/test_torch_compat.py`` names the symbol that an upgrade takes away, and provokes each sentence.
"""

from __future__ import annotations

import platform

import torch

NO_MEMORY = "can't allocate memory"
"""In the RuntimeError of the CPU allocator; a GPU's is a torch.OutOfMemoryError."""

DEVICE_SENTENCES = (
    *("cuda error", "cuda driver error", "hip error", "device-side assert", "unspecified launch failure"),
    *("uncorrectable ecc", "cudnn_status_execution_failed", "cudnn_status_internal_error"),
    *("cublas_status_execution_failed", "cublas_status_internal_error", "no cuda-capable device"),
)
"""In errors after which a process can use its GPU no more; torch before 2.8 raises them as RuntimeError."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory ran out: a GPU's, torch's on the CPU, or Python's own."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    # Of the driver, not of torch's allocator: memory that a neighbour has taken meanwhile.
    return isinstance(error, RuntimeError) and (NO_MEMORY in text or "CUDA error: out of memory" in text)


def is_device_failure(error: BaseException) -> bool:
    """Return whether a GPU failed: every later call of this process to it fails, too, whatever it runs."""
    if not isinstance(error, RuntimeError) or is_out_of_memory(error):
        return False
    named = getattr(torch, "AcceleratorError", None)
    return (named is not None and isinstance(error, named)) or any(
        sentence in str(error).lower() for sentence in DEVICE_SENTENCES
    )


def cpu_has_bf16() -> bool:
    """Return whether this processor has instructions for bfloat16; torch emulates it elsewhere, slower than float32."""
    if hasattr(torch.cpu, "get_capabilities"):  # public, and newer than the oldest torch that is allowed
        found = torch.cpu.get_capabilities()
        return any(found.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"))
    if platform.machine() in ("x86_64", "AMD64"):
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
