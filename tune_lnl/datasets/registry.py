"""Names of datasets. A new one is a file and a line here; other packages add theirs through the entry point group."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from importlib.metadata import entry_points

from pydantic import ValidationError

from tune_lnl.datasets.base import Dataset, ImageDataset
from tune_lnl.datasets.options import DatasetOptions
from tune_lnl.errors import InputError, nearest

ENTRY_POINT_GROUP = "tune_lnl.datasets"

DATASETS: dict[str, str] = {
    "cifar100nc": "tune_lnl.datasets.cifar:Cifar100NC",
    "cifar80no": "tune_lnl.datasets.cifar:Cifar80NO",
    "cifar10n": "tune_lnl.datasets.cifar:Cifar10N",
    "clothing1m": "tune_lnl.datasets.clothing:Clothing1M",
    "cuhk03": "tune_lnl.datasets.reid:Cuhk03",
    "digits8no": "tune_lnl.datasets.digits:Digits8NO",
    "dukemtmc": "tune_lnl.datasets.reid:DukeMTMC",
    "folder": "tune_lnl.datasets.folder:ImageFolder",
    "food101n": "tune_lnl.datasets.food:Food101N",
    "market1501": "tune_lnl.datasets.reid:Market1501",
    "sprites": "tune_lnl.datasets.sprites:Sprites",
    "web_aircraft": "tune_lnl.datasets.web:WebAircraft",
    "web_bird": "tune_lnl.datasets.web:WebBird",
    "web_car": "tune_lnl.datasets.web:WebCar",
}


def dataset_names() -> list[str]:
    """All names, sorted: the built-in ones and those of installed packages."""
    return sorted(_locations())


def get_dataset(name: str) -> Dataset:
    """The dataset registered under `name`.

    Raises:
        InputError: an unknown name (with the nearest ones), or an installed package whose dataset cannot be imported.
    """
    # Entry points take milliseconds to collect, and a search asks for its dataset hundreds of times.
    locations = DATASETS if name in DATASETS else _locations()
    if name not in locations:
        raise InputError(f"unknown dataset {name!r}\n{nearest(name, locations)}")
    module, _, attribute = locations[name].partition(":")
    try:
        dataset_class = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        if name in DATASETS:
            raise
        raise InputError(
            f"dataset {name!r} comes from {locations[name]}, which cannot be imported: {error}\n"
            "repair or uninstall the package that provides it"
        ) from error
    dataset = dataset_class()
    if not isinstance(dataset, Dataset):
        raise InputError(f"dataset {name!r} must be a tune_lnl.datasets.base.Dataset, got {locations[name]}")
    return dataset


def get_image_dataset(name: str) -> ImageDataset:
    """The classification dataset registered under `name`.

    Raises:
        InputError: as :func:`get_dataset`, or a dataset for something else.
    """
    dataset = get_dataset(name)
    if not isinstance(dataset, ImageDataset):
        raise InputError(f"dataset {name!r} is for {dataset.task}, and classification was asked for")
    return dataset


def parse_options(settings: Mapping[str, object]) -> DatasetOptions:
    """Checked options from the mapping under `dataset:`; its `name` decides which options there are.

    Raises:
        InputError: no name, an unknown dataset, an unknown key (with the nearest ones) or a value out of range.
    """
    name = settings.get("name")
    if not isinstance(name, str):
        raise InputError(f"dataset.name must be a dataset's name, got {name!r}\nvalid: {', '.join(dataset_names())}")
    options_class = get_dataset(name).Options
    try:
        return options_class.model_validate(dict(settings))
    except ValidationError as error:
        raise InputError("\n".join(_explain(error, options_class))) from error


def _explain(error: ValidationError, options_class: type[DatasetOptions]) -> list[str]:
    """One line per offending key."""
    lines: dict[str, str] = {}
    for problem in error.errors(include_url=False):
        key = str(problem["loc"][0]) if problem["loc"] else ""
        if problem["type"] == "extra_forbidden" and len(problem["loc"]) == 1:
            lines[key] = f"unknown key dataset.{key}; {nearest(key, options_class.model_fields)}"
        else:
            rule = options_class.model_fields[key].description or problem["msg"]
            lines.setdefault(key, f"dataset.{key}: {problem['msg']}, got {problem['input']!r}\n{key} is {rule}")
    return list(lines.values())


def _locations() -> dict[str, str]:
    # Built-in names come last: an installed package cannot quietly replace the dataset that a published number is for.
    return {point.name: point.value for point in entry_points(group=ENTRY_POINT_GROUP)} | DATASETS
