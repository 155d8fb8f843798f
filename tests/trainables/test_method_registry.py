"""Methods by name, built in or from installed packages."""

from __future__ import annotations

from importlib.metadata import EntryPoint, EntryPoints

import pytest

from tune_lnl.errors import InputError
from tune_lnl.trainables import registry
from tune_lnl.trainables.act import ActSettings, ActTraining
from tune_lnl.trainables.registry import method_names, settings_type, training_type
from tune_lnl.trainables.training import Training


def install(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    point = EntryPoint(name, value, registry.ENTRY_POINTS)
    monkeypatch.setattr(registry, "entry_points", lambda group: EntryPoints([point]).select(group=group))


def test_built_in_names_are_sorted_and_can_be_imported() -> None:
    assert {"act", "standard"} <= set(method_names())
    assert method_names() == sorted(method_names())
    for name in method_names():
        assert issubclass(training_type(name), Training)
        assert settings_type(name) is training_type(name).Settings
    assert settings_type("act") is ActSettings


@pytest.mark.parametrize("lookup", [training_type, settings_type])
def test_an_unknown_name_gets_the_nearest(lookup: object) -> None:
    assert callable(lookup)
    with pytest.raises(InputError, match="unknown method 'standrd'; did you mean 'standard'"):
        lookup("standrd")


def test_an_installed_package_adds_a_method(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "mine", "tune_lnl.trainables.act:ActTraining")
    assert "mine" in method_names()
    assert training_type("mine") is ActTraining


def test_an_installed_package_cannot_replace_a_built_in_method(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "act", "tune_lnl.trainables.standard:StandardTraining")
    assert training_type("act") is ActTraining


@pytest.mark.parametrize("value", ["no_such_package.mine:Training", "tune_lnl.trainables.act:NoSuchClass"])
def test_an_installed_method_that_cannot_be_imported_is_named(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "mine", value)
    with pytest.raises(InputError, match=f"'mine' comes from {value}, which cannot be imported"):
        training_type("mine")


def test_an_installed_method_of_another_kind_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "mine", "tune_lnl.trainables.act:ActSettings")
    with pytest.raises(InputError, match=r"'mine' must be a tune_lnl\.trainables\.training\.Training"):
        training_type("mine")
