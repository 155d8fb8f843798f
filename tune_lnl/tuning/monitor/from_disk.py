"""The state of a search, live or ended, read from its folder by a process that does not drive it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from tune_lnl.tuning.monitor.state import RunningTrial, View
from tune_lnl.tuning.runs.lease import FolderLease
from tune_lnl.tuning.runs.listing import run_state
from tune_lnl.tuning.runs.rows import TrialRow
from tune_lnl.tuning.runs.run import Run
from tune_lnl.tuning.study.trials import (
    ENDED,
    FINISHED,
    STARTED,
    FrozenTrial,
    TrialState,
    best_trial,
    is_own,
    last_value,
)

State = Literal["running", "finished", "interrupted", "failed"]


@dataclass(frozen=True)
class Moment:
    """A run at one moment."""

    state: str
    """``running``, ``finished``, ``interrupted`` or ``failed``."""
    view: View
    version: int
    """Grows with every trial and epoch: two moments of the same version show the same."""


class Watched:
    """Gives the present moment of a run at every call of :meth:`now`; reading does not disturb the search."""

    def __init__(self, run: Run, clock: Callable[[], float] = time.time) -> None:
        self.run = run
        self._clock = clock
        self._trials: Callable[[], list[FrozenTrial]] | None = None
        self._lease = FolderLease(run.files, run.name)

    def now(self) -> Moment:
        driven = self._lease.is_held() or self.run.place.is_held()
        if self._trials is None and self.run.place.exists():
            self._trials = self.run.place.reader()
        trials = [] if self._trials is None else self._trials()
        rows = [TrialRow.of(trial) for trial in trials]
        asked = self.run.space.budget.trials
        version = sum(row.epochs + 1 for row in rows) + sum(trial.state in ENDED for trial in trials)
        return Moment(run_state(rows, asked, driven), self._view(trials, driven), version)

    def _view(self, trials: list[FrozenTrial], driven: bool) -> View:
        now, epochs, total = self._clock(), self.run.space.epochs, self.run.space.budget.trials
        own = [trial for trial in trials if is_own(trial)]
        counts = {state: sum(trial.state == state for trial in own) for state in ENDED}
        started = [(trial, trial.user_attrs.get(STARTED)) for trial in own]
        running = [
            RunningTrial(
                trial.number,
                len(trial.intermediate_values),
                last_value(trial),
                None,
                dict(trial.params),
                seconds=None if since is None else now - since,
            )
            for trial, since in started
            if driven and trial.state == TrialState.RUNNING
        ]
        ended = sum(counts.values())
        progress = min(1.0, (ended + sum(trial.epochs for trial in running) / epochs) / total)
        begun = [since for _, since in started if since is not None]
        ends = [trial.user_attrs[FINISHED] for trial in own if FINISHED in trial.user_attrs]
        until = now if driven else max(ends, default=now)
        elapsed = max(0.0, until - min(begun)) if begun else 0.0
        best = best_trial(trials, self.run.mode)
        # Before a trial has ended the share is a guess, and the end would jump.
        left = elapsed * (1.0 - progress) / progress if driven and ended else None
        return View(running, None if best is None else TrialRow.of(best), counts, total, progress, left, elapsed)
