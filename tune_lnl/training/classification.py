"""The base of the image classification methods: data, networks, optimizers, lr plans, evaluation, state."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import TypeVar

from tune_lnl.config.base import ValidationSettings
from tune_lnl.config.classifier import ClassifierSettings
from tune_lnl.config.datasets import DatasetOptions
from tune_lnl.config.trial import TrialConfig
from tune_lnl.datasets.augment.views import Draws, SizedImages, apply, augment, draw, mirrors
from tune_lnl.datasets.base import Dataset, ImageRows, NoisyData
from tune_lnl.datasets.images.noisy import load_noisy
from tune_lnl.datasets.paths import cache_dir
from tune_lnl.datasets.pictures.rows import PictureRows
from tune_lnl.datasets.registry import get_dataset
from tune_lnl.datasets.split import split_folds, split_validation
from tune_lnl.errors import InputError
from tune_lnl.metrics.classification import standard_error
from tune_lnl.models.registry import build_model
from tune_lnl.models.weights import default_weights, weights_file, weights_fingerprint
from tune_lnl.training.heldout import HeldOutPredictions, heldout_bytes
from tune_lnl.training.loop import Report, Surroundings
from tune_lnl.training.model_file import FORMAT, preprocessing_of
from tune_lnl.training.networks import (
    NetworkTraining,
    Part,
    on_device,
    placed,
    set_lr,
    step_options,
)
from tune_lnl.training.randomness import stream, stream_seed

S = TypeVar("S", bound=ClassifierSettings, default=ClassifierSettings, covariant=True)
ClassifierConfig = TrialConfig[S, DatasetOptions, ValidationSettings]

EVALUATION_BATCH = 1000
EVALUATION_PIXELS = 4_000_000
"""Images of one evaluation batch times their pixels: 79 images of 224 x 224."""
BATCHES_AHEAD = 2
"""Batches whose files are decoded while the network trains on the one before."""

Pixels = Tensor | SizedImages | Part
"""(B, C, H, W) uint8 on the device; images of different sizes, which an augmentation cuts to one; or the images of one
of the batches that are augmented together."""


@dataclass(frozen=True)
class Batch:
    """One step's samples on the device."""

    index: Tensor
    """(B,) int64, position in the training split: keys the per-sample state."""
    images: Pixels
    labels: Tensor
    """(B,) int64, given labels."""


@dataclass(frozen=True)
class ClassifierData:
    """The training split, the held-out split and the test set of one trial."""

    dataset: Dataset
    noisy: NoisyData
    train: np.ndarray
    """(N,) int64, samples of ``noisy`` that are trained on."""
    validation: np.ndarray
    """(M,) int64, samples of ``noisy`` held out."""
    validation_labels: np.ndarray
    """(M,) int64."""

    @classmethod
    def load(cls, config: ClassifierConfig, surroundings: Surroundings) -> ClassifierData:
        noisy = load_noisy(config.dataset, surroundings.data_dir)
        labels, validation = noisy.given_labels, config.validation
        if config.fold is None:
            train, held_out = split_validation(labels, validation.fraction, validation.seed)
        else:
            fold = split_folds(labels, config.fold.folds, validation.seed)
            train, held_out = np.flatnonzero(fold != config.fold.number), np.flatnonzero(fold == config.fold.number)
        if validation.labels == "clean":
            if noisy.true_labels is None:
                raise InputError(
                    "validation.labels: clean needs true labels, and this dataset has none; set it to noisy"
                )
            labels = noisy.true_labels
            held_out = held_out[labels[held_out] < noisy.num_classes]
        return cls(get_dataset(config.dataset.name), noisy, train, held_out, labels[held_out])

    @property
    def clean(self) -> np.ndarray | None:
        """(N,) bool: whether the given label of each training sample is the true one; ``None`` where it is unknown."""
        if self.noisy.true_labels is None:
            return None
        return cast(np.ndarray, self.noisy.given_labels[self.train] == self.noisy.true_labels[self.train])

    @property
    def fingerprints(self) -> dict[str, str]:
        split = sha256(np.ascontiguousarray(self.train).tobytes() + b"|" + self.validation.tobytes())
        return self.noisy.fingerprints | {"split": split.hexdigest()}


class HeldOutSums:
    """Sums over the last epochs of the class probabilities of the held-out images, on the device.

    Attributes:
        epochs: that were added.
        sums: float32 (M, C) by the suffix of the network; empty before the first epoch.
    """

    def __init__(self) -> None:
        self.epochs = 0
        self.sums: dict[str, Tensor] = {}

    def add(self, logits: Mapping[str, Tensor]) -> None:
        """Add one epoch's predictions, given as logits (M, C) of each network."""
        for suffix, own in logits.items():
            probabilities = own.softmax(dim=1)
            self.sums[suffix] = self.sums[suffix] + probabilities if self.epochs else probabilities
        self.epochs += 1

    def state_dict(self) -> dict[str, Any]:
        return {"epochs": self.epochs, "sums": dict(self.sums)}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        self.epochs = int(state["epochs"])
        self.sums = {suffix: sums.to(device) for suffix, sums in state["sums"].items()}


