"""Settings of PurifyNet."""

from __future__ import annotations

from pydantic import Field, model_validator

from tune_lnl.config.base import EPOCHS, STAGE
from tune_lnl.config.reid import ReidSettings


class PurifySettings(ReidSettings):
    """Settings of ``purifynet`` (released train_pnet.py)."""

    reweight_epochs: int = Field(
        ge=1, json_schema_extra=STAGE, description="epochs of the second stage (released: 41 after 41 of the first)"
    )
    lr_step: int = Field(
        20, ge=1, json_schema_extra=EPOCHS, description="the lr drops by ten this often, anew in each stage"
    )
    ramp_epochs: int = Field(
        60, ge=1, json_schema_extra=EPOCHS, description="the weight of own labels would be 1 here; it stops at 0.5"
    )

    @model_validator(mode="after")
    def _stages_fill_the_run(self) -> PurifySettings:
        if self.reweight_epochs >= self.epochs:
            raise ValueError(
                f"reweight_epochs must be below epochs, got {self.reweight_epochs} with epochs {self.epochs}: "
                "the second stage needs the first one's labels"
            )
        return self

    @property
    def refine_stage_epochs(self) -> int:
        """Length of the first stage."""
        return self.epochs - self.reweight_epochs

    def warmup_length(self) -> int:
        return self.refine_stage_epochs

    def dead(self) -> dict[str, str]:
        dead = super().dead()
        if self.refine_stage_epochs == 1:
            dead["ramp_epochs"] = "the weight of own labels starts the same for any ramp"
        return dead

    def lr_factor_at(self, epoch: int) -> float:
        first = self.refine_stage_epochs
        return float(0.1 ** ((epoch if epoch < first else epoch - first) // self.lr_step))
