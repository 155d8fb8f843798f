"""Downloads: complete or absent, one at a time, and an early answer without a network."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from tune_lnl import downloads
from tune_lnl.downloads import download, why_unreachable


@pytest.fixture
def reachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "why_unreachable", lambda url: None)


@pytest.mark.usefixtures("reachable")
def test_a_file_appears_complete_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "data" / "file.bin"

    def stalls(to: Path) -> None:
        to.write_bytes(b"half")
        raise TimeoutError("timed out")

    assert download("http://x", target, stalls) == "timed out"
    assert [path.name for path in target.parent.iterdir() if path.is_dir() or path.name == target.name] == []
    assert download("http://x", target, lambda to: to.write_bytes(b"whole")) is None
    assert target.read_bytes() == b"whole"
    assert download("http://x", target, lambda to: pytest.fail("the file exists")) is None


@pytest.mark.usefixtures("reachable")
def test_the_rest_of_a_killed_download_is_removed(tmp_path: Path) -> None:
    (tmp_path / "arriving").mkdir()
    (tmp_path / "arriving" / "file.bin").write_bytes(b"half")
    assert download("http://x", tmp_path / "file.bin", lambda to: to.write_bytes(b"whole")) is None
    assert not (tmp_path / "arriving").exists()


@pytest.mark.usefixtures("reachable")
def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file where the folder should be")
    reason = download("http://x", tmp_path / "data" / "file.bin", lambda to: None)
    assert reason is not None
    assert "data" in reason


def test_a_server_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A host name lookup can hang for minutes and has no timeout."""
    asked, released = threading.Event(), threading.Event()

    def hang(*_: Any, **__: Any) -> None:
        asked.set()
        released.wait(60)
        raise OSError("released")

    monkeypatch.setattr(downloads, "ANSWER_SECONDS", 0.05)
    monkeypatch.setattr("urllib.request.urlopen", hang)
    try:
        failure = download("https://nowhere.invalid/file", tmp_path / "new" / "file", lambda to: pytest.fail("fetched"))
        assert failure is not None
        assert "no answer within" in failure
        assert asked.wait(60)
        assert not (tmp_path / "new").exists()
    finally:
        released.set()


def test_a_closed_port_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    assert "refused" in str(why_unreachable("http://127.0.0.1:1/file"))
