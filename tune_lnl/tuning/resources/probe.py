"""A probe: a process that trains for some seconds and answers with its speed and its memory.

It is a process of its own, as a trial is: the process that drives a search must not hold any of a GPU's memory.
``multiprocessing`` starts it with the method "spawn", because a forked process cannot use CUDA. A script that calls
``run_search(..., gpus_per_trial="auto")`` therefore needs Python's usual ``if __name__ == "__main__":``.
"""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from tune_lnl.config.base import GradientSettings
from tune_lnl.config.trial import TrialConfig
from tune_lnl.errors import InputError
from tune_lnl.training.failures import OUT_OF_MEMORY, classify
from tune_lnl.training.loop import Surroundings
from tune_lnl.training.networks import NetworkTraining
from tune_lnl.training.registry import start_training
from tune_lnl.tuning.resources.sharing import Gpu

EVALUATION_BATCHES = 3
"""They hold as much memory as any of the later ones."""
PATIENCE = 600.0
"""Seconds within which a process must have started, or taken its reading."""
STATUS = Path("/proc/self/status")
SPAWN = get_context("spawn")


class ProbeError(InputError):
    """The share cannot be measured here, for another reason than memory."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"--gpus-per-trial auto: {reason}; give a share, 1 or 1/k")


@dataclass(frozen=True)
class Task:
    """The training of a probe, and its device."""

    config: TrialConfig
    data_dir: Path | None
    device: str
    cores: list[int]
    """The device's part of the CPUs; all probes that run at once on it share them."""
    free: int = 0
    """Bytes of the GPU's memory that were free before this process, where it is our only one there."""
    visible: str | None = None
    """The GPU, as ``CUDA_VISIBLE_DEVICES`` names it; ``None``: as in the environment."""


@dataclass(frozen=True)
class Answer:
    """Memory and speed of a probe, or the reason why it has none."""

    peak: int = 0
    """Most bytes of the training so far."""
    overhead: int = 0
    """Bytes of the process in addition; see :class:`tune_lnl.tuning.resources.sharing.Reading`."""
    images_per_second: float = 0.0
    failure: str | None = None
    """A class of :mod:`tune_lnl.training.failures`."""
    message: str = ""


class Probe:
    """A probe as its owner sees it: start it, ask for readings, stop it."""

    def __init__(self, task: Task) -> None:
        self._connection, theirs = SPAWN.Pipe()
        self._process = SPAWN.Process(target=run_probe, args=(task, theirs), daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, threads: int, seconds: float) -> None:
        """Ask for a reading: train for this many seconds with this many threads."""
        try:
            self._connection.send((threads, seconds))
        except OSError:
            return  # the process has ended; its answer has the reason

    def answer(self) -> Answer:
        """Wait for the next answer; the first one comes when the training is ready.

        Raises:
            ProbeError: the process failed, or has not answered in time.
        """
        if not self._connection.poll(PATIENCE):
            raise ProbeError(f"a measured trial has not answered for {PATIENCE:.0f} s")
        try:
            answer: Answer = self._connection.recv()
        except (EOFError, OSError):  # closed, or reset with a request unread
            self._process.join(PATIENCE)
            if self._process.exitcode == -9:  # the system ends a process like this when memory is short
                return Answer(failure=OUT_OF_MEMORY)
            raise ProbeError(
                f"a measured trial ended with exit code {self._process.exitcode} before it answered (a script that "
                'calls run_search needs `if __name__ == "__main__":` around it)'
            ) from None
        if answer.failure not in (None, OUT_OF_MEMORY):
            raise ProbeError(f"a measured trial failed: {answer.message}")
        return answer

    def stop(self) -> None:
        self._connection.close()
        self._process.kill()
        self._process.join()


