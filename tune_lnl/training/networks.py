"""The base of the methods that train networks by gradient steps: optimizers, lr plans, batches, state."""

from __future__ import annotations

import math
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import TypeVar

from tune_lnl.config.base import GradientSettings
from tune_lnl.config.trial import D, TrialConfig, V
from tune_lnl.datasets.augment.views import Draws, constants, joined, normalise
from tune_lnl.datasets.base import Dataset, ImageRows
from tune_lnl.errors import InputError
from tune_lnl.training.accelerator import resident_bytes
from tune_lnl.training.loop import Report, Surroundings, Training
from tune_lnl.training.randomness import stream


class HasLabels(Protocol):
    """One step's samples on the device."""

    @property
    def labels(self) -> Tensor:
        """(B,) int64, given labels."""


STRETCH_PIXELS = 2**22
"""Pixels of the images that a GPU augments at once: 4,096 images of 32 x 32, 50 MB a view in float32."""


class Stretch:
    """The images of consecutive batches on a GPU. Each view of them is made once, for all of these batches.

    A view takes about as many kernels for thousands of images as for one batch, and the kernels of one batch are too
    small to fill a GPU. Draws are made batch by batch, as without a stretch, so the views are the same.

    Attributes:
        images: uint8 (n, C, H, W), on the device.
        sizes: of the batches, in order.
    """

    def __init__(self, images: Tensor, sizes: Sequence[int]) -> None:
        self.images = images
        self.sizes = list(sizes)
        self._views: dict[str, tuple[Tensor, ...]] = {}

    def view(
        self, name: str, number: int, draw: Callable[[int], Draws], apply: Callable[[Tensor, Draws], Tensor]
    ) -> Tensor:
        """Return the view called ``name`` of batch ``number``.

        Args:
            draw: makes the draws of a batch of a given size.
            apply: turns all images into the view, by the draws of all batches.
        """
        if name not in self._views:
            draws = joined([draw(size) for size in self.sizes])
            self._views[name] = torch.split(apply(self.images, draws), self.sizes)
        return self._views[name][number]


@dataclass(frozen=True)
class Part:
    """One batch of a stretch."""

    stretch: Stretch
    number: int


B = TypeVar("B", bound=HasLabels)
S = TypeVar("S", bound=GradientSettings, default=GradientSettings, covariant=True)


