"""Settings that the re-ID methods share, and those of plain training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from tune_lnl.config.base import EPOCHS, SHORTHAND, GradientSettings, HeldOut, ModelChoice


class IdentityValidation(HeldOut):
    """The held-out persons: their images are the validation query and gallery, scored by their own identities.

    ``ap`` and ``rerank`` hold for the test set too.
    """

    ap: Literal["simple", "market"] = Field(
        "simple",
        description="average precision: mean precision at the hits (released code), or Market-1501's trapezoid",
    )
    rerank: bool = Field(False, description="k-reciprocal re-ranking of the distances (Zhong et al., CVPR 2017)")


class ReidSettings(GradientSettings):
    """Settings that the re-ID methods share (CORE, released train_core.py; paper values where they differ)."""

    task: ClassVar[str] = "re-identification"
    Validation: ClassVar[type[HeldOut]] = IdentityValidation
    objectives: ClassVar[Mapping[str, Literal["max", "min"]]] = {"val_map": "max", "val_rank1": "max"}
    test_metrics: ClassVar[tuple[str, ...]] = ("test_map", "test_rank1")

    batch_size: int = Field(32, ge=2, description="images per step")
    model: ModelChoice = Field(
        ModelChoice(), json_schema_extra={SHORTHAND: "name"}, description="{name, weights}, or the name alone"
    )
    lr: float = Field(gt=0.0, description="learning rate per step of the backbone (released: 0.01)")
    head_lr_multiplier: float = Field(
        10.0, gt=0.0, description="lr of embedding block and classifier / lr (released: 10)"
    )
    momentum: float = Field(0.9, ge=0.0, lt=1.0, description="of SGD, Nesterov")
    weight_decay: float = Field(5e-4, ge=0.0, description="L2 penalty in the optimizer")

    @field_validator("model", mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    def plans(self) -> dict[str, list[float]]:
        factors = [self.lr_factor_at(epoch) for epoch in range(self.epochs)]
        head = self.lr * self.head_lr_multiplier
        return {"lr": [self.lr * factor for factor in factors], "head_lr": [head * factor for factor in factors]}

    def lr_factor_at(self, epoch: int) -> float:
        """Return the factor of the learning rates in ``epoch`` (0-based)."""
        raise NotImplementedError


class MilestoneSettings(ReidSettings):
    """Settings of methods whose lr drops at given epochs."""

    lr_milestones: list[int] | None = Field(
        None,
        json_schema_extra=EPOCHS,
        description="epochs from which the lr is lower by lr_drop (released: [20, 50]); null: once, at the end of the "
        "large-lr stage, which is a third of the epochs where the method has no stages",
    )
    lr_drop: float = Field(0.1, gt=0.0, le=1.0, description="factor at each milestone")

    @field_validator("lr_milestones")
    @classmethod
    def _ascending(cls, value: list[int] | None) -> list[int] | None:
        if value is not None and (value != sorted(set(value)) or any(epoch < 1 for epoch in value)):
            raise ValueError(f"lr_milestones ascend and are at least 1, got {value}")
        return value

    def lr_factor_at(self, epoch: int) -> float:
        milestones = [self.large_lr_epochs()] if self.lr_milestones is None else self.lr_milestones
        return float(self.lr_drop ** sum(milestone <= epoch for milestone in milestones))

    def large_lr_epochs(self) -> int:
        """Return the length of the first stage, which trains at the full lr."""
        return max(1, self.epochs // 3)

    def dead(self) -> dict[str, str]:
        dead = super().dead()
        if self.lr_factor_at(self.epochs - 1) == 1.0:
            dead["lr_drop"] = "no milestone falls inside the run"
        return dead


class ReidStandardSettings(MilestoneSettings):
    """Settings of ``reid_standard``."""
