"""Which checkpoints and networks of a run are kept."""

from __future__ import annotations

from pathlib import Path

import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial

from tune_lnl.tuning.runs.folder import RunFolder
from tune_lnl.tuning.runs.keeping import KEPT_MODELS, remove_half_written, tidy, tidy_heldout

COMPLETE, PRUNED, FAIL, RUNNING = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING


def trials_of(*states: tuple[TrialState, float | None]) -> list[FrozenTrial]:
    trials = [create_trial(state=state, value=value) for state, value in states]
    for number, trial in enumerate(trials):
        trial.number = number
    return trials


@pytest.fixture
def files(tmp_path: Path) -> RunFolder:
    run = RunFolder(tmp_path)
    run.checkpoints.mkdir()
    return run


def left(files: RunFolder) -> set[str]:
    return {path.name for path in files.checkpoints.iterdir()}


@pytest.mark.parametrize(("mode", "kept"), [("max", {0, 2, 4}), ("min", {0, 3, 5})])
def test_the_best_networks_and_the_states_of_what_runs(files: RunFolder, mode: str, kept: set[int]) -> None:
    """Equal values: the lower number is better, so of 0 and 1 it is 1 that goes."""
    values = (50.0, 50.0, 70.0, 20.0, 60.0, 40.0)
    trials = trials_of(*((COMPLETE, value) for value in values), (PRUNED, 99.0), (FAIL, None), (RUNNING, None))
    for trial in trials:
        files.checkpoint(trial.number, 1).touch()
        if trial.state == COMPLETE:
            files.model(trial.number).touch()
    files.checkpoint(42, 1).touch()  # of a trial that this study does not have
    tidy(files, trials, mode)
    assert len(kept) == KEPT_MODELS
    assert left(files) == {f"{number:03d}-model.pt" for number in kept} | {"008.1.pt", "042.1.pt"}


def test_trial_by_trial_it_is_the_same_as_at_once(files: RunFolder) -> None:
    values = (3.0, 9.0, 1.0, 7.0, 8.0, 2.0, 10.0)
    trials = trials_of(*((COMPLETE, value) for value in values))
    for trial in trials:
        files.model(trial.number).touch()
        tidy(files, trials[: trial.number + 1], "max")
    assert left(files) == {"000-model.pt", "001-model.pt", "006-model.pt"}, "trial 0 may stay the answer"


def test_predictions_of_the_worst_go_where_the_disk_budget_has_no_room(files: RunFolder) -> None:
    trials = trials_of((COMPLETE, 50.0), (COMPLETE, 50.0), (COMPLETE, 70.0), (FAIL, None), (RUNNING, None))
    for trial in trials:
        files.heldout(trial.number).parent.mkdir(exist_ok=True)
        files.heldout(trial.number).touch()
        files.model(trial.number).touch()
    for room, kept in ((3, {0, 1, 2, 3, 4}), (2, {0, 2, 4}), (1, {0, 4}), (0, {4})):
        tidy_heldout(files, trials, "max", room)
        assert {files.number_of(path) for path in files.listed("heldout")} == kept
    assert len(left(files)) == len(trials), "networks are not touched for predictions"


def test_what_killed_processes_have_half_written(files: RunFolder) -> None:
    kept = ("trials.csv", ".trials.json", ".driver.lock", "checkpoints/003-model.pt")
    names = ("trials.csv", "epochs.parquet", "best.yaml", "trials.json", "report.html", "checkpoints/003.1.pt")
    halves = [Path(name).with_name(f".{Path(name).name.removeprefix('.')}.4711") for name in names]
    for name in (*map(Path, kept), *halves):
        (files.root / name).touch()
    remove_half_written(files)
    assert all((files.root / name).exists() for name in kept)
    assert not any((files.root / half).exists() for half in halves)