class NetworkTraining(Training[S, D, V], Generic[B, S, D, V]):
    """A method that trains one or more networks and reports the first.

    Attributes:
        networks: by the suffix of their metrics; ``""`` is the reported one.
        lr_names: the setting that leads each network's learning rate.
        dataset: its mean and std normalise the pixels.
        given_labels: int64 (N,), on the device.
        resident: the training images, uint8 (N, H, W, C), on a GPU with room for them; ``None``: batches are copied.
    """

    lr_names: Mapping[str, str] = {"": "lr"}
    dataset: Dataset[Any]
    given_labels: Tensor
    resident: Tensor | None = None

    def __init__(self, config: TrialConfig[S, D, V], surroundings: Surroundings) -> None:
        super().__init__(config, surroundings)
        self._load_data()
        # Once: a constant made in a step would be copied in it, and the copy waits for the steps before.
        self.mean, self.std = constants(self.dataset.mean, self.dataset.std, self.device)
        self.networks = {suffix: self._build_network(suffix) for suffix in self.lr_names}
        self.optimizers = {suffix: self._build_optimizer(network) for suffix, network in self.networks.items()}
        self.plans = self.settings.plans()
        self.scaler = torch.amp.GradScaler(enabled=self.settings.precision == "fp16")
        self.totals = Totals()

    @abstractmethod
    def _load_data(self) -> None:
        """Set ``dataset``, ``given_labels``, ``resident`` and the samples of which :meth:`_batch` makes batches."""

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
    def _made(self, index: Tensor, images: Part, labels: Tensor) -> B:
        """Return a batch of a stretch."""

    @abstractmethod
    def train_step(self, batch: B, epoch: int, totals: Totals) -> None:
        """Take one optimizer step of every network and add to the epoch's totals.

        A step can be captured as a CUDA graph, with the batch in buffers that stay where they are: shapes depend on the
        size of the batch alone, nothing is read back, and what outlives a step is changed in place. Numbers of Python
        that change from epoch to epoch, such as the weight of a network's own labels, are constants of such a graph.
        """

    # ---- training

    def train_epoch(self, epoch: int) -> Report:
        self._begin_epoch(epoch)
        for batch in self.batches(epoch):
            self.surroundings.between_batches()
            self.train_step(batch, epoch, self.totals)
            self.totals.flush()
        return self._learning_rate_report() | self.summarise(self.totals.means(self.images_per_epoch()))

    def seconds_per_epoch(self, epoch: int, batches: int) -> float:
        steps = self.steps(epoch)
        next(steps)  # includes work that is done once
        if batches == 0:
            return 0.0
        # From the start of the epoch: a stretch is prepared with its first batch and belongs to all of its batches.
        wanted = batches if self.stretch_batches() == 1 else max(batches, self.stretch_batches())
        self._synchronize()
        began = time.perf_counter()
        images = sum(islice(self.steps(epoch), wanted))
        self._synchronize()
        return (time.perf_counter() - began) / images * self.images_per_epoch()

    def steps(self, epoch: int) -> Iterator[int]:
        """Train through epoch ``epoch`` without scoring it; yield the number of images of each batch."""
        self._begin_epoch(epoch)
        for batch in self.batches(epoch):
            self.train_step(batch, epoch, self.totals)
            self.totals.flush()
            yield len(batch.labels)

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _begin_epoch(self, epoch: int) -> None:
        self._set_learning_rates(epoch)
        self.totals.begin()
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
        indices, together = self.split(order), self.stretch_batches()
        if together == 1:
            yield from map(self._batch, indices)
            return
        for start in range(0, len(indices), together):
            yield from self._stretch(indices[start : start + together])

    def stretch_batches(self) -> int:
        """Return how many batches are gathered and augmented at once; 1, as on a CPU: each on its own."""
        if self.resident is None:
            return 1
        return max(1, STRETCH_PIXELS // (self.resident.shape[1] * self.resident.shape[2] * self.settings.batch_size))

    def _stretch(self, indices: Sequence[Tensor]) -> Iterator[B]:
        """Yield the batches at these indices, their images gathered at once from those on the device."""
        assert self.resident is not None
        sizes = [len(index) for index in indices]
        every = on_device(torch.cat(list(indices)), self.device)
        stretch = Stretch(self.resident.index_select(0, every).permute(0, 3, 1, 2), sizes)
        parts = zip(torch.split(every, sizes), torch.split(self.given_labels[every], sizes), strict=True)
        for number, (index, labels) in enumerate(parts):
            yield self._made(index, Part(stretch, number), labels)

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
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.settings.precision)
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None)

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
            "optimizers": {suffix: _state_of(optimizer) for suffix, optimizer in self.optimizers.items()},
            "scaler": self.scaler.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state.get("method") != self.config.method:
            raise InputError(f"this checkpoint is of method {state.get('method')!r}, not of {self.config.method!r}")
        self.epoch = int(state["epoch"])
        for suffix, network in self.networks.items():
            network.load_state_dict(state["networks"][suffix])
        for suffix, optimizer in self.optimizers.items():
            own = [{name: group.get(name) for name in OF_THE_DEVICE} for group in optimizer.param_groups]
            stored = state["optimizers"][suffix]
            groups = [{**group, **kept} for group, kept in zip(stored["param_groups"], own, strict=True)]
            optimizer.load_state_dict({**stored, "param_groups": groups})
        self.scaler.load_state_dict(state["scaler"])

    # ---- pixels

    def resident_images(self, images: ImageRows, rows: np.ndarray) -> Tensor | None:
        """Return images, uint8 (n, H, W, C), on a GPU that has room for them for good; else ``None``."""
        if len(rows) * math.prod(images.shape[1:]) > resident_bytes(self.device):
            return None
        return on_device(torch.from_numpy(np.ascontiguousarray(images[rows])), self.device)

    def images(self, images: np.ndarray, rows: np.ndarray) -> Tensor:
        """Return images, uint8 (B, C, H, W), on the device, channels last in memory."""
        return on_device(torch.from_numpy(np.ascontiguousarray(images[rows])), self.device).permute(0, 3, 1, 2)

    def normalised(self, images: Tensor) -> Tensor:
        """Normalise uint8 (B, C, H, W) to float32, channels last in memory."""
        pixels = normalise(images, self.mean, self.std)
        return pixels.contiguous(memory_format=torch.channels_last)


