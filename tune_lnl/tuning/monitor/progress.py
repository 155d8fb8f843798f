"""The lines of a search: its head, one line per finished trial, and a closing summary."""

from __future__ import annotations

import shlex
import time

from tune_lnl.tuning.engine.listener import Listener
from tune_lnl.tuning.engine.messages import WorkerReport
from tune_lnl.tuning.monitor.console import Console
from tune_lnl.tuning.plan.plan import Plan
from tune_lnl.tuning.runs.answer import find_answer
from tune_lnl.tuning.runs.location import location
from tune_lnl.tuning.runs.rows import TrialRow, describe_states
from tune_lnl.tuning.study.pruners import comparisons
from tune_lnl.tuning.study.study import SearchStudy
from tune_lnl.tuning.study.trials import ATTEMPTS, ENDED, TrialState, ranked
from tune_lnl.wording import STATES, duration, settings_text


class Progress(Listener):
    """Prints what the study contains; keeps nothing but the time at which it began."""

    def __init__(self, plan: Plan, study: SearchStudy, console: Console) -> None:
        self._plan = plan
        self._study = study
        self._console = console
        self._began = time.monotonic()
        self._metric = str(plan.space.base["objective"]["metric"])

    def begin(self, resumed: bool) -> None:
        """Print the head of the search, and what a resumed one found."""
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
            # Ended trials, started ones with a checkpoint to continue from, and started ones without.
            waiting = (trial for trial in self._study.trials if trial.state == TrialState.WAITING)
            started = [trial.number for trial in waiting if ATTEMPTS in trial.user_attrs]
            kept = plan.files.checkpointed() if started else set()
            continued = sum(number in kept for number in started)
            ended = self._study.count(*ENDED)
            tell(f"  kept {ended}, continued {continued}, re-queued {len(started) - continued}")

    def on_epoch(self, report: WorkerReport) -> None:
        epoch = f"{report.epoch + 1}/{self._plan.space.epochs}"
        self._console.detail(f"trial {report.number} epoch {epoch} {self._metric} {report.value:.2f}")

    def on_end(self, number: int) -> None:
        row, best = TrialRow.of(self._study.trial(number)), self._study.best
        outcome = f"{row.failure}: {row.message}" if row.state == "FAIL" else row.value_text
        mark = "best  " if best is not None and best.number == number else ""
        count = f"[{self._study.count(*ENDED):>3}/{self._plan.space.budget.trials}]"
        # The settings stand last: a narrow terminal cuts off the end of the line.
        self._console.row(
            f"{count} trial {number:>3} {STATES[row.state]:<13} {outcome:<13} "
            f"{row.epochs:>3} epochs {row.seconds or 0.0:6.1f} s  {mark}{settings_text(row.params)}"
        )

    def end(self, outcome: str) -> None:
        """Print the summary."""
        console, trials = self._console, self._study.trials
        rows = [TrialRow.of(trial) for trial in trials]
        console(f"{describe_states(rows)} in {duration(time.monotonic() - self._began)}")
        answer = find_answer(self._plan.files, [TrialRow.of(trial) for trial in ranked(trials, self._study.mode)])
        failed = [row for row in rows if row.state == "FAIL"]
        if answer is not None:
            row = next(row for row in rows if row.number == answer.number)
            config = location(self._plan.files.best)
            why = "" if answer.by == "objective" else f" ({answer.words})"
            console(f"best: trial {row.number}, {self._metric} {row.value_text}, {settings_text(row.params)}{why}")
            console(f"  config: {config}")
            console(f"  train it again: python -m tune_lnl.train {shlex.quote(config)}")
        elif failed:
            first = failed[0]
            console(f"no trial completed; trial {first.number} failed first: {first.failure}: {first.message}")
        else:
            console("no trial has run to its full length yet, so there is no best config")
        if outcome == "interrupted":
            console(f"interrupted; continue with:\n  {self._plan.resume_command()}")