def gpus_here() -> list[Gpu]:
    """List the CUDA devices, from a process that ends with its answer: asking takes memory of each.

    Raises:
        ProbeError: they cannot be listed.
    """
    try:
        with ProcessPoolExecutor(1, mp_context=SPAWN) as process:
            return process.submit(list_gpus).result(PATIENCE)
    except Exception as error:
        raise ProbeError(f"the GPUs cannot be listed: {classify(error)[1]}") from None


# ---- in the process


def run_probe(task: Task, connection: Connection) -> None:
    """Answer that the training is ready, then every request for a reading, until the connection is closed."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):  # libraries print; the terminal belongs to the search
        os.dup2(nowhere, descriptor)
    if task.visible is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = task.visible
    serve(task, connection.recv, connection.send)


def serve(task: Task, receive: Callable[[], tuple[int, float]], send: Callable[[Answer], None]) -> None:
    """Send an :class:`Answer` for the start of the training and for each request received; an ``EOFError`` ends it."""
    try:
        trial = MeasuredTrial(task)
        send(trial.memory())
        while True:
            try:
                threads, seconds = receive()
            except EOFError:
                return
            send(trial.reading(threads, seconds))
    except Exception as error:
        failure, message = classify(error)
        send(Answer(failure=failure, message=message))


class MeasuredTrial:
    """A training that has made its first steps, of both phases, and has scored a few batches."""

    def __init__(self, task: Task) -> None:
        self._task = task
        if task.cores and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, task.cores)
        self._overhead = 0 if task.device == "cuda" else process_memory("VmRSS")
        settings = task.config.settings
        assert isinstance(settings, GradientSettings)
        self._last_epoch = settings.epochs - 1
        batches = iter(range(EVALUATION_BATCHES))

        def after_batch() -> None:
            """End the evaluation after its first few batches."""
            if next(batches, None) is None:
                raise _Enough

        surroundings = Surroundings(data_dir=task.data_dir, device=task.device, between_batches=after_batch)
        training = start_training(task.config, surroundings)
        assert isinstance(training, NetworkTraining)
        self.training: NetworkTraining[Any, Any, Any, Any] = training
        for epoch in (0, self._last_epoch):
            self.training.seconds_per_epoch(epoch, 1)
        with suppress(_Enough):
            self.training.evaluate(0)
        if task.device == "cuda":
            free, _ = torch.cuda.mem_get_info()
            # The context, with the kernels that the first steps have loaded into it.
            self._overhead = max(0, task.free - free - torch.cuda.memory_reserved())

    def memory(self) -> Answer:
        if self._task.device == "cuda":
            peak = torch.cuda.max_memory_reserved()
        else:
            peak = process_memory("VmHWM") - self._overhead
        return Answer(max(0, peak), self._overhead)

    def reading(self, threads: int, seconds: float) -> Answer:
        """Train for at least ``seconds`` and return images per second of this process with its memory."""
        torch.set_num_threads(threads)
        # Epoch after epoch: on a GPU the work for several batches is done with the first of them.
        steps = (count for _ in itertools.count() for count in self.training.steps(self._last_epoch))
        began, images = time.perf_counter(), 0
        for count in steps:
            images += count
            if time.perf_counter() - began >= seconds:
                break
        if self._task.device == "cuda":
            torch.cuda.synchronize()
        speed = images / (time.perf_counter() - began)
        memory = self.memory()
        return Answer(memory.peak, memory.overhead, speed)


class _Enough(Exception):  # noqa: N818 (no error)
    """Enough batches were scored."""


def process_memory(name: str) -> int:
    """Return bytes of this process: ``VmRSS`` now, or ``VmHWM`` at most; outside Linux always its most so far."""
    try:
        lines = STATUS.read_text(encoding="ascii").splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
    except (OSError, StopIteration):
        import resource

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else 1024 * most


def list_gpus() -> list[Gpu]:
    """List the CUDA devices that this process sees."""
    found = []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        found.append(Gpu(index, torch.cuda.get_device_name(index), total, free))
    return found
