"""What the user sees while a search runs: plain lines, one per finished trial, and a closing summary."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from tune_lnl.tuning.planning import Plan
from tune_lnl.tuning.results import TrialRow, describe_state, describe_value
from tune_lnl.tuning.study import ATTEMPTS, ENDED, SearchStudy, best_trial

STATE_WORDS = {"COMPLETE": "complete", "PRUNED": "stopped early", "FAIL": "failed"}


class Progress:
    """Reads the study; keeps nothing but the time it began."""

    def __init__(self, plan: Plan, study: SearchStudy, say: Callable[[str], None]) -> None:
        self._plan = plan
        self._study = study
        self._say = say
        self._began = time.monotonic()
        objective = plan.space.base["objective"]
        self._mode = str(objective.get("mode", "max"))
        self._metric = str(objective["metric"])

    def begin(self, resumed: bool) -> None:
        plan, space = self._plan, self._plan.space
        condition = f", condition {space.condition}" if space.condition else ""
        self._say(f"search {space.name}{condition}: {space.description}")
        self._say(
            f"  {space.budget.trials} trials of {space.epochs} epochs, sampler {space.budget.sampler}, "
            f"pruner {space.budget.pruner}"
            + (f" (compares after epochs {', '.join(str(r + 1) for r in plan.rungs)})" if plan.rungs else "")
        )
        self._say(f"  {plan.resources}; files in {plan.files.root}")
        for remark in plan.remarks():
            self._say(f"  note: {remark}")
        if resumed:
            self._say(f"  {self._kept()}")

    def _kept(self) -> str:
        """What a resumed search found: ended trials, started ones with a state to go on from, and without."""
        trials = self._study.trials
        ended = self._study.count(*ENDED)
        started = [trial for trial in trials if trial.state == TrialState.WAITING and ATTEMPTS in trial.user_attrs]
        continued = sum(bool(self._plan.files.checkpoints_of(trial.number)) for trial in started)
        return f"kept {ended}, continued {continued}, re-queued {len(started) - continued}"

    def trial_ended(self, number: int) -> None:
        trials = self._study.trials
        row = TrialRow.of(trials[number])
        best = best_trial(trials, self._mode)
        ended = self._study.count(*ENDED)
        outcome = f"{row.failure}: {row.message}" if row.state == "FAIL" else describe_value(row)
        mark = "  best so far" if best is not None and best.number == number else ""
        count = f"[{ended:>3}/{self._plan.space.budget.trials}]"
        self._say(
            f"{count} trial {number:>3} {STATE_WORDS[row.state]:<13} {outcome:<14} "
            f"{row.epochs:>3} epochs {row.seconds or 0.0:6.1f} s  {describe_params(row.params)}{mark}"
        )

    def end(self, outcome: str) -> None:
        trials = self._study.trials
        self._say(f"{describe_state(trials)} in {time.monotonic() - self._began:.0f} s")
        best = best_trial(trials, self._mode)
        if best is None:
            self._say(_why_nothing(trials))
        else:
            row = TrialRow.of(best)
            self._say(f"best: trial {row.number}, {self._metric} {describe_value(row)}, {describe_params(row.params)}")
            self._say(f"  config: {self._plan.files.best}")
            self._say(f"  train it again: python -m tune_lnl.train {self._plan.files.best}")
        if outcome == "interrupted":
            self._say(f"interrupted; continue with:\n  {self._plan.resume_command()}")


def describe_params(params: Any) -> str:
    """``lr=0.01 tau=0.025``: what was searched, four digits."""
    return " ".join(
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in params.items()
    )


def _why_nothing(trials: list[FrozenTrial]) -> str:
    failed = [TrialRow.of(trial) for trial in trials if trial.state == TrialState.FAIL]
    if not failed:
        return "no trial has run to its full length yet, so there is no best config"
    first = failed[0]
    return f"no trial completed; trial {first.number} failed first: {first.failure}: {first.message}"
