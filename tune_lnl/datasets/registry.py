"""Names of datasets. A new one is a file and a line here; other packages add theirs through the entry point group."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import ValidationError

from tune_lnl.datasets.base import Dataset, ImageDataset
from tune_lnl.datasets.options import DatasetOptions
from tune_lnl.errors import InputError, nearest
from tune_lnl.registry import Names

ENTRY_POINT_GROUP = "tune_lnl.datasets"

DATASETS: dict[str, str] = {
    "cifar100nc": "tune_lnl.datasets.images.cifar:Cifar100NC",
    "cifar80no": "tune_lnl.datasets.images.cifar:Cifar80NO",
    "cifar10n": "tune_lnl.datasets.images.cifar:Cifar10N",
    "clothing1m": "tune_lnl.datasets.pictures.clothing:Clothing1M",
    "cuhk03": "tune_lnl.datasets.reid.sets:Cuhk03",
    "digits8no": "tune_lnl.datasets.images.digits:Digits8NO",
    "dukemtmc": "tune_lnl.datasets.reid.sets:DukeMTMC",
    "folder": "tune_lnl.datasets.pictures.folder:ImageFolder",
    "food101n": "tune_lnl.datasets.pictures.food:Food101N",
    "market1501": "tune_lnl.datasets.reid.sets:Market1501",
    "sprites": "tune_lnl.datasets.reid.sprites:Sprites",
    "web_aircraft": "tune_lnl.datasets.pictures.web:WebAircraft",
    "web_bird": "tune_lnl.datasets.pictures.web:WebBird",
    "web_car": "tune_lnl.datasets.pictures.web:WebCar",
}


NAMES = Names("dataset", ENTRY_POINT_GROUP, DATASETS)


def dataset_names() -> list[str]:
    """All names, sorted: the built-in ones and those of installed packages, none of them imported."""
    return NAMES.all()


def get_dataset(name: str) -> Dataset:
    """The dataset registered under `name`.

    Raises:
        InputError: an unknown name (with the nearest ones), a name that two packages offer, or an installed package
            whose dataset cannot be used.
    """
    found = NAMES.load(name)
    if not (isinstance(found, type) and issubclass(found, Dataset)):
        raise NAMES.unusable(name, "must be a tune_lnl.datasets.base.Dataset")
    if found.name != name:
        # Its packed images and the settings of a run go by its own name.
        raise NAMES.unusable(name, f"calls itself {found.name!r}; both names must be the same")
    try:
        return found()
    except TypeError as error:
        if name in DATASETS:
            raise
        raise NAMES.unusable(name, f"cannot be made: {error}") from error


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
