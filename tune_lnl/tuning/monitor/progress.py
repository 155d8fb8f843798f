"""What the user sees while a search runs: a line per finished trial, a table on a terminal, and a closing summary."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console as RichConsole
from rich.console import RenderableType

from tune_lnl.tuning.engine.listener import Listener
from tune_lnl.tuning.engine.messages import WorkerReport
from tune_lnl.tuning.monitor.console import Console
from tune_lnl.tuning.monitor.state import Board
from tune_lnl.tuning.monitor.table import live_table
from tune_lnl.tuning.plan.plan import Plan
from tune_lnl.tuning.resources.memory import GpuWatch, memory_in_use
from tune_lnl.tuning.runs.location import location
from tune_lnl.tuning.runs.rows import TrialRow, describe_states
from tune_lnl.tuning.study.pruners import comparisons
from tune_lnl.tuning.study.study import SearchStudy
from tune_lnl.tuning.study.trials import ATTEMPTS, ENDED, FrozenTrial, TrialState, best_trial
from tune_lnl.wording import STATES, duration, settings_text


class Progress(Listener):
    """Reads the study; keeps nothing but the time it began and what its table needs."""

    def __init__(self, plan: Plan, study: SearchStudy, console: Console, deadline: float | None = None) -> None:
        self._plan = plan
        self._study = study
        self._console = console
        self._began = time.monotonic()
        self.board = Board(plan, deadline=deadline)
        objective = plan.space.base["objective"]
        self._mode = plan.space.mode
        self._metric = str(objective["metric"])

    def begin(self, resumed: bool) -> None:
        plan, space, tell = self._plan, self._plan.space, self._console.tell
        condition = f", condition {space.condition}" if space.condition else ""
        tell(f"search {space.name}{condition}: {space.description}")
        tell(
            f"  {space.budget.trials} trials of {space.epochs} epochs, sampler {space.budget.sampler}, "
            f"pruner {space.budget.pruner}" + (f" (compares {comparisons(space)})" if plan.rungs else "")
        )
        tell(f"  {plan.resources}; files in {location(plan.files.root)}")
        for remark in plan.remarks():
            tell(f"  note: {remark}")
        if resumed:
            tell(f"  {self._kept()}")

    @contextmanager
    def showing(self, running: Callable[[], list[int]]) -> Iterator[None]:
        """While trials run: the table, where there is a terminal."""
        self.board.begin(self._study.trials, running)
        gpus = GpuWatch()

        def draw(console: RichConsole) -> RenderableType:
            known = gpus.now() if self._plan.machine.gpus else []
            return live_table(self._plan, self.board.view(), memory_in_use(), known, console)

        with self._console.showing(draw):
            yield

    def _kept(self) -> str:
        """What a resumed search found: ended trials, started ones with a state to go on from, and without."""
        trials = self._study.trials
        ended = self._study.count(*ENDED)
        started = [trial for trial in trials if trial.state == TrialState.WAITING and ATTEMPTS in trial.user_attrs]
        kept = self._plan.files.checkpointed() if started else set()
        continued = sum(trial.number in kept for trial in started)
        return f"kept {ended}, continued {continued}, re-queued {len(started) - continued}"

    def on_epoch(self, report: WorkerReport) -> None:
        self.board.epoch(report, self._study.trial)
        epoch = f"{report.epoch + 1}/{self._plan.space.epochs}"
        self._console.detail(f"trial {report.number} epoch {epoch} {self._metric} {report.value:.2f}")

    def on_end(self, number: int) -> None:
        trial, best = self._study.trial(number), self._study.best
        self.board.trial_ended(trial, best)
        row = TrialRow.of(trial)
        ended = self._study.count(*ENDED)
        outcome = f"{row.failure}: {row.message}" if row.state == "FAIL" else row.value_text
        # Before the settings: those are what a narrow terminal cuts off.
        mark = "best  " if best is not None and best.number == number else ""
        count = f"[{ended:>3}/{self._plan.space.budget.trials}]"
        self._console.row(
            f"{count} trial {number:>3} {STATES[row.state]:<13} {outcome:<13} "
            f"{row.epochs:>3} epochs {row.seconds or 0.0:6.1f} s  {mark}{settings_text(row.params)}"
        )

    def end(self, outcome: str) -> None:
        say, trials = self._console, self._study.trials
        say(
            f"{describe_states([TrialRow.of(trial) for trial in trials])} in {duration(time.monotonic() - self._began)}"
        )
        best = best_trial(trials, self._mode)
        if best is None:
            say(_why_nothing(trials))
        else:
            row = TrialRow.of(best)
            say(f"best: trial {row.number}, {self._metric} {row.value_text}, {settings_text(row.params)}")
            say(f"  config: {location(self._plan.files.best)}")
            say(f"  train it again: python -m tune_lnl.train {shlex.quote(location(self._plan.files.best))}")
        if outcome == "interrupted":
            say(f"interrupted; continue with:\n  {self._plan.resume_command()}")


def _why_nothing(trials: list[FrozenTrial]) -> str:
    failed = [TrialRow.of(trial) for trial in trials if trial.state == TrialState.FAIL]
    if not failed:
        return "no trial has run to its full length yet, so there is no best config"
    first = failed[0]
    return f"no trial completed; trial {first.number} failed first: {first.failure}: {first.message}"
