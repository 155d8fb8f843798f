"""Plain cross-entropy on the given identities: the re-ID baseline."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F

from tune_lnl.config.settings import MethodSettings
from tune_lnl.training.networks import Totals
from tune_lnl.training.reid import MilestoneSettings, ReidBatch, ReidTraining


class ReidStandardSettings(MilestoneSettings):
    """Settings of ``reid_standard``."""


class ReidStandardTraining(ReidTraining):
    """One network, one loss."""

    Settings: ClassVar[type[MethodSettings]] = ReidStandardSettings
    settings: ReidStandardSettings

    def train_step(self, batch: ReidBatch, epoch: int, totals: Totals) -> None:
        view = self.view(batch)
        with self.autocast():
            logits = self.networks[""](view)
        logits = logits.float()
        loss = F.cross_entropy(logits, batch.labels)
        self.step({"": loss})
        totals.add("train_loss", loss * len(batch.labels))
        self.count_refined("", batch, logits, totals)
