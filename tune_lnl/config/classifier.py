"""Settings that the image classification methods share, and those of plain training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_serializer, field_validator, model_validator

from tune_lnl.config.base import EPOCHS, LR_PLAN, SHORTHAND, GradientSettings, ModelChoice, Settings
from tune_lnl.config.lr_plans import lr_plan, parse_plan, reads_warmup_lr


class DecayShape(Settings):
    """An lr decay from the end of the warm-up to the last epoch, relative to the network's own lr."""

    shape: Literal["cosine", "linear", "constant"] = Field(description="form of the decay")
    end: float | None = Field(
        None, ge=0.0, le=1.0, description="last lr as a share of the network's own lr; not for constant"
    )


class ClassifierSettings(GradientSettings):
    """Settings that the image classification methods share (published script, argument defaults and paper values)."""

    model: ModelChoice = Field(
        ModelChoice(), json_schema_extra={SHORTHAND: "name"}, description="{name, weights}, or the name alone"
    )
    optimizer: Literal["sgd", "adam"] = Field("sgd", description="sgd: Nesterov momentum; adam: betas 0.9, 0.999")
    momentum: float = Field(0.9, ge=0.0, lt=1.0, description="of sgd")
    weight_decay: float = Field(5e-4, ge=0.0, description="L2 penalty in the optimizer")
    lr: float = Field(gt=0.0, description="learning rate per step of the reported network (ACT: RTM)")
    lr_decay: str | DecayShape = Field(
        DecayShape(shape="cosine", end=0.05),
        json_schema_extra=LR_PLAN,
        description="a published plan (cosine:20,5e-4,100), or {shape, end} from warm-up to the last epoch",
    )
    warmup_epochs: int = Field(0, ge=0, json_schema_extra=EPOCHS, description="epochs of plain training at warmup_lr")
    warmup_lr: float | None = Field(None, gt=0.0, description="lr during warm-up; null: each network's own lr")
    label_smoothing: float = Field(0.0, ge=0.0, lt=1.0, description="of every cross-entropy (web scripts: 0.35)")

    @field_validator("model", mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        return {"name": value} if value is None or isinstance(value, str) else value

    @field_serializer("model")
    def _as_short_as_it_can_be(self, model: ModelChoice) -> str | dict[str, str | None] | None:
        # A config without weights is written, and compares, as it was before there were weights.
        return model.name if model.weights is None else model.model_dump()

    @field_validator("lr_decay", "lr1_decay", mode="before", check_fields=False)
    @classmethod
    def _plan_is_known(cls, value: Any) -> Any:
        # Otherwise pydantic tries one form after the other and reports an error for each.
        if value is not None and not isinstance(value, DecayShape):
            parse_plan(value)
        return value

    @model_validator(mode="after")
    def _warmup_fits(self) -> ClassifierSettings:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"warmup_epochs must be below epochs, got {self.warmup_epochs} with epochs {self.epochs}; "
                "shorten the warm-up or lengthen the run"
            )
        self.plans()
        return self

    def warmup_length(self) -> int:
        return self.warmup_epochs

    def plans(self) -> dict[str, list[float]]:
        return {"lr": lr_plan(plan_spec(self.lr_decay), self.lr, self.epochs, self.warmup_epochs, self.warmup_lr)}

    def dead(self) -> dict[str, str]:
        dead: dict[str, str] = {}
        if self.optimizer == "adam":
            dead["momentum"] = "adam does not read it"
        if self.warmup_epochs == 0:
            dead["warmup_lr"] = "there is no warm-up"
        elif not self._reads_warmup_lr():
            dead["warmup_lr"] = f"the plan {self.lr_decay!r} ignores the warm-up"
        return dead

    def dead_delay(self) -> dict[str, str]:
        """Return ``warmup_epochs`` if it does nothing in a method that only delays its lr decay by it."""
        if not reads_warmup_lr(plan_spec(self.lr_decay)):
            return {"warmup_epochs": f"the plan {self.lr_decay!r} ignores the warm-up"}
        if self.warmup_lr is None and isinstance(self.lr_decay, DecayShape) and self.lr_decay.shape == "constant":
            return {"warmup_epochs": "warm-up and the rest have the same lr"}
        return {}

    def _reads_warmup_lr(self) -> bool:
        return reads_warmup_lr(plan_spec(self.lr_decay))


def plan_spec(decay: str | DecayShape) -> str | Mapping[str, Any]:
    """Return the decay in the form that :func:`tune_lnl.config.lr_plans.lr_plan` takes."""
    return decay if isinstance(decay, str) else decay.model_dump(exclude_none=True)


class StandardSettings(ClassifierSettings):
    """Settings of ``standard``; ``warmup_epochs`` only delays the lr decay."""

    def dead(self) -> dict[str, str]:
        return super().dead() | self.dead_delay()
