"""A search space as plain values, as YAML gives it, for tests of what changes such values."""

from __future__ import annotations

from typing import Any

RANGE = {"type": "uniform", "low": 0.0, "high": 1.0}
SPACE: dict[str, Any] = {
    "method": "act",
    "dataset": {"name": "digits8no"},
    "fixed": {"epochs": 100, "weight_decay": 5e-4, "tau": 0.025},
    "search": {"lr": RANGE, "lr_asymmetry": RANGE, "warmup_epochs": {"type": "int", "low": 10, "high": 40, "step": 10}},
    "start": [
        {"lr": 0.01, "lr_asymmetry": 8, "warmup_epochs": 30},
        {"lr": 0.02, "lr_asymmetry": 1, "warmup_epochs": 20},
    ],
}
