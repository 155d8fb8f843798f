"""Plain cross-entropy on the given labels: the baseline every method is compared with."""

from __future__ import annotations

from typing import ClassVar

from typing_extensions import TypeVar

from tune_lnl.config.base import MethodSettings
from tune_lnl.config.classifier import StandardSettings
from tune_lnl.methods.standard import standard_loss
from tune_lnl.training.classification import Batch, ClassifierTraining
from tune_lnl.training.networks import Totals

S = TypeVar("S", bound=StandardSettings, default=StandardSettings, covariant=True)


class StandardTraining(ClassifierTraining[S]):
    """One network, one loss."""

    Settings: ClassVar[type[MethodSettings]] = StandardSettings

    def train_step(self, batch: Batch, epoch: int, totals: Totals) -> None:
        with self.autocast():
            loss, logits = standard_loss(
                self.networks[""], self.weak_view(batch.images), batch.labels, self.settings.label_smoothing
            )
        self.step({"": loss})
        totals.add("train_loss", loss * len(batch.labels))
        totals.add("train_accuracy", logits.argmax(dim=1) == batch.labels)
