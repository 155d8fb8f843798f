"""Plain cross-entropy on the given identities: the re-ID baseline."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F

from tune_lnl.config.base import MethodSettings
from tune_lnl.config.reid import ReidStandardSettings
from tune_lnl.training.networks import Totals
from tune_lnl.training.reid import ReidBatch, ReidTraining


class ReidStandardTraining(ReidTraining[ReidStandardSettings]):
    """One network, one loss."""

    Settings: ClassVar[type[MethodSettings]] = ReidStandardSettings

    def train_step(self, batch: ReidBatch, epoch: int, totals: Totals) -> None:
        view = self.view(batch)
        with self.autocast():
            logits = self.networks[""](view)
        logits = logits.float()
        loss = F.cross_entropy(logits, batch.labels)
        self.step({"": loss})
        totals.add("train_loss", loss * len(batch.labels))
        self.count_refined("", batch, logits, totals)
