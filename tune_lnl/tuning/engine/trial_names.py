"""Readable names for trials in Ray's dashboard, and none of Ray's own lines on the console."""

from __future__ import annotations

from typing import Any

from ray.tune.progress_reporter import TrialProgressCallback

from tune_lnl.tuning.engine.tune import NUMBER

_UNNAMED = "tune_lnl_unnamed_train"


def trial_name(number: int) -> str:
    """``trial-007``, as the run's folders count."""
    return f"trial-{number:03d}"


class NamedTasks(TrialProgressCallback):
    """Gives every epoch's task the name of its trial.

    Ray would call each of them ``TrialWorker.train``: one worker process trains many trials, and Ray takes its name
    once, when it starts. It takes the place of Ray's callback that prints a line per trial, among those of the search.
    """

    def on_trial_result(self, *arguments: Any, **info: Any) -> None:
        """Not printed."""

    def on_trial_error(self, *arguments: Any, **info: Any) -> None:
        """Not printed."""

    def on_trial_complete(self, *arguments: Any, **info: Any) -> None:
        """Not printed."""

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        worker = trial.temporary_state.ray_actor
        if worker is None:
            return
        unnamed = vars(worker).setdefault(_UNNAMED, worker.train)
        worker.train = unnamed.options(name=trial_name(trial.config[NUMBER]))
