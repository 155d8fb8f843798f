"""One search or confirmation in progress: decides between Ray, which calls, and the ledger, which remembers.

A session knows which jobs run now, when to stop and whom to notify. It keeps no results.
"""

from __future__ import annotations

import logging
import math
import statistics
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from tune_lnl.training.failures import BUG, DEVICE, DISK_FULL, DIVERGED, OUT_OF_MEMORY, STORAGE_AWAY, STUCK, WORKER_DIED
from tune_lnl.tuning.engine.awake import awake
from tune_lnl.tuning.engine.listener import Listener
from tune_lnl.tuning.engine.messages import StopReason, WorkerReport
from tune_lnl.tuning.study.study import Suggestion

logger = logging.getLogger(__name__)

DEATHS_WITHOUT_PROGRESS = 3
"""Deaths of workers in a row in one epoch after which the job counts as failed; fewer say nothing about it."""

FAILURES_TO_CLOSE = 2
"""Trials whose GPU failed in their first epoch at one place, after which no trial is sent there."""

BUGS_TO_STOP = 3
"""Bugs in a row after which the search stops: they do not come from one configuration."""

STUCK_FACTOR = 5.0
"""Median epochs of silence after which a job is stuck, and at least ``stuck_seconds``."""

AWAY_SECONDS = 10.0
"""Between two looks at the jobs, after which the driver itself was away: nobody could hear them, and silence counts
anew."""

STOP_SECONDS = 9.0
"""Seconds of silence after a stop request after which a worker is killed."""

# Notes that the ledger keeps with a job.
RETRIED_ALONE = "retried_alone"
RESTARTED_STUCK = "restarted_stuck"


class Ledger(Protocol):
    """Where jobs come from and where their ends are recorded: the study, or the results of a confirmation."""

    def ask(self) -> Suggestion:
        """Return the next job and mark it as running."""

    def restart(self, number: int) -> Suggestion:
        """Return a running job once more, as a further attempt."""

    def note(self, number: int, name: str) -> None:
        """Keep a note with a running job, across its attempts."""

    def noted(self, number: int, name: str) -> bool: ...

    def epochs(self, number: int) -> int:
        """Return the number of epochs that a running job has reported."""

    def report(self, number: int, epoch: int, value: float) -> None:
        """Record the objective after an epoch (0-based); a second report of an epoch is ignored."""

    def should_prune(self, number: int) -> bool: ...

    def complete(self, number: int, value: float, standard_error: float | None) -> None:
        """Record the end of a job that ran to its full length with a finite value."""

    def prune(self, number: int, standard_error: float | None) -> None:
        """Record the end of a job that the stopping rule stopped."""

    def fail(self, number: int, failure: str, message: str) -> None:
        """Record the end of a job that failed, with the class of the failure."""

    def wait(self, number: int) -> None:
        """Put a running job back; :meth:`ask` gives it again."""


@dataclass
class Running:
    """A job that a worker has now."""

    attempt: int
    last_heard: float
    alone: bool = False
    ended_as_stuck: bool = False
    epochs: int | None = None
    """The last epoch that this attempt has reported, plus 1."""


