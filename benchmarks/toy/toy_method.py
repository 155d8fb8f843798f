"""A method that trains nothing, in a package of its own: what the search engine is tested and measured with.

Its objective is a function of (x, seed, epoch) through a state that every epoch changes, so that a curve shows whether
a continued trial really went on from where it was. ``fault`` makes a trial misbehave at epoch ``fault_epoch``.

Put this folder on PYTHONPATH; the entry point beside it registers the method as ``toy``.
"""

from __future__ import annotations

import errno
import json
import math
import os
import random
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field

from tune_lnl.config.base import MethodSettings
from tune_lnl.config.trial import TrialConfig
from tune_lnl.errors import InputError
from tune_lnl.training.heldout import HeldOutPredictions, heldout_bytes
from tune_lnl.training.loop import Report, Surroundings, Training

Fault = Literal[
    "none",
    "bug",
    "nan",
    "nan_weights",
    "oom",
    "oom_once",
    "data",
    "disk_full",
    "die",
    "die_once",
    "hang",
    "hang_once",
    "device",
    "device_once",
]

EVENTS = "TOY_EVENTS"
"""Environment variable: a folder in which every epoch and every fault that strikes once leaves a trace."""
DATA = "TOY_DATA"
"""Environment variable: stands for the content of the data, and so changes its fingerprint."""


class ToySettings(MethodSettings):
    """Settings of ``toy``."""

    x: float = Field(0.5, ge=0.0, le=1.0, description="the nearer to 0.3, the better")
    pause: float = Field(0.0, ge=0.0, description="seconds of sleep per batch")
    batches: int = Field(4, ge=1, description="batches per epoch")
    fault: Fault = Field("none", description="how the trial misbehaves")
    fault_epoch: int = Field(1, ge=0, description="epoch in which it does (0-based)")


def noise(seed: int, epoch: int, x: float) -> float:
    """Return a number uniform in [-1, 1], the same for the same arguments."""
    return random.Random(f"{seed} {epoch} {x!r}").uniform(-1.0, 1.0)


def level(x: float) -> float:
    """Return the limit of the curve of ``x``, percent."""
    return 95.0 - 60.0 * abs(x - 0.3)


def curve(x: float, seed: int, epochs: int) -> list[float]:
    """Return the objective of every epoch of a trial that nothing disturbs (``average_last`` 1)."""
    state, values = 0.0, []
    for epoch in range(epochs):
        state = next_state(state, x, seed, epoch)
        values.append(value_of(state, x))
    return values


def next_state(state: float, x: float, seed: int, epoch: int) -> float:
    return 0.8 * state + 0.2 * (1.0 + 0.1 * noise(seed, epoch, x))


def value_of(state: float, x: float) -> float:
    return level(x) * state


class ToyTraining(Training[ToySettings]):
    """One number instead of a network."""

    Settings: ClassVar[type[MethodSettings]] = ToySettings

    def __init__(self, config: TrialConfig[ToySettings], surroundings: Surroundings) -> None:
        super().__init__(config, surroundings)
        self.weight = torch.zeros((), dtype=torch.float64)

    @classmethod
    def prepare(cls, config: TrialConfig[ToySettings], surroundings: Surroundings) -> dict[str, str]:
        return {"source": os.environ.get(DATA, "toy data")}

    @property
    def fingerprints(self) -> dict[str, str]:
        return self.prepare(self.config, self.surroundings)

    def images_per_epoch(self) -> int:
        return self.settings.batches

    def train_epoch(self, epoch: int) -> Report:
        self._trace("begin", epoch)
        for _ in range(self.settings.batches):
            self.surroundings.between_batches()
            time.sleep(self.settings.pause)
        if epoch == self.settings.fault_epoch:
            self._misbehave()
        self.weight = torch.tensor(
            next_state(float(self.weight), self.settings.x, self.settings.seed, epoch), dtype=torch.float64
        )
        if self.settings.fault == "nan_weights" and epoch == self.settings.fault_epoch:
            self.weight *= math.nan
        self._trace("end", epoch)
        weight = float(self.weight)
        selection = {f"selection_{name}": 100.0 * weight for name in ("precision", "recall", "f1")}
        return {"train_loss": 1.0 - weight, **selection}

    def evaluate(self, epoch: int) -> Report:
        value = value_of(float(self.weight), self.settings.x)
        if self.settings.fault == "nan" and epoch >= self.settings.fault_epoch:
            value = math.nan
        report = {"val_accuracy": value, "val_accuracy_standard_error": 0.5, "val_loss": 100.0 - value}
        if self.surroundings.test_from is not None and epoch >= self.surroundings.test_from:
            report["test_accuracy"] = value / 2
        return report

    def seconds_per_epoch(self, epoch: int, batches: int) -> float:
        return self.settings.batches * self.settings.pause

    def diverged(self, report: Report) -> str | None:
        return None if torch.isfinite(self.weight) else "weight is not finite"

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "weight": self.weight}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.epoch = state["epoch"]
        self.weight = state["weight"].clone()

    def model_file(self) -> dict[str, Any]:
        return {"weight": self.weight, "config": self.config.flat()}

    def heldout_predictions(self) -> HeldOutPredictions:
        """Return the state as the probability of the first of two classes, for three images."""
        state = np.clip(float(self.weight), 0.0, 1.0)
        probabilities = np.tile(np.array([state, 1.0 - state], dtype=np.float32), (1, 3, 1))
        return HeldOutPredictions(probabilities, np.arange(3), np.zeros(3, dtype=np.int64))

    def heldout_bytes(self) -> int:
        return heldout_bytes(1, 3, 2)

    # ---- misbehaving

    def _misbehave(self) -> None:
        fault = self.settings.fault
        if fault.endswith("_once"):
            if not self._first_time():
                return
            fault = fault.removesuffix("_once")  # type: ignore[assignment]
        match fault:
            case "bug":
                raise ZeroDivisionError("the toy divides by zero\nand explains itself at length")
            case "oom":
                raise torch.OutOfMemoryError("CUDA out of memory. The toy tried to allocate 7.00 GiB.\nMore advice")
            case "device":
                raise RuntimeError("CUDA error: device-side assert triggered\nand more")
            case "data":
                raise InputError("toy.tar: truncated at byte 17; fetch it again")
            case "disk_full":
                raise OSError(errno.ENOSPC, "No space left on device")
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
            case "hang":
                time.sleep(3600)

    def _first_time(self) -> bool:
        try:
            (Path(os.environ[EVENTS]) / f"struck-{self.settings.x!r}").touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    def _trace(self, event: str, epoch: int) -> None:
        if EVENTS in os.environ:
            record = {"x": self.settings.x, "event": event, "epoch": epoch, "time": time.time(), "pid": os.getpid()}
            with (Path(os.environ[EVENTS]) / f"{os.getpid()}.jsonl").open("a") as file:
                file.write(json.dumps(record) + "\n")
