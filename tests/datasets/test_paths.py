"""The search for data: data dir, environment, cache."""

from __future__ import annotations

from pathlib import Path

import pytest

from tune_lnl.datasets.paths import cache_dir, find_dataset_folder
from tune_lnl.errors import InputError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUNE_LNL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TUNE_LNL_DATA", raising=False)
    return tmp_path / "cache"


def made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "marker").touch()
    return folder


def has_marker(place: Path) -> bool:
    return (place / "marker").exists()


def found(data_dir: Path | None) -> Path | None:
    return find_dataset_folder("toy", data_dir, has_marker, cache_dir())


def test_cache_dir(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_dir() == cache
    monkeypatch.setenv("TUNE_LNL_CACHE", "~/elsewhere")
    assert cache_dir() == Path.home() / "elsewhere"
    monkeypatch.delenv("TUNE_LNL_CACHE")
    assert cache_dir() == Path.home() / ".cache" / "tune_lnl"


def test_a_data_dir_holds_the_folder_or_is_it(tmp_path: Path) -> None:
    folder = made(tmp_path / "data" / "toy")
    assert found(tmp_path / "data") == folder
    assert found(folder) == folder
    renamed = folder.rename(tmp_path / "my-copy")
    assert found(renamed) == renamed


def test_an_explicit_data_dir_is_final(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(cache / "data" / "toy")
    monkeypatch.setenv("TUNE_LNL_DATA", str(made(tmp_path / "other" / "toy").parent))
    empty = tmp_path / "empty"
    empty.mkdir()
    assert found(empty) is None
    with pytest.raises(InputError, match="--data-dir must be an existing directory"):
        found(tmp_path / "absent")


def test_without_one_the_environment_comes_before_the_cache(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert found(None) is None
    cached = made(cache / "data" / "toy")
    assert found(None) == cached
    monkeypatch.setenv("TUNE_LNL_DATA", str(tmp_path / "other"))
    assert found(None) == cached
    own = made(tmp_path / "other" / "toy")
    assert found(None) == own
    monkeypatch.setenv("TUNE_LNL_DATA", str(own))
    assert found(None) == own
