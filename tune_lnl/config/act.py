"""Settings of ACT, asymmetric co-training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from tune_lnl.config.base import LR_PLAN, Knob, RemovedSetting
from tune_lnl.config.classifier import ClassifierSettings, DecayShape, plan_spec
from tune_lnl.config.lr_plans import lr_plan, reads_warmup_lr

LR1_CAP = 0.5
"""Above this lr, SGD with momentum 0.9 no longer trains this network."""


class ActSettings(ClassifierSettings):
    """Settings of ACT. Defaults follow the paper; descriptions name where the released scripts differ."""

    removed: ClassVar[Mapping[str, RemovedSetting]] = {"label_ema_classes": RemovedSetting(None, "0.1.0")}
    knobs: ClassVar[dict[str, Knob]] = {
        "lr_asymmetry": Knob("lr1", f"lr1 / lr, the asymmetry of the method; lr1 is capped at {LR1_CAP}")
    }

    lr1: float = Field(gt=0.0, description="learning rate per step of the companion network (NTM)")
    lr1_decay: str | DecayShape | None = Field(
        None, json_schema_extra=LR_PLAN, description="plan of lr1; null: as lr_decay (web scripts: baseline)"
    )
    warmup_lr1: float | None = Field(None, gt=0.0, description="lr1 during warm-up; null: as warmup_lr")
    tie_lr: bool = Field(False, description="lr1 := lr, as the released main.py always does")
    tau: float = Field(0.025, ge=0.0, description="mining is on while (a1 - a0) / a0 < tau on the batch (paper: 0.025)")
    selection: bool = Field(True, description="train the RTM on agreed samples only (module ASS)")
    mining: bool = Field(True, description="add samples that only the NTM fits (module ASM)")
    reweighting: bool = Field(True, description="weight a sample by how often it was selected (module DSRW)")
    consistency: bool = Field(True, description="pseudo labels on the strong view (module CR)")
    selection_rule: Literal["agree", "rtm"] = Field(
        "agree", description="agree: as in the paper; rtm: also samples that only the RTM fits (web scripts)"
    )
    latch_mining: bool = Field(False, description="once mining has switched off it stays off")
    penalty: Literal["exact", "code", "none"] = Field(
        "exact", description="confidence penalty in warm-up; code: on clamped logits, as released"
    )
    penalty_weight: float = Field(1.0, ge=0.0, description="weight of the confidence penalty")
    consistency_weight: float = Field(
        0.2, ge=0.0, le=1.0, description="share of the consistency term in the RTM's loss"
    )
    label_ema: float = Field(0.8, ge=0.0, lt=1.0, description="memory of the label distribution, per epoch")

    @model_validator(mode="before")
    @classmethod
    def _derive_lr1(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        given = dict(values)
        asymmetry = given.pop("lr_asymmetry", None)
        if given.get("tie_lr") is True:
            given["lr1"] = given.get("lr")
        elif asymmetry is not None:
            if "lr1" in given:
                raise ValueError(f"give lr1 or lr_asymmetry, not both (got {given['lr1']!r} and {asymmetry!r})")
            given["lr1"] = _lr1(given.get("lr"), asymmetry)
        return given

    def plans(self) -> dict[str, list[float]]:
        warmup = self.warmup_lr if self.warmup_lr1 is None else self.warmup_lr1
        lr1 = lr_plan(plan_spec(self._companion_decay), self.lr1, self.epochs, self.warmup_epochs, warmup)
        return super().plans() | {"lr1": lr1}

    @property
    def _companion_decay(self) -> str | DecayShape:
        return self.lr_decay if self.lr1_decay is None else self.lr1_decay

    def dead(self) -> dict[str, str]:
        dead = super().dead() | self._dead_warmup()
        if self.tie_lr:
            dead |= dict.fromkeys(("lr1", "lr_asymmetry"), "tie_lr makes lr1 equal to lr")
        if not self.selection:
            # Every sample is selected in every epoch: its weight is 1 and its corrected label the given one.
            unread = ("tau", "mining", "selection_rule", "latch_mining", "label_ema", "reweighting")
            dead |= dict.fromkeys(unread, "selection is off")
        elif not self.mining:
            dead |= dict.fromkeys(("tau", "latch_mining"), "mining is off")
        if not self.consistency:
            dead |= dict.fromkeys(("consistency_weight", "label_ema"), "consistency is off")
        elif self.consistency_weight == 0:
            dead["label_ema"] = "consistency has no weight"
        elif self.consistency_weight == 1:
            dead["reweighting"] = "only consistency has weight"
        return dead

    def _dead_warmup(self) -> dict[str, str]:
        if self.warmup_epochs == 0:
            return dict.fromkeys(("warmup_lr1", "penalty", "penalty_weight"), "there is no warm-up")
        dead: dict[str, str] = {}
        if not reads_warmup_lr(plan_spec(self._companion_decay)):
            dead["warmup_lr1"] = f"the plan {self._companion_decay!r} ignores the warm-up"
        if self.penalty == "none":
            dead["penalty_weight"] = "there is no confidence penalty"
        elif self.penalty_weight == 0:
            dead["penalty"] = "the confidence penalty has no weight"
        return dead

    def _reads_warmup_lr(self) -> bool:
        follows = self.warmup_lr1 is None and reads_warmup_lr(plan_spec(self._companion_decay))
        return super()._reads_warmup_lr() or follows


def _lr1(lr: Any, asymmetry: Any) -> float:
    for value in (lr, asymmetry):
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
            raise ValueError(f"lr_asymmetry is a number above 0 that multiplies lr, got {asymmetry!r} with lr {lr!r}")
    return min(LR1_CAP, float(lr) * float(asymmetry))
