"""A running search at a glance: what runs, the best so far, how far it is. Views draw it; nothing decides by it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tune_lnl.tuning.engine.messages import WorkerReport
from tune_lnl.tuning.plan.plan import Plan
from tune_lnl.tuning.runs.rows import TrialRow
from tune_lnl.tuning.study.trials import ENDED, FrozenTrial, TrialState, best_trial, is_own

RECENT_EPOCHS = 5
"""A trial's time left is told from its last few epochs: those of a warm-up are shorter than those after it."""


@dataclass(frozen=True)
class RunningTrial:
    """A trial that a worker has now. What is not known before its first epoch is ``None``."""

    number: int
    epochs: int = 0
    value: float | None = None
    seconds_left: float | None = None
    params: dict[str, Any] = field(default_factory=dict)
    measures: dict[str, float] = field(default_factory=dict)
    """What else its last epoch gave; no test metrics."""


@dataclass(frozen=True)
class View:
    """One moment of a search."""

    running: Sequence[RunningTrial]
    best: TrialRow | None
    counts: dict[TrialState, int]
    """Of COMPLETE, PRUNED and FAIL, of this run's own trials."""
    trials: int
    progress: float
    """Share of the search that is done, in [0, 1]; a trial that runs counts by its epochs."""
    seconds_left: float | None

    @property
    def ended(self) -> int:
        return sum(self.counts.values())


@dataclass
class _Heard:
    """The last that a trial has said."""

    report: WorkerReport
    measures: dict[str, float]
    at: float
    params: dict[str, Any]
    epoch_seconds: deque[float]


class Board:
    """Kept by the thread that runs the search; any thread may look.

    Args:
        running: numbers of the trials that workers have now.
        deadline: when a time budget ends (seconds of ``clock``).
    """

    def __init__(
        self,
        plan: Plan,
        running: Callable[[], list[int]] = list,
        deadline: float | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._trials = plan.space.budget.trials
        self._epochs = plan.space.epochs
        self._mode = plan.space.mode
        self._running = running
        self._deadline = deadline
        self._clock = clock
        self._heard: dict[int, _Heard] = {}
        self._best: TrialRow | None = None
        self._counts: dict[TrialState, int] = {}
        self._began = clock()
        self._progress_before = 0.0
        self._ended_before = 0

    def begin(self, trials: Sequence[FrozenTrial], running: Callable[[], list[int]]) -> None:
        """The search starts or goes on, with these trials in its study."""
        self._running = running
        own = [trial.state for trial in trials if is_own(trial)]
        self._counts = {state: own.count(state) for state in ENDED}
        best = best_trial(trials, self._mode)
        self._best = None if best is None else TrialRow.of(best)
        self._began, self._progress_before = self._clock(), self._progress([])
        self._ended_before = sum(self._counts.values())

    def epoch(self, report: WorkerReport, trial: Callable[[int], FrozenTrial]) -> None:
        """A worker has reported; ``trial`` gives the study's by number, and is asked once for each."""
        now, before, measures = self._clock(), self._heard.get(report.number), report.measured()
        if before is None or before.report.attempt != report.attempt:
            seconds = measures.get("seconds")
            recent = deque([] if seconds is None else [seconds], maxlen=RECENT_EPOCHS)
            params = dict(trial(report.number).params)
        else:
            recent, params = before.epoch_seconds, before.params
            recent.append(now - before.at)
        self._heard[report.number] = _Heard(report, measures, now, params, recent)

    def trial_ended(self, trial: FrozenTrial, best: FrozenTrial | None) -> None:
        """A trial of this run has ended, and ``best`` is the best of the study now."""
        self._counts[trial.state] = self._counts.get(trial.state, 0) + 1
        self._best = None if best is None else TrialRow.of(best)
        self._heard.pop(trial.number, None)

    def view(self) -> View:
        running = [self._running_trial(number) for number in sorted(self._running())]
        progress = self._progress(running)
        return View(
            running, self._best, dict(self._counts), self._trials, progress, self._seconds_left(progress, running)
        )

    def _running_trial(self, number: int) -> RunningTrial:
        heard = self._heard.get(number)
        if heard is None:
            return RunningTrial(number)
        epochs, left = heard.report.epoch + 1, None
        recent = list(heard.epoch_seconds)
        if recent:
            epoch_seconds = sum(recent) / len(recent)
            # An epoch that takes longer than those before it is nearly over at best; those after it are still to come.
            left = (self._epochs - epochs) * epoch_seconds - min(self._clock() - heard.at, epoch_seconds)
            left = max(0.0, left)
        return RunningTrial(number, epochs, heard.report.value, left, heard.params, heard.measures)

    def _progress(self, running: Sequence[RunningTrial]) -> float:
        ended = sum(self._counts.values())
        return min(1.0, (ended + sum(trial.epochs for trial in running) / self._epochs) / self._trials)

    def _seconds_left(self, progress: float, running: Sequence[RunningTrial]) -> float | None:
        """At the pace so far, which has the trials that are stopped early in it."""
        now, done = self._clock(), progress - self._progress_before
        left = None if done <= 0 else (now - self._began) * (1.0 - progress) / done
        if sum(self._counts.values()) == self._ended_before:
            left = self._seconds_left_by_epochs(progress, running)
        known = [trial.seconds_left for trial in running if trial.seconds_left is not None]
        if known and sum(self._counts.values()) + len(known) >= self._trials:
            left = max(known)  # nothing more is to start, so the slowest decides
        if self._deadline is None:
            return left
        until_deadline = max(0.0, self._deadline - now)
        return until_deadline if left is None else min(left, until_deadline)

    def _seconds_left_by_epochs(self, progress: float, running: Sequence[RunningTrial]) -> float | None:
        """Until a trial has ended the pace would have the workers' start in it, which comes only once."""
        heard = [found.epoch_seconds for trial in running if (found := self._heard.get(trial.number)) is not None]
        seconds = [sum(recent) / len(recent) for recent in heard if recent]
        if not seconds:
            return None
        epochs = (1.0 - progress) * self._trials * self._epochs
        return epochs * sum(seconds) / len(seconds) / len(running)
