"""Training by JoCoR: both networks learn from what they fit and agree on best together."""

from __future__ import annotations

from typing import ClassVar

from tune_lnl.config.base import MethodSettings
from tune_lnl.config.small_loss import JocorSettings
from tune_lnl.methods.jocor import jocor_loss
from tune_lnl.training.classification import Batch
from tune_lnl.training.networks import Totals
from tune_lnl.training.small_loss import SmallLossTraining


class JocorTraining(SmallLossTraining):
    """Two networks with one loss, which stands in the report of each."""

    Settings: ClassVar[type[MethodSettings]] = JocorSettings
    settings: JocorSettings

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
