"""One search in progress: between Ray, which calls, and the study, which remembers.

Holds no history of its own: only which trials run now, when to stop, and whom to tell.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from optuna.trial import TrialState

from tune_lnl.tuning.study import SearchStudy, Suggestion

MAX_ATTEMPTS = 3
"""How often a trial whose worker died is started."""

BUGS_TO_STOP = 3
"""A bug three times in a row is no accident of one configuration."""

StopReason = Literal["interrupted", "time budget", "failing"]


@dataclass(frozen=True)
class WorkerReport:
    """What a worker says after an epoch: a value, or why there is none."""

    number: int
    attempt: int
    epoch: int = -1
    value: float = math.nan
    standard_error: float | None = None
    failure: str | None = None
    message: str = ""
    stopped: bool = False
    history: tuple[tuple[int, float], ...] = ()
    """(epoch, value) of the epochs before, sent once by a continued trial: a report can be lost before a crash."""

    @classmethod
    def from_result(cls, result: dict[str, Any]) -> WorkerReport:
        return cls(**{name: result[name] for name in cls.__dataclass_fields__ if name in result})


class Session:
    """Decides what happens next; :mod:`searcher` and :mod:`scheduler` pass Ray's calls on to it."""

    def __init__(
        self,
        study: SearchStudy,
        *,
        trials: int,
        epochs: int,
        concurrent: int,
        deadline: float | None = None,
        on_end: Callable[[int], None] = lambda number: None,
        on_stop: Callable[[], None] = lambda: None,
    ) -> None:
        self._study = study
        self._trials = trials
        self._epochs = epochs
        self._concurrent = concurrent
        self._deadline = deadline
        self._on_end = on_end
        self._on_stop = on_stop
        self._finished_trials = study.count(TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
        self._running: dict[int, Suggestion] = {}
        self.stop_reason: StopReason | None = None
        self.bugs_in_a_row = 0

    # ---- starting trials

    @property
    def finished(self) -> bool:
        """Nothing more will be started."""
        return self.stopping or (not self._running and self._left() == 0)

    @property
    def stopping(self) -> bool:
        if self.stop_reason is None and self._deadline is not None and time.time() >= self._deadline:
            self.stop("time budget")
        return self.stop_reason is not None

    def stop(self, reason: StopReason) -> None:
        """Start nothing more; what runs is to end at its next batch."""
        if self.stop_reason is None:
            self.stop_reason = reason
            self._on_stop()

    def next_trial(self) -> Suggestion | None:
        """A trial to start now, or ``None`` while there is no room or nothing to start."""
        if self.stopping or len(self._running) >= self._concurrent or self._left() == 0:
            return None
        suggestion = self._study.ask()
        self._running[suggestion.number] = suggestion
        return suggestion

    def _left(self) -> int:
        return max(0, self._trials - self._finished_trials - len(self._running))

    # ---- hearing from them

    def heard(self, report: WorkerReport) -> bool:
        """Take a worker's report.

        Returns:
            whether the trial goes on.
        """
        current = self._running.get(report.number)
        if current is None or current.attempt != report.attempt:
            # A worker that outlived its driver or its trial: its words no longer count.
            return False
        if report.stopped:
            self._put_back(report.number)
            return False
        if report.failure is not None:
            self._count_bugs(report.failure)
            self._fail(report.number, report.failure, report.message)
            return False
        for epoch, value in report.history:
            self._study.report(report.number, epoch, value)
        if not math.isfinite(report.value):
            self._fail(report.number, "diverged", f"not finite at epoch {report.epoch}")
            return False
        self._study.report(report.number, report.epoch, report.value)
        if report.epoch + 1 >= self._epochs:
            self.bugs_in_a_row = 0
            self._study.complete(report.number, report.value, report.standard_error)
            self._ended(report.number)
            return False
        if self._study.should_prune(report.number):
            self._study.prune(report.number, report.standard_error)
            self._ended(report.number)
            return False
        return True

    def worker_died(self, number: int, message: str) -> None:
        """The process is gone without a word: the trial is tried again, a few times."""
        current = self._running.get(number)
        if current is None:
            return
        if self.stopping or current.attempt < MAX_ATTEMPTS:
            self._put_back(number)
        else:
            self._fail(number, "worker died", message)

    def put_back_running(self) -> None:
        """Whatever still counts as running waits again: the search is over for now."""
        for number in list(self._running):
            self._put_back(number)

    def _count_bugs(self, failure: str) -> None:
        self.bugs_in_a_row = self.bugs_in_a_row + 1 if failure == "bug" else 0
        if self.bugs_in_a_row >= BUGS_TO_STOP:
            self.stop("failing")

    def _fail(self, number: int, failure: str, message: str) -> None:
        self._study.fail(number, failure, message)
        self._ended(number)

    def _put_back(self, number: int) -> None:
        self._study.wait(number)
        del self._running[number]

    def _ended(self, number: int) -> None:
        del self._running[number]
        self._finished_trials += 1
        self._on_end(number)
