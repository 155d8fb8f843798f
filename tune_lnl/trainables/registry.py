"""Methods by name. A method is one file and one line here; other packages add theirs by entry point."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points

from tune_lnl.errors import InputError, nearest
from tune_lnl.trainables.settings import MethodSettings, TrialConfig
from tune_lnl.trainables.training import Surroundings, Training

METHODS: dict[str, str] = {
    "act": "tune_lnl.trainables.act:ActTraining",
    "co_teaching": "tune_lnl.trainables.co_teaching:CoTeachingTraining",
    "core": "tune_lnl.trainables.core:CoreTraining",
    "jocor": "tune_lnl.trainables.jocor:JocorTraining",
    "purifynet": "tune_lnl.trainables.purifynet:PurifyTraining",
    "reid_standard": "tune_lnl.trainables.reid_standard:ReidStandardTraining",
    "self_refine": "tune_lnl.trainables.core:SelfRefineTraining",
    "standard": "tune_lnl.trainables.standard:StandardTraining",
}

ENTRY_POINTS = "tune_lnl.methods"


def _locations() -> dict[str, str]:
    return {point.name: point.value for point in entry_points(group=ENTRY_POINTS)} | METHODS


def method_names() -> list[str]:
    return sorted(_locations())


def training_type(method: str) -> type[Training]:
    """The training class of a method.

    Raises:
        InputError: no such method, with the nearest name, or an installed package whose method cannot be imported.
    """
    # Entry points take milliseconds to collect, and a search asks for its method hundreds of times.
    locations = METHODS if method in METHODS else _locations()
    if method not in locations:
        raise InputError(f"unknown method {method!r}; {nearest(method, locations)}")
    module, _, name = locations[method].partition(":")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        if method in METHODS:
            raise
        raise InputError(
            f"method {method!r} comes from {locations[method]}, which cannot be imported: {error}\n"
            "repair or uninstall the package that provides it"
        ) from None
    if not (isinstance(found, type) and issubclass(found, Training)):
        raise InputError(f"method {method!r} must be a tune_lnl.trainables.training.Training, got {locations[method]}")
    return found


def settings_type(method: str) -> type[MethodSettings]:
    """The settings a method reads.

    Raises:
        InputError: no such method, with the nearest name.
    """
    return training_type(method).Settings


def start_training(config: TrialConfig, surroundings: Surroundings) -> Training:
    """Build a run at epoch 0: data loaded, networks initialised from the config's seed."""
    return training_type(config.method)(config, surroundings)
