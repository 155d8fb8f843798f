"""What hangs on torch's private symbols and on its sentences: each is named here when an upgrade takes it away."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
import torch

from tune_lnl.torch_compat import cpu_has_bf16, is_device_failure, is_out_of_memory


def test_the_symbols_that_tell_of_bf16() -> None:
    """One public function, or the three private ones of releases that do not have it."""
    if hasattr(torch.cpu, "get_capabilities"):
        known = torch.cpu.get_capabilities()
        names = {"x86_64": ("avx512_bf16", "amx_bf16"), "aarch64": ("bf16",)}.get(platform.machine(), ())
        assert [name for name in names if name not in known] == []
    else:
        for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
            assert callable(getattr(torch.cpu, name, None)), f"torch.cpu.{name} is gone"
        assert hasattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported"), "torch.ops.mkldnn._is_mkldnn_bf16_supported"


@pytest.mark.skipif(platform.system() != "Linux", reason="reads /proc/cpuinfo")
def test_bf16_is_found_where_the_system_lists_it() -> None:
    flags = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    assert cpu_has_bf16() == bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})


def test_torchs_sentence_about_memory_on_the_cpu() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(10**15)
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError("shapes do not match"), False),
        (ValueError("can't allocate memory"), False),
    ],
)
def test_other_errors(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) == expected


@pytest.mark.parametrize(
    ("sentence", "device", "memory"),
    [
        ("CUDA error: device-side assert triggered\nCUDA kernel errors might be reported later", True, False),
        ("CUDA error: an illegal memory access was encountered", True, False),
        ("CUDA error: uncorrectable ECC error encountered", True, False),
        ("CUDA error: unspecified launch failure", True, False),
        ("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED", True, False),
        ("CUDA error: out of memory", False, True),
        ("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)", False, False),
    ],
)
def test_a_failure_of_the_device_is_told_from_memory_and_from_a_bug(sentence: str, device: bool, memory: bool) -> None:
    error = RuntimeError(sentence)
    assert (is_device_failure(error), is_out_of_memory(error)) == (device, memory)


def test_torchs_own_class_for_it() -> None:
    if not hasattr(torch, "AcceleratorError"):
        pytest.skip("this torch raises RuntimeError")
    assert is_device_failure(torch.AcceleratorError("something new", 719))
