"""Generalised cross-entropy, between cross-entropy and mean absolute error.

Source: Zhang and Sabuncu, "Generalized Cross Entropy Loss for Training Deep Neural Networks with Noisy Labels",
NeurIPS 2018, equation 6 (without the truncation).
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from tune_lnl.config.base import MethodSettings
from tune_lnl.config.classifier import StandardSettings
from tune_lnl.methods.standard import in_full_precision
from tune_lnl.training.classification import Batch, ClassifierTraining
from tune_lnl.training.networks import Totals


def gce_loss(logits: Tensor, labels: Tensor, q: float) -> Tensor:
    """(1 - p_y^q) / q, mean over the batch; logits (B, C), labels int64 (B,), q in (0, 1]."""
    log_p = in_full_precision(logits).log_softmax(dim=1).gather(1, labels[:, None])
    return ((1 - (q * log_p).exp()) / q).mean()


class GceSettings(StandardSettings):
    """Those of plain training, and one more."""

    q: float = Field(0.7, gt=0.0, le=1.0, description="towards 0: cross-entropy; 1: mean absolute error (paper: 0.7)")

    def dead(self) -> dict[str, str]:
        """A search over what this method does not read is refused."""
        return {**super().dead(), "label_smoothing": "the loss has no cross-entropy"}


class GceTraining(ClassifierTraining[GceSettings]):
    """One network; data, optimizer, lr plan, evaluation, checkpoints and reports are inherited."""

    Settings: ClassVar[type[MethodSettings]] = GceSettings

    def train_step(self, batch: Batch, epoch: int, totals: Totals) -> None:
        with self.autocast():
            logits = self.networks[""](self.weak_view(batch.images))
            loss = gce_loss(logits, batch.labels, self.settings.q)
        self.step({"": loss})
        totals.add("train_loss", loss * len(batch.labels))
        totals.add("train_accuracy", (logits.argmax(dim=1) == batch.labels).sum())
