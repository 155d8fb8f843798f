from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from tune_lnl.datasets import registry
from tune_lnl.datasets.options import NoiseFile, NoisyLabelOptions
from tune_lnl.datasets.registry import dataset_names, get_dataset, get_image_dataset, parse_options
from tune_lnl.errors import InputError


def provide(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    point = EntryPoint(name=name, value=value, group=registry.ENTRY_POINT_GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [point] if group == point.group else [])


def test_names() -> None:
    assert {"cifar100nc", "cifar80no", "cifar10n", "digits8no"} <= set(dataset_names())
    assert all(get_dataset(name).name == name for name in dataset_names())


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(InputError, match=r"unknown dataset 'cifar80nc'\ndid you mean 'cifar"):
        get_dataset("cifar80nc")


def test_other_packages_add_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    provide(monkeypatch, "theirs", "tune_lnl.datasets.digits:Digits8NO")
    assert "theirs" in dataset_names()
    assert get_image_dataset("theirs").num_source_classes == 10


def test_other_packages_cannot_replace_a_built_in(monkeypatch: pytest.MonkeyPatch) -> None:
    provide(monkeypatch, "cifar10n", "tune_lnl.datasets.digits:Digits8NO")
    assert get_dataset("cifar10n").name == "cifar10n"


@pytest.mark.parametrize("value", ["no_such_package:Data", "tune_lnl.datasets.digits:Absent", "pathlib:Path"])
def test_a_broken_package_is_named(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    provide(monkeypatch, "theirs", value)
    with pytest.raises(InputError, match=f"'theirs'.*{value.partition(':')[0]}"):
        get_dataset("theirs")


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
