"""The state of a running search, for its views alone: running trials, the best one so far, progress."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tune_lnl.tuning.engine.awake import awake
from tune_lnl.tuning.engine.listener import Listener
from tune_lnl.tuning.engine.messages import WorkerReport
from tune_lnl.tuning.plan.plan import Plan
from tune_lnl.tuning.runs.rows import TrialRow
from tune_lnl.tuning.study.pruners import expected_share
from tune_lnl.tuning.study.study import SearchStudy
from tune_lnl.tuning.study.trials import ENDED, TAKEN_FROM, TrialState, best_trial

RECENT_EPOCHS = 5
"""The remaining time of a trial is estimated from its last few epochs: those of a warm-up are shorter."""


@dataclass(frozen=True)
class RunningTrial:
    """A trial that a worker has now. A figure is ``None`` before the first epoch."""

    number: int
    epochs: int = 0
    value: float | None = None
    seconds_left: float | None = None
    params: dict[str, Any] = field(default_factory=dict)
    measures: dict[str, float] = field(default_factory=dict)
    """Other figures of its last epoch; no test metrics."""
    seconds: float | None = None
    """Since this search gave it to a worker."""


@dataclass(frozen=True)
class View:
    """One moment of a search."""

    running: Sequence[RunningTrial]
    best: TrialRow | None
    counts: dict[TrialState, int]
    """Of COMPLETE, PRUNED and FAIL, among this run's own trials."""
    trials: int
    progress: float
    """Share of the search that is done, in [0, 1]; a running trial counts by its epochs."""
    seconds_left: float | None
    """At most, where :attr:`least_seconds_left` is known too."""
    elapsed: float = 0.0
    """Seconds since this search began or was resumed."""
    least_seconds_left: float | None = None
    """Until a trial has ended: if all epochs are as fast as the fastest, and weak trials are stopped early."""

    @property
    def ended(self) -> int:
        return sum(self.counts.values())


@dataclass
class _Latest:
    """The latest report of a running trial."""

    report: WorkerReport
    measures: dict[str, float]
    at: float
    params: dict[str, Any]
    epoch_seconds: deque[float]


