"""TensorBoard event files of a trial, for who likes to look there: a curve per metric, one run per trial."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class EventFile:
    """Event files of one attempt at a trial.

    Args:
        folder: the trial's own; TensorBoard reads what all attempts have left there as one run.
        attempt: keeps their files apart.
        first_epoch: what earlier attempts wrote of it and later ones no longer counts.
        settings: shown as text.
    """

    def __init__(self, folder: Path, attempt: int, first_epoch: int, settings: Mapping[str, Any]) -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import SessionLog
        from tensorboardX.summary import text

        folder.mkdir(parents=True, exist_ok=True)
        # Not its SummaryWriter, whose thread writes an epoch when the next one is over.
        self._writer = EventsWriter(str(folder / "events"), f".{attempt}")
        self._write(first_epoch, session_log=SessionLog(status=SessionLog.START))
        rows = "".join(f"| {name} | {value} |\n" for name, value in settings.items())
        self._write(first_epoch, summary=text("settings", f"| setting | value |\n| --- | --- |\n{rows}"))
        self._writer.flush()

    def epoch(self, epoch: int, report: Mapping[str, float], objective: float) -> None:
        """Write an epoch down, without its test metrics: nobody is to choose by those."""
        from tensorboardX.summary import scalar

        shown = {name: value for name, value in report.items() if name != "epoch" and not name.startswith("test_")}
        for name, value in {"objective": objective, **shown}.items():
            self._write(epoch, summary=scalar(name, value))
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()

    def _write(self, step: int, **content: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        self._writer.write_event(Event(wall_time=time.time(), step=step, **content))
