"""The measurement of how many trials can share a device: processes train for some seconds, 1, 2, 4, ... at once.

The readings are kept in the cache, by device, versions and the measured config, and used again until one of these
changes. :mod:`tune_lnl.tuning.resources.sharing` decides by them.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from tune_lnl.config.base import GradientSettings
from tune_lnl.config.trial import TrialConfig
from tune_lnl.datasets.paths import cache_dir
from tune_lnl.files import replace_text
from tune_lnl.training.failures import OUT_OF_MEMORY
from tune_lnl.tuning.resources.memory import memory_in_use
from tune_lnl.tuning.resources.probe import Answer, Probe, ProbeError, Task, gpus_here
from tune_lnl.tuning.resources.sharing import (
    Gpu,
    Reading,
    Sharing,
    choose_sharing,
    most_at_once,
    smallest,
    take_readings,
)

READING_SECONDS = 4.0
IDLE = 0.95
"""Share of a GPU's memory that must be free for a reading to be kept: nobody else uses the GPU then."""
BUSY = 0.5
"""Load per core above which CPUs count as used by others; the start of the search itself loads one core."""
FOLDER = "shares"
FORMAT = 2
NOT_COSTLY = ("seed", "threads", "validation.seed", "dataset.noise", "dataset.noise_seed", "dataset.subset_seed")
"""Settings that change a trial's numbers and not the cost of a step."""


