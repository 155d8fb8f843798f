"""The lines of a search: its head, one line per finished trial, and a closing summary."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence

from tune_lnl.tuning.engine.listener import Listener
from tune_lnl.tuning.engine.messages import WorkerReport
from tune_lnl.tuning.monitor.console import Console
from tune_lnl.tuning.plan.cost import cost_lines
from tune_lnl.tuning.plan.plan import Plan
from tune_lnl.tuning.runs.answer import find_answer
from tune_lnl.tuning.runs.location import nearby
from tune_lnl.tuning.runs.rows import TrialRow, describe_states
from tune_lnl.tuning.study.pruners import comparisons
from tune_lnl.tuning.study.study import SearchStudy
from tune_lnl.tuning.study.trials import ATTEMPTS, ENDED, FrozenTrial, TrialState, ranked
from tune_lnl.wording import STATES, counted, duration, settings_text


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
        plan, space, row = self._plan, self._plan.space, self._console.row
        condition = f", noise condition {space.condition}" if space.condition else ""
        row(f"search {space.name}{condition}: {space.description}")
        stops = (
            f"; {space.budget.pruner} stops the weaker ones {comparisons(space.budget.pruner, plan.rungs)}"
            if plan.rungs
            else ""
        )
        row(f"  {space.budget.trials} trials of {space.epochs} epochs; {space.budget.sampler} proposes settings{stops}")
        sentence = plan.race_sentence()
        if sentence is not None:
            row(f"  {sentence}")
        row(f"  {plan.resources}")
        if self._console.verbosity != "quiet":
            self._console.labelled("  files", nearby(plan.files.root))
        if plan.bounds is not None:
            row(f"  {plan.bounds.sentence()}")
        for remark in plan.remarks():
            row(f"  note: {remark}")
        if resumed:
            # Ended trials, started ones with a checkpoint to continue from, and started ones without.
            waiting = (trial for trial in self._study.trials if trial.state == TrialState.WAITING)
            started = [trial.number for trial in waiting if ATTEMPTS in trial.user_attrs]
            kept = plan.files.checkpointed() if started else set()
            continued = sum(number in kept for number in started)
            row(f"  {resumed_text(self._study.count(*ENDED), continued, len(started) - continued)}")
        elif self._console.verbosity != "quiet":
            for line in cost_lines(plan):
                self._console(line)

    def on_epoch(self, report: WorkerReport) -> None:
        epoch = f"{report.epoch + 1}/{self._plan.space.epochs}"
        self._console.detail(f"trial {report.number} epoch {epoch} {self._metric} {report.value:.2f}")

    def on_end(self, number: int) -> None:
        row, best = TrialRow.of(self._study.trial(number)), self._study.best
        outcome = f"{row.failure}: {row.message}" if row.state == "FAIL" else row.value_text
        mark = "  best so far" if best is not None and best.number == number else ""
        count = f"[{self._study.count(*ENDED):>3}/{self._plan.space.budget.trials}]"
        self._console.row(
            f"{count} trial {number:>3} {STATES[row.state]:<13} {outcome:<13} "
            f"{row.epochs:>3} epochs {row.seconds or 0.0:6.1f} s{mark}",
            settings_text(row.params),
        )

    def end(self, outcome: str) -> None:
        """Print the summary."""
        console, trials = self._console, self._study.trials
        rows = [TrialRow.of(trial) for trial in trials]
        console(f"{describe_states(rows)} in {duration(time.monotonic() - self._began)}")
        start = self._plan.space.start
        ranking = [TrialRow.of(trial) for trial in ranked(trials, self._study.mode)]
        answer = find_answer(self._plan.files, ranking, start[0] if start else None)
        failed = [row for row in rows if row.state == "FAIL"]
        if answer is not None:
            row = next(row for row in rows if row.number == answer.number)
            config = nearby(self._plan.files.best)
            why = "" if answer.has_highest_objective else f" ({answer.words})"
            text = f"best: trial {row.number}, {self._metric} {row.value_text}, {settings_text(row.params)}{why}"
            console(text)
            bounds = self._plan.bounds
            if bounds is not None:
                console(f"  {bounds.short()}")
            if bounds is not None and row.value is not None and bounds.is_guessing(row.value, row.standard_error):
                console(f"  no trial is better than guessing, which scores about {bounds.chance:.4g}")
            higher = self._stood_higher(trials, row)
            if higher is not None:
                console(f"  {higher}")
            console.labelled("  config", config)
            console.labelled("  train it again", f"python -m tune_lnl.train {shlex.quote(config)}")
        elif failed:
            first = failed[0]
            console(f"no trial completed; trial {first.number} failed first: {first.failure}: {first.message}")
        else:
            console("no trial has run to its full length yet, so there is no best config")
        if outcome == "interrupted":
            console(f"interrupted; continue with:\n  {self._plan.resume_command()}")

    def _stood_higher(self, trials: Sequence[FrozenTrial], best: TrialRow) -> str | None:
        """Name the trial without full length that stood highest above the best, and the best at the same epoch."""
        sign = 1.0 if self._study.mode == "max" else -1.0
        curves = {trial.number: trial.intermediate_values for trial in trials if trial.intermediate_values}
        ends = {
            trial.number: curves[trial.number][max(curves[trial.number])]
            for trial in trials
            if trial.state in (TrialState.PRUNED, TrialState.FAIL) and trial.number in curves
        }
        number = max(ends, key=lambda one: sign * ends[one], default=None)
        if number is None or best.value is None or sign * (ends[number] - best.value) <= 0:
            return None
        epoch = max(curves[number])
        then = curves.get(best.number, {}).get(epoch)
        compared = "" if then is None else f" (trial {best.number} after as many: {then:.2f})"
        state = STATES[next(trial.state.name for trial in trials if trial.number == number)]
        return f"trial {number}, {state}, stood at {ends[number]:.2f} after {counted(epoch + 1, 'epoch')}{compared}"


def resumed_text(ended: int, continued: int, again: int) -> str:
    """Say what a resumed search found; what is zero is left out.

    >>> resumed_text(12, 1, 0)
    '12 trials are finished; 1 continues from its last epoch'
    """
    parts = [f"{counted(ended, 'trial')} {'is' if ended == 1 else 'are'} finished"]
    if continued:
        one = continued == 1
        parts.append(f"{continued} continue{'s' if one else ''} from {'its' if one else 'their'} last epoch")
    if again:
        parts.append(f"{again} start{'s' if again == 1 else ''} again")
    return "; ".join(parts)
