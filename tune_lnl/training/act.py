"""Training by ACT, asymmetric co-training: the reported network (RTM) and its noisy companion (NTM)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from tune_lnl.config.act import ActSettings
from tune_lnl.config.base import MethodSettings
from tune_lnl.methods.act import ActConfig, ActState, robust_losses, warmup_losses
from tune_lnl.metrics.selection import selection_percentages
from tune_lnl.training.classification import Batch, ClassifierConfig, ClassifierTraining
from tune_lnl.training.loop import Report, Surroundings
from tune_lnl.training.networks import Totals


def loss_config(settings: ActSettings) -> ActConfig:
    """Return the part of the settings that the losses read."""
    return ActConfig(**{field.name: getattr(settings, field.name) for field in fields(ActConfig)})


class ActTraining(ClassifierTraining[ActSettings]):
    """Two networks that start apart and learn at different rates.

    The RTM (suffix ``""``) learns from the samples both agree on; the NTM (``_ntm``) learns from every given label.
    """

    Settings: ClassVar[type[MethodSettings]] = ActSettings
    lr_names: Mapping[str, str] = {"": "lr", "_ntm": "lr1"}

    def __init__(self, config: ClassifierConfig[ActSettings], surroundings: Surroundings) -> None:
        super().__init__(config, surroundings)
        self.losses = loss_config(self.settings)
        self.state = ActState.start(self.given_labels, self.data.noisy.num_classes)
        self.epoch_now = torch.zeros((), dtype=torch.int64, device=self.device)

    def _begin_epoch(self, epoch: int) -> None:
        super()._begin_epoch(epoch)
        self.epoch_now.fill_(epoch)

    def train_step(self, batch: Batch, epoch: int, totals: Totals) -> None:
        rtm, ntm = self.networks[""], self.networks["_ntm"]
        weak = self.weak_view(batch.images)
        if epoch < self.settings.warmup_epochs:
            with self.autocast():
                warmup = warmup_losses(rtm, ntm, weak, batch.labels, batch.index, self.state, self.losses)
            self._update(batch, warmup.rtm, warmup.ntm, warmup.rtm_logits, warmup.ntm_logits, totals)
            return
        strong = self.strong_view(batch.images) if self.settings.consistency else None
        with self.autocast():
            robust = robust_losses(
                *(rtm, ntm, weak, strong, batch.labels, batch.index, self.state, self.epoch_now, self.losses)
            )
        self._update(batch, robust.rtm, robust.ntm, robust.rtm_logits, robust.ntm_logits, totals)
        totals.add("selected", robust.selected)
        totals.add("mined", robust.mined)
        totals.add("mining_batches", robust.mining)
        totals.add("empty_selections", robust.selection_empty)
        if self.clean is not None:
            totals.add("selected_clean", robust.selected & self.clean[batch.index])

    def _update(
        self, batch: Batch, rtm: Tensor, ntm: Tensor, rtm_logits: Tensor, ntm_logits: Tensor, totals: Totals
    ) -> None:
        self.step({"": rtm, "_ntm": ntm})
        for suffix, loss, logits in (("", rtm, rtm_logits), ("_ntm", ntm, ntm_logits)):
            totals.add(f"train_loss{suffix}", loss * len(batch.labels))
            totals.add(f"train_accuracy{suffix}", logits.argmax(dim=1) == batch.labels)

    def summarise(self, means: Report) -> Report:
        """Return the report: selected samples as counts, mining as a share of batches, selection quality in percent."""
        if "selected" not in means:
            return means
        report = dict(means)
        steps = -(-self.images_per_epoch() // self.settings.batch_size)
        report["mining_share"] = report.pop("mining_batches") / steps
        if self.clean is not None:
            selected_clean = int(report.pop("selected_clean"))
            report |= selection_percentages(int(report["selected"]), int(self.clean.sum()), selected_clean)
        return report

    def selected_shares(self) -> np.ndarray:
        """Return shares of the epochs after the warm-up; in the warm-up every sample counts as selected."""
        warmup = min(self.epoch, self.settings.warmup_epochs)
        chances = max(1, self.epoch - warmup)
        shares: np.ndarray = ((self.state.counts - warmup).double() / chances).cpu().numpy().astype(np.float32)
        return shares

    def beliefs(self) -> np.ndarray:
        """Return the running label distributions."""
        found: np.ndarray = self.state.label_ema.cpu().numpy()
        return found

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"act": self.state.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        with torch.no_grad():
            self.state.load_state_dict(state["act"])
