"""An unexpected exception ends in two lines, and its traceback is in a file."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import NoReturn

import pytest

from tune_lnl.bugs import LOG_BYTES, write_traceback
from tune_lnl.cli import guarded


def broken(argv: list[str] | None) -> NoReturn:
    raise KeyError("space\x1b[2J\nmore")


def test_two_lines_and_the_traceback_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TUNE_LNL_CACHE", str(tmp_path / "cache"))
    assert guarded(broken)([]) == 1
    told = capsys.readouterr()
    first, second = told.err.splitlines()
    assert first.startswith("error: unexpected KeyError: 'space")
    assert "\x1b" not in told.err
    assert f"the traceback is in {tmp_path / 'cache' / 'errors.log'}; please report it" in second
    log = (tmp_path / "cache" / "errors.log").read_text()
    assert "Traceback (most recent call last)" in log
    assert "in broken" in log
    assert told.out == ""


def test_a_package_that_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TUNE_LNL_CACHE", str(tmp_path))

    def incomplete(argv: list[str] | None) -> NoReturn:
        import_module("no_such_package.part")
        raise AssertionError

    assert guarded(incomplete)([]) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert "'no_such_package' is not installed: the installation of tune_lnl is incomplete" in first
    assert "make install" in second
    assert not (tmp_path / "errors.log").exists()


def test_the_log_does_not_grow_without_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNE_LNL_CACHE", str(tmp_path))
    (tmp_path / "errors.log").write_text("x" * (LOG_BYTES + 1))
    guarded(broken)([])
    guarded(broken)([])
    assert (tmp_path / "errors.log.old").read_text() == "x" * (LOG_BYTES + 1)
    assert (tmp_path / "errors.log").read_text().count("Traceback") == 2


def test_the_log_of_the_run_is_named_where_a_search_has_written_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def search(argv: list[str] | None) -> NoReturn:
        try:
            raise RuntimeError("of the search")
        except RuntimeError as error:
            write_traceback(error, tmp_path / "search.log")
            raise

    assert guarded(search)([]) == 1
    assert f"the traceback is in {tmp_path / 'search.log'};" in capsys.readouterr().err
    assert (tmp_path / "search.log").read_text().count("RuntimeError: of the search") == 1


def test_a_cache_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cache").write_text("a file")
    monkeypatch.setenv("TUNE_LNL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert guarded(broken)([]) == 1
    _, second = capsys.readouterr().err.splitlines()
    assert f"the traceback is in {tmp_path}/tune_lnl-" in second
