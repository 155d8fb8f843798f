"""Which files stay: the states of unfinished trials, the networks of the best few, and held-out predictions while there
is room. Trial 0 counts as the best: it stays the answer unless another is distinguishable from it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tune_lnl.tuning.runs.folder import RunFolder
from tune_lnl.tuning.runs.layout import HELDOUT, RunFiles
from tune_lnl.tuning.study.trials import FrozenTrial, ranked

KEPT_MODELS = 3


def tidy(files: RunFolder, trials: Sequence[FrozenTrial], mode: str) -> None:
    """Delete the checkpoints of ended trials and the networks of all but the best :data:`KEPT_MODELS`.

    Call it after the study holds the end of each trial: until then its checkpoint is the way to get that end again.

    Args:
        trials: those of the study, by number.
    """
    # Few trials have files: a deleted network never comes back.
    owners: dict[Path, int] = {
        path: files.number_of(path) for path in files.listed("checkpoints") if path.match("[0-9]*.pt")
    }
    ended = {path: n for path, n in owners.items() if n < len(trials) and trials[n].state.is_finished()}
    networks = [trials[number] for path, number in ended.items() if path == files.model(number)]
    best = _best(networks, mode)[:KEPT_MODELS]
    files.delete(*(ended.keys() - {files.model(number) for number in best}))


def tidy_heldout(files: RunFolder, trials: Sequence[FrozenTrial], mode: str, room: int) -> None:
    """Delete the held-out predictions of all but the best ``room`` COMPLETE trials.

    Args:
        trials: those of the study, by number.
        room: from :meth:`tune_lnl.tuning.resources.disk.DiskNeed.heldout_room`.
    """
    if sum(trial.state.name == "COMPLETE" for trial in trials) <= room:
        return
    owners = {path: files.number_of(path) for path in files.listed(HELDOUT)}
    ended = {path: n for path, n in owners.items() if n < len(trials) and trials[n].state.is_finished()}
    best = _best(trials, mode)[:room]
    files.delete(*(path for path, number in ended.items() if number not in best))


def _best(trials: Sequence[FrozenTrial], mode: str) -> list[int]:
    """Return the numbers of the COMPLETE trials, 0 first and then the best."""
    return sorted((trial.number for trial in ranked(trials, mode) if trial.state.name == "COMPLETE"), key=bool)


def remove_half_written(files: RunFiles) -> None:
    """Delete the temporary files of killed processes; only the driver of the run may call this."""
    for folder in (files.checkpoints, files.confirm, files.root / HELDOUT):
        for path in folder.glob(".*"):
            path.unlink(missing_ok=True)
    kinds = ("parquet", "trials.csv", "epochs.csv", "yaml", "json", "html", "driver", "ray-folder")
    for path in (path for kind in kinds for path in files.root.glob(f".*{kind}.[0-9]*")):
        path.unlink(missing_ok=True)
