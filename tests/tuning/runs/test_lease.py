"""One driver at a time, on whatever machine; the machines are names here, the files are real."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from tune_lnl.errors import InputError
from tune_lnl.tuning.runs import lease as driving
from tune_lnl.tuning.runs.folder import RunFolder
from tune_lnl.tuning.runs.lease import FolderLease, Heartbeat, holding, read_beat, this_machine

PATIENCE = 60.0


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    monkeypatch.setattr(driving, "BEAT_SECONDS", 0.02)
    monkeypatch.setattr(driving, "SILENT_AFTER", 2.0)
    return RunFolder(tmp_path / "run")


def silent(files: RunFolder, machine: str) -> None:
    """Write the heartbeat of a driver that was killed with its machine."""
    files.root.mkdir(parents=True)
    files.heartbeat.write_text(json.dumps({"machine": machine, "pid": 7, "key": "k", "beat": 3}))


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_the_file_names_the_driver_and_changes_while_it_lives(files: RunFolder) -> None:
    with holding(FolderLease(files, "run", pytest.fail, "here 1")):
        first = read_beat(files)
        assert first is not None
        assert (first["machine"], first["pid"]) == ("here 1", os.getpid())
        until(lambda: (read_beat(files) or first)["beat"] > first["beat"])
    assert not files.heartbeat.exists()


def test_a_driver_that_lives_on_another_machine(files: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driving, "SILENT_AFTER", PATIENCE)
    said: list[str] = []
    files.root.mkdir()
    there = Heartbeat(files.heartbeat, "there 1")
    there.start()
    try:
        with (
            pytest.raises(InputError, match=r"run 'run' is being run on there \(process \d+\); wait for it, stop it"),
            holding(FolderLease(files, "run", said.append, "here 1")),
        ):
            pytest.fail("two drivers")
        assert said == ["run 'run' was driven on there; checking for 60 s whether it still is"]
        assert (read_beat(files) or {})["machine"] == "there 1", "the refused one has changed nothing"
    finally:
        there.stop()


def test_a_driver_that_died_with_its_machine_is_followed(files: RunFolder) -> None:
    silent(files, "there 1")
    said: list[str] = []
    with holding(FolderLease(files, "run", said.append, "here 1")):
        assert (read_beat(files) or {})["machine"] == "here 1"
    assert len(said) == 1


def test_a_driver_that_was_killed_on_this_machine_is_followed_at_once(files: RunFolder) -> None:
    silent(files, this_machine())
    with holding(FolderLease(files, "run", pytest.fail)):
        pass


def test_where_the_file_system_has_no_locks_the_file_decides_on_one_machine_too(
    files: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NoLock:
        def __init__(self, path: Path) -> None:
            """As filelock has it."""

        def acquire(self, **options: float) -> None:
            raise NotImplementedError("FileSystem does not appear to support flock")

    monkeypatch.setattr(driving, "FileLock", NoLock)
    monkeypatch.setattr(driving, "SILENT_AFTER", PATIENCE)
    with (
        holding(FolderLease(files, "run", pytest.fail, "here 1")),
        pytest.raises(InputError, match="is being run on here"),
        holding(FolderLease(files, "run", machine="here 1")),
    ):
        pytest.fail("two drivers")


def test_who_is_overtaken_stops_at_once(files: RunFolder) -> None:
    files.root.mkdir()
    overtaken = threading.Event()
    beat = Heartbeat(files.heartbeat, "here 1", overtaken.set)
    beat.start()
    other = json.dumps({"machine": "there 1", "pid": 7, "key": "another", "beat": 1})

    def again() -> bool:
        if not overtaken.is_set():
            files.heartbeat.write_text(other)  # a beat of the first may have come between
        return overtaken.wait(0.1)

    until(again)
    beat.stop()
    assert files.heartbeat.read_text() == other, "the file is the other one's"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"machine": "", "pid": 1}', '{"machine": 3}', "\x00"])
def test_a_damaged_file_is_nobody_s(files: RunFolder, text: str) -> None:
    files.root.mkdir()
    files.heartbeat.write_text(text)
    with holding(FolderLease(files, "run", pytest.fail, "here 1")):
        pass


def test_who_only_asks(files: RunFolder) -> None:
    lease = FolderLease(files, "run")
    assert not lease.is_held()
    assert not files.root.exists(), "asking has made a folder"
    with holding(FolderLease(files, "run")):
        assert lease.is_held()
    assert not lease.is_held()
    with holding(FolderLease(files, "run")):
        pass
    files.heartbeat.write_text(json.dumps({"machine": "there 1", "pid": 7, "key": "k", "beat": 3}))
    assert lease.is_held(), "a young file of another machine"
    os.utime(files.heartbeat, (0, 0))
    assert not lease.is_held()
    files.heartbeat.write_text(json.dumps({"machine": this_machine(), "pid": 7, "key": "k", "beat": 3}))
    assert not lease.is_held(), "of this machine the lock knows more"


def test_a_run_of_another_user(files: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their lock cannot be opened; their heartbeat can be read."""

    class Refused:
        def __init__(self, path: Path, timeout: float) -> None:
            raise PermissionError(13, "Permission denied")

    with holding(FolderLease(files, "run")):
        monkeypatch.setattr(driving, "FileLock", Refused)
        assert FolderLease(files, "run").is_held()
        monkeypatch.undo()


def test_a_command_that_asks_at_the_same_time_is_no_driver(files: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driving, "ASK_SECONDS", 30.0)
    files.root.mkdir(parents=True, exist_ok=True)
    other = FileLock(files.lock, thread_local=False)
    other.acquire()
    end = threading.Timer(0.05, other.release)
    end.start()
    assert not FolderLease(files, "run").is_held()
    end.join()
