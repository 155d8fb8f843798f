"""Hyperparameter search for learning with noisy labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tune_lnl.interruption import answer_signals
from tune_lnl.version import __version__

answer_signals()  # before the imports of a command, which take up to seconds

if TYPE_CHECKING:
    from tune_lnl.api import run_search
    from tune_lnl.reporting.figures import load_run

__all__ = ["__version__", "load_run", "run_search"]

_HOMES = {"load_run": "tune_lnl.reporting.figures", "run_search": "tune_lnl.api"}


def __getattr__(name: str) -> Any:
    """Import the search on first use: training alone works on a machine without Ray and Optuna, and starts sooner."""
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
