"""Writing a file whole."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tune_lnl.files import FORMULA_SIGNS, no_formula, whole_file


@pytest.mark.parametrize("durable", [False, True])
def test_the_old_content_stands_until_the_end(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with whole_file(path, durable=durable) as beside:
        beside.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_the_old_content_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")

    def fail(beside: Path) -> None:
        beside.write_text("half")
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space"), whole_file(path) as beside:
        fail(beside)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_disk_has_it_before_it_takes_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.txt"
    there: list[bool] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: there.append(path.exists()))
    with whole_file(path, durable=True) as beside:
        beside.write_text("new")
    assert there == [False]


@pytest.mark.parametrize("sign", FORMULA_SIGNS)
def test_what_looks_like_a_formula_gets_an_apostrophe(sign: str) -> None:
    assert no_formula(f"{sign}cmd|'/c calc'!A1") == f"'{sign}cmd|'/c calc'!A1"
    assert no_formula(f"{sign}2") == f"'{sign}2"
    assert no_formula(sign) == f"'{sign}"


@pytest.mark.parametrize("cell", ["", "cat", "a=b", "1", "猫"])
def test_what_does_not_stays(cell: str) -> None:
    assert no_formula(cell) == cell
