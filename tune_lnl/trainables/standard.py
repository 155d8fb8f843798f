"""Plain cross-entropy on the given labels: the baseline every method is compared with."""

from __future__ import annotations

from typing import ClassVar

from tune_lnl.methods.schedules import reads_warmup_lr
from tune_lnl.methods.standard import standard_loss
from tune_lnl.trainables.classification import Batch, ClassifierTraining
from tune_lnl.trainables.networks import Totals
from tune_lnl.trainables.settings import ClassifierSettings, DecayShape, MethodSettings, plan_spec


class StandardSettings(ClassifierSettings):
    """Settings of ``standard``; ``warmup_epochs`` only delays the lr decay."""

    def dead(self) -> dict[str, str]:
        dead = super().dead()
        if not reads_warmup_lr(plan_spec(self.lr_decay)):
            dead["warmup_epochs"] = f"the plan {self.lr_decay!r} ignores the warm-up"
        elif self.warmup_lr is None and isinstance(self.lr_decay, DecayShape) and self.lr_decay.shape == "constant":
            dead["warmup_epochs"] = "warm-up and the rest have the same lr"
        return dead


class StandardTraining(ClassifierTraining):
    """One network, one loss."""

    Settings: ClassVar[type[MethodSettings]] = StandardSettings

    def train_step(self, batch: Batch, epoch: int, totals: Totals) -> None:
        with self.autocast():
            loss, logits = standard_loss(
                self.networks[""], self.weak_view(batch.images), batch.labels, self.settings.label_smoothing
            )
        self.step({"": loss})
        totals.add("train_loss", loss * len(batch.labels))
        totals.add("train_accuracy", (logits.argmax(dim=1) == batch.labels).sum())
