"""The base of the person re-identification methods: data, networks, optimizers, ranking of held-out persons."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import TypeVar

from tune_lnl.config.datasets import ReidOptions
from tune_lnl.config.reid import IdentityValidation, ReidSettings
from tune_lnl.config.trial import TrialConfig
from tune_lnl.datasets.augment.views import Draws, apply_crop_and_flip, crop_and_flip, draw_crop_and_flip
from tune_lnl.datasets.paths import cache_dir
from tune_lnl.datasets.reid.data import ReidData, get_reid_dataset, load_reid
from tune_lnl.datasets.reid.sets import PersonImages, ReidDataset
from tune_lnl.metrics.reid import RankedQueries, cosine_distances, mean_ap_standard_error, rank_each, reranked_distances
from tune_lnl.models.reid import ReidNetwork, build_reid_model
from tune_lnl.models.weights import default_weights, weights_file, weights_fingerprint
from tune_lnl.training.loop import Report, Surroundings
from tune_lnl.training.networks import (
    NetworkTraining,
    Part,
    Totals,
    on_device,
    placed,
    set_lr,
    step_options,
)
from tune_lnl.training.randomness import stream_seed

S = TypeVar("S", bound=ReidSettings, default=ReidSettings, covariant=True)
ReidConfig = TrialConfig[S, ReidOptions, IdentityValidation]

EVALUATION_BATCH = 128
RANKS = (1, 5, 10)


@dataclass(frozen=True)
class ReidBatch:
    """One step's samples on the device."""

    index: Tensor
    """(B,) int64, position in the training split: keys the per-sample state."""
    images: Tensor | Part
    """(B, 3, h', w') uint8 at the training size, before the crop."""
    labels: Tensor
    """(B,) int64, given identities."""


