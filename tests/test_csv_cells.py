"""What a spreadsheet must not run."""

from __future__ import annotations

import pytest

from tune_lnl.csv_cells import FORMULA_SIGNS, no_formula


@pytest.mark.parametrize("sign", FORMULA_SIGNS)
def test_what_looks_like_a_formula_gets_an_apostrophe(sign: str) -> None:
    assert no_formula(f"{sign}cmd|'/c calc'!A1") == f"'{sign}cmd|'/c calc'!A1"
    assert no_formula(f"{sign}2") == f"'{sign}2"
    assert no_formula(sign) == f"'{sign}"


@pytest.mark.parametrize("cell", ["", "cat", "a=b", "1", "猫"])
def test_what_does_not_stays(cell: str) -> None:
    assert no_formula(cell) == cell
