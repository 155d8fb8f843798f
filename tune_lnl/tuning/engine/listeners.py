"""The listeners that keep the files of a run up to date while a session runs."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from tune_lnl.tuning.engine.listener import Listener
from tune_lnl.tuning.engine.messages import StopReason
from tune_lnl.tuning.plan.plan import Plan
from tune_lnl.tuning.runs.best import write_best
from tune_lnl.tuning.runs.folder import RunFolder
from tune_lnl.tuning.runs.keeping import tidy, tidy_heldout
from tune_lnl.tuning.runs.run import Run
from tune_lnl.tuning.runs.snapshot import write_snapshot
from tune_lnl.tuning.runs.tables import write_tables
from tune_lnl.tuning.study.study import SearchStudy

if TYPE_CHECKING:
    import pyarrow as pa

TABLE_INTERVAL = 2.0
"""Seconds between rewrites of the tables while trials end."""


class StopFlag(Listener):
    """Writes the stop flag; workers that find it end at their next batch."""

    def __init__(self, files: RunFolder) -> None:
        self._files = files

    def on_stop(self, reason: StopReason) -> None:
        # On a full disk there may be no room for the flag; jobs then end after their epoch.
        with contextlib.suppress(OSError):
            self._files.stop_flag.touch()


class Checkpoints(Listener):
    """Deletes the checkpoints of ended trials, models that are no longer among the best, and predictions for which the
    disk budget has no room."""

    def __init__(self, files: RunFolder, study: SearchStudy, heldout_room: int) -> None:
        self._files = files
        self._study = study
        self._heldout_room = heldout_room

    def on_end(self, number: int) -> None:
        trials = self._study.trials
        tidy(self._files, trials, self._study.mode)
        tidy_heldout(self._files, trials, self._study.mode, self._heldout_room)


class Tables(Listener):
    """Keeps the tables and ``best.yaml`` of a run fresh, and spends at most a twentieth of the time on it."""

    def __init__(self, plan: Plan, study: SearchStudy) -> None:
        self._plan = plan
        self._study = study
        self._settings = plan.settings()
        self._ended: dict[int, pa.Table] = {}
        self._next = 0.0

    def on_end(self, number: int) -> None:
        if time.monotonic() < self._next:
            return
        began = time.monotonic()
        self.write()
        self._next = time.monotonic() + max(TABLE_INTERVAL, 20 * (time.monotonic() - began))

    def write(self) -> None:
        """Write them now."""
        files = self._plan.files
        files.fetch("trials/*/epochs.jsonl")
        run = Run(files, self._settings, self._plan.space, self._study.trials)
        write_snapshot(files, run.rows())
        write_tables(run, self._ended)
        write_best(run)
