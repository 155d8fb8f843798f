"""How names read in messages."""

from __future__ import annotations

import pytest

from tune_lnl.errors import nearest, shown


@pytest.mark.parametrize("name", ["cat.jpg", "猫/né.png", "a b"])
def test_a_name_in_any_script_is_shown_as_it_is(name: str) -> None:
    assert shown(name) == name


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a\nb", r"a\nb"),
        ("\x1b[31m", r"\x1b[31m"),
        ("\u202egpj", r"\u202egpj"),
        ("\udcff", r"\xff"),
        ("\ud800", r"\ud800"),
    ],
)
def test_what_could_steer_a_terminal_is_escaped(name: str, said: str) -> None:
    assert shown(name) == said


def test_the_nearest_name_comes_before_all_of_them() -> None:
    assert nearest("atc", ["core", "act"]) == "did you mean 'act'? valid: act, core"
    assert nearest("zzz", ["core", "act"]) == "valid: act, core"
