"""Measuring how many trials a device can share: processes that train for some seconds, 1, 2, 4, ... at once.

What comes out is kept in the cache, by device, versions and the measured config, and read again until one of these
changes. :mod:`tune_lnl.tuning.resources.sharing` decides by it.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
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
from tune_lnl.errors import InputError
from tune_lnl.files import replace_text
from tune_lnl.training.failures import OUT_OF_MEMORY
from tune_lnl.tuning.resources.memory import memory_in_use
from tune_lnl.tuning.resources.probe_process import Task
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
PATIENCE = 600.0
"""Seconds within which a process must have started, or taken its reading."""
IDLE = 0.95
"""Share of a GPU's memory that is free on one that nobody else uses; only then a reading is worth keeping."""
BUSY = 0.5
"""Load per core above which CPUs count as used by others; the search's own start loads one of them for seconds."""
FOLDER = "shares"
FORMAT = 1
NOT_COSTLY = ("seed", "threads", "validation.seed", "dataset.noise", "dataset.noise_seed", "dataset.subset_seed")
"""Settings that change a trial's numbers and not what a step costs."""
_PROGRAM = "tune_lnl.tuning.resources.probe_process"


@dataclass(frozen=True)
class Question:
    """What is to be shared, and by what."""

    configs: Sequence[TrialConfig]
    """Candidates for the trial that takes most memory."""
    data_dir: Path | None
    cpus: int
    """Cores of the machine."""
    gpus: int
    """CUDA devices of the machine; 0: the CPUs themselves are shared."""
    cpus_per_trial: float | None = None
    """As asked for; ``None``: divided."""
    threads: int | None = None
    """As asked for; ``None``: a trial's whole cores."""
    wanted: int = sys.maxsize
    """Trials that will ever run at once on the machine."""

    @property
    def cores(self) -> int:
        """Of one device."""
        return max(1, self.cpus // max(1, self.gpus))

    @property
    def most(self) -> int:
        return most_at_once(self.cores, self.cpus_per_trial, -(-self.wanted // max(1, self.gpus)))

    def threads_of(self, trials: int) -> int:
        """Threads of each of so many on one device."""
        if self.threads is not None:
            return self.threads
        return max(1, int(self.cpus_per_trial or self.cores // trials))


class ProbeError(InputError):
    """It cannot be measured here, for another reason than memory."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"--gpus-per-trial auto: {reason}; give a share, 1 or 1/k")


def measure_sharing(
    question: Question,
    say: Callable[[str], None] = lambda line: None,
    gpus: Callable[[], list[Gpu]] | None = None,
    measure: Callable[[Question, Gpu | None, int], list[Reading]] | None = None,
    load: Callable[[], float] | None = None,
) -> Sharing:
    """How many trials share one device of this machine: the smallest GPU, or without any the CPUs.

    Args:
        say: is told that it takes a minute, where it does.
        gpus: lists the CUDA devices.
        measure: takes the readings of a question on a device (``None``: the CPUs) with so many free bytes.
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
    readings, quiet = read_kept(path, key), True
    if readings is None:
        say("measuring how many trials share the device best; this takes about a minute and is kept for later")
        quiet = room >= IDLE * total if gpu is not None else (load or _load)() <= BUSY * question.cpus
        readings = (measure or take)(question, gpu, room)
        if quiet:
            keep(path, key, readings)
    return replace(choose_sharing(readings, name, total, room, on_gpu=gpu is not None), quiet=quiet)


def _load() -> float:
    """Processes that wanted a core, on average over the last minute; 0 where the system does not tell."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def _device(gpus: Sequence[Gpu]) -> tuple[str, int, int]:
    """(name, bytes, free bytes) of what is shared; of the smallest GPU, with the room that each of them has."""
    if gpus:
        gpu = smallest(gpus)
        return gpu.name, gpu.total, min(gpu.free for gpu in gpus)
    used, total = memory_in_use() or (0.0, float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")))
    return platform.processor() or platform.machine(), int(total), int(total - used)


def gpus_here() -> list[Gpu]:
    """The CUDA devices, asked from a process that ends with its answer: asking takes memory of each."""
    command = [sys.executable, "-m", _PROGRAM, "--describe"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    if found.returncode:
        raise ProbeError(f"the GPUs cannot be asked: {_last_line(found.stderr)}")
    return [Gpu(**gpu) for gpu in json.loads(found.stdout)]


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


# ---- what was measured before


def _key(question: Question, device: str, total: int) -> dict[str, Any]:
    """All that a reading depends on."""
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


def read_kept(path: Path, key: Mapping[str, Any]) -> list[Reading] | None:
    """The readings of that key; ``None`` where there are none, or the file is not as it was written."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["key"] != json.loads(json.dumps(key)):
            return None
        return [Reading(**reading) for reading in kept["readings"]] or None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def keep(path: Path, key: Mapping[str, Any], readings: Sequence[Reading]) -> None:
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
            with Bench(config, question, gpu) as bench:
                memory = bench.start(1)
                needs.append(sys.maxsize if memory is None else memory[0] + memory[1])
        heaviest = question.configs[needs.index(max(needs))]
    with Bench(heaviest, question, gpu) as bench:
        return take_readings(bench.read, question.most, room)


class Bench:
    """Keeps the processes of one config; those of a reading go on to the next one, which starts as many again.

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
        self._processes: list[_Process] = []
        self._peak = self._beside = 0

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *raised: object) -> None:
        for process in self._processes:
            process.end()

    def start(self, trials: int) -> tuple[int, int] | None:
        """Have so many ready: most bytes that one of them took, and held besides; ``None``: not enough memory."""
        new = [_Process(self._task(), self._environment()) for _ in range(trials - len(self._processes))]
        self._processes += new
        return self._memory([process.answer() for process in new])

    def read(self, trials: int) -> Reading | None:
        """Let so many train at once; ``None``: not enough memory."""
        if self.start(trials) is None:
            return None
        for process in self._processes:
            process.ask({"threads": self._question.threads_of(trials), "seconds": self._seconds})
        answers = [process.answer() for process in self._processes]
        memory = self._memory(answers)
        if memory is None:
            return None
        return Reading(trials, sum(answer["images_per_second"] for answer in answers), *memory)

    def _memory(self, answers: Sequence[Mapping[str, Any]]) -> tuple[int, int] | None:
        if any(answer.get("failure") == OUT_OF_MEMORY for answer in answers):
            return None
        self._peak = max([self._peak, *(answer["peak"] for answer in answers)])
        if self._gpu is None or len(self._processes) == 1:
            # On a GPU the driver tells of all processes together: only the first one, alone, can tell its own.
            self._beside = max([self._beside, *(answer["beside"] for answer in answers)])
        return self._peak, self._beside

    def _task(self) -> Task:
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        data_dir = self._question.data_dir
        return Task(
            self._config.sections(),
            None if data_dir is None else str(data_dir),
            "cpu" if self._gpu is None else "cuda",
            cores[: self._question.cores],
            0 if self._gpu is None else self._gpu.free,
        )

    def _environment(self) -> dict[str, str]:
        if self._gpu is None:
            return dict(os.environ)
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        device = visible[self._gpu.index] if self._gpu.index < len(visible) and visible[0] else str(self._gpu.index)
        return {**os.environ, "CUDA_VISIBLE_DEVICES": device}


class _Process:
    """One measured trial, and what it says."""

    def __init__(self, task: Task, environment: Mapping[str, str]) -> None:
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 (see end)
        self._process = subprocess.Popen(
            [sys.executable, "-m", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=environment,
        )
        self._answers: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()
        self.ask(asdict(task))

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put("")

    def ask(self, question: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # its answer tells
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """What it says next. A process that the system takes away for its memory says so without a word."""
        try:
            line = self._answers.get(timeout=PATIENCE)
        except queue.Empty:
            raise ProbeError(f"a measured trial said nothing for {PATIENCE:.0f} s") from None
        if line:
            found: dict[str, Any] = json.loads(line)
            return found
        if self._process.wait(timeout=PATIENCE) == -9:
            return {"failure": OUT_OF_MEMORY}
        self._errors.seek(0)
        raise ProbeError(f"a measured trial failed: {_last_line(self._errors.read())}")

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._errors.close()


def _last_line(text: str) -> str:
    return next((line for line in reversed(text.strip().splitlines()) if line.strip()), "without a word")
