"""The places where torch offers no public way: its private symbols, and errors that only their sentence tells apart.

``tests/test_torch_compat.py`` names the symbol that an upgrade takes away, and provokes each sentence.
"""

from __future__ import annotations

import platform

import torch

NO_MEMORY = "can't allocate memory"
"""In the RuntimeError of the CPU allocator; a GPU's is a torch.OutOfMemoryError."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory ran out: a GPU's, torch's on the CPU, or Python's own."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and NO_MEMORY in str(error)
    )


def cpu_has_bf16() -> bool:
    """Return whether this processor has instructions for bfloat16; torch emulates it elsewhere, slower than float32."""
    if hasattr(torch.cpu, "get_capabilities"):  # public, and newer than the oldest torch that is allowed
        found = torch.cpu.get_capabilities()
        return any(found.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"))
    if platform.machine() in ("x86_64", "AMD64"):
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
