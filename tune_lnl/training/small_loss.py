"""Training by Co-teaching and by JoCoR: two networks that learn from the samples with the smallest losses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from typing_extensions import TypeVar

from tune_lnl.config.base import MethodSettings
from tune_lnl.config.small_loss import CoTeachingSettings, JocorSettings, SmallLossSettings
from tune_lnl.methods.co_teaching import co_teaching_losses
from tune_lnl.methods.jocor import jocor_loss
from tune_lnl.metrics.selection import selection_percentages
from tune_lnl.training.classification import Batch, ClassifierConfig, ClassifierTraining
from tune_lnl.training.loop import Report, Surroundings
from tune_lnl.training.networks import Totals

S = TypeVar("S", bound=SmallLossSettings, default=SmallLossSettings, covariant=True)


class SmallLossTraining(ClassifierTraining[S]):
    """Two networks that start apart and learn at one rate; the reported one has suffix ``""``, its peer ``_peer``.

    Both see the same augmented images. The published figures are of either network or the mean of both.
    """

    Settings: ClassVar[type[MethodSettings]] = SmallLossSettings
    lr_names: Mapping[str, str] = {"": "lr", "_peer": "lr"}

    def __init__(self, config: ClassifierConfig[S], surroundings: Surroundings) -> None:
        super().__init__(config, surroundings)
        self.counts = torch.zeros(self.images_per_epoch(), dtype=torch.int32, device=self.device)
        """(N,), how often the reported network was trained on each sample, in epochs that keep the final share."""

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
        """Add a batch to the epoch's sums; ``selected`` (B,) marks the samples the reported network was trained on."""
        if self._keeps_final_share(epoch):
            self.counts.index_add_(0, batch.index, selected.to(self.counts.dtype))
        for suffix, loss in losses.items():
            totals.add(f"train_loss{suffix}", loss * len(batch.labels))
            totals.add(f"train_accuracy{suffix}", logits[suffix].argmax(dim=1) == batch.labels)
        totals.add("selected", selected)
        if self.clean is not None:
            totals.add("selected_clean", selected & self.clean[batch.index])

    def summarise(self, means: Report) -> Report:
        """Return the report of the epoch: selected samples as a count, quality of the selection in percent."""
        report = dict(means)
        if self.clean is not None:
            selected_clean = int(report.pop("selected_clean"))
            report |= selection_percentages(int(report["selected"]), int(self.clean.sum()), selected_clean)
        return report

    def train_epoch(self, epoch: int) -> Report:
        return super().train_epoch(epoch) | {"remember_rate": self.settings.remember_rate(epoch)}

    def _keeps_final_share(self, epoch: int) -> bool:
        """Return whether the share of samples that is left out has grown to its full."""
        return self.settings.remember_rate(epoch) == self.settings.remember_rate(self.settings.epochs - 1)

    def selected_shares(self) -> np.ndarray:
        """Return the share of the epochs that keep the final share in which each sample was selected."""
        chances = sum(self._keeps_final_share(epoch) for epoch in range(self.epoch))
        shares: np.ndarray = (self.counts.double() / max(1, chances)).cpu().numpy().astype(np.float32)
        return shares

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"counts": self.counts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.counts.copy_(state["counts"])


class CoTeachingTraining(SmallLossTraining[CoTeachingSettings]):
    """Each network learns from the samples that the other fits best."""

    Settings: ClassVar[type[MethodSettings]] = CoTeachingSettings

    def train_step(self, batch: Batch, epoch: int, totals: Totals) -> None:
        view = self.weak_view(batch.images)
        with self.autocast():
            found = co_teaching_losses(
                self.networks[""],
                self.networks["_peer"],
                view,
                batch.labels,
                self.settings.remember_rate(epoch),
                self.settings.label_smoothing,
            )
        losses = {"": found.first, "_peer": found.second}
        self.step(losses)
        logits = {"": found.first_logits, "_peer": found.second_logits}
        self.count(batch, epoch, losses, logits, found.first_selected, totals)


class JocorTraining(SmallLossTraining[JocorSettings]):
    """Both networks learn, by one loss, from the samples that they fit and agree on best together."""

    Settings: ClassVar[type[MethodSettings]] = JocorSettings

    def train_step(self, batch: Batch, epoch: int, totals: Totals) -> None:
        view = self.weak_view(batch.images)
        with self.autocast():
            found = jocor_loss(
                self.networks[""],
                self.networks["_peer"],
                view,
                batch.labels,
                self.settings.remember_rate(epoch),
                self.settings.co_lambda,
                self.settings.label_smoothing,
            )
        self.step_together(found.loss)
        logits = {"": found.first_logits, "_peer": found.second_logits}
        self.count(batch, epoch, {"": found.loss, "_peer": found.loss}, logits, found.selected, totals)
