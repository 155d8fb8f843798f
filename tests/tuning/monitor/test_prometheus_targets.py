from __future__ import annotations

import json
from pathlib import Path

import pytest

from tune_lnl.tuning.monitor.prometheus_targets import RAY_FILE, discoverable, targets_folder


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNE_LNL_CACHE", str(tmp_path / "cache"))


def ray_folder(tmp_path: Path, name: str) -> Path:
    folder = tmp_path / name / "ray"
    folder.mkdir(parents=True)
    return folder


def test_a_link_while_the_search_runs(tmp_path: Path) -> None:
    ray = ray_folder(tmp_path, "tune_lnl-0a")
    with discoverable(ray):
        (link,) = targets_folder().glob("*.json")
        (ray / RAY_FILE).write_text('[{"targets": ["127.0.0.1:1"]}]')
        assert json.loads(link.read_text()) == [{"targets": ["127.0.0.1:1"]}]
    assert list(targets_folder().iterdir()) == []


def test_what_a_killed_search_left_goes_and_others_stay(tmp_path: Path) -> None:
    dead, other = tmp_path / "tune_lnl-dead" / "ray", ray_folder(tmp_path, "tune_lnl-other")
    targets_folder().mkdir(parents=True)
    (targets_folder() / "tune_lnl-dead.json").symlink_to(dead / RAY_FILE)
    (targets_folder() / "mine.json").write_text("[]")
    with discoverable(other), discoverable(ray_folder(tmp_path, "tune_lnl-new")):
        names = {path.name for path in targets_folder().iterdir()}
        assert names == {"tune_lnl-other.json", "tune_lnl-new.json", "mine.json"}


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TUNE_LNL_CACHE", str(tmp_path / "file"))
    with discoverable(ray_folder(tmp_path, "tune_lnl-0a")):
        assert not targets_folder().exists()
