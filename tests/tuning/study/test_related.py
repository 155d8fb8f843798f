"""Related runs: how a ranking is kept, how far it is trusted, and what a misleading one costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial
from tiny_search import tiny_space

from tune_lnl.tuning.study.related import FLIP, MOST_POINTS, PRIOR, Advice, RelatedRun, share_of_related
from tune_lnl.tuning.study.samplers import TriedPoints, make_sampler, startup_trials
from tune_lnl.tuning.study.study import SearchStudy

RANGES = {"x": FloatDistribution(0.0, 1.0), "kind": CategoricalDistribution(("a", "b"))}


def ended(number: int, curve: Sequence[float], **params: Any) -> FrozenTrial:
    trial = create_trial(
        value=curve[-1], params=params, distributions=RANGES, intermediate_values=dict(enumerate(curve))
    )
    trial.number = number
    return trial


def advice(run: RelatedRun) -> Advice:
    tried = TriedPoints(RANGES)
    return Advice([run], tried.position, tried.choices, StudyDirection.MINIMIZE)


def falling_in_x(worst: int = 0) -> RelatedRun:
    """Eleven trainings, the better the smaller x."""
    return RelatedRun.of_ranking("other", [{"x": place / 10, "kind": "a"} for place in range(11)], worst)


def test_ranks_by_hand() -> None:
    assert falling_in_x().scores == pytest.approx([place / 10 for place in range(11)])
    assert falling_in_x(worst=3).scores[-4:] == pytest.approx([0.7, 1.0, 1.0, 1.0])
    many = RelatedRun.of_ranking("many", [{"x": place / 5000} for place in range(5000)])
    assert len(many.points) == MOST_POINTS
    assert (many.points[0]["x"], many.scores[-1]) == (0.0, 1.0)
    assert RelatedRun.from_dict(falling_in_x().to_dict()) == falling_in_x()


def test_trials_are_ranked_complete_then_pruned_then_diverged() -> None:
    complete = [ended(0, [3.0, 2.0], x=0.1, kind="a"), ended(1, [3.0, 1.0], x=0.2, kind="a")]
    pruned = ended(2, [0.5], x=0.3, kind="a")
    pruned.state = TrialState.PRUNED
    diverged = create_trial(
        state=TrialState.FAIL,
        params={"x": 0.4, "kind": "a"},
        distributions=RANGES,
        user_attrs={"failure": "diverged"},
    )
    run = RelatedRun.of_trials("other", [diverged, pruned, *complete], "min")
    assert [point["x"] for point in run.points] == [0.2, 0.1, 0.3, 0.4]
    assert RelatedRun.of_trials("other", complete, "max").points[0]["x"] == 0.1


def test_trust_by_hand() -> None:
    """Two trials at the ends of the ranking: one pair, as sure as can be."""
    found = advice(falling_in_x())
    assert found.trust([]) == pytest.approx([PRIOR])
    good, bad = ended(0, [1.0], x=0.0, kind="a"), ended(1, [2.0], x=1.0, kind="a")
    odds = PRIOR / (1 - PRIOR)
    agrees, denies = odds * 2 * (1 - FLIP), odds * 2 * FLIP
    assert found.trust([good, bad]) == pytest.approx([agrees / (1 + agrees)])
    other_way = [ended(0, [2.0], x=0.0, kind="a"), ended(1, [1.0], x=1.0, kind="a")]
    assert advice(falling_in_x()).trust(other_way) == pytest.approx([denies / (1 + denies)])


def test_pairs_are_compared_at_the_last_epoch_that_both_reached() -> None:
    """The stopped one is better at epoch 0, where both were; what the other reached later does not count."""
    stopped, whole = ended(0, [2.0], x=0.0, kind="a"), ended(1, [3.0, 1.0], x=1.0, kind="a")
    assert advice(falling_in_x()).trust([stopped, whole])[0] > PRIOR


def test_a_setting_that_the_related_run_lacks_does_not_count() -> None:
    run = RelatedRun.of_ranking("other", [{"x": place / 10} for place in range(11)])
    found = advice(run)
    positions = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    assert found.predicted(positions)[0] == pytest.approx([0.0, 0.0, 1.0], abs=1e-3)


def test_shares() -> None:
    assert [share_of_related(place, np.array([PRIOR])) for place in (-1, 0, 3, 100)] == [0.0, 1.0, 0.5, 0.25]
    assert share_of_related(0, np.array([0.0])) == 0.0


def searched(seed: int, *related: RelatedRun) -> optuna.Study:
    """Search 24 trials of x + y, small is good."""
    ranges: dict[str, BaseDistribution] = {name: FloatDistribution(0.0, 1.0) for name in "xy"}
    study = optuna.create_study(sampler=make_sampler("tpe", seed, 24, ranges, related))
    for _ in range(24):
        trial = study.ask(ranges)
        value = trial.params["x"] + trial.params["y"]
        trial.report(value, 0)
        study.tell(trial, value)
    return study


def suggested_of(run: RelatedRun, seed: int) -> tuple[int, float]:
    """Return how many trials of a search are points of ``run``, and its best value."""
    study = searched(seed, run)
    return sum(trial.params in run.points for trial in study.trials), study.best_value


def right_and_wrong() -> tuple[RelatedRun, RelatedRun]:
    generator = np.random.default_rng(0)
    points = [dict(zip("xy", row, strict=True)) for row in generator.uniform(0, 1, (60, 2)).tolist()]
    order = sorted(points, key=lambda point: point["x"] + point["y"])
    return RelatedRun.of_ranking("right", order), RelatedRun.of_ranking("wrong", order[::-1])


@pytest.mark.parametrize("seed", range(5))
def test_suggestions_of_a_misleading_run_come_in_addition(seed: int) -> None:
    """All random trials of the cold search come, in their order, between those of the run."""
    _, wrong = right_and_wrong()
    cold, misled = (
        [trial.params for trial in searched(seed, *related).trials if trial.params not in wrong.points]
        for related in ((), (wrong,))
    )
    assert len(misled) < 24
    assert misled[: startup_trials(24)] == cold[: startup_trials(24)]


def test_a_misleading_run_is_soon_left_out() -> None:
    right, wrong = right_and_wrong()
    of_right = [suggested_of(right, seed) for seed in range(10)]
    of_wrong = [suggested_of(wrong, seed) for seed in range(10)]
    assert np.mean([count for count, _ in of_right]) > 6
    assert np.mean([count for count, _ in of_wrong]) < 3
    assert all(count >= 1 for count, _ in of_wrong), "it has been tried"
    assert np.mean([best for _, best in of_right]) < np.mean([best for _, best in of_wrong])


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_resumed_study_suggests_the_same(tmp_path: Path, sampler: str) -> None:
    space = tiny_space(tmp_path, budget={"trials": 8, "sampler": sampler, "pruner": "none"})
    points = [{"lr": 0.002 * 1.3**place, "lr_asymmetry": 2.0} for place in range(12)]  # warmup_epochs is the sampler's
    run = RelatedRun.of_ranking("other", points)

    def search(path: Path, reopened_after: int) -> list[dict[str, Any]]:
        study = SearchStudy.create(path, space, 0, related=lambda: [run])
        for number in range(8):
            if number == reopened_after:
                study.place.release()
                study = SearchStudy.reopen(path, space, 0)
            suggestion = study.ask()
            value = 50 + 10 * math.sin(30 * suggestion.params["lr"])
            study.report(suggestion.number, 0, value)
            study.complete(suggestion.number, value, None)
        params = [trial.params for trial in study.trials]
        study.place.release()
        return params

    undisturbed = search(tmp_path / "a.log", -1)
    assert undisturbed[2]["lr"] == points[0]["lr"]
    assert search(tmp_path / "b.log", 5) == undisturbed
