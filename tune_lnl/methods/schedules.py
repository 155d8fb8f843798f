"""Learning-rate plans. They are read with the settings and live in :mod:`tune_lnl.config.lr_plans`."""

from __future__ import annotations

from tune_lnl.config.lr_plans import PlanSpec, lr_plan, parse_plan, reads_warmup_lr, scale_plan

__all__ = ["PlanSpec", "lr_plan", "parse_plan", "reads_warmup_lr", "scale_plan"]