class Session:
    """Starts and ends jobs; :mod:`tune_lnl.tuning.engine.tune` passes Ray's calls on to it.

    Args:
        ledger: gives the jobs and records their ends.
        jobs: number of jobs of this session; a function where it grows.
        epochs: length of a job.
        concurrent: jobs that may run at once; a function where nodes come and go.
        deadline: when the time budget ends, in seconds of ``clock``.
        listeners: notified in this order.
        stuck_seconds: shortest silence after which a job may count as stuck.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        jobs: int | Callable[[], int],
        epochs: int,
        concurrent: int | Callable[[], int],
        deadline: float | None = None,
        listeners: Sequence[Listener] = (),
        stuck_seconds: float = 60.0,
        clock: Callable[[], float] = awake,
    ) -> None:
        self._ledger = ledger
        self._jobs = jobs if callable(jobs) else lambda: jobs
        self._epochs = epochs
        self._concurrent = concurrent if callable(concurrent) else lambda: concurrent
        self._deadline = deadline
        self.listeners = list(listeners)
        self._stuck_seconds = stuck_seconds
        self._clock = clock
        self._ended_jobs = 0
        self._running: dict[int, Running] = {}
        self._to_run_alone: list[int] = []
        self._deaths: dict[int, tuple[int, int]] = {}
        self._epoch_seconds: deque[float] = deque(maxlen=200)
        self._stopping_since = 0.0
        self._awake_at = clock()
        self.stop_reason: StopReason | None = None
        self.bugs_in_a_row = 0
        self._failed_at: dict[str, set[int]] = {}
        self.closed: list[str] = []
        """Places, ``NODE GPU``, whose GPU failed too often."""

    # ---- starting jobs

    def running(self) -> list[int]:
        """Return the numbers of the jobs that workers have now. Any thread may ask."""
        return list(self._running)

    def runs_alone(self, number: int) -> bool:
        """Return whether this running job has the machine to itself."""
        return number in self._running and self._running[number].alone

    @property
    def finished(self) -> bool:
        """Whether no job will be started any more."""
        return self.stopping or (not self._running and self._left() == 0 and not self._to_run_alone)

    @property
    def stopping(self) -> bool:
        """Whether running jobs are to end at their next batch."""
        if self.stop_reason is None and self._deadline is not None and self._clock() >= self._deadline:
            self.stop("time budget")
        return self.stop_reason is not None

    def seconds_left(self) -> float | None:
        """Return the rest of the time budget; ``None``: there is none."""
        return None if self._deadline is None else max(0.0, self._deadline - self._clock())

    def stop(self, reason: StopReason) -> None:
        """Start no more jobs; running ones end at their next batch. The first reason counts. Any thread may call."""
        if self.stop_reason is None:
            self._stopping_since = self._clock()
            self.stop_reason = reason
            for listener in self.listeners:
                listener.on_stop(reason)

    def next_job(self) -> Suggestion | None:
        """Return a job to start now, or ``None`` while there is no room or nothing to start."""
        self._look()
        if self.stopping:
            return None
        if self._to_run_alone:
            return None if self._running else self._start(self._ledger.restart(self._to_run_alone.pop(0)), alone=True)
        if len(self._running) >= self._concurrent() or self._left() == 0:
            return None
        if any(running.alone for running in self._running.values()):
            return None
        suggestion = self._ledger.ask()
        if not self._ledger.noted(suggestion.number, RETRIED_ALONE):
            return self._start(suggestion)
        # It ran out of memory before a crash or a stop, and its lone retry is still to come.
        if self._running:
            self._to_run_alone.append(suggestion.number)
            return None
        return self._start(suggestion, alone=True)

    def _start(self, suggestion: Suggestion, alone: bool = False) -> Suggestion:
        self._running[suggestion.number] = Running(suggestion.attempt, self._clock(), alone)
        return suggestion

    def _left(self) -> int:
        return max(0, self._jobs() - self._ended_jobs - len(self._running) - len(self._to_run_alone))

    # ---- reports

    def heard(self, report: WorkerReport) -> bool:
        """Take a worker's report; return whether the job goes on."""
        self._look()
        current = self._running.get(report.number)
        if current is None or current.attempt != report.attempt:
            # A worker that outlived its driver or its job: its reports no longer count.
            return False
        if report.stopped:
            self._put_back(report.number)
            return False
        if report.failure is not None:
            self._failed(report.number, report.failure, report.message)
            return False
        self._epoch_seconds.append(self._clock() - current.last_heard)
        current.last_heard = self._clock()
        current.epochs = report.epoch + 1
        return self._take_value(report)

    def _take_value(self, report: WorkerReport) -> bool:
        ledger, number = self._ledger, report.number
        # A job that continues from its checkpoint repeats epochs that it had reported before. The last one ends it.
        known = ledger.epochs(number)
        repeated = report.epoch < known and report.epoch + 1 < self._epochs
        for epoch, value in report.history[known:]:
            ledger.report(number, epoch, value)
            if ledger.should_prune(number):
                # The stopping rule would have been asked then, had the report not been lost.
                ledger.prune(number, None)
                self._ended_well(number)
                return False
        if not math.isfinite(report.value):
            self._failed(number, DIVERGED, f"the objective is not finite at epoch {report.epoch + 1}")
            return False
        if not repeated:
            ledger.report(number, report.epoch, report.value)
            for listener in self.listeners:
                listener.on_epoch(report)
        if report.epoch + 1 >= self._epochs:
            ledger.complete(number, report.value, report.standard_error)
            self._ended_well(number)
            return False
        if not repeated and ledger.should_prune(number):
            ledger.prune(number, report.standard_error)
            self._ended_well(number)
            return False
        if self.stopping:
            self._put_back(number)
            return False
        return True

    def _failed(self, number: int, failure: str, message: str) -> None:
        """Handle a worker's report that its job cannot go on."""
        if failure == DISK_FULL:
            self._put_back(number)
            self.stop("disk full")
            return
        if failure == STORAGE_AWAY:
            # It says nothing about the job. One machine may have lost its network: another may do better.
            if not self._may_continue(number):
                self.stop("object storage away")
            self._put_back(number)
            return
        if failure == OUT_OF_MEMORY and not self._ledger.noted(number, RETRIED_ALONE):
            self._ledger.note(number, RETRIED_ALONE)
            del self._running[number]
            self._to_run_alone.append(number)
            return
        self.bugs_in_a_row = self.bugs_in_a_row + 1 if failure == BUG else 0
        self._fail(number, failure, message)
        if self.bugs_in_a_row >= BUGS_TO_STOP:
            self.stop("failing")

    def worker_died(self, number: int, with_its_node: bool = False) -> None:
        """Handle a worker process that ended without a report (killed, crashed): its job continues elsewhere.

        Args:
            with_its_node: a machine went down, which says nothing about the job however often it happens.
        """
        current = self._running.get(number)
        if current is None:
            return
        if current.ended_as_stuck:
            self._was_stuck(number)
        elif with_its_node or self.stopping or self._may_continue(number):
            self._put_back(number)
        else:
            epoch = self._ledger.epochs(number)
            self._fail(number, WORKER_DIED, f"{DEATHS_WITHOUT_PROGRESS} workers died in epoch {epoch}")

    def device_failed(self, number: int, place: str, message: str) -> None:
        """Handle a worker that ended because its GPU failed: the job continues in a new process.

        A place that fails jobs in their first epoch is closed: it would take one job after the other. It is no bug
        of the search, however often it happens; where no other place is left, the search stops.

        Args:
            place: id of the node, and the numbers of its GPUs that the worker had.
        """
        current = self._running.get(number)
        if current is None:
            return
        failed = self._failed_at.setdefault(place, set())
        if current.epochs is None:
            failed.add(number)  # once: a trial that fails everywhere closes nothing
        if len(failed) >= FAILURES_TO_CLOSE and place not in self.closed:
            self.closed.append(place)
            trials = " and ".join(map(str, sorted(failed)))
            logger.warning(
                "%s is closed: its GPU failed trials %s in their first epoch there; %s", place, trials, message
            )
        if self.stopping or self._may_continue(number):
            self._put_back(number)
        else:
            self._fail(number, DEVICE, f"{message} (at {place})")

    def open_nodes(self, nodes: str | None) -> str | None:
        """Return the nodes, ids separated by commas, without closed ones; stop the session where none is left.

        On one machine (``None``), where Ray chooses the GPU, the session stops once a place is closed.
        """
        if not self.closed or self.stopping:
            return nodes
        bad = {place.split()[0] for place in self.closed}
        left = [] if nodes is None else [node for node in nodes.split(",") if node not in bad]
        if not left:
            self.stop("device")
            return nodes
        return ",".join(left)

    def _may_continue(self, number: int) -> bool:
        """Count a death of the job's worker; return whether the job may be tried again.

        Every attempt that reports an epoch continues later than the one before, whatever it had to repeat. So deaths
        count together where they are in the same epoch, or before an attempt's first report.
        """
        count, before = self._deaths.get(number, (0, -1))
        reached = self._running[number].epochs
        epochs = before if reached is None else reached
        count = count + 1 if epochs == before else 1
        self._deaths[number] = (count, epochs)
        return count < DEATHS_WITHOUT_PROGRESS

    def withdraw(self, number: int) -> None:
        """Put a job back that no worker has begun."""
        if number in self._running:
            self._put_back(number)

    # ---- silence

    def starting(self, numbers: Iterable[int]) -> None:
        """Note that the workers of these jobs are still starting: silence counts from their start, however long."""
        for number in numbers:
            if number in self._running:
                self._running[number].last_heard = self._clock()

    def stuck(self) -> list[int]:
        """Return the jobs that have been silent for too long, each once; their workers are to be killed."""
        self._look()
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

    def _look(self) -> None:
        """Note that the driver is awake; after it was away, let the silence of every job begin anew."""
        now = self._clock()
        if now - self._awake_at > AWAY_SECONDS:
            for running in self._running.values():
                running.last_heard = now
            if self.stopping:
                self._stopping_since = now
        self._awake_at = now

    def _was_stuck(self, number: int) -> None:
        if self.stopping:
            self._put_back(number)
        elif self._ledger.noted(number, RESTARTED_STUCK):
            self._fail(number, STUCK, f"silent for too long after epoch {self._ledger.epochs(number)}, twice")
        else:
            self._ledger.note(number, RESTARTED_STUCK)
            self._put_back(number)

    # ---- ends

    def put_back_running(self) -> None:
        """Put back every job that still counts as running: the session is over for now."""
        for number in [*self._running, *self._to_run_alone]:
            self._ledger.wait(number)
        self._running.clear()
        self._to_run_alone.clear()

    def _fail(self, number: int, failure: str, message: str) -> None:
        self._ledger.fail(number, failure, message)
        self._ended(number)

    def _put_back(self, number: int) -> None:
        self._ledger.wait(number)
        del self._running[number]

    def _ended_well(self, number: int) -> None:
        self.bugs_in_a_row = 0
        self._ended(number)

    def _ended(self, number: int) -> None:
        del self._running[number]
        self._ended_jobs += 1
        for listener in self.listeners:
            listener.on_end(number)
