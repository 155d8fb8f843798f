"""Datasets by name. The names stand in :mod:`tune_lnl.config.registry`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from tune_lnl.config.datasets import DatasetOptions
from tune_lnl.config.registry import DATASET_NAMES, DATASETS, dataset_names, dataset_options
from tune_lnl.datasets.base import ClassDataset, Dataset
from tune_lnl.errors import InputError, nearest


def get_dataset(name: str) -> Dataset[Any]:
    """Return the dataset registered under `name`.

    Raises:
        InputError: an unknown name (with the nearest ones), a name that two packages register, or an installed package
            whose dataset cannot be used.
    """
    found = DATASET_NAMES.load(name)
    if not (isinstance(found, type) and issubclass(found, Dataset)):
        raise DATASET_NAMES.unusable(name, "must be a tune_lnl.datasets.base.Dataset")
    if found.name != name:
        # Its packed images and the settings of a run are stored under its own name.
        raise DATASET_NAMES.unusable(name, f"calls itself {found.name!r}; both names must be the same")
    try:
        return found()
    except TypeError as error:
        if name in DATASETS:
            raise
        raise DATASET_NAMES.unusable(name, f"cannot be made: {error}") from error


def get_class_dataset(name: str) -> ClassDataset[Any]:
    """Return the dataset registered under `name`, whose images have one class each.

    Raises:
        InputError: as :func:`get_dataset`, or a dataset for something else.
    """
    dataset = get_dataset(name)
    if not isinstance(dataset, ClassDataset):
        raise InputError(
            f"dataset {name!r} is for {dataset.task}, and classification was asked for\n"
            "choose another dataset or method"
        )
    return dataset


def parse_options(settings: Mapping[str, object]) -> DatasetOptions:
    """Return validated options from the mapping under `dataset:`. Its `name` decides which options exist.

    Raises:
        InputError: no name, an unknown dataset, an unknown key (with the nearest ones) or a value out of range.
    """
    name = settings.get("name")
    if not isinstance(name, str):
        raise InputError(f"dataset.name must be a dataset's name, got {name!r}\nvalid: {', '.join(dataset_names())}")
    options_class = dataset_options(name)
    try:
        return options_class.model_validate(dict(settings))
    except ValidationError as error:
        raise InputError("\n".join(_explain(error, options_class))) from error


def _explain(error: ValidationError, options_class: type[DatasetOptions]) -> list[str]:
    """Return one line per wrong key."""
    lines: dict[str, str] = {}
    for problem in error.errors(include_url=False):
        key = str(problem["loc"][0]) if problem["loc"] else ""
        if problem["type"] == "extra_forbidden" and len(problem["loc"]) == 1:
            lines[key] = f"unknown key dataset.{key}; {nearest(key, options_class.model_fields)}"
        else:
            rule = options_class.model_fields[key].description or problem["msg"]
            lines.setdefault(key, f"dataset.{key}: {problem['msg']}, got {problem['input']!r}\n{key} is {rule}")
    return list(lines.values())
