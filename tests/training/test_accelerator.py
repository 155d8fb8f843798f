"""The share of a device that a training may use."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tune_lnl.errors import InputError
from tune_lnl.training import accelerator
from tune_lnl.training.accelerator import cap_memory, choose_device, obstacle, set_arithmetic
from tune_lnl.tuning.resources.divide import Machine, Node


@pytest.mark.parametrize(
    ("device", "fraction", "expected"), [("cuda", 0.2375, [0.2375]), ("cuda", None, [1.0]), ("cpu", 0.25, [])]
)
def test_the_cap_is_set_on_a_gpu_alone(
    monkeypatch: pytest.MonkeyPatch, device: str, fraction: float | None, expected: list[float]
) -> None:
    asked: list[float] = []
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", asked.append)
    cap_memory(device, fraction)
    assert asked == expected


@pytest.fixture
def uncapped() -> Iterator[None]:
    yield
    torch.cuda.empty_cache()
    cap_memory("cuda", None)


@pytest.mark.gpu
@pytest.mark.usefixtures("uncapped")
def test_what_goes_beyond_it_is_out_of_memory() -> None:
    total = torch.cuda.get_device_properties(0).total_memory
    cap_memory("cuda", 0.1)
    below = torch.empty(int(0.08 * total), dtype=torch.uint8, device="cuda")
    with pytest.raises(torch.OutOfMemoryError):
        torch.empty(int(0.08 * total), dtype=torch.uint8, device="cuda")
    del below
    cap_memory("cuda", None)
    assert len(torch.empty(int(0.12 * total), dtype=torch.uint8, device="cuda")) > 0


@pytest.fixture
def old_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One card that torch counts and cannot use, as with a driver that is older than torch's CUDA."""
    (tmp_path / "gpus" / "0000:01:00.0").mkdir(parents=True)
    (tmp_path / "version").write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  510.73.05  Sat May  7 2022\n")

    def unavailable() -> bool:
        warnings.warn(
            "CUDA initialization: The NVIDIA driver on your system is too old (found version 11060)", stacklevel=1
        )
        return False

    monkeypatch.setattr(accelerator, "DRIVER", tmp_path)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_available", unavailable)


@pytest.mark.usefixtures("old_driver")
@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_a_card_that_torch_cannot_use_is_refused_with_driver_and_wheel(device: str) -> None:
    for ask in (lambda: choose_device(device), lambda: Machine.here().for_device(device)):
        with pytest.raises(InputError) as refused:
            ask()
        said = str(refused.value)
        for part in (f"--device {device}", "too old", "driver 510.73.05", f"torch {torch.__version__}", "cu118"):
            assert part in said
    assert choose_device("cpu") == "cpu"
    assert Machine.here().for_device("cpu").gpus == 0


def test_torch_for_cpus_on_a_machine_with_a_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gpus" / "0000:01:00.0").mkdir(parents=True)
    (tmp_path / "version").write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  560.35.03\n")
    monkeypatch.setattr(accelerator, "DRIVER", tmp_path)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(InputError, match=r"1 GPU.*cannot use(?s:.*)built for CPUs(?s:.*)cu126"):
        choose_device("auto")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert obstacle() is None, "a card that the user hides"
    assert choose_device("auto") == "cpu"


def test_a_card_that_fails_at_its_first_product(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*size: int, **details: object) -> torch.Tensor:
        raise RuntimeError("CUDA error: uncorrectable ECC error encountered\nmore")

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "ones", broken)
    with pytest.raises(InputError, match="GPU 0 fails at its first product: CUDA error: uncorrectable ECC"):
        choose_device("auto")


def test_a_cluster_searched_on_its_cpus() -> None:
    machine = Machine.of([Node(4, 2, "one"), Node(2, 0, "two")])
    alone = machine.for_device("cpu")
    assert (alone.cpus, alone.gpus, [node.gpus for node in alone.nodes]) == (6, 0, [0, 0])
    assert machine.for_device("auto") is machine
    with pytest.raises(InputError, match="--device cuda needs a CUDA GPU, and the cluster has none"):
        alone.for_device("cuda")


@pytest.fixture
def arithmetic() -> Iterator[None]:
    """What torch leaves to the process, put back afterwards."""
    backends: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [backend.allow_tf32 for backend in backends]
    benchmark, deterministic = torch.backends.cudnn.benchmark, torch.are_deterministic_algorithms_enabled()
    yield
    for backend, value in zip(backends, before, strict=True):
        backend.allow_tf32 = value
    torch.backends.cudnn.benchmark = benchmark
    torch.use_deterministic_algorithms(deterministic)


@pytest.mark.usefixtures("arithmetic")
def test_fp32_means_fp32_and_tf32_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)

    def found() -> tuple[bool, ...]:
        products = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
        return (*products, torch.backends.cudnn.benchmark, torch.are_deterministic_algorithms_enabled())

    set_arithmetic("cuda", "tf32", False)
    assert found() == (True, True, True, False)
    set_arithmetic("cuda", "fp32", True)
    assert found() == (False, False, False, True)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    set_arithmetic("cuda", "bf16", False)
    assert found() == (False, False, True, False)
    set_arithmetic("cpu", "tf32", True)
    assert found() == (False, False, True, False), "a CPU's trainings leave it alone"
