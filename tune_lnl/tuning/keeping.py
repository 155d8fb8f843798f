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
    for path in files.checkpoints.glob("[0-9]*.pt"):
        number = files.number_of(path)
        if number in ended and (path != files.model(number) or number not in kept):
            path.unlink(missing_ok=True)


def remove_half_written(files: RunFiles) -> None:
    """Delete what a killed process was just writing; only for the one driver of the run."""
    for folder in (files.checkpoints, files.confirm):
        for path in folder.glob(".*"):
            path.unlink(missing_ok=True)
    for path in (*files.root.glob(".*.parquet.*"), *files.root.glob(".*.yaml.*")):
        path.unlink(missing_ok=True)


def bytes_used(files: RunFiles) -> int:
    """Size of everything under the run's folder."""
    total = 0
    for path in files.root.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue  # a checkpoint was just replaced or deleted
    return total
