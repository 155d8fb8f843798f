"""All knowledge of Optuna beyond its public interface; ``test_optuna_compat.py`` names the line that breaks."""

from __future__ import annotations

from typing import Any

from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial

SCHEMA_MISMATCH = "compatible with the table schema"
"""In the RuntimeError of ``RDBStorage`` over tables of another version of Optuna."""

FIXED_PARAMS = "fixed_params"
"""The system attribute in which ``Study.enqueue_trial`` keeps the given settings until the trial is asked for."""


def given_params(trial: FrozenTrial) -> dict[str, Any]:
    """Return the settings of a trial that need no suggestion: enqueued ones, and ones suggested before."""
    return {**trial.system_attrs.get(FIXED_PARAMS, {}), **trial.params}


def end_connections(storage: RDBStorage) -> None:
    """Close the connections of a storage; its ``engine`` is no promised attribute."""
    storage.remove_session()
    storage.engine.dispose()
