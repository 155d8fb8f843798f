"""Training by PurifyNet, the predecessor of CORE: labels are refined first, then replaced and weighted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F

from tune_lnl.config.base import MethodSettings
from tune_lnl.config.purifynet import PurifySettings
from tune_lnl.methods.core import self_refine_loss
from tune_lnl.methods.purifynet import instance_weights, purify_weight, weighted_cross_entropy
from tune_lnl.models.reid import ReidNetwork
from tune_lnl.training.loop import Report, Surroundings
from tune_lnl.training.networks import Totals
from tune_lnl.training.reid import EVALUATION_BATCH, ReidBatch, ReidConfig, ReidTraining


class PurifyTraining(ReidTraining[PurifySettings]):
    """One network in two stages.

    First it learns from a mixture of the given label and its own, whose weight grows. Then its prediction replaces
    every label, and each image is weighted by its distance from the centre of its new class; given labels are not used
    any more. The second stage starts from the last network of the first (the released code takes the best
    on the test set).
    """

    Settings: ClassVar[type[MethodSettings]] = PurifySettings

    def __init__(self, config: ReidConfig[PurifySettings], surroundings: Surroundings) -> None:
        super().__init__(config, surroundings)
        self.labels = self.given_labels
        self.sample_weights = torch.ones(len(self.labels), device=self.device)

    def _begin_epoch(self, epoch: int) -> None:
        if epoch == self.settings.refine_stage_epochs:
            network = self.networks[""]
            assert isinstance(network, ReidNetwork)
            self.labels, features = self._predictions(network)
            self.sample_weights = instance_weights(features, self.labels, self.data.num_classes).to(self.device)
            self.optimizers[""] = self._build_optimizer(network)
        super()._begin_epoch(epoch)

    @torch.inference_mode()
    def _predictions(self, network: ReidNetwork) -> tuple[torch.Tensor, torch.Tensor]:
        """Return predicted identity (N,) and normalised feature (N, D) of every training image, not augmented."""
        network.eval()
        labels, features = [], []
        for start in range(0, len(self.train_rows), EVALUATION_BATCH):
            rows = self.train_rows[start : start + EVALUATION_BATCH]
            pixels = self.normalised(self.images(self.data.source.train.images, rows))
            with self.autocast():
                logits, found = network.forward_both(pixels)
            labels.append(logits.argmax(dim=1))
            features.append(F.normalize(found.float()))
        return torch.cat(labels), torch.cat(features)

    def train_step(self, batch: ReidBatch, epoch: int, totals: Totals) -> None:
        view = self.view(batch)
        with self.autocast():
            logits = self.networks[""](view)
        logits = logits.float()
        if epoch < self.settings.refine_stage_epochs:
            weight = purify_weight(epoch, self.settings.ramp_epochs)
            loss = self_refine_loss(logits, batch.labels, weight)
        else:
            loss = weighted_cross_entropy(logits, self.labels[batch.index], self.sample_weights[batch.index])
        self.step({"": loss})
        totals.add("train_loss", loss * len(batch.labels))
        self.count_refined("", batch, logits, totals)

    def train_epoch(self, epoch: int) -> Report:
        report = super().train_epoch(epoch)
        first = epoch < self.settings.refine_stage_epochs
        if first:
            report["own_label_weight"] = purify_weight(epoch, self.settings.ramp_epochs)
        return report | {"stage": 1.0 if first else 2.0}

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"labels": self.labels, "sample_weights": self.sample_weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.labels = state["labels"].to(self.device)
        self.sample_weights = state["sample_weights"].to(self.device)