class ReidTraining(NetworkTraining[ReidBatch, S, ReidOptions, IdentityValidation]):
    """A method that trains re-ID networks of one shape and reports the first."""

    def _load_data(self) -> None:
        dataset, self.data = _load(self.config, self.surroundings)
        self.dataset = dataset
        self.model_name, self.weights = _network(self.settings, dataset)
        self.train_rows = self.data.train_rows
        self.given_labels = torch.from_numpy(self.data.given_labels).to(self.device)
        true = self.data.true_labels
        self.resident = self.resident_images(self.data.source.train_resized, self.train_rows)
        self.true_labels = None if true is None else torch.from_numpy(true).to(self.device)
        self._scored: dict[str, Tensor | None] = {}

    @classmethod
    def prepare(cls, config: ReidConfig[S], surroundings: Surroundings) -> dict[str, str]:
        # The weights first: a missing download fails at once, and packing a dataset takes minutes.
        dataset = get_reid_dataset(config.dataset.name)
        name, weights = _network(config.settings, dataset)
        _, data = _load(config, surroundings)
        build_reid_model(name, data.num_classes, weights)
        return data.fingerprints | weights_fingerprint(weights)

    @property
    def fingerprints(self) -> dict[str, str]:
        return self.data.fingerprints | weights_fingerprint(self.weights)

    # ---- training

    def _batch(self, index: Tensor) -> ReidBatch:
        rows = self.train_rows[index.numpy()]
        index = on_device(index, self.device)
        if self.resident is not None:
            images = self.resident.index_select(0, index).permute(0, 3, 1, 2)
        else:
            images = self.images(self.data.source.train_resized, rows)
        return ReidBatch(index, images, self.given_labels[index])

    def _made(self, index: Tensor, images: Part, labels: Tensor) -> ReidBatch:
        return ReidBatch(index, images, labels)

    def split(self, order: Tensor) -> list[Tensor]:
        """Return the positions of each batch; a single image left over joins the batch before it.

        Alone it has no batch statistics, and a step on it, with the head at ten times the lr, can ruin the network.
        """
        parts = super().split(order)
        if len(parts) > 1 and len(parts[-1]) == 1:
            parts[-2:] = [torch.cat(parts[-2:])]
        return parts

    def view(self, batch: ReidBatch) -> Tensor:
        """Return the augmented, normalised batch: random crop to the input size and flip, the same for all networks."""
        height, width = self.data.source.train.images.shape[1:3]
        images = batch.images
        if not isinstance(images, Part):
            return self.normalised(crop_and_flip(images, height, width, self.weak))
        before = images.stretch.images.shape[2:]

        def drawn(count: int) -> Draws:
            return draw_crop_and_flip(count, (before[0], before[1]), height, width, self.weak)

        def applied(pixels: Tensor, draws: Draws) -> Tensor:
            return self.normalised(apply_crop_and_flip(pixels, height, width, draws))

        return images.stretch.view("weak", images.number, drawn, applied)

    def images_per_epoch(self) -> int:
        return len(self.train_rows)

    def count_refined(self, suffix: str, batch: ReidBatch, logits: Tensor, totals: Totals) -> None:
        """Compare the network's own labels with the given and, where known, the true ones; add the counts."""
        predicted = logits.argmax(dim=1)
        totals.add(f"train_accuracy{suffix}", predicted == batch.labels)
        if self.true_labels is not None:
            totals.add(f"refined_accuracy{suffix}", predicted == self.true_labels[batch.index])

    def summarise(self, means: Report) -> Report:
        """Return the report with label accuracies and agreement in percent of the images."""
        count = self.images_per_epoch()
        shares = ("refined_accuracy", "agreement")
        return {name: 100.0 * value / count if name.startswith(shares) else value for name, value in means.items()}

    # ---- evaluation

    def evaluate(self, epoch: int) -> Report:
        source, report = self.data.source, Report()
        if len(self.data.validation_query):
            query = self._part("val query", source.train, self.data.validation_query)
            report |= self._rank_all(
                "val", query, self._part("val gallery", source.train, self.data.validation_gallery)
            )
        test_from = self.surroundings.test_from
        if test_from is not None and epoch >= test_from:
            query = self._part("test query", source.query)
            report |= self._rank_all("test", query, self._part("test gallery", source.gallery))
        return report

    def _part(self, name: str, split: PersonImages, rows: np.ndarray | None = None) -> _Part:
        chosen = np.arange(len(split.identities)) if rows is None else rows
        if name not in self._scored:
            self._scored[name] = self.resident_images(split.images, chosen)
        return _Part(split.images, chosen, split.identities[chosen], split.cameras[chosen], self._scored[name])

    def _rank_all(self, split: str, query: _Part, gallery: _Part) -> Report:
        report: Report = {}
        for suffix, network in self.networks.items():
            assert isinstance(network, ReidNetwork)
            features = [self.features(network, part) for part in (query, gallery)]
            if not all(np.isfinite(each).all() for each in features):
                # A diverged network gives no ranking; any order would be chance.
                report |= dict.fromkeys(
                    [f"{split}_map{suffix}", *(f"{split}_rank{k}{suffix}" for k in RANKS)], math.nan
                )
                continue
            ranked = self._ranked(features, query, gallery)
            persons = query.identities[ranked.valid]
            report[f"{split}_map{suffix}"] = 100.0 * float(ranked.average_precision[ranked.valid].mean())
            hits = {k: ranked.first_hit[ranked.valid] < k for k in RANKS}
            report |= {f"{split}_rank{k}{suffix}": 100.0 * float(hit.mean()) for k, hit in hits.items()}
            if suffix == "":
                errors = {"map": ranked.average_precision[ranked.valid], "rank1": hits[1].astype(np.float64)}
                report |= {
                    f"{split}_{name}_standard_error": 100.0 * mean_ap_standard_error(values, persons)
                    for name, values in errors.items()
                }
        return report

    def _ranked(self, features: list[np.ndarray], query: _Part, gallery: _Part) -> RankedQueries:
        how = self.config.validation
        ranked_by = reranked_distances if how.rerank else cosine_distances
        distances = ranked_by(features[0], features[1])
        sides = (query.identities, gallery.identities, query.cameras, gallery.cameras)
        return rank_each(distances, *sides, ap=how.ap)

    @torch.inference_mode()
    def features(self, network: ReidNetwork, part: _Part) -> np.ndarray:
        """Return (n, D) float32: normalised features of each image plus those of its mirror image (eval_utils.py)."""
        network.eval()
        found = []
        for start in range(0, len(part.rows), EVALUATION_BATCH):
            self.surroundings.between_batches()
            own = slice(start, start + EVALUATION_BATCH)
            if part.resident is None:
                images = self.images(part.images, part.rows[own])
            else:
                images = part.resident[own].permute(0, 3, 1, 2)
            pixels = self.normalised(images)
            with self.autocast():
                both = [F.normalize(network.features(view).float()) for view in (pixels, pixels.flip(3))]
            found.append((both[0] + both[1]).cpu())
        return torch.cat(found).numpy()

    # ---- files

    def model_file(self) -> dict[str, Any]:
        height, width = self.data.source.train.images.shape[1:3]
        return {
            "format": "tune_lnl model 1",
            "task": self.settings.task,
            "model": self.model_name,
            "weights": {name: value.cpu() for name, value in self.networks[""].state_dict().items()},
            "classes": [str(number) for number in self.data.identity_numbers],
            "preprocessing": {
                "image_shape": [height, width, 3],
                "mean": list(self.dataset.mean),
                "std": list(self.dataset.std),
            },
            "config": self.config.flat(),
        }

    # ---- pieces

    def _build_network(self, suffix: str) -> nn.Module:
        torch.manual_seed(stream_seed(self.settings.seed, 0, f"weights{suffix}"))
        network = build_reid_model(self.model_name, self.data.num_classes, self.weights)
        return placed(network, self.device)

    def _build_optimizer(self, network: nn.Module) -> torch.optim.Optimizer:
        assert isinstance(network, ReidNetwork)
        groups = [{"params": list(network.backbone_parameters())}, {"params": list(network.head_parameters())}]
        return torch.optim.SGD(
            groups,
            **step_options(self.settings.lr, self.device),
            momentum=self.settings.momentum,
            nesterov=self.settings.momentum > 0,
            weight_decay=self.settings.weight_decay,
        )

    def _set_learning_rates(self, epoch: int) -> None:
        for optimizer in self.optimizers.values():
            for group, name in zip(optimizer.param_groups, ("lr", "head_lr"), strict=True):
                set_lr(group, self.plans[name][epoch])

    def _learning_rate_report(self) -> Report:
        backbone, head = self.optimizers[""].param_groups
        return {"lr": float(backbone["lr"]), "head_lr": float(head["lr"])}


@dataclass(frozen=True)
class _Part:
    """Some images of a split, with their persons and cameras."""

    images: np.ndarray
    rows: np.ndarray
    identities: np.ndarray
    cameras: np.ndarray
    resident: Tensor | None = None
    """The images of these rows, where a GPU keeps them."""


def _load(config: ReidConfig, surroundings: Surroundings) -> tuple[ReidDataset, ReidData]:
    held_out = config.validation
    return get_reid_dataset(config.dataset.name), load_reid(
        config.dataset, surroundings.data_dir, held_out.fraction, held_out.seed
    )


def _network(settings: ReidSettings, dataset: ReidDataset) -> tuple[str, Path | None]:
    """Return (name, file of the weights it starts from or None)."""
    name = settings.model.name or dataset.default_model
    choice = default_weights(name) if settings.model.weights is None else settings.model.weights
    return name, weights_file(name, choice, cache_dir())
