"""Methods by name. A method is one file and one line here; other packages add theirs by entry point."""

from __future__ import annotations

from tune_lnl.config.settings import MethodSettings, TrialConfig
from tune_lnl.registry import Names
from tune_lnl.training.loop import Surroundings, Training

METHODS: dict[str, str] = {
    "act": "tune_lnl.training.act:ActTraining",
    "co_teaching": "tune_lnl.training.co_teaching:CoTeachingTraining",
    "core": "tune_lnl.training.core:CoreTraining",
    "jocor": "tune_lnl.training.jocor:JocorTraining",
    "purifynet": "tune_lnl.training.purifynet:PurifyTraining",
    "reid_standard": "tune_lnl.training.reid_standard:ReidStandardTraining",
    "self_refine": "tune_lnl.training.core:SelfRefineTraining",
    "standard": "tune_lnl.training.standard:StandardTraining",
}

ENTRY_POINTS = "tune_lnl.methods"
NAMES = Names("method", ENTRY_POINTS, METHODS)


def method_names() -> list[str]:
    """All names, sorted: the built-in ones and those of installed packages, none of them imported."""
    return NAMES.all()


def training_type(method: str) -> type[Training]:
    """The training class of a method.

    Raises:
        InputError: no such method, with the nearest name; a name that two packages offer; or an installed package
            whose method cannot be used.
    """
    found = NAMES.load(method)
    if not (isinstance(found, type) and issubclass(found, Training)):
        raise NAMES.unusable(method, "must be a tune_lnl.training.loop.Training")
    settings = getattr(found, "Settings", None)
    if not (isinstance(settings, type) and issubclass(settings, MethodSettings)):
        raise NAMES.unusable(method, "has no Settings, a tune_lnl.config.settings.MethodSettings")
    return found


def settings_type(method: str) -> type[MethodSettings]:
    """The settings a method reads.

    Raises:
        InputError: see :func:`training_type`.
    """
    return training_type(method).Settings


def start_training(config: TrialConfig, surroundings: Surroundings) -> Training:
    """Build a run at epoch 0: data loaded, networks initialised from the config's seed."""
    return training_type(config.method)(config, surroundings)
