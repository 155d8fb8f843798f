from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_search import tiny_space

from tune_lnl.tuning.space.space import PRUNERS, load_space
from tune_lnl.tuning.study.pruners import RungPruner, comparisons, make_pruner, pruner_of, rungs, rungs_of

optuna.logging.set_verbosity(optuna.logging.WARNING)

Direction = Literal["maximize", "minimize"]
EPOCHS, LONGEST_WARMUP = 30, 9
FIRST_RUNG = 9


@pytest.mark.parametrize(
    ("epochs", "longest_warmup", "average_last", "expected"),
    [
        (150, 60, 1, [63, 69, 89]),  # 60 + 90/27 rounded up, 60 + 90/9, 60 + 90/3, counted from 1
        (150, 60, 10, [77, 95]),  # clean after 69 epochs: 69 + 81/9, 69 + 81/3; 69 + 81/27 is too near
        (45, 18, 10, [28]),  # clean after 27: 27 + 18/9; 27 + 18/3 shares six of its ten epochs with it
        (10, 4, 10, [6]),  # ten clean epochs would be most of the rest: the delay is a third, 4 + 2
        (3, 1, 1, [1]),  # both would stand after the second epoch
        (2, 1, 1, []),  # after the last epoch there is nothing left to save
    ],
)
def test_rungs_by_hand(epochs: int, longest_warmup: int, average_last: int, expected: list[int]) -> None:
    assert rungs(epochs, longest_warmup, average_last) == expected


@given(epochs=st.integers(1, 400), share=st.floats(0, 1, exclude_max=True), average_last=st.integers(1, 20))
def test_rungs_at_any_length(epochs: int, share: float, average_last: int) -> None:
    """Behind the warm-up, before the end, apart; and where there is room, no warm-up epoch is averaged."""
    longest_warmup = int(epochs * share)
    found = rungs(epochs, longest_warmup, average_last)
    assert all(longest_warmup <= rung < epochs - 1 for rung in found)
    assert all(later - earlier >= average_last for earlier, later in itertools.pairwise(found))
    if (epochs - longest_warmup) // 3 >= average_last - 1:
        assert all(rung + 1 - average_last >= longest_warmup for rung in found)


def test_a_space_knows_its_rungs() -> None:
    space = load_space("act_digits8no")
    assert (space.epochs, space.longest_warmup(), rungs_of(space)) == (45, 18, [28])
    pruner = pruner_of(space)
    assert isinstance(pruner, RungPruner)
    assert pruner.rungs == {28}


def run_one(study: optuna.Study, curve: Sequence[float]) -> int | None:
    """Run a trial along ``curve``; the epoch after which it was stopped, if it was."""
    trial = study.ask()
    for epoch, value in enumerate(curve):
        trial.report(value, epoch)
        # As in a search: nobody asks after the last epoch.
        if epoch + 1 < len(curve) and trial.should_prune():
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            return epoch
    study.tell(trial, curve[-1])
    return None


def stops(name: str, curves: Sequence[Sequence[float]], direction: Direction = "maximize") -> list[int | None]:
    study = optuna.create_study(
        study_name="search", direction=direction, pruner=make_pruner(name, EPOCHS, rungs(EPOCHS, LONGEST_WARMUP))
    )
    return [run_one(study, curve) for curve in curves]


def random_curves(seed: int, trials: int = 40) -> list[list[float]]:
    generator = np.random.default_rng(seed)
    levels = generator.uniform(20, 80, trials)
    return [list(level + np.arange(EPOCHS) * 0.2 + generator.normal(0, 3, EPOCHS)) for level in levels]


@pytest.mark.parametrize("name", PRUNERS)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000))
def test_every_pruner(name: str, seed: int) -> None:
    curves = random_curves(seed)
    found = stops(name, curves)
    stopped = [epoch for epoch in found if epoch is not None]
    assert all(epoch >= FIRST_RUNG for epoch in stopped)
    assert bool(stopped) == (name != "none")
    if name == "asha":
        assert set(stopped) <= {9, 11, 15}, "the same epochs for all"
    assert stops(name, curves[:1]) == [None], "the only trial continues"
    mirrored = [[-value for value in curve] for curve in curves]
    assert stops(name, mirrored, "minimize") == found


