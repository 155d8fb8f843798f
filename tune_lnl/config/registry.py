"""Methods and datasets by name. Each is one line here; other packages add theirs by entry point.

A name stands for two classes, both imported only when they are asked for: its settings, which need no torch, and what
trains or loads. Looking up settings does not import the other one.
"""

from __future__ import annotations

from tune_lnl.config.base import MethodSettings
from tune_lnl.config.datasets import DatasetOptions
from tune_lnl.registry import Names, Registered

METHODS: dict[str, Registered] = {
    "act": Registered("tune_lnl.training.act:ActTraining", "tune_lnl.config.act:ActSettings"),
    "co_teaching": Registered(
        "tune_lnl.training.small_loss:CoTeachingTraining", "tune_lnl.config.small_loss:CoTeachingSettings"
    ),
    "core": Registered("tune_lnl.training.core:CoreTraining", "tune_lnl.config.core:CoreSettings"),
    "jocor": Registered("tune_lnl.training.small_loss:JocorTraining", "tune_lnl.config.small_loss:JocorSettings"),
    "purifynet": Registered("tune_lnl.training.purifynet:PurifyTraining", "tune_lnl.config.purifynet:PurifySettings"),
    "reid_standard": Registered(
        "tune_lnl.training.reid_standard:ReidStandardTraining", "tune_lnl.config.reid:ReidStandardSettings"
    ),
    "self_refine": Registered("tune_lnl.training.core:SelfRefineTraining", "tune_lnl.config.core:SelfRefineSettings"),
    "standard": Registered(
        "tune_lnl.training.standard:StandardTraining", "tune_lnl.config.classifier:StandardSettings"
    ),
}

NOISY = "tune_lnl.config.datasets:NoisyLabelOptions"
PUBLISHED = "tune_lnl.config.datasets:PublishedOptions"
REID = "tune_lnl.config.datasets:ReidOptions"

DATASETS: dict[str, Registered] = {
    "cifar100nc": Registered("tune_lnl.datasets.images.cifar:Cifar100NC", NOISY),
    "cifar80no": Registered("tune_lnl.datasets.images.cifar:Cifar80NO", NOISY),
    "cifar10n": Registered("tune_lnl.datasets.images.cifar:Cifar10N", NOISY),
    "clothing1m": Registered("tune_lnl.datasets.pictures.clothing:Clothing1M", PUBLISHED),
    "cuhk03": Registered("tune_lnl.datasets.reid.sets:Cuhk03", "tune_lnl.config.datasets:Cuhk03Options"),
    "digits8no": Registered("tune_lnl.datasets.images.digits:Digits8NO", "tune_lnl.config.datasets:DigitsOptions"),
    "dukemtmc": Registered("tune_lnl.datasets.reid.sets:DukeMTMC", REID),
    "folder": Registered("tune_lnl.datasets.pictures.folder:ImageFolder", "tune_lnl.config.datasets:FolderOptions"),
    "food101n": Registered("tune_lnl.datasets.pictures.food:Food101N", PUBLISHED),
    "market1501": Registered("tune_lnl.datasets.reid.sets:Market1501", REID),
    "sprites": Registered("tune_lnl.datasets.reid.sprites:Sprites", REID),
    "web_aircraft": Registered("tune_lnl.datasets.pictures.web:WebAircraft", PUBLISHED),
    "web_bird": Registered("tune_lnl.datasets.pictures.web:WebBird", PUBLISHED),
    "web_car": Registered("tune_lnl.datasets.pictures.web:WebCar", PUBLISHED),
}

METHOD_NAMES = Names("method", "tune_lnl.methods", METHODS)
DATASET_NAMES = Names("dataset", "tune_lnl.datasets", DATASETS)


def method_names() -> list[str]:
    """Return all method names, sorted: built-in ones and those of installed packages. Import none of them."""
    return METHOD_NAMES.all()


def dataset_names() -> list[str]:
    """Return all dataset names, sorted: built-in ones and those of installed packages. Import none of them."""
    return DATASET_NAMES.all()


def settings_type(method: str) -> type[MethodSettings]:
    """Return the settings class of a method: the registered one, else the ``Settings`` of its training class.

    Raises:
        InputError: no such method (with the nearest name), a name that two packages register, or an installed package
            whose method cannot be used.
    """
    found = METHOD_NAMES.load_settings(method, "Settings")
    if not (isinstance(found, type) and issubclass(found, MethodSettings)):
        raise METHOD_NAMES.unusable(method, "has no Settings, a tune_lnl.config.base.MethodSettings")
    return found


def dataset_options(name: str) -> type[DatasetOptions]:
    """Return the options class of a dataset: the registered one, else the ``Options`` of its class.

    Raises:
        InputError: as :func:`settings_type`.
    """
    found = DATASET_NAMES.load_settings(name, "Options")
    if not (isinstance(found, type) and issubclass(found, DatasetOptions)):
        raise DATASET_NAMES.unusable(name, "has no Options, a tune_lnl.config.datasets.DatasetOptions")
    return found