@dataclass(frozen=True)
class Question:
    """The device to share, and the trials that are to share it."""

    configs: Sequence[TrialConfig]
    """Candidates for the trial that takes most memory."""
    data_dir: Path | None
    cpus: int
    """Cores of the machine."""
    gpus: int
    """CUDA devices of the machine; 0: the CPUs themselves are shared."""
    cpus_per_trial: float | None = None
    """As asked for; ``None``: the cores are divided."""
    threads: int | None = None
    """As asked for; ``None``: a trial's whole cores."""
    wanted: int = sys.maxsize
    """Most trials that will run at once on the machine."""

    @property
    def cores(self) -> int:
        """Return the cores of one device."""
        return max(1, self.cpus // max(1, self.gpus))

    @property
    def most(self) -> int:
        return most_at_once(self.cores, self.cpus_per_trial, -(-self.wanted // max(1, self.gpus)))

    def threads_of(self, trials: int) -> int:
        """Return the threads of each trial, with ``trials`` on one device."""
        if self.threads is not None:
            return self.threads
        return max(1, int(self.cpus_per_trial or self.cores // trials))


def measure_sharing(
    question: Question,
    tell: Callable[[str], None] = lambda line: None,
    gpus: Callable[[], list[Gpu]] | None = None,
    measure: Callable[[Question, Gpu | None, int], list[Reading]] | None = None,
    load: Callable[[], float] | None = None,
) -> Sharing:
    """Return how many trials share one device of this machine: the smallest GPU, or without any the CPUs.

    Args:
        tell: called with a line when the measurement, which takes a minute, begins.
        gpus: lists the CUDA devices.
        measure: takes the readings of a question on a device (``None``: the CPUs) that has this many free bytes.
        load: the machine's load average.

    Raises:
        InputError: one trial alone does not fit, or (:class:`ProbeError`) it cannot be measured.
    """
    for config in question.configs:
        if not isinstance(config.settings, GradientSettings):
            raise ProbeError(f"methods that train by gradient steps can be measured, and {config.method} does not")
    found = (gpus or gpus_here)() if question.gpus else []
    if question.gpus and not found:
        raise ProbeError("a measured process sees no GPU")
    gpu = smallest(found) if found else None
    name, total, room = _device(found)
    key = _key(question, name, total)
    path = cache_dir() / FOLDER / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]}.json"
    readings, quiet = read_cached(path, key), True
    if readings is None:
        tell("measuring how many trials share the device best; this takes about a minute, and the result is kept")
        quiet = room >= IDLE * total if gpu is not None else (load or _load)() <= BUSY * question.cpus
        readings = (measure or take)(question, gpu, room)
        if quiet:
            write_cached(path, key, readings)
    return replace(choose_sharing(readings, name, total, room, on_gpu=gpu is not None), quiet=quiet)


def _load() -> float:
    """Return the load average over the last minute; 0 where the system has none."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def _device(gpus: Sequence[Gpu]) -> tuple[str, int, int]:
    """Return (name, bytes, free bytes) of the shared device; of GPUs the smallest, with the room that each has."""
    if gpus:
        gpu = smallest(gpus)
        return gpu.name, gpu.total, min(gpu.free for gpu in gpus)
    used, total = memory_in_use() or (0.0, float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")))
    return platform.processor() or platform.machine(), int(total), int(total - used)


def _driver_version() -> str:
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    command = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10.0, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return found.stdout.partition("\n")[0].strip()


# ---- the cache


def _key(question: Question, device: str, total: int) -> dict[str, Any]:
    """Return everything that a reading depends on."""
    return {
        "format": FORMAT,
        "device": device,
        "total": total,
        "driver": _driver_version() if question.gpus else "",
        "tune_lnl": version("tune_lnl"),
        "torch": torch.__version__,
        "cores": question.cores,
        "threads": [question.threads_of(trials) for trials in (1, 2)],
        "most": question.most,
        "configs": [
            {name: value for name, value in config.flat().items() if name not in NOT_COSTLY}
            for config in question.configs
        ],
    }


def read_cached(path: Path, key: Mapping[str, Any]) -> list[Reading] | None:
    """Read the readings of that key; ``None`` where there are none, or the file is damaged."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["key"] != json.loads(json.dumps(key)):
            return None
        return [Reading(**reading) for reading in kept["readings"]] or None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def write_cached(path: Path, key: Mapping[str, Any], readings: Sequence[Reading]) -> None:
    """Write readings for the next search. A cache that cannot be written costs a minute, not the search."""
    content = {
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "key": key,
        "readings": [asdict(reading) for reading in readings],
    }
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(path, json.dumps(content, indent=1) + "\n")


# ---- measuring


def take(question: Question, gpu: Gpu | None, room: int) -> list[Reading]:
    """Measure the heaviest of the configs, first alone, then together."""
    heaviest = question.configs[0]
    if len(question.configs) > 1:
        needs = []
        for config in question.configs:
            with ProbeGroup(config, question, gpu) as group:
                memory = group.start(1)
                needs.append(sys.maxsize if memory is None else sum(memory))
        heaviest = question.configs[needs.index(max(needs))]
    with ProbeGroup(heaviest, question, gpu) as group:
        return take_readings(group.read, question.most, room)


class ProbeGroup:
    """The probes of one config; those of a reading also serve the next one, which starts as many again.

    Args:
        gpu: the device; ``None``: the CPUs.
    """

    def __init__(
        self, config: TrialConfig, question: Question, gpu: Gpu | None, seconds: float = READING_SECONDS
    ) -> None:
        self._config = config
        self._question = question
        self._gpu = gpu
        self._seconds = seconds
        self._probes: list[Probe] = []
        self._peak = self._overhead = 0

    def __enter__(self) -> ProbeGroup:
        return self

    def __exit__(self, *raised: object) -> None:
        for probe in self._probes:
            probe.stop()

    def start(self, trials: int) -> tuple[int, int] | None:
        """Have this many probes ready.

        Returns:
            the most bytes of a training, and of a process in addition; ``None``: not enough memory.
        """
        new = [Probe(self._task()) for _ in range(trials - len(self._probes))]
        self._probes += new
        return self._memory([probe.answer() for probe in new])

    def read(self, trials: int) -> Reading | None:
        """Let this many probes train at once; ``None``: not enough memory."""
        if self.start(trials) is None:
            return None
        for probe in self._probes:
            probe.ask(self._question.threads_of(trials), self._seconds)
        answers = [probe.answer() for probe in self._probes]
        memory = self._memory(answers)
        if memory is None:
            return None
        return Reading(trials, sum(answer.images_per_second for answer in answers), *memory)

    def _memory(self, answers: Sequence[Answer]) -> tuple[int, int] | None:
        if any(answer.failure == OUT_OF_MEMORY for answer in answers):
            return None
        self._peak = max([self._peak, *(answer.peak for answer in answers)])
        if self._gpu is None or len(self._probes) == 1:
            # On a GPU the driver counts all processes together: only the first one, alone, can be read separately.
            self._overhead = max([self._overhead, *(answer.overhead for answer in answers)])
        return self._peak, self._overhead

    def _task(self) -> Task:
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        task = Task(self._config, self._question.data_dir, "cpu", cores[: self._question.cores])
        if self._gpu is None:
            return task
        index = self._gpu.index
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        name = visible[index] if index < len(visible) and visible[0] else str(index)
        return replace(task, device="cuda", free=self._gpu.free, visible=name)
