"""What every image classification method shares: data, networks, optimizers, lr plans, evaluation, state."""

from __future__ import annotations

import math
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tune_lnl.datasets.augmentation import augment
from tune_lnl.datasets.base import ImageDataset
from tune_lnl.datasets.noisy import NoisyData, load_noisy
from tune_lnl.datasets.registry import get_image_dataset
from tune_lnl.datasets.split import split_validation
from tune_lnl.errors import InputError
from tune_lnl.metrics.classification import standard_error
from tune_lnl.models.registry import build_model
from tune_lnl.trainables.networks import NetworkTraining
from tune_lnl.trainables.randomness import stream_seed
from tune_lnl.trainables.settings import ClassifierSettings, TrialConfig, ValidationSettings
from tune_lnl.trainables.training import Report, Surroundings

EVALUATION_BATCH = 1000


@dataclass(frozen=True)
class Batch:
    """One step's samples on the device."""

    index: Tensor
    """(B,) int64, position in the training split: keys the per-sample state."""
    images: Tensor
    """(B, C, H, W) uint8."""
    labels: Tensor
    """(B,) int64, given labels."""


@dataclass(frozen=True)
class ClassifierData:
    """The training split, the held-out split and the test set of one trial."""

    dataset: ImageDataset
    noisy: NoisyData
    train: np.ndarray
    """(N,) int64, samples of ``noisy`` that are trained on."""
    validation: np.ndarray
    """(M,) int64, samples of ``noisy`` held out."""
    validation_labels: np.ndarray
    """(M,) int64."""

    @classmethod
    def load(cls, config: TrialConfig, surroundings: Surroundings) -> ClassifierData:
        noisy = load_noisy(config.dataset, surroundings.data_dir)
        assert isinstance(config.validation, ValidationSettings)
        train, held_out = split_validation(noisy.given_labels, config.validation.fraction, config.validation.seed)
        labels = noisy.given_labels
        if config.validation.labels == "clean":
            labels = _true_labels_or_refuse(noisy)
            held_out = held_out[labels[held_out] < noisy.num_classes]
        return cls(get_image_dataset(config.dataset.name), noisy, train, held_out, labels[held_out])

    @property
    def clean(self) -> np.ndarray | None:
        """(N,) bool: is the given label of each training sample the true one? ``None`` where nobody knows."""
        if self.noisy.true_labels is None:
            return None
        return cast(np.ndarray, self.noisy.given_labels[self.train] == self.noisy.true_labels[self.train])

    @property
    def fingerprints(self) -> dict[str, str]:
        split = sha256(np.ascontiguousarray(self.train).tobytes() + b"|" + self.validation.tobytes())
        return self.noisy.fingerprints | {"split": split.hexdigest()}


def _true_labels_or_refuse(noisy: NoisyData) -> np.ndarray:
    if noisy.true_labels is None:
        raise InputError("validation.labels: clean needs true labels, and this dataset has none; set it to noisy")
    return noisy.true_labels


def model_name(config: TrialConfig, dataset: ImageDataset) -> str:
    """The network asked for, or the dataset's own."""
    assert isinstance(config.settings, ClassifierSettings)
    return config.settings.model or dataset.default_model


