"""One trial in a process of its own that only lets itself be measured, led by lines of JSON.

A process of its own, as a trial is: the process that drives a search must not hold any of a GPU's memory. The first
line on standard input is the task (:class:`Task`); the answer says that it is ready. Every further line asks for a
reading: train for so many seconds with so many threads. It ends with its input.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import torch

from tune_lnl.config.base import GradientSettings
from tune_lnl.config.trial import build_config
from tune_lnl.training.failures import OUT_OF_MEMORY, classify
from tune_lnl.training.loop import Surroundings, Training
from tune_lnl.training.registry import start_training

BATCHES = 4
"""Of one round; a reading is as many rounds as fit into its seconds, at least one."""
EVALUATION_BATCHES = 3
"""They hold what any of the later ones hold."""
STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Task:
    """What to train, and where."""

    sections: dict[str, Any]
    """The trial's config."""
    data_dir: str | None
    device: str
    cores: list[int]
    """The device's share of the CPUs; all that run at once on it have these."""
    free: int = 0
    """Bytes of the GPU's memory that were free before this process, where it is the only one of ours."""


def lead(lines: Iterator[str], say: TextIO) -> None:
    """Answer every line of ``lines`` with one on ``say``."""
    measured: Measured | None = None
    for line in lines:
        answer: dict[str, Any]
        try:
            if measured is None:
                measured = Measured(Task(**json.loads(line)))
                answer = measured.memory()
            else:
                answer = measured.reading(**json.loads(line))
        except Exception as error:
            if classify(error)[0] != OUT_OF_MEMORY:
                raise
            answer = {"failure": OUT_OF_MEMORY}
        print(json.dumps(answer), file=say, flush=True)


class Measured:
    """A training that has made its first steps, of both phases, and has scored a little."""

    def __init__(self, task: Task) -> None:
        self._task = task
        if task.cores and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, task.cores)
        self._beside = 0 if task.device == "cuda" else process_memory("VmRSS")
        self._training, self._batch_size = _started(task)
        self._last_epoch = self._training.config.settings.epochs - 1
        for epoch in (0, self._last_epoch):
            self._training.seconds_per_epoch(epoch, 1)
        _score_a_little(self._training)
        if task.device == "cuda":
            free, _ = torch.cuda.mem_get_info()
            # The context, with the kernels that the first steps have loaded into it.
            self._beside = max(0, task.free - free - torch.cuda.memory_reserved())

    def memory(self) -> dict[str, int]:
        """``peak`` and ``beside``, bytes; see :class:`tune_lnl.tuning.resources.sharing.Reading`."""
        if self._task.device == "cuda":
            peak = torch.cuda.max_memory_reserved()
        else:
            peak = process_memory("VmHWM") - self._beside
        return {"peak": max(0, peak), "beside": self._beside}

    def reading(self, threads: int, seconds: float) -> dict[str, float]:
        """Train, and say how fast: images per second of this process."""
        torch.set_num_threads(threads)
        images = min(self._training.images_per_epoch(), (BATCHES + 1) * self._batch_size)
        began, rounds = time.perf_counter(), 0
        while rounds == 0 or time.perf_counter() - began < seconds:
            self._training.seconds_per_epoch(self._last_epoch, BATCHES)
            rounds += 1
        return {"images_per_second": rounds * images / (time.perf_counter() - began), **self.memory()}


class _Enough(Exception):  # noqa: N818 (no error)
    """So much was to be scored."""


def _started(task: Task) -> tuple[Training, int]:
    """The training, which ends its scoring after a few batches; and its batch size."""
    config = build_config(task.sections, "the measured trial")
    assert isinstance(config.settings, GradientSettings)
    scored = iter(range(EVALUATION_BATCHES))

    def count() -> None:
        if next(scored, None) is None:
            raise _Enough

    surroundings = Surroundings(
        data_dir=None if task.data_dir is None else Path(task.data_dir), device=task.device, between_batches=count
    )
    return start_training(config, surroundings), config.settings.batch_size


def _score_a_little(training: Training) -> None:
    try:
        training.evaluate(0)
    except _Enough:
        return


def process_memory(name: str) -> int:
    """Bytes of this process, ``VmRSS`` now or ``VmHWM`` at most; where the system does not tell, its most so far."""
    try:
        lines = STATUS.read_text(encoding="ascii").splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
    except (OSError, StopIteration):
        import resource

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else 1024 * most


def describe_gpus() -> list[dict[str, Any]]:
    """The CUDA devices that this process sees, as plain values of :class:`tune_lnl.tuning.resources.sharing.Gpu`."""
    found = []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        found.append({"index": index, "name": torch.cuda.get_device_name(index), "total": total, "free": free})
    return found


def main() -> None:
    """Answers alone go to standard output; whatever libraries print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    if "--describe" in sys.argv[1:]:
        print(json.dumps(describe_gpus()), file=answers, flush=True)
    else:
        lead(iter(sys.stdin), answers)


if __name__ == "__main__":
    main()
