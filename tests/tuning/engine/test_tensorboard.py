"""Event files, read back with the protocol's own messages."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tune_lnl.tuning.engine.tensorboard import EventFile

event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2", reason="an extra: pip install 'tune_lnl[tensorboard]'")


def events(folder: Path) -> Iterator[Any]:
    """All events of a folder, file by file as they were begun: length, its checksum, message, its checksum."""
    for path in sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            yield event_pb2.Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]


def scalars(folder: Path) -> list[tuple[str, int, float]]:
    return [
        (value.tag, event.step, round(value.simple_value, 4))
        for event in events(folder)
        for value in event.summary.value
        if value.WhichOneof("value") == "simple_value"
    ]


def test_a_curve_per_metric_and_none_of_the_test_set(tmp_path: Path) -> None:
    file = EventFile(tmp_path, 1, 0, {"lr": 0.01})
    for epoch in range(2):
        report = {"epoch": epoch, "lr": 0.01, "val_accuracy": 50.0 + epoch, "test_accuracy": 99.0}
        file.epoch(epoch, report, 45.0 + epoch)
        # Flushed after each: it can be watched.
        assert ("val_accuracy", epoch, 50.0 + epoch) in scalars(tmp_path)
    file.close()
    names = {name for name, _, _ in scalars(tmp_path)}
    assert names == {"objective", "lr", "val_accuracy"}
    assert ("objective", 1, 46.0) in scalars(tmp_path)


def test_a_continued_trial_voids_what_it_repeats(tmp_path: Path) -> None:
    first = EventFile(tmp_path, 1, 0, {"lr": 0.01})
    for epoch in range(3):
        first.epoch(epoch, {"val_accuracy": 10.0}, 10.0)
    first.close()
    second = EventFile(tmp_path, 2, 2, {"lr": 0.01})
    second.epoch(2, {"val_accuracy": 20.0}, 20.0)
    second.close()
    restarts = [event.step for event in events(tmp_path) if event.session_log.status == event_pb2.SessionLog.START]
    assert restarts == [0, 2]
    assert len(list(tmp_path.iterdir())) == 2
