"""Settings of Co-teaching and JoCoR, whose networks learn from the samples with the smallest losses."""

from __future__ import annotations

from pydantic import Field

from tune_lnl.config.base import EPOCHS
from tune_lnl.config.classifier import ClassifierSettings

BETA1 = 0.9
"""Default beta1 of adam."""


def remember_rate(epoch: int, forget_rate: float, num_gradual: int, exponent: float = 1.0) -> float:
    """Return R(T), the share of every batch that is trained on in an epoch, in (0, 1].

    Args:
        epoch: counted from 0, so that T is ``epoch + 1``.
        forget_rate: τ, the share that is left out in the end, in [0, 1).
        num_gradual: T_k, epochs until then (with ``exponent`` 1), at least 1.
        exponent: c, above 0.

    Raises:
        ValueError: one of them is out of its range.
    """
    if not (epoch >= 0 and 0 <= forget_rate < 1 and num_gradual >= 1 and exponent > 0):
        raise ValueError(
            "epoch is at least 0, forget_rate in [0, 1), num_gradual at least 1 and exponent above 0, got "
            f"{epoch}, {forget_rate}, {num_gradual} and {exponent}"
        )
    return 1 - forget_rate * min(float((epoch + 1) ** exponent) / num_gradual, 1.0)


class SmallLossSettings(ClassifierSettings):
    """Settings of both methods; names and defaults as in the released codes.

    ``warmup_epochs`` only delays the lr decay.
    """

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
        """Return the later of two epochs: the left-out share is full, or the lr decay begins."""
        return max(super().warmup_length(), min(self.num_gradual, self.epochs - 1))

    def remember_rate(self, epoch: int) -> float:
        """Return the share of every batch that is trained on in an epoch (0-based)."""
        return remember_rate(epoch, self.forget_rate, self.num_gradual, self.exponent)

    def decay_start(self) -> int | None:
        """Return the last epoch (0-based) before the lr first falls; ``None`` if it never does."""
        lr = self.plans()["lr"]
        return next((epoch for epoch in range(self.warmup_epochs, self.epochs - 1) if lr[epoch + 1] < lr[epoch]), None)

    def beta1(self, epoch: int) -> float:
        """Return beta1 of adam in an epoch (0-based)."""
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


class CoTeachingSettings(SmallLossSettings):
    """Settings of ``co_teaching``."""


class JocorSettings(SmallLossSettings):
    """Settings of ``jocor``."""

    co_lambda: float = Field(
        0.1,
        ge=0.0,
        lt=1.0,
        description="weight of the networks' agreement in the loss (released default: 0.1; paper: 0.05 to 0.95)",
    )