@pytest.mark.parametrize("name", PRUNERS)
def test_tiny_lengths(name: str) -> None:
    for epochs, longest_warmup in ((1, 0), (2, 0), (2, 1), (3, 0), (3, 2), (6, 0)):
        pruner = make_pruner(name, epochs, rungs(epochs, longest_warmup))
        study = optuna.create_study(study_name="search", direction="maximize", pruner=pruner)
        for number in range(12):
            stopped = run_one(study, [50.0 - number] * epochs)
            assert stopped is None or stopped >= longest_warmup


def test_a_third_goes_on_at_each_rung() -> None:
    """Best first: whoever comes later is worse than a third of those who came, and stops."""
    falling = [[100.0 - number] * EPOCHS for number in range(9)]
    assert stops("asha", falling) == [None, *[FIRST_RUNG] * 8]
    # Worst first: each is the best so far, so each goes on. That is the price of never waiting.
    assert stops("asha", falling[::-1]) == [None] * 9


class TestRungPruner:
    """Rung 2, one in three goes on; by hand."""

    @pytest.fixture
    def study(self) -> optuna.Study:
        return optuna.create_study(direction="maximize", pruner=RungPruner([2]))

    @pytest.mark.parametrize(
        ("before", "own", "stopped"),
        [
            ([], 0.0, False),  # alone: 1 // 3 is 0, but at least one goes on
            ([50], 60, False),
            ([50], 40, True),  # n = 2, one goes on
            ([50], 50, False),  # equal values go on together
            ([50, 60], 55, True),  # n = 3, one goes on
            ([50, 60], 60, False),
            ([50, 60, 70, 80], 75, True),  # n = 5, still one
            ([50, 60, 70, 80, 90], 85, False),  # n = 6, two go on
            ([50, 60, 70, 80, 90], 75, True),
            ([80, 80, 10, 10, 10], 79, True),  # two above it, two places
            ([80, 80, 80, 10, 10], 80, False),
            ([90, 80, 10, 10, 10, 10, 10, 10], 70, False),  # n = 9, three go on
        ],
    )
    def test_by_hand(self, study: optuna.Study, before: list[float], own: float, stopped: bool) -> None:
        for value in before:
            earlier = study.ask()
            earlier.report(value, 2)
        trial = study.ask()
        trial.report(own, 2)
        assert trial.should_prune() == stopped

    def test_only_at_a_rung(self, study: optuna.Study) -> None:
        run_one(study, [90.0] * 5)
        trial = study.ask()
        assert not trial.should_prune()
        for epoch, expected in enumerate([False, False, True, False]):
            trial.report(10.0, epoch)
            assert trial.should_prune() == expected

    def test_whoever_reached_the_rung_counts_whatever_became_of_them(self, study: optuna.Study) -> None:
        failed, pruned, early = study.ask(), study.ask(), study.ask()
        for trial in (failed, pruned):
            trial.report(90.0, 2)
        early.report(99.0, 1)
        study.tell(failed, state=optuna.trial.TrialState.FAIL)
        study.tell(pruned, state=optuna.trial.TrialState.PRUNED)
        trial = study.ask()
        trial.report(91.0, 2)
        assert not trial.should_prune()
        trial = study.ask()
        trial.report(89.0, 2)
        assert trial.should_prune()


@pytest.mark.parametrize(
    ("pruner", "message", "rungs_there"),
    [
        ("asha", "after epochs 3 and 4", True),
        ("median", "after every epoch from 3 on", True),
        ("hyperband", "in brackets, after epoch 3 at the earliest", True),
        ("none", "never", False),
    ],
)
def test_when_trials_are_compared_is_told(pruner: str, message: str, rungs_there: bool, tmp_path: Path) -> None:
    assert {"asha", "median", "hyperband", "none"} == set(PRUNERS)
    space = tiny_space(tmp_path, budget={"trials": 2, "sampler": "random", "pruner": pruner})
    assert comparisons(space.budget.pruner, rungs_of(space)) == message
    assert bool(rungs_of(space)) == rungs_there
