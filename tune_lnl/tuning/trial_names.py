"""Readable names for trials in Ray's dashboard."""

from __future__ import annotations

from typing import Any

from ray import tune

from tune_lnl.tuning.ray_bridge import NUMBER

_UNNAMED = "tune_lnl_unnamed_train"


def trial_name(number: int) -> str:
    """``trial-007``, as the run's folders count."""
    return f"trial-{number:03d}"


class NamedTasks(tune.Callback):
    """Gives every epoch's task the name of its trial.

    Ray would call each of them ``TrialWorker.train``: one worker process trains many trials, and Ray takes its name
    once, when it starts.
    """

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        worker = trial.temporary_state.ray_actor
        if worker is None:
            return
        unnamed = vars(worker).setdefault(_UNNAMED, worker.train)
        worker.train = unnamed.options(name=trial_name(trial.config[NUMBER]))
