"""What stays under ``checkpoints/``: the state of running trials and the networks of the best few, nothing else."""

from __future__ import annotations

from collections.abc import Sequence

from optuna.trial import FrozenTrial, TrialState

from tune_lnl.tuning.files import RunFiles
from tune_lnl.tuning.study import ranked

KEPT_MODELS = 3


def tidy(files: RunFiles, trials: Sequence[FrozenTrial], mode: str) -> None:
    """Delete the states of ended trials and the networks of all but the best :data:`KEPT_MODELS`."""
    kept = {trial.number for trial in ranked(trials, mode)[:KEPT_MODELS] if trial.state == TrialState.COMPLETE}
    ended = {trial.number for trial in trials if trial.state.is_finished()}
    for path in files.checkpoints.glob("*.pt"):
        number = files.number_of(path)
        if number in ended and (path == files.checkpoint(number) or number not in kept):
            path.unlink(missing_ok=True)
