"""Datasets by name; those of installed packages are in tests/test_plugins.py."""

from __future__ import annotations

import pytest

from tune_lnl.config.datasets import NoiseFile, NoisyLabelOptions
from tune_lnl.config.registry import dataset_names
from tune_lnl.datasets.registry import get_class_dataset, get_dataset, parse_options
from tune_lnl.datasets.reid.data import get_reid_dataset
from tune_lnl.errors import InputError


def test_names() -> None:
    assert {"cifar100nc", "cifar80no", "cifar10n", "digits8no"} <= set(dataset_names())
    assert all(get_dataset(name).name == name for name in dataset_names())


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(InputError, match=r"unknown dataset 'cifar80nc'; did you mean 'cifar"):
        get_dataset("cifar80nc")


def test_parse_options() -> None:
    options = parse_options({"name": "cifar80no", "noise": {"file": "a.csv", "column": "b"}, "subset": 1})
    assert isinstance(options, NoisyLabelOptions)
    assert options.noise == NoiseFile(file="a.csv", column="b")
    assert options.subset == 1.0
    assert options.closed_ratio == 0.2


def test_parse_options_needs_a_name() -> None:
    with pytest.raises(InputError, match=r"dataset\.name must be"):
        parse_options({"subset": 0.5})


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(InputError) as raised:
        parse_options({"name": "digits8no", "subset": 2, "closed_ratio": -1, "nois": "none"})
    for key in ("subset", "closed_ratio", "nois"):
        assert f"dataset.{key}" in str(raised.value)


def test_a_dataset_for_another_task_is_refused() -> None:
    with pytest.raises(InputError, match="dataset 'sprites' is for re-identification, and classification was asked"):
        get_class_dataset("sprites")
    with pytest.raises(InputError, match="dataset 'digits8no' is for classification, and re-identification was asked"):
        get_reid_dataset("digits8no")
