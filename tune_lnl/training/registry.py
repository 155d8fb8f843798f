"""Training classes by method name. The names stand in :mod:`tune_lnl.config.registry`."""

from __future__ import annotations

from tune_lnl.config.registry import METHOD_NAMES, settings_type
from tune_lnl.config.trial import TrialConfig
from tune_lnl.training.loop import Surroundings, Training


def training_type(method: str) -> type[Training]:
    """Return the training class of a method.

    Raises:
        InputError: no such method (with the nearest name), a name that two packages register, or an installed package
            whose method cannot be used.
    """
    found = METHOD_NAMES.load(method)
    if not (isinstance(found, type) and issubclass(found, Training)):
        raise METHOD_NAMES.unusable(method, "must be a tune_lnl.training.loop.Training")
    settings_type(method)
    return found


def start_training(config: TrialConfig, surroundings: Surroundings) -> Training:
    """Build a training at epoch 0: load the data, initialise the networks from the config's seed."""
    return training_type(config.method)(config, surroundings)
