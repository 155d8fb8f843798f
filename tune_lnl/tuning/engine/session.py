"""One search in progress: between Ray, which calls, and the study, which remembers.

Holds no history of its own: only which trials run now, when to stop, and whom to tell.
"""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tune_lnl.training.failures import BUG, DISK_FULL, DIVERGED, OUT_OF_MEMORY, STORAGE_AWAY, STUCK, WORKER_DIED
from tune_lnl.tuning.engine.messages import StopReason, WorkerReport
from tune_lnl.tuning.study.study import SearchStudy, Suggestion
from tune_lnl.tuning.study.trials import TrialState

DEATHS_WITHOUT_PROGRESS = 3
"""A worker that is taken away says nothing about its trial; one that dies this often in the same epoch does."""

BUGS_TO_STOP = 3
"""A bug three times in a row is no accident of one configuration."""

STUCK_FACTOR = 5.0
"""A trial is stuck after this many median epochs of silence, and at least ``stuck_seconds``."""

STOP_SECONDS = 9.0
"""A worker that was asked to end at its next batch and is silent for so long will not reach it in time."""

# Notes that a trial carries in the study.
RETRIED_ALONE = "retried_alone"
RESTARTED_STUCK = "restarted_stuck"


@dataclass
class Running:
    """A trial that a worker has now."""

    attempt: int
    last_heard: float
    alone: bool = False
    ended_as_stuck: bool = False