class ClassifierTraining(NetworkTraining[Batch]):
    """A method that trains classifiers of the same shape, the first of them reported."""

    settings: ClassifierSettings

    def _load_data(self) -> None:
        self.data = ClassifierData.load(self.config, self.surroundings)
        self.dataset = self.data.dataset
        self.model_name = model_name(self.config, self.data.dataset)
        self.given_labels = torch.from_numpy(self.data.noisy.given_labels[self.data.train]).to(self.device)
        clean = self.data.clean
        self.clean = None if clean is None else torch.from_numpy(clean).to(self.device)

    @classmethod
    def prepare(cls, config: TrialConfig, surroundings: Surroundings) -> dict[str, str]:
        assert isinstance(config.settings, ClassifierSettings)
        data = ClassifierData.load(config, surroundings)
        build_model(model_name(config, data.dataset), data.noisy.num_classes, data.dataset.image_shape)
        return data.fingerprints

    # ---- training

    def _batch(self, index: Tensor) -> Batch:
        rows = self.data.noisy.rows[self.data.train[index.numpy()]]
        on_device = index.to(self.device)
        return Batch(on_device, self.images(self.data.noisy.train_images, rows), self.given_labels[on_device])

    def weak_view(self, images: Tensor) -> Tensor:
        return self._view(self.data.dataset.weak_augmentation, images, self.weak)

    def strong_view(self, images: Tensor) -> Tensor:
        return self._view(self.data.dataset.strong_augmentation, images, self.strong)

    def images_per_epoch(self) -> int:
        return len(self.data.train)

    # ---- evaluation

    def evaluate(self, epoch: int) -> Report:
        report: Report = {}
        if len(self.data.validation):
            report |= self._score_all("val", self.data.noisy.train_images, self._validation_rows(), self._val_labels())
        test_from = self.surroundings.test_from
        if test_from is not None and epoch >= test_from:
            noisy = self.data.noisy
            report |= self._score_all("test", noisy.test_images, noisy.test_rows, noisy.test_labels)
        return report

    def _validation_rows(self) -> np.ndarray:
        return cast(np.ndarray, self.data.noisy.rows[self.data.validation])

    def _val_labels(self) -> np.ndarray:
        return self.data.validation_labels

    def _score_all(self, split: str, images: np.ndarray, rows: np.ndarray, labels: np.ndarray) -> Report:
        report: Report = {}
        for suffix, network in self.networks.items():
            correct, loss, loss_error = self._score(network, images, rows, labels)
            # The argmax of NaN is a class: a network that has diverged would score like one that always guesses it.
            accuracy = correct / len(labels) if math.isfinite(loss) else math.nan
            report[f"{split}_accuracy{suffix}"] = 100.0 * accuracy
            report[f"{split}_loss{suffix}"] = loss
            if suffix == "":
                accuracy_error = standard_error(accuracy, len(labels)) if math.isfinite(accuracy) else math.nan
                report[f"{split}_accuracy_standard_error"] = 100.0 * accuracy_error
                report[f"{split}_loss_standard_error"] = loss_error
        return report

    @torch.inference_mode()
    def _score(
        self, network: nn.Module, images: np.ndarray, rows: np.ndarray, labels: np.ndarray
    ) -> tuple[int, float, float]:
        """Correct predictions, mean cross-entropy and its standard error over the given rows."""
        network.eval()
        correct = torch.zeros((), dtype=torch.int64, device=self.device)
        losses = []
        for start in range(0, len(rows), EVALUATION_BATCH):
            self.surroundings.between_batches()
            part = slice(start, start + EVALUATION_BATCH)
            target = torch.from_numpy(labels[part]).to(self.device)
            with self.autocast():
                logits = network(self.normalised(self.images(images, rows[part])))
            logits = logits.float()
            correct += (logits.argmax(dim=1) == target).sum()
            losses.append(F.cross_entropy(logits, target, reduction="none"))
        every = torch.cat(losses).double()
        error = float(every.std(correction=1)) / math.sqrt(len(rows)) if len(rows) > 1 else math.nan
        return int(correct), float(every.mean()), error

    def model_file(self) -> dict[str, Any]:
        dataset = self.data.dataset
        return {
            "format": "tune_lnl model 1",
            "model": self.model_name,
            "weights": {name: value.cpu() for name, value in self.networks[""].state_dict().items()},
            "classes": list(self.data.noisy.class_names[: self.data.noisy.num_classes]),
            "preprocessing": {
                "image_shape": list(dataset.image_shape),
                "mean": list(dataset.mean),
                "std": list(dataset.std),
            },
            "config": self.config.flat(),
        }

    @property
    def fingerprints(self) -> dict[str, str]:
        return self.data.fingerprints

    # ---- pieces

    def _build_network(self, suffix: str) -> nn.Module:
        torch.manual_seed(stream_seed(self.settings.seed, 0, f"weights{suffix}"))
        network = build_model(self.model_name, self.data.noisy.num_classes, self.data.dataset.image_shape)
        return network.to(self.device).to(memory_format=torch.channels_last)

    def _build_optimizer(self, network: nn.Module) -> torch.optim.Optimizer:
        settings = self.settings
        if settings.optimizer == "adam":
            return torch.optim.Adam(network.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
        return torch.optim.SGD(
            network.parameters(),
            lr=settings.lr,
            momentum=settings.momentum,
            nesterov=settings.momentum > 0,
            weight_decay=settings.weight_decay,
        )

    def _set_learning_rates(self, epoch: int) -> None:
        for suffix, name in self.lr_names.items():
            for group in self.optimizers[suffix].param_groups:
                group["lr"] = self.plans[name][epoch]

    def _learning_rate_report(self) -> Report:
        """Read back from the optimizers, so that the log shows what was really in effect."""
        return {name: float(self.optimizers[suffix].param_groups[0]["lr"]) for suffix, name in self.lr_names.items()}

    def _view(self, policy: str, images: Tensor, generator: torch.Generator) -> Tensor:
        return self.normalised(augment(policy, images, generator))
