"""One driver at a time, on whatever machine; the machines are names here, the files are real."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tune_lnl.errors import InputError
from tune_lnl.tuning.runs import lease as driving
from tune_lnl.tuning.runs.layout import RunFiles
from tune_lnl.tuning.runs.lease import Heartbeat, is_driven_elsewhere, only_driver, read_beat, this_machine

PATIENCE = 60.0


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFiles:
    monkeypatch.setattr(driving, "BEAT_SECONDS", 0.02)
    monkeypatch.setattr(driving, "SILENT_AFTER", 2.0)
    return RunFiles(tmp_path / "run")


def silent(files: RunFiles, machine: str) -> None:
    """What a driver has left that was killed with its machine."""
    files.root.mkdir(parents=True)
    files.heartbeat.write_text(json.dumps({"machine": machine, "pid": 7, "key": "k", "beat": 3}))


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_the_file_names_the_driver_and_changes_while_it_lives(files: RunFiles) -> None:
    with only_driver(files, "run", pytest.fail, "here 1"):
        first = read_beat(files)
        assert first is not None
        assert (first["machine"], first["pid"]) == ("here 1", os.getpid())
        until(lambda: (read_beat(files) or first)["beat"] > first["beat"])
    assert not files.heartbeat.exists()


def test_a_driver_that_lives_on_another_machine(files: RunFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driving, "SILENT_AFTER", PATIENCE)
    said: list[str] = []
    files.root.mkdir()
    there = Heartbeat(files.heartbeat, "there 1")
    there.begin()
    try:
        with (
            pytest.raises(InputError, match=r"run 'run' is being run on there \(process \d+\); wait for it, stop it"),
            only_driver(files, "run", said.append, "here 1"),
        ):
            pytest.fail("two drivers")
        assert said == ["run 'run' was driven on there; looking for 60 s whether it still is"]
        assert (read_beat(files) or {})["machine"] == "there 1", "the refused one has changed nothing"
    finally:
        there.end()


def test_a_driver_that_died_with_its_machine_is_followed(files: RunFiles) -> None:
    silent(files, "there 1")
    said: list[str] = []
    with only_driver(files, "run", said.append, "here 1"):
        assert (read_beat(files) or {})["machine"] == "here 1"
    assert len(said) == 1


def test_a_driver_that_was_killed_on_this_machine_is_followed_at_once(files: RunFiles) -> None:
    silent(files, this_machine())
    with only_driver(files, "run", pytest.fail):
        pass


def test_where_the_file_system_has_no_locks_the_file_decides_on_one_machine_too(
    files: RunFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NoLock:
        def __init__(self, path: Path) -> None:
            """As filelock has it."""

        def acquire(self, **options: float) -> None:
            raise NotImplementedError("FileSystem does not appear to support flock")

    monkeypatch.setattr(driving, "FileLock", NoLock)
    monkeypatch.setattr(driving, "SILENT_AFTER", PATIENCE)
    with (
        only_driver(files, "run", pytest.fail, "here 1"),
        pytest.raises(InputError, match="is being run on here"),
        only_driver(files, "run", lambda line: None, "here 1"),
    ):
        pytest.fail("two drivers")


def test_who_is_overtaken_stops_at_once(files: RunFiles) -> None:
    files.root.mkdir()
    overtaken = threading.Event()
    beat = Heartbeat(files.heartbeat, "here 1", overtaken.set)
    beat.begin()
    other = json.dumps({"machine": "there 1", "pid": 7, "key": "another", "beat": 1})

    def again() -> bool:
        if not overtaken.is_set():
            files.heartbeat.write_text(other)  # a beat of the first may have come between
        return overtaken.wait(0.1)

    until(again)
    beat.end()
    assert files.heartbeat.read_text() == other, "the file is the other one's"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"machine": "", "pid": 1}', '{"machine": 3}', "\x00"])
def test_a_damaged_file_is_nobody_s(files: RunFiles, text: str) -> None:
    files.root.mkdir()
    files.heartbeat.write_text(text)
    with only_driver(files, "run", pytest.fail, "here 1"):
        pass


def test_a_list_of_runs_believes_a_young_file(files: RunFiles) -> None:
    assert not is_driven_elsewhere(files)
    silent(files, "there 1")
    assert is_driven_elsewhere(files)
    os.utime(files.heartbeat, (0, 0))
    assert not is_driven_elsewhere(files)
    files.heartbeat.write_text(json.dumps({"machine": this_machine(), "pid": 7, "key": "k", "beat": 3}))
    assert not is_driven_elsewhere(files)