class Session:
    """Decides what happens next; :mod:`tune_lnl.tuning.engine.tune` passes Ray's calls on to it."""

    def __init__(
        self,
        study: SearchStudy,
        *,
        trials: int,
        epochs: int,
        concurrent: int | Callable[[], int],
        deadline: float | None = None,
        on_start: Callable[[], None] = lambda: None,
        on_end: Callable[[int], None] = lambda number: None,
        on_stop: Callable[[], None] = lambda: None,
        on_epoch: Callable[[WorkerReport], None] = lambda report: None,
        stuck_seconds: float = 60.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._study = study
        self._trials = trials
        self._epochs = epochs
        self._concurrent = concurrent if callable(concurrent) else lambda: concurrent
        self._deadline = deadline
        self._on_start = on_start
        self._on_end = on_end
        self._on_stop = on_stop
        self._on_epoch = on_epoch
        self._stuck_seconds = stuck_seconds
        self._clock = clock
        self._finished_trials = study.count(TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
        self._running: dict[int, Running] = {}
        self._to_run_alone: list[int] = []
        self._deaths: dict[int, tuple[int, int]] = {}
        self._epoch_seconds: deque[float] = deque(maxlen=200)
        self._stopping_since = 0.0
        self.stop_reason: StopReason | None = None
        self.bugs_in_a_row = 0

    # ---- starting trials

    def running(self) -> list[int]:
        """Numbers of the trials that workers have now. Any thread may ask."""
        return list(self._running)

    def runs_alone(self, number: int) -> bool:
        """Whether this running trial has the machine to itself."""
        return number in self._running and self._running[number].alone

    @property
    def finished(self) -> bool:
        """Nothing more will be started."""
        return self.stopping or (not self._running and self._left() == 0 and not self._to_run_alone)

    @property
    def stopping(self) -> bool:
        if self.stop_reason is None and self._deadline is not None and self._clock() >= self._deadline:
            self.stop("time budget")
        return self.stop_reason is not None

    def stop(self, reason: StopReason) -> None:
        """Start nothing more; what runs is to end at its next batch."""
        if self.stop_reason is None:
            self._stopping_since = self._clock()
            self.stop_reason = reason
            self._on_stop()

    def next_trial(self) -> Suggestion | None:
        """A trial to start now, or ``None`` while there is no room or nothing to start."""
        if self.stopping:
            return None
        if self._to_run_alone:
            return None if self._running else self._start(self._study.restart(self._to_run_alone.pop(0)), alone=True)
        if len(self._running) >= self._concurrent() or self._left() == 0:
            return None
        if any(running.alone for running in self._running.values()):
            return None
        suggestion = self._study.ask()
        if not self._study.noted(suggestion.number, RETRIED_ALONE):
            return self._start(suggestion)
        # It ran out of memory before a crash or a stop, and its lone retry is still to come.
        if self._running:
            self._to_run_alone.append(suggestion.number)
            return None
        return self._start(suggestion, alone=True)

    def _start(self, suggestion: Suggestion, alone: bool = False) -> Suggestion:
        self._running[suggestion.number] = Running(suggestion.attempt, self._clock(), alone)
        self._on_start()
        return suggestion

    def _left(self) -> int:
        return max(0, self._trials - self._finished_trials - len(self._running) - len(self._to_run_alone))

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
            self._failed(report.number, report.failure, report.message)
            return False
        self._epoch_seconds.append(self._clock() - current.last_heard)
        current.last_heard = self._clock()
        return self._take_value(report)

    def _take_value(self, report: WorkerReport) -> bool:
        for epoch, value in report.history[self._study.epochs(report.number) :]:
            self._study.report(report.number, epoch, value)
            if self._study.should_prune(report.number):
                # The stopping rule would have been asked then, had the report not been lost.
                self._study.prune(report.number, None)
                self._ended_well(report.number)
                return False
        if not math.isfinite(report.value):
            self._failed(report.number, DIVERGED, f"the objective is not finite at epoch {report.epoch}")
            return False
        self._study.report(report.number, report.epoch, report.value)
        self._on_epoch(report)
        if report.epoch + 1 >= self._epochs:
            self._study.complete(report.number, report.value, report.standard_error)
            self._ended_well(report.number)
            return False
        if self._study.should_prune(report.number):
            self._study.prune(report.number, report.standard_error)
            self._ended_well(report.number)
            return False
        if self.stopping:
            self._put_back(report.number)
            return False
        return True

    def _failed(self, number: int, failure: str, message: str) -> None:
        """A worker said why its trial cannot go on."""
        if failure == DISK_FULL:
            self._put_back(number)
            self.stop("disk full")
            return
        if failure == STORAGE_AWAY:
            # It says nothing about the trial. One machine may have lost its network: another may do better.
            if not self._may_continue(number):
                self.stop("object storage away")
            self._put_back(number)
            return
        if failure == OUT_OF_MEMORY and not self._study.noted(number, RETRIED_ALONE):
            self._study.note(number, RETRIED_ALONE)
            del self._running[number]
            self._to_run_alone.append(number)
            return
        self.bugs_in_a_row = self.bugs_in_a_row + 1 if failure == BUG else 0
        self._fail(number, failure, message)
        if self.bugs_in_a_row >= BUGS_TO_STOP:
            self.stop("failing")

    def worker_died(self, number: int, with_its_node: bool = False) -> None:
        """The process is gone without a word (taken away, killed, crashed): its trial continues elsewhere.

        Args:
            with_its_node: a machine went down, which says nothing about the trial however often it happens.
        """
        current = self._running.get(number)
        if current is None:
            return
        if current.ended_as_stuck:
            self._was_stuck(number)
        elif with_its_node or self.stopping or self._may_continue(number):
            self._put_back(number)
        else:
            epoch = self._study.epochs(number)
            self._fail(number, WORKER_DIED, f"{DEATHS_WITHOUT_PROGRESS} workers died in epoch {epoch}")

    def _may_continue(self, number: int) -> bool:
        epochs = self._study.epochs(number)
        count, before = self._deaths.get(number, (0, -1))
        count = count + 1 if epochs == before else 1
        self._deaths[number] = (count, epochs)
        return count < DEATHS_WITHOUT_PROGRESS

    def withdraw(self, number: int) -> None:
        """A trial that no worker has begun waits again."""
        if number in self._running:
            self._put_back(number)

    # ---- silence

    def starting(self, numbers: Iterable[int]) -> None:
        """The workers of these trials are not there yet: silence counts from when they are, however long that takes."""
        for number in numbers:
            if number in self._running:
                self._running[number].last_heard = self._clock()

    def stuck(self) -> list[int]:
        """Trials that have been silent for too long, each named once: their workers are to be killed."""
        now = self._clock()
        if self.stopping and now - self._stopping_since > STOP_SECONDS:
            limit = 0.0
        elif self._epoch_seconds:
            limit = max(self._stuck_seconds, STUCK_FACTOR * statistics.median(self._epoch_seconds))
        else:
            return []
        silent = [
            number
            for number, running in self._running.items()
            if not running.ended_as_stuck and now - running.last_heard > limit
        ]
        for number in silent:
            self._running[number].ended_as_stuck = True
        return silent

    def _was_stuck(self, number: int) -> None:
        if self.stopping:
            self._put_back(number)
        elif self._study.noted(number, RESTARTED_STUCK):
            self._fail(number, STUCK, f"silent for too long after epoch {self._study.epochs(number)}, twice")
        else:
            self._study.note(number, RESTARTED_STUCK)
            self._put_back(number)

    # ---- ends

    def put_back_running(self) -> None:
        """Whatever still counts as running waits again: the search is over for now."""
        for number in [*self._running, *self._to_run_alone]:
            self._study.wait(number)
        self._running.clear()
        self._to_run_alone.clear()

    def _fail(self, number: int, failure: str, message: str) -> None:
        self._study.fail(number, failure, message)
        self._ended(number)

    def _put_back(self, number: int) -> None:
        self._study.wait(number)
        del self._running[number]

    def _ended_well(self, number: int) -> None:
        self.bugs_in_a_row = 0
        self._ended(number)

    def _ended(self, number: int) -> None:
        del self._running[number]
        self._finished_trials += 1
        self._on_end(number)
