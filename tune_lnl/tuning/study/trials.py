"""The trials of a study as everything else reads them: types, attribute names, and which trial is best.

The other rooms of ``tuning`` take ``FrozenTrial`` and ``TrialState`` from here and do not import Optuna.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from tune_lnl.training.failures import DIVERGED

__all__ = [
    "ATTEMPTS",
    "ENDED",
    "FAILURE",
    "FINISHED",
    "MESSAGE",
    "STANDARD_ERROR",
    "STARTED",
    "TAKEN_FROM",
    "FrozenTrial",
    "TrialState",
    "best_trial",
    "has_diverged",
    "is_own",
    "last_value",
    "ranked",
    "taken_over",
    "with_params",
]

ENDED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)

# Names of the user attributes of a trial.
STANDARD_ERROR = "standard_error"
FAILURE = "failure"
"""The class of the failure of a FAIL trial."""
MESSAGE = "failure_message"
ATTEMPTS = "attempts"
STARTED = "started"
FINISHED = "finished"
TAKEN_FROM = "taken_from"
"""``{"run", "number"}`` of a trial that another run has made; it does not count against this run's total."""

# Names of the user attributes of the study itself.
RUN_ID = "run_id"
"""The id of the run that began a study in a database, where others might have a run of that name."""
RUNGS = "rungs"
"""The epochs (0-based) after which trials are compared, as the study began."""
RELATED = "related"
"""The related runs of a warm start, each as ``RelatedRun.to_dict`` gives it."""
FIRST_TRIALS = "first_trials"
"""The number of trials that stand in the study before any suggestion: start points, and trials of another run."""


def is_own(trial: FrozenTrial) -> bool:
    """Return whether this run has made the trial, rather than taken it over from another."""
    return TAKEN_FROM not in trial.user_attrs


def has_diverged(trial: FrozenTrial) -> bool:
    return trial.state == TrialState.FAIL and trial.user_attrs.get(FAILURE) == DIVERGED


def taken_over(trial: FrozenTrial, run: str, distributions: Mapping[str, BaseDistribution]) -> FrozenTrial:
    """Return a trial of another run, as it stands in the study of this one."""
    return optuna.trial.create_trial(
        state=trial.state,
        values=trial.values,
        params=trial.params,
        distributions=dict(distributions),
        user_attrs={**trial.user_attrs, TAKEN_FROM: {"run": run, "number": trial.number}},
        intermediate_values=trial.intermediate_values,
    )


def with_params(trial: FrozenTrial, params: Mapping[str, Any]) -> FrozenTrial:
    """Return a copy of an ended trial with other settings, for a ranking; it has no ranges."""
    copied = copy.copy(trial)
    copied.params = dict(params)
    return copied


def ranked(trials: Sequence[FrozenTrial], mode: str) -> list[FrozenTrial]:
    """Return COMPLETE trials, best first (ties: lower number), then PRUNED, FAIL and unfinished ones by number.

    Only full-length trials with a finite value are COMPLETE, so only they can be best.
    """
    sign = -1 if mode == "max" else 1
    order = {TrialState.COMPLETE: 0, TrialState.PRUNED: 1, TrialState.FAIL: 2}

    def key(trial: FrozenTrial) -> tuple[int, float, int]:
        complete = trial.state == TrialState.COMPLETE
        assert not complete or trial.value is not None
        return order.get(trial.state, 3), sign * float(trial.value or 0.0) if complete else 0.0, trial.number

    return sorted(trials, key=key)


def best_trial(trials: Sequence[FrozenTrial], mode: str) -> FrozenTrial | None:
    """Return the best trial, or ``None`` while none is COMPLETE."""
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    return next(iter(ranked(complete, mode)), None)


def last_value(trial: FrozenTrial) -> float | None:
    """Return the final value of a COMPLETE trial, the last reported one of any other."""
    if trial.value is not None:
        return float(trial.value)
    values: Mapping[int, Any] = trial.intermediate_values
    return values[max(values)] if values else None
