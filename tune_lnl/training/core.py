"""Training by CORE, co-refining for person re-ID, and by its first stage alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor
from typing_extensions import TypeVar

from tune_lnl.config.base import MethodSettings
from tune_lnl.config.core import CoreSettings, SelfRefineSettings
from tune_lnl.methods.core import co_refine_loss, refine_weight, self_refine_loss
from tune_lnl.training.loop import Report, Surroundings
from tune_lnl.training.networks import Totals
from tune_lnl.training.reid import ReidBatch, ReidConfig, ReidTraining

S = TypeVar("S", bound=SelfRefineSettings, default=SelfRefineSettings, covariant=True)


class SelfRefineTraining(ReidTraining[S]):
    """One or more networks, each learning from a mixture of the given label and its own.

    The weight of its own label follows the loss: it grows as the network fits.
    """

    Settings: ClassVar[type[MethodSettings]] = SelfRefineSettings

    def __init__(self, config: ReidConfig[S], surroundings: Surroundings) -> None:
        super().__init__(config, surroundings)
        self.previous_losses: dict[str, float] = {}

    def own_label_weight(self, suffix: str) -> float:
        """Return the weight of the network's own labels in this epoch; 0 in the first, which is plain cross-entropy."""
        loss = self.previous_losses.get(suffix)
        # A network whose loss is not finite is lost in any case.
        return refine_weight(loss) if loss is not None and math.isfinite(loss) else 0.0

    def train_step(self, batch: ReidBatch, epoch: int, totals: Totals) -> None:
        self.update(self.self_refine, self.forward(batch), batch, totals)

    def forward(self, batch: ReidBatch) -> dict[str, Tensor]:
        """Return logits (B, C) in float32 of every network on the same augmented images, before any is updated."""
        view = self.view(batch)
        with self.autocast():
            logits = {suffix: network(view) for suffix, network in self.networks.items()}
        return {suffix: each.float() for suffix, each in logits.items()}

    def self_refine(self, suffix: str, logits: Mapping[str, Tensor], batch: ReidBatch) -> Tensor:
        return self_refine_loss(logits[suffix], batch.labels, self.own_label_weight(suffix))

    def update(self, loss_of: Any, logits: Mapping[str, Tensor], batch: ReidBatch, totals: Totals) -> None:
        """Take one step of every network on its loss, and add to the epoch's sums."""
        losses = {suffix: loss_of(suffix, logits, batch) for suffix in self.networks}
        self.step(losses)
        for suffix, loss in losses.items():
            size = len(batch.labels)
            totals.add(f"train_loss{suffix}", loss * size)
            totals.add(f"train_loss_given{suffix}", F.cross_entropy(logits[suffix].detach(), batch.labels) * size)
            self.count_refined(suffix, batch, logits[suffix], totals)

    def train_epoch(self, epoch: int) -> Report:
        weights = {f"own_label_weight{suffix}": self.own_label_weight(suffix) for suffix in self.networks}
        report = super().train_epoch(epoch) | weights
        source = "train_loss_given" if self.settings.refine_weight_from == "given" else "train_loss"
        self.previous_losses = {suffix: report[f"{source}{suffix}"] for suffix in self.networks}
        return report

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"previous_losses": dict(self.previous_losses)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.previous_losses = {str(suffix): float(loss) for suffix, loss in state["previous_losses"].items()}


class CoreTraining(SelfRefineTraining[CoreSettings]):
    """Two networks that start apart: first each refines its own labels, then each learns from the other's.

    The reported network has suffix ``""``, its peer ``_peer``.
    """

    Settings: ClassVar[type[MethodSettings]] = CoreSettings
    lr_names: Mapping[str, str] = {"": "lr", "_peer": "lr"}

    def train_step(self, batch: ReidBatch, epoch: int, totals: Totals) -> None:
        logits = self.forward(batch)
        in_self_stage = epoch < self.settings.self_epochs
        self.update(self.self_refine if in_self_stage else self.co_refine, logits, batch, totals)
        totals.add("agreement", logits[""].argmax(dim=1) == logits["_peer"].argmax(dim=1))

    def co_refine(self, suffix: str, logits: Mapping[str, Tensor], batch: ReidBatch) -> Tensor:
        """Return the loss of the co-refining stage, which does not read the given labels in ``batch``."""
        peer = logits["_peer" if suffix == "" else ""]
        return co_refine_loss(logits[suffix], peer, self.settings.soft_weight, self.settings.selective)

    def train_epoch(self, epoch: int) -> Report:
        report = super().train_epoch(epoch)
        in_self_stage = epoch < self.settings.self_epochs
        if not in_self_stage:
            report = {name: value for name, value in report.items() if not name.startswith("own_label_weight")}
        return report | {"stage": 1.0 if in_self_stage else 2.0}