class SearchState(Listener):
    """Kept up to date by the thread that runs the search; any thread may call :meth:`view`.

    Args:
        deadline: when a time budget ends (seconds of ``clock``).
    """

    def __init__(
        self,
        plan: Plan,
        study: SearchStudy,
        deadline: float | None = None,
        clock: Callable[[], float] = awake,
    ) -> None:
        self._study = study
        self._trials = plan.space.budget.trials
        self._epochs = plan.space.epochs
        self._deadline = deadline
        self._clock = clock
        self._expected_share = expected_share(plan.space)
        self._running: Callable[[], list[int]] = list
        self._since: dict[int, float] = {}
        self._fastest: float | None = None
        self._slowest = 0.0
        self._latest: dict[int, _Latest] = {}
        self._best: TrialRow | None = None
        self._counts: dict[TrialState, int] = {}
        self._began = clock()
        self._progress_before = 0.0
        self._ended_before = 0

    def begin(self, running: Callable[[], list[int]]) -> None:
        """Start, or continue, with the trials of the study.

        Args:
            running: returns the numbers of the trials that workers have now.
        """
        self._running = running
        trials = self._study.trials
        own = [trial.state for trial in trials if TAKEN_FROM not in trial.user_attrs]
        self._counts = {state: own.count(state) for state in ENDED}
        best = best_trial(trials, self._study.mode)
        self._best = None if best is None else TrialRow.of(best)
        self._began, self._progress_before = self._clock(), self._progress([])
        self._ended_before = sum(self._counts.values())

    def on_epoch(self, report: WorkerReport) -> None:
        now, before, measures = self._clock(), self._latest.get(report.number), report.measured()
        if before is None or before.report.attempt != report.attempt:
            seconds = measures.get("seconds")
            recent = deque([] if seconds is None else [seconds], maxlen=RECENT_EPOCHS)
            params = dict(self._study.trial(report.number).params)
        else:
            recent, params = before.epoch_seconds, before.params
            recent.append(now - before.at)
        if recent:
            self._fastest = recent[-1] if self._fastest is None else min(self._fastest, recent[-1])
            self._slowest = max(self._slowest, recent[-1])
        self._latest[report.number] = _Latest(report, measures, now, params, recent)

    def on_end(self, number: int) -> None:
        trial, best = self._study.trial(number), self._study.best
        self._counts[trial.state] = self._counts.get(trial.state, 0) + 1
        self._best = None if best is None else TrialRow.of(best)
        self._latest.pop(number, None)

    def view(self) -> View:
        now, numbers = self._clock(), sorted(self._running())
        self._since = {number: self._since.get(number, now) for number in numbers}
        running = [self._running_trial(number) for number in numbers]
        progress = self._progress(running)
        least, most = self._range_left(progress, running)
        return View(
            running,
            self._best,
            dict(self._counts),
            self._trials,
            progress,
            most,
            now - self._began,
            least,
        )

    def _range_left(self, progress: float, running: Sequence[RunningTrial]) -> tuple[float | None, float | None]:
        """Return the least and the most seconds left; the least is ``None`` once a trial has ended."""
        most = self._seconds_left(progress, running)
        none_ended = sum(self._counts.values()) == self._ended_before
        if most is None or self._fastest is None or not none_ended or not running:
            return None, most
        epochs = (1.0 - progress) * self._trials * self._epochs / len(running)
        least = epochs * self._fastest * self._expected_share
        longest = max(most, epochs * self._slowest)
        if self._deadline is not None:
            longest = min(longest, max(0.0, self._deadline - self._clock()))
        return min(least, longest), longest

    def _running_trial(self, number: int) -> RunningTrial:
        latest, seconds = self._latest.get(number), self._clock() - self._since[number]
        if latest is None:
            return RunningTrial(number, seconds=seconds)
        epochs, left = latest.report.epoch + 1, None
        recent = list(latest.epoch_seconds)
        if recent:
            epoch_seconds = sum(recent) / len(recent)
            # An epoch that takes longer than the ones before it is nearly over at best; those after it remain.
            left = (self._epochs - epochs) * epoch_seconds - min(self._clock() - latest.at, epoch_seconds)
            left = max(0.0, left)
        return RunningTrial(number, epochs, latest.report.value, left, latest.params, latest.measures, seconds)

    def _progress(self, running: Sequence[RunningTrial]) -> float:
        ended = sum(self._counts.values())
        return min(1.0, (ended + sum(trial.epochs for trial in running) / self._epochs) / self._trials)

    def _seconds_left(self, progress: float, running: Sequence[RunningTrial]) -> float | None:
        """Extrapolate from the time elapsed, which includes the effect of trials that are stopped early."""
        now, done = self._clock(), progress - self._progress_before
        left = None if done <= 0 else (now - self._began) * (1.0 - progress) / done
        if sum(self._counts.values()) == self._ended_before:
            left = self._seconds_left_by_epochs(progress, running)
        known = [trial.seconds_left for trial in running if trial.seconds_left is not None]
        if known and sum(self._counts.values()) + len(known) >= self._trials:
            left = max(known)  # no trial is left to start, so the slowest one decides
        if self._deadline is None:
            return left
        until_deadline = max(0.0, self._deadline - now)
        return until_deadline if left is None else min(left, until_deadline)

    def _seconds_left_by_epochs(self, progress: float, running: Sequence[RunningTrial]) -> float | None:
        """Before the first trial ends, extrapolate from epoch times; elapsed time would include worker start-up."""
        latest = [found.epoch_seconds for trial in running if (found := self._latest.get(trial.number)) is not None]
        seconds = [sum(recent) / len(recent) for recent in latest if recent]
        if not seconds:
            return None
        epochs = (1.0 - progress) * self._trials * self._epochs
        return epochs * sum(seconds) / len(seconds) / len(running)
