"""The share of a device that a training may use."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tune_lnl.training.accelerator import cap_memory


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
