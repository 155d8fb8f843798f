"""Methods by name; those of installed packages are in tests/test_plugins.py."""

from __future__ import annotations

import pytest

from tune_lnl.config.act import ActSettings
from tune_lnl.config.registry import method_names, settings_type
from tune_lnl.errors import InputError
from tune_lnl.training.loop import Training
from tune_lnl.training.registry import training_type


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
