"""The base of the methods that train networks by gradient steps: optimizers, lr plans, batches, state."""

from __future__ import annotations

import math
import time
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from itertools import islice
from typing import Any, Generic, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import TypeVar

from tune_lnl.config.base import GradientSettings
from tune_lnl.config.trial import D, TrialConfig, V
from tune_lnl.datasets.augment.views import normalise
from tune_lnl.datasets.base import Dataset
from tune_lnl.errors import InputError
from tune_lnl.training.loop import Report, Surroundings, Training
from tune_lnl.training.randomness import stream


class HasLabels(Protocol):
    """One step's samples on the device."""

    @property
    def labels(self) -> Tensor:
        """(B,) int64, given labels."""


B = TypeVar("B", bound=HasLabels)
S = TypeVar("S", bound=GradientSettings, default=GradientSettings, covariant=True)


class NetworkTraining(Training[S, D, V], Generic[B, S, D, V]):
    """A method that trains one or more networks and reports the first.

    Attributes:
        networks: by the suffix of their metrics; ``""`` is the reported one.
        lr_names: the setting that leads each network's learning rate.
        dataset: its mean and std normalise the pixels.
    """

    lr_names: Mapping[str, str] = {"": "lr"}
    dataset: Dataset[Any]

    def __init__(self, config: TrialConfig[S, D, V], surroundings: Surroundings) -> None:
        super().__init__(config, surroundings)
        torch.set_num_threads(self.settings.threads)
        self._load_data()
        self.networks = {suffix: self._build_network(suffix) for suffix in self.lr_names}
        self.optimizers = {suffix: self._build_optimizer(network) for suffix, network in self.networks.items()}
        self.plans = self.settings.plans()
        self.scaler = torch.amp.GradScaler(enabled=self.settings.precision == "fp16")

    @abstractmethod
    def _load_data(self) -> None:
        """Set ``dataset`` and the samples of which :meth:`_batch` makes batches."""

    @abstractmethod
    def _build_network(self, suffix: str) -> nn.Module:
        """Return the network of that suffix, on the device, initialised from the config's seed."""

    @abstractmethod
    def _build_optimizer(self, network: nn.Module) -> torch.optim.Optimizer:
        """Return the optimizer of one network."""

    @abstractmethod
    def _set_learning_rates(self, epoch: int) -> None:
        """Set the learning rate of this epoch in every optimizer."""

    @abstractmethod
    def _learning_rate_report(self) -> Report:
        """Return the learning rates in effect, read back from the optimizers."""

    @abstractmethod
    def _batch(self, index: Tensor) -> B:
        """Return the samples at ``index`` (B,) of the training split, on the device."""

    @abstractmethod
    def train_step(self, batch: B, epoch: int, totals: Totals) -> None:
        """Take one optimizer step of every network and add to the epoch's totals."""

    # ---- training

    def train_epoch(self, epoch: int) -> Report:
        self._begin_epoch(epoch)
        totals = Totals()
        for batch in self.batches(epoch):
            self.surroundings.between_batches()
            self.train_step(batch, epoch, totals)
        return self._learning_rate_report() | self.summarise(totals.means(self.images_per_epoch()))

    def seconds_per_epoch(self, epoch: int, batches: int) -> float:
        self._begin_epoch(epoch)
        ahead = islice(self.batches(epoch), batches + 1)
        # The first batch includes work that is done once.
        self.train_step(next(ahead), epoch, Totals())
        began, images = time.perf_counter(), 0
        for batch in ahead:
            self.train_step(batch, epoch, Totals())
            images += len(batch.labels)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        if images == 0:
            return time.perf_counter() - began
        return (time.perf_counter() - began) / images * self.images_per_epoch()

    def _begin_epoch(self, epoch: int) -> None:
        self._set_learning_rates(epoch)
        for network in self.networks.values():
            network.train()
        # On the CPU, wherever the images are: the drawn values decide which operations are launched, and reading them
        # from a GPU would wait for all work before. The views are then also the same on every device.
        self.weak = stream(self.settings.seed, epoch, "weak augmentation")
        self.strong = stream(self.settings.seed, epoch, "strong augmentation")

    def summarise(self, means: Report) -> Report:
        """Turn an epoch's totals into its report."""
        return means

    def batches(self, epoch: int) -> Iterator[B]:
        """Yield the training split in this epoch's order; the last batch may be smaller, as published."""
        order = torch.randperm(self.images_per_epoch(), generator=stream(self.settings.seed, epoch, "data order"))
        for index in self.split(order):
            yield self._batch(index)

    def split(self, order: Tensor) -> list[Tensor]:
        """Return the positions of each batch."""
        return list(torch.split(order, self.settings.batch_size))

    def step(self, losses: Mapping[str, Tensor]) -> None:
        """Back-propagate each network's loss, then update each, in the order of ``networks``."""
        for suffix, loss in losses.items():
            self.optimizers[suffix].zero_grad(set_to_none=True)
            self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        for suffix in losses:
            self.scaler.step(self.optimizers[suffix])
        self.scaler.update()

    def step_together(self, loss: Tensor) -> None:
        """Back-propagate one loss through every network, then update each, in the order of ``networks``."""
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        for optimizer in self.optimizers.values():
            self.scaler.step(optimizer)
        self.scaler.update()

    def autocast(self) -> AbstractContextManager[Any]:
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[self.settings.precision]
        return torch.autocast(self.device.type, dtype=dtype, enabled=self.settings.precision != "fp32")

    def diverged(self, report: Report) -> str | None:
        for name, value in report.items():
            if "_loss" in name and not name.endswith("standard_error") and not math.isfinite(value):
                return f"{name} is not finite"
        for suffix, network in self.networks.items():
            finite = torch.stack([parameter.isfinite().all() for parameter in network.parameters()])
            if not bool(finite.all()):
                return f"weights of the network led by {self.lr_names[suffix]} are not finite"
        return None

    # ---- state

    def state_dict(self) -> dict[str, Any]:
        return {
            "method": self.config.method,
            "epoch": self.epoch,
            "networks": {suffix: network.state_dict() for suffix, network in self.networks.items()},
            "optimizers": {suffix: optimizer.state_dict() for suffix, optimizer in self.optimizers.items()},
            "scaler": self.scaler.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state.get("method") != self.config.method:
            raise InputError(f"this checkpoint is of method {state.get('method')!r}, not of {self.config.method!r}")
        self.epoch = int(state["epoch"])
        for suffix, network in self.networks.items():
            network.load_state_dict(state["networks"][suffix])
        for suffix, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][suffix])
        self.scaler.load_state_dict(state["scaler"])

    # ---- pixels

    def images(self, images: np.ndarray, rows: np.ndarray) -> Tensor:
        """Return images, uint8 (B, C, H, W), on the device, channels last in memory."""
        return torch.from_numpy(np.ascontiguousarray(images[rows])).to(self.device).permute(0, 3, 1, 2)

    def normalised(self, images: Tensor) -> Tensor:
        """Normalise uint8 (B, C, H, W) to float32, channels last in memory."""
        pixels = normalise(images, self.dataset.mean, self.dataset.std)
        return pixels.contiguous(memory_format=torch.channels_last)


class Totals:
    """Sums over an epoch, kept on the device and read once, at its end."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}

    def add(self, name: str, value: Tensor) -> None:
        """Add a 0-dim tensor to the sum called ``name``."""
        value = value.detach().double()
        self._sums[name] = self._sums[name] + value if name in self._sums else value

    def means(self, count: int) -> Report:
        """Return ``train_loss*`` and ``train_accuracy*`` per image (accuracy in percent), and other sums unchanged."""
        report: Report = {}
        for name, value in self._sums.items():
            total = float(value)
            if name.startswith("train_loss"):
                report[name] = total / count
            elif name.startswith("train_accuracy"):
                report[name] = 100.0 * total / count
            else:
                report[name] = total
        return report
