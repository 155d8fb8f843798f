"""What Co-teaching and JoCoR share: two networks that learn at one rate from the samples with the smallest losses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from tune_lnl.config.settings import (
    EPOCHS,
    ClassifierSettings,
    MethodSettings,
    TrialConfig,
)
from tune_lnl.methods.co_teaching import remember_rate
from tune_lnl.metrics.selection import selection_percentages
from tune_lnl.training.classification import Batch, ClassifierTraining
from tune_lnl.training.loop import Report, Surroundings
from tune_lnl.training.networks import Totals

BETA1 = 0.9
"""Of adam, where nothing else is asked for."""


class SmallLossSettings(ClassifierSettings):
    """Settings of both; names and defaults as in the released codes. ``warmup_epochs`` only delays the lr decay."""

    forget_rate: float = Field(
        0.2,
        ge=0.0,
        lt=1.0,
        description="share of every batch that is left out in the end (papers: the noise rate of the data; "
        "JoCoR takes half of it for asymmetric noise)",
    )
    num_gradual: int = Field(
        10, ge=1, json_schema_extra=EPOCHS, description="epochs over which that share grows to its full (papers: T_k)"
    )
    exponent: float = Field(1.0, gt=0.0, description="of the epoch in that growth (Co-teaching paper: c, 0.5, 1 or 2)")
    late_beta1: float | None = Field(
        None,
        ge=0.0,
        lt=1.0,
        description=f"beta1 of adam from the epoch on in which the lr decay begins; null: it stays {BETA1} "
        "(both released codes: 0.1)",
    )

    def warmup_length(self) -> int:
        """Until the share that is left out has grown to its full, or the lr decay begins."""
        return max(super().warmup_length(), min(self.num_gradual, self.epochs - 1))

    def remember_rate(self, epoch: int) -> float:
        """Share of every batch that is trained on in an epoch (0-based)."""
        return remember_rate(epoch, self.forget_rate, self.num_gradual, self.exponent)

    def decay_start(self) -> int | None:
        """The last epoch (0-based) before the lr first falls; ``None`` where it never does."""
        lr = self.plans()["lr"]
        return next((epoch for epoch in range(self.warmup_epochs, self.epochs - 1) if lr[epoch + 1] < lr[epoch]), None)

    def beta1(self, epoch: int) -> float:
        """Of adam in an epoch (0-based)."""
        start = self.decay_start()
        late = self.late_beta1 is not None and start is not None and epoch >= start
        return self.late_beta1 if late and self.late_beta1 is not None else BETA1

    def dead(self) -> dict[str, str]:
        dead = super().dead() | self.dead_delay()
        if self.forget_rate == 0:
            dead |= dict.fromkeys(("num_gradual", "exponent"), "nothing is forgotten")
        elif self.num_gradual == 1:
            dead["exponent"] = "the first epoch forgets the full share already"
        if self.optimizer != "adam":
            dead["late_beta1"] = "sgd has no beta1"
        elif self.decay_start() is None:
            dead["late_beta1"] = "the lr never falls"
        return dead


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
