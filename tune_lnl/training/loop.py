"""The contract of a training: epochs in order, a report after each, state in and out between epochs.

:mod:`tune_lnl.training.run` drives it, one :meth:`Training.run_epoch` at a time. A new method overrides
:meth:`Training.train_epoch` and its state; evaluation and reports are inherited.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic

import torch

from tune_lnl.config.base import MethodSettings
from tune_lnl.config.trial import D, S, TrialConfig, V
from tune_lnl.errors import InputError
from tune_lnl.torch_compat import cpu_has_bf16
from tune_lnl.training.accelerator import card_name, set_arithmetic
from tune_lnl.training.heldout import HeldOutPredictions
from tune_lnl.training.randomness import stream_seed

Report = dict[str, float]
"""Named numbers of one epoch. Accuracies, precision, recall and F1 in percent; unknown ones are absent."""


@dataclass(frozen=True)
class Surroundings:
    """The inputs of a training besides its config; they must not change its numbers."""

    data_dir: Path | None = None
    device: str = "cpu"
    test_from: int | None = None
    """First epoch (0-based) in which the test set is scored; ``None``: never."""
    between_batches: Callable[[], None] = lambda: None
    """Called before every batch; raises to stop the training there."""


class Training(ABC, Generic[S, D, V]):
    """One training of one method under one config, between epochs.

    A subclass names the types of settings, dataset options and validation settings that it reads.

    Attributes:
        settings: those of the config.
        epoch: the next epoch to run, 0-based.
    """

    Settings: ClassVar[type[MethodSettings]]

    def __init__(self, config: TrialConfig[S, D, V], surroundings: Surroundings) -> None:
        self.config = config
        self.settings = config.settings
        self.surroundings = surroundings
        self.device = torch.device(surroundings.device)
        self.epoch = 0
        check_precision(config.settings.precision, self.device.type)
        self._set_arithmetic()

    @classmethod
    @abstractmethod
    def prepare(cls, config: TrialConfig[S, D, V], surroundings: Surroundings) -> dict[str, str]:
        """Load and check the data (packing it on first use) and the network's fit to it, without training.

        Returns:
            the same as :attr:`fingerprints` of the training.

        Raises:
            InputError: data missing or damaged, or settings that do not suit it.
        """

    def _set_arithmetic(self) -> None:
        """Set threads and kernels, which belong to the process; another training may have set others meanwhile."""
        settings = self.settings
        torch.set_num_threads(settings.threads)
        set_arithmetic(self.device.type, settings.precision, settings.deterministic)

    @property
    def finished(self) -> bool:
        return self.epoch >= self.settings.epochs

    def run_epoch(self) -> Report:
        """Train and score one epoch.

        Returns:
            the report; ``epoch`` is its 0-based index.
        """
        assert not self.finished
        self._set_arithmetic()
        torch.manual_seed(stream_seed(self.settings.seed, self.epoch, "dropout"))
        start = time.perf_counter()
        report = {"epoch": float(self.epoch), **self.train_epoch(self.epoch)}
        trained = time.perf_counter()
        report |= self.evaluate(self.epoch)
        report["train_seconds"] = trained - start
        report["seconds"] = time.perf_counter() - start
        report["images_per_second"] = self.images_per_epoch() / max(report["train_seconds"], 1e-9)
        self.epoch += 1
        return report

    @abstractmethod
    def train_epoch(self, epoch: int) -> Report:
        """Train through epoch ``epoch`` (0-based) and report the training side of it."""

    @abstractmethod
    def seconds_per_epoch(self, epoch: int, batches: int) -> float:
        """Return the seconds of training through epoch ``epoch``, estimated from its first ``batches`` batches.

        It changes the networks: the training cannot be used afterwards.
        """

    @abstractmethod
    def evaluate(self, epoch: int) -> Report:
        """Return validation metrics, and test metrics from ``surroundings.test_from`` on."""

    @abstractmethod
    def diverged(self, report: Report) -> str | None:
        """Return which of this epoch's losses or of the weights is no longer finite; ``None``: all are."""

    @abstractmethod
    def images_per_epoch(self) -> int:
        """Return the number of training images of one epoch."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return everything the next epoch depends on; tensors and plain values, loads with ``weights_only=True``."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`; the following epochs equal those of a run that never stopped."""

    @abstractmethod
    def model_file(self) -> dict[str, Any]:
        """Return the reported network and what its use needs: weights, classes, preprocessing, config."""

    def heldout_predictions(self) -> HeldOutPredictions | None:
        """Return the predictions of a finished training for its held-out images.

        ``None`` before the last epoch, without a held-out part, for a training continued from a checkpoint of an
        earlier version that was written within the last epochs, and for methods without classes (re-ID).
        """
        return None

    def heldout_bytes(self) -> int:
        """Return the size of the file of these predictions, at most; 0 where there will be none."""
        return 0

    @property
    @abstractmethod
    def fingerprints(self) -> dict[str, str]:
        """Hashes of the data: ``source`` (pixels and labels), ``labels`` (given labels), ``split``."""


SPOKEN = {"map": "mAP", "rank1": "rank-1"}


def spoken(metric: str) -> str:
    """Return the name of a metric in a sentence, without its split: ``test_map`` is mAP."""
    name = metric.partition("_")[2]
    return SPOKEN.get(name, name)


def objective_so_far(metric: str, average_last: int, reports: list[Report]) -> float:
    """Return the mean of the metric over the last epochs, at most ``average_last``: the value if training ended here.

    NaN where any of them is not finite, so that a diverged training never looks fine again.
    """
    values = [report.get(metric, math.nan) for report in reports[-average_last:]]
    return math.fsum(values) / len(values) if all(map(math.isfinite, values)) else math.nan


def check_precision(precision: str, device: str) -> None:
    """Refuse a precision that the device (``cpu`` or ``cuda``) does not have.

    Raises:
        InputError: tf32 or fp16 without a GPU, or tf32 or bf16 on a processor without hardware for it.
    """
    if precision in ("tf32", "fp16") and device != "cuda":
        raise InputError(
            f"precision {precision} needs a GPU, got device {device}; set precision to fp32, or to bf16 where the CPU "
            "has it"
        )
    if (precision == "bf16" and not has_bf16(device)) or (precision == "tf32" and not has_tf32()):
        name = card_name() if device == "cuda" else device
        raise InputError(
            f"precision {precision} needs hardware for it, and this {name} has none; set precision to fp32"
            + (", or fp16" if device == "cuda" else "")
        )


def has_bf16(device: str) -> bool:
    """Return whether ``cpu`` or ``cuda`` computes in bfloat16; elsewhere torch emulates it, slower than float32."""
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return cpu_has_bf16()


def has_tf32() -> bool:
    """Return whether the GPU has TF32: NVIDIA's from Ampere on."""
    return torch.version.hip is None and torch.cuda.get_device_capability() >= (8, 0)
