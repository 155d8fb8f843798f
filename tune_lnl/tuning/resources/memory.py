"""The use of the machine's memory and of its GPUs, read without allocating any GPU memory."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

MEMINFO = Path("/proc/meminfo")
GPU_QUERY = ("--query-gpu=utilization.gpu,memory.used,memory.total", "--format=csv,noheader,nounits")
GPU_INTERVAL = 5.0
"""Seconds between queries of the GPU driver; each starts a process."""


@dataclass(frozen=True)
class GpuUse:
    """One GPU: busy in percent, memory in MiB."""

    busy: float
    used: float
    total: float


def memory_in_use(meminfo: Path = MEMINFO) -> tuple[float, float] | None:
    """Return (used, total) bytes of the machine's memory; ``None`` where the system has no such figures."""
    try:
        lines = meminfo.read_text(encoding="ascii").splitlines()
        sizes = {name: int(rest.split()[0]) * 1024.0 for name, _, rest in (line.partition(":") for line in lines)}
        return sizes["MemTotal"] - sizes["MemAvailable"], sizes["MemTotal"]
    except (OSError, KeyError, ValueError, IndexError):
        return None


def parse_gpus(text: str) -> list[GpuUse]:
    """Read the output of ``nvidia-smi``; a GPU without figures (``[N/A]``) is left out."""
    found = []
    for line in text.splitlines():
        try:
            busy, used, total = (float(part) for part in line.split(","))
        except ValueError:
            continue
        found.append(GpuUse(busy, used, total))
    return found


def _ask_driver() -> str:
    """Query from another process: PyTorch would allocate memory on each GPU for it."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    try:
        return subprocess.run([program, *GPU_QUERY], capture_output=True, text=True, timeout=4.0, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


class GpuWatch:
    """The GPUs' use, queried at most every :data:`GPU_INTERVAL` seconds."""

    def __init__(self, ask: Callable[[], str] = _ask_driver, clock: Callable[[], float] = time.monotonic) -> None:
        self._ask = ask
        self._clock = clock
        self._next = -1.0
        self._known: list[GpuUse] = []

    def now(self) -> list[GpuUse]:
        """Return the latest figures."""
        if self._clock() >= self._next:
            self._known = parse_gpus(self._ask())
            self._next = self._clock() + GPU_INTERVAL
        return self._known