OF_THE_DEVICE = ("lr", "fused", "foreach")
"""Entries of a parameter group that belong to the device and to the plan, and do not come from a checkpoint."""


def _state_of(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return the optimizer's state with learning rates as plain numbers, so that any device can continue from it."""
    state = optimizer.state_dict()
    state["param_groups"] = [{**group, "lr": float(group["lr"])} for group in state["param_groups"]]
    return state


def step_options(lr: float, device: torch.device) -> dict[str, Any]:
    """Return the learning rate and the form of an optimizer's step for the device.

    A GPU updates all parameters by one kernel, and reads the rate from its own memory, so that a captured graph of the
    step can be given another one. A CPU uses torch's default.
    """
    if device.type != "cuda":
        return {"lr": lr}
    return {"lr": torch.full((), lr, device=device), "fused": True}


def placed(network: nn.Module, device: torch.device) -> nn.Module:
    """Return the network on the device, channels last in memory.

    The counters of its normalisation layers stay on the CPU: no result depends on them, and a GPU would launch a kernel
    for each of them in every step.
    """
    counters = [
        (module, module.num_batches_tracked)
        for module in network.modules()
        if isinstance(getattr(module, "num_batches_tracked", None), Tensor)
    ]
    network = network.to(device).to(memory_format=torch.channels_last)
    for module, counter in counters:
        module.num_batches_tracked = counter
    return network


def set_lr(group: dict[str, Any], lr: float) -> None:
    """Set the learning rate of a parameter group, in place where it is on the device."""
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(lr)
    else:
        group["lr"] = lr


def on_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor from the CPU to the device; a GPU's work so far is not waited for."""
    return tensor.to(device, non_blocking=True)


class Totals:
    """Sums over an epoch, kept on the device and read once, at its end."""

    def __init__(self) -> None:
        self._step: dict[str, Tensor] = {}
        self._sums: dict[tuple[str, ...], Tensor] = {}
        """Double precision, one vector for values of the same kind; by their names."""
        self._names: dict[str, None] = {}

    def begin(self) -> None:
        """Set every sum to 0, in place: a captured graph of a step adds to the same ones in every epoch."""
        self._step.clear()
        self._names.clear()
        for sums in self._sums.values():
            sums.zero_()

    def add(self, name: str, value: Tensor) -> None:
        """Add to the sum called ``name`` a number, a tensor (), or the count of a mask, bool (B,)."""
        if name in self._step:
            self.flush()
        self._step[name] = value.detach()
        self._names[name] = None

    def flush(self) -> None:
        """Add the values of a step to the sums, all of one kind together. A value of the next step does it, too."""
        kinds: dict[tuple[Any, ...], list[str]] = {}
        for name, value in self._step.items():
            kinds.setdefault((value.device, value.dtype, value.shape), []).append(name)
        for names in kinds.values():
            values = torch.stack([self._step[name] for name in names])
            if values.dim() > 1:
                values = values.sum(dim=1)
            sums = self._sums.get(tuple(names))
            if sums is None:
                self._sums[tuple(names)] = values.double()
            else:
                sums += values
        self._step.clear()

    def means(self, count: int) -> Report:
        """Return ``train_loss*`` and ``train_accuracy*`` per image (accuracy in percent), and other sums unchanged."""
        self.flush()
        found = dict.fromkeys(self._names, 0.0)
        for names, sums in self._sums.items():
            for name, total in zip(names, sums.cpu().tolist(), strict=True):
                if name in found:
                    found[name] += total
        report: Report = {}
        for name, total in found.items():
            if name.startswith("train_loss"):
                report[name] = total / count
            elif name.startswith("train_accuracy"):
                report[name] = 100.0 * total / count
            else:
                report[name] = total
        return report
