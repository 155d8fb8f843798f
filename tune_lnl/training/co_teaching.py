"""Training by Co-teaching: each network learns from what the other finds easiest."""

from __future__ import annotations

from typing import ClassVar

from tune_lnl.config.base import MethodSettings
from tune_lnl.config.small_loss import CoTeachingSettings
from tune_lnl.methods.co_teaching import co_teaching_losses
from tune_lnl.training.classification import Batch
from tune_lnl.training.networks import Totals
from tune_lnl.training.small_loss import SmallLossTraining


class CoTeachingTraining(SmallLossTraining):
    """Two networks that choose each other's samples."""

    Settings: ClassVar[type[MethodSettings]] = CoTeachingSettings
    settings: CoTeachingSettings

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
