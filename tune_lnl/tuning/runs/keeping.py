"""What stays under ``checkpoints/``: the state of running trials and the networks of the best few, nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from optuna.trial import FrozenTrial, TrialState

from tune_lnl.tuning.runs.layout import RunFiles
from tune_lnl.tuning.study.study import ranked

KEPT_MODELS = 3


def tidy(files: RunFiles, trials: Sequence[FrozenTrial], mode: str) -> None:
    """Delete the states of ended trials and the networks of all but the best :data:`KEPT_MODELS`.

    Args:
        trials: those of the study, by number.
    """
    for path in superfluous(files, files.checkpoints.glob("[0-9]*.pt"), trials, mode):
        path.unlink(missing_ok=True)


def superfluous(files: RunFiles, paths: Iterable[Path], trials: Sequence[FrozenTrial], mode: str) -> set[Path]:
    """Those of the states and networks that :func:`tidy` deletes."""
    # Only trials that have files are looked at, which are few: a network that was deleted never comes back.
    owners = {path: files.number_of(path) for path in paths}
    ended = {path: number for path, number in owners.items() if number < len(trials) and _ended(trials[number])}
    networks = [trials[number] for path, number in ended.items() if path == files.model(number)]
    best = [trial.number for trial in ranked(networks, mode)[:KEPT_MODELS] if trial.state == TrialState.COMPLETE]
    return ended.keys() - {files.model(number) for number in best}


def _ended(trial: FrozenTrial) -> bool:
    return bool(trial.state.is_finished())


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
