"""Settings of CORE, co-refining for person re-ID, and of its first stage alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from tune_lnl.config.base import STAGE, Knob
from tune_lnl.config.reid import MilestoneSettings


class SelfRefineSettings(MilestoneSettings):
    """Settings of ``self_refine``: the SELF stage alone, one network."""

    refine_weight_from: Literal["given", "refined"] = Field(
        "given",
        description="which mean loss of the previous epoch sets the weight of the network's own labels: cross-entropy "
        "on the given labels (paper, Eq. 4), or the refined loss itself (released train_core.py)",
    )

    def self_length(self) -> int:
        """Return the number of epochs of the SELF stage."""
        return self.epochs

    def dead(self) -> dict[str, str]:
        dead = super().dead()
        if self.self_length() == 1:
            dead["refine_weight_from"] = "the first epoch of SELF is plain cross-entropy"
        return dead


class CoreSettings(SelfRefineSettings):
    """Settings of CORE. Only the SELF stage reads the given labels."""

    knobs: ClassVar[dict[str, Knob]] = {
        "self_epochs": Knob("refine_epochs", "epochs of the large-lr SELF stage, the rest", counts_epochs=True)
    }

    refine_epochs: int = Field(
        ge=1, json_schema_extra=STAGE, description="epochs of the co-refining stage (paper: the last 40 of 60)"
    )
    soft_weight: float = Field(1.0, ge=0.0, description="weight of the soft-label term (released: 1)")
    selective: Literal["none", "mask", "code"] = Field(
        "none",
        description="label term on every sample (released script), on those both networks agree on (paper's figure), "
        "or, code, scaled by the share of agreement (released CoRefineLossPLus)",
    )

    @model_validator(mode="before")
    @classmethod
    def _derive_refine_epochs(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        given = dict(values)
        stage = given.pop("self_epochs", None)
        epochs, refine = given.get("epochs"), given.get("refine_epochs")
        if stage is None:
            return given
        if not isinstance(stage, int) or isinstance(stage, bool) or not isinstance(epochs, int):
            raise ValueError(f"self_epochs is a whole number of epochs, got {stage!r} with epochs {epochs!r}")
        if refine is None:
            given["refine_epochs"] = epochs - stage
        elif refine != epochs - stage:
            raise ValueError(
                f"self_epochs and refine_epochs fill epochs, got {stage} and {refine!r} of {epochs}; give only one"
            )
        return given

    @model_validator(mode="after")
    def _stages_fill_the_run(self) -> CoreSettings:
        if self.refine_epochs >= self.epochs:
            raise ValueError(
                f"refine_epochs must be below epochs, got {self.refine_epochs} with epochs {self.epochs}: the "
                "co-refining stage reads no given labels, so a SELF stage comes first"
            )
        return self

    @property
    def self_epochs(self) -> int:
        """Length of the SELF stage."""
        return self.epochs - self.refine_epochs

    def derived(self) -> dict[str, Any]:
        return {"self_epochs": self.self_epochs}

    def warmup_length(self) -> int:
        return self.self_epochs

    def large_lr_epochs(self) -> int:
        return self.self_epochs

    def self_length(self) -> int:
        return self.self_epochs
