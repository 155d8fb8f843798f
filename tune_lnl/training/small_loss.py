"""What Co-teaching and JoCoR share: two networks that learn at one rate from the samples with the smallest losses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from tune_lnl.config.base import MethodSettings
from tune_lnl.config.small_loss import SmallLossSettings
from tune_lnl.config.trial import TrialConfig
from tune_lnl.metrics.selection import selection_percentages
from tune_lnl.training.classification import Batch, ClassifierTraining
from tune_lnl.training.loop import Report, Surroundings
from tune_lnl.training.networks import Totals


class SmallLossTraining(ClassifierTraining):
    """Two networks that start apart; the reported one has suffix ``""``, its peer ``_peer``.

    Both see the same augmented images. The published figures are of either network or the mean of both.
    """

    Settings: ClassVar[type[MethodSettings]] = SmallLossSettings
    settings: SmallLossSettings
    lr_names: Mapping[str, str] = {"": "lr", "_peer": "lr"}

    def __init__(self, config: TrialConfig, surroundings: Surroundings) -> None:
        super().__init__(config, surroundings)
        self.counts = torch.zeros(self.images_per_epoch(), dtype=torch.int32, device=self.device)
        """(N,), how often the reported network was trained on each sample, in the epochs of the final share."""

    def _set_learning_rates(self, epoch: int) -> None:
        super()._set_learning_rates(epoch)
        for optimizer in self.optimizers.values():
            if isinstance(optimizer, torch.optim.Adam):
                for group in optimizer.param_groups:
                    group["betas"] = (self.settings.beta1(epoch), group["betas"][1])

    def count(
        self,
        batch: Batch,
        epoch: int,
        losses: Mapping[str, Tensor],
        logits: Mapping[str, Tensor],
        selected: Tensor,
        totals: Totals,
    ) -> None:
        """Add a batch to the epoch's sums; ``selected`` (B,) is what the reported network was trained on."""
        if self._remembers_the_final_share(epoch):
            self.counts.index_add_(0, batch.index, selected.to(self.counts.dtype))
        for suffix, loss in losses.items():
            totals.add(f"train_loss{suffix}", loss * len(batch.labels))
            totals.add(f"train_accuracy{suffix}", (logits[suffix].argmax(dim=1) == batch.labels).sum())
        totals.add("selected", selected.sum())
        if self.clean is not None:
            totals.add("selected_clean", (selected & self.clean[batch.index]).sum())

    def summarise(self, means: Report) -> Report:
        """Selected samples of the epoch as they are; quality of the selection in percent."""
        report = dict(means)
        if self.clean is not None:
            selected_clean = int(report.pop("selected_clean"))
            report |= selection_percentages(int(report["selected"]), int(self.clean.sum()), selected_clean)
        return report

    def train_epoch(self, epoch: int) -> Report:
        return super().train_epoch(epoch) | {"remember_rate": self.settings.remember_rate(epoch)}

    def _remembers_the_final_share(self, epoch: int) -> bool:
        return self.settings.remember_rate(epoch) == self.settings.remember_rate(self.settings.epochs - 1)

    def selected_shares(self) -> np.ndarray:
        """Of the epochs in which the share that is left out has grown to its full."""
        chances = sum(self._remembers_the_final_share(epoch) for epoch in range(self.epoch))
        shares: np.ndarray = (self.counts.double() / max(1, chances)).cpu().numpy().astype(np.float32)
        return shares

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"counts": self.counts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.counts.copy_(state["counts"])