def model_choice(config: ClassifierConfig, noisy: NoisyData) -> tuple[str, Path | None]:
    """Return (name of the network asked for or the dataset's own, file of the weights it starts from or None).

    Raises:
        InputError: the weights are neither here nor can be downloaded.
    """
    choice = config.settings.model
    name = choice.name or noisy.form.default_model
    weights = default_weights(name) if choice.weights is None else choice.weights
    return name, weights_file(name, weights, cache_dir())


class ClassifierTraining(NetworkTraining[Batch, S, DatasetOptions, ValidationSettings]):
    """A method that trains classifiers of the same shape, the first of them reported."""

    def _load_data(self) -> None:
        self.data = ClassifierData.load(self.config, self.surroundings)
        self.dataset = self.data.dataset
        self.form = self.data.noisy.form
        self.model_name, self.weights = model_choice(self.config, self.data.noisy)
        self.given_labels = torch.from_numpy(self.data.noisy.given_labels[self.data.train]).to(self.device)
        clean = self.data.clean
        self.clean = None if clean is None else torch.from_numpy(clean).to(self.device)
        images = self.data.noisy.train_images
        if not isinstance(images, PictureRows):
            self.resident = self.resident_images(images, self.data.noisy.rows[self.data.train])
        self._scored: dict[str, Tensor | None] = {}
        self._heldout = HeldOutSums()

    @classmethod
    def prepare(cls, config: ClassifierConfig[S], surroundings: Surroundings) -> dict[str, str]:
        choice = config.settings.model
        if choice.name is not None:
            # Before the data are read, which can take minutes: missing weights of a named network.
            weights_file(choice.name, choice.weights or default_weights(choice.name), cache_dir())
        data = ClassifierData.load(config, surroundings)
        name, weights = model_choice(config, data.noisy)
        build_model(name, data.noisy.num_classes, data.noisy.form.image_shape, weights)
        return data.fingerprints | weights_fingerprint(weights)

    # ---- training

    def batches(self, epoch: int) -> Iterator[Batch]:
        """Yield the batches of an epoch as the base class does; read and decode image files a few batches ahead."""
        images = self.data.noisy.train_images
        if not isinstance(images, PictureRows):
            yield from super().batches(epoch)
            return
        order = torch.randperm(self.images_per_epoch(), generator=stream(self.settings.seed, epoch, "data order"))
        waiting: deque[tuple[Tensor, Future[list[np.ndarray]]]] = deque()
        reader = ThreadPoolExecutor(max_workers=1)
        try:
            for index in self.split(order):
                waiting.append((index, reader.submit(images.uncropped, self._rows(index))))
                if len(waiting) > BATCHES_AHEAD:
                    yield self._batch_of(*waiting.popleft())
            while waiting:
                yield self._batch_of(*waiting.popleft())
        finally:
            reader.shutdown(wait=True, cancel_futures=True)

    def _batch_of(self, index: Tensor, reading: Future[list[np.ndarray]]) -> Batch:
        index = on_device(index, self.device)
        return Batch(index, self._together(reading.result()), self.given_labels[index])

    def _batch(self, index: Tensor) -> Batch:
        images, rows = self.data.noisy.train_images, self._rows(index)
        index = on_device(index, self.device)
        if self.resident is not None:
            pixels: Pixels = self.resident.index_select(0, index).permute(0, 3, 1, 2)
        elif isinstance(images, PictureRows):
            pixels = self._together(images.uncropped(rows))
        else:
            pixels = self.images(images, rows)
        return Batch(index, pixels, self.given_labels[index])

    def _made(self, index: Tensor, images: Part, labels: Tensor) -> Batch:
        return Batch(index, images, labels)

    def _rows(self, index: Tensor) -> np.ndarray:
        return cast(np.ndarray, self.data.noisy.rows[self.data.train[index.numpy()]])

    def _together(self, images: list[np.ndarray]) -> Pixels:
        """Return images (h, w, C) as one tensor; images of different sizes lie in the corner of the largest size."""
        sizes = np.array([image.shape[:2] for image in images], dtype=np.int64)
        height, width = sizes.max(axis=0)
        crop = self.form.image_shape[0]
        canvas = np.zeros((len(images), height, width, images[0].shape[2]), dtype=np.uint8)
        for place, image in zip(canvas, images, strict=True):
            place[: image.shape[0], : image.shape[1]] = image
        pixels = on_device(torch.from_numpy(canvas), self.device).permute(0, 3, 1, 2)
        source = self.data.noisy.train_images
        one_size = not isinstance(source, PictureRows) or source.size.square
        return pixels if one_size else SizedImages(pixels, torch.from_numpy(sizes), crop)

    def weak_view(self, images: Pixels) -> Tensor:
        return self._view("weak", self.form.weak_augmentation, images, self.weak)

    def strong_view(self, images: Pixels) -> Tensor:
        return self._view("strong", self.form.strong_augmentation, images, self.strong)

    def images_per_epoch(self) -> int:
        return len(self.data.train)

    # ---- evaluation

    def evaluate(self, epoch: int) -> Report:
        report: Report = {}
        noisy = self.data.noisy
        # Of a fold only the predictions in the last epochs are used.
        if len(self.data.validation) and self.config.fold is None:
            rows = noisy.rows[self.data.validation]
            kept = self._heldout if epoch >= self.settings.epochs - self.config.objective.average_last else None
            report |= self._score_all("val", noisy.train_images, rows, self.data.validation_labels, kept)
        test_from = self.surroundings.test_from
        # A user's folder may have no test set; there are no test metrics then.
        if test_from is not None and epoch >= test_from and len(noisy.test_rows):
            report |= self._score_all("test", noisy.test_images, noisy.test_rows, noisy.test_labels)
        return report

    def _score_all(
        self,
        split: str,
        images: ImageRows,
        rows: np.ndarray,
        labels: np.ndarray,
        kept: HeldOutSums | None = None,
    ) -> Report:
        """Score each network; add the predictions to ``kept`` once all are scored."""
        report: Report = {}
        found: dict[str, list[Tensor]] = {}
        resident = self._resident_split(split, images, rows)
        for suffix, network in self.networks.items():
            logits = None if kept is None else found.setdefault(suffix, [])
            correct, loss, loss_error = self._score(network, images, rows, labels, logits, resident)
            # The argmax of NaN is a class: a network that has diverged would score like one that always guesses it.
            accuracy = correct / len(labels) if math.isfinite(loss) else math.nan
            report[f"{split}_accuracy{suffix}"] = 100.0 * accuracy
            report[f"{split}_loss{suffix}"] = loss
            if suffix == "":
                accuracy_error = standard_error(accuracy, len(labels)) if math.isfinite(accuracy) else math.nan
                report[f"{split}_accuracy_standard_error"] = 100.0 * accuracy_error
                report[f"{split}_loss_standard_error"] = loss_error
        if kept is not None:
            kept.add({suffix: torch.cat(parts) for suffix, parts in found.items()})
        return report

    def _resident_split(self, split: str, images: ImageRows, rows: np.ndarray) -> Tensor | None:
        """Return the images of a held-out split, uint8 (M, H, W, C), on a GPU with room for them; else ``None``."""
        if isinstance(images, PictureRows):
            return None
        if split not in self._scored:
            self._scored[split] = self.resident_images(images, rows)
        return self._scored[split]

    @torch.inference_mode()
    def _score(
        self,
        network: nn.Module,
        images: ImageRows,
        rows: np.ndarray,
        labels: np.ndarray,
        kept: list[Tensor] | None = None,
        resident: Tensor | None = None,
    ) -> tuple[int, float, float]:
        """Return the correct predictions, the mean cross-entropy and its standard error over the given rows.

        ``kept`` receives the logits. ``resident`` are the images of the rows, where a GPU keeps them.
        """
        network.eval()
        correct = torch.zeros((), dtype=torch.int64, device=self.device)
        losses = []
        size = evaluation_batch(images.shape)
        for start in range(0, len(rows), size):
            self.surroundings.between_batches()
            part = slice(start, start + size)
            target = on_device(torch.from_numpy(labels[part]), self.device)
            if resident is None:
                pixels = self.images(images, rows[part])
            else:
                own = torch.arange(start, min(start + size, len(rows)), device=self.device)
                pixels = resident.index_select(0, own).permute(0, 3, 1, 2)
            with self.autocast():
                logits = network(self.normalised(pixels))
            logits = logits.float()
            if kept is not None:
                kept.append(logits)
            correct += (logits.argmax(dim=1) == target).sum()
            losses.append(F.cross_entropy(logits, target, reduction="none"))
        every = torch.cat(losses).double()
        error = float(every.std(correction=1)) / math.sqrt(len(rows)) if len(rows) > 1 else math.nan
        return int(correct), float(every.mean()), error

    def heldout_predictions(self) -> HeldOutPredictions | None:
        if not self.finished or self._heldout.epochs != self.config.objective.average_last:
            return None
        held_out = self.data.validation
        mean = torch.stack([self._heldout.sums[suffix] for suffix in self.networks]) / self._heldout.epochs
        return HeldOutPredictions(mean.cpu().numpy(), held_out, self.data.noisy.given_labels[held_out])

    def heldout_bytes(self) -> int:
        images = len(self.data.validation)
        return heldout_bytes(len(self.networks), images, self.data.noisy.num_classes) if images else 0

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"heldout": self._heldout.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        # Checkpoints of earlier versions have none: the epochs before them are then missing from the mean.
        self._heldout.load_state_dict(state.get("heldout", {"epochs": 0, "sums": {}}), self.device)

    @torch.inference_mode()
    def probabilities(self, samples: np.ndarray) -> dict[str, np.ndarray]:
        """Return the predictions of each network, by its suffix, for samples of the training set: float32 (n, C).

        Images that training mirrors are seen both ways.
        """
        found: dict[str, list[np.ndarray]] = {suffix: [] for suffix in self.networks}
        noisy = self.data.noisy
        size = evaluation_batch(noisy.train_images.shape)
        for network in self.networks.values():
            network.eval()
        for start in range(0, len(samples), size):
            self.surroundings.between_batches()
            pixels = self.normalised(self.images(noisy.train_images, noisy.rows[samples[start : start + size]]))
            views = [pixels, pixels.flip(3)] if mirrors(self.form.weak_augmentation) else [pixels]
            for suffix, network in self.networks.items():
                with self.autocast():
                    logits = [network(view) for view in views]
                mean = torch.stack([one.float().softmax(dim=1) for one in logits]).mean(dim=0)
                found[suffix].append(mean.cpu().numpy())
        empty = np.empty((0, noisy.num_classes), dtype=np.float32)
        return {suffix: np.concatenate([empty, *parts]) for suffix, parts in found.items()}

    def selected_shares(self) -> np.ndarray | None:
        """Return how often each training label was taken as clean, as a share of its chances, float32 (N,).

        ``None`` for a method that selects nothing.
        """
        return None

    def beliefs(self) -> np.ndarray:
        """Return label distributions of the training samples, float32 (N, C): the method's own where it keeps some."""
        return self.probabilities(self.data.train)[""]

    def images(self, images: ImageRows, rows: np.ndarray) -> Tensor:
        return super().images(cast(np.ndarray, images), rows)

    def model_file(self) -> dict[str, Any]:
        """Return the content that :mod:`tune_lnl.training.model_file` describes."""
        return {
            "format": FORMAT,
            "task": self.settings.task,
            "model": self.model_name,
            "weights": {name: value.cpu() for name, value in self.networks[""].state_dict().items()},
            "classes": list(self.data.noisy.class_names[: self.data.noisy.num_classes]),
            "preprocessing": preprocessing_of(self.data.noisy.train_images, self.form, self.data.dataset),
            "config": self.config.flat(),
        }

    @property
    def fingerprints(self) -> dict[str, str]:
        return self.data.fingerprints | weights_fingerprint(self.weights)

    # ---- pieces

    def _build_network(self, suffix: str) -> nn.Module:
        torch.manual_seed(stream_seed(self.settings.seed, 0, f"weights{suffix}"))
        network = build_model(self.model_name, self.data.noisy.num_classes, self.form.image_shape, self.weights)
        return placed(network, self.device)

    def _build_optimizer(self, network: nn.Module) -> torch.optim.Optimizer:
        settings = self.settings
        if settings.optimizer == "adam":
            how = step_options(settings.lr, self.device)
            return torch.optim.Adam(network.parameters(), **how, weight_decay=settings.weight_decay)
        return torch.optim.SGD(
            network.parameters(),
            **step_options(settings.lr, self.device),
            momentum=settings.momentum,
            nesterov=settings.momentum > 0,
            weight_decay=settings.weight_decay,
        )

    def _set_learning_rates(self, epoch: int) -> None:
        for suffix, name in self.lr_names.items():
            for group in self.optimizers[suffix].param_groups:
                set_lr(group, self.plans[name][epoch])

    def _learning_rate_report(self) -> Report:
        """Return the learning rates, read back from the optimizers: those really in effect."""
        return {name: float(self.optimizers[suffix].param_groups[0]["lr"]) for suffix, name in self.lr_names.items()}

    def _view(self, name: str, policy: str, images: Pixels, generator: torch.Generator) -> Tensor:
        if not isinstance(images, Part):
            return self.normalised(augment(policy, images, generator))
        height, width = images.stretch.images.shape[2:]

        def drawn(count: int) -> Draws:
            return draw(policy, count, (height, width), generator)

        def applied(pixels: Tensor, draws: Draws) -> Tensor:
            return self.normalised(apply(policy, pixels, draws))

        return images.stretch.view(name, images.number, drawn, applied)


def evaluation_batch(shape: tuple[int, ...]) -> int:
    """Return how many images of shape (N, H, W, C) are scored at once: 1000 small ones, fewer large ones."""
    return min(EVALUATION_BATCH, max(16, EVALUATION_PIXELS // (shape[1] * shape[2])))
