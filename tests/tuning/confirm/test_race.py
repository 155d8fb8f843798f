"""The race of the few best: its rules by hand, and a race from trials to the answer."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from recorded import complete
from tiny_search import tiny_plan, tiny_space
from train_here import Here

from tune_lnl.tuning.confirm.likely import Likely, coordinates, without_collapsed
from tune_lnl.tuning.confirm.race import Prior, affordable, entrants, hopeful, next_round, stand
from tune_lnl.tuning.confirm.stage import Trainer, race
from tune_lnl.tuning.monitor.console import Console
from tune_lnl.tuning.plan.plan import Plan
from tune_lnl.tuning.runs.answer import Answer
from tune_lnl.tuning.runs.confirmation import Confirmation
from tune_lnl.tuning.runs.run import load_run


def prior(means: dict[int, float], variance: float = 4.0, noise: float = 1.0) -> Prior:
    return Prior(tuple(means), np.array([*means.values()]), variance * np.eye(len(means)), noise)


def test_a_quarter_of_the_epochs_is_affordable() -> None:
    assert [affordable(epochs, 10) for epochs in (0, 79, 80, 119, 120, 400)] == [0, 1, 2, 2, 3, 10]


@pytest.mark.parametrize(
    ("trainings", "expected"),
    [(2, [5, 0]), (3, [5, 0]), (6, [5, 3, 0]), (8, [5, 3, 9, 0]), (100, [5, 3, 9, 0, 7])],
)
def test_the_published_setting_always_enters(trainings: int, expected: list[int]) -> None:
    assert entrants([5, 3, 9, 0, 7], 0, trainings) == expected
    assert entrants([5, 3], None, trainings) == [5, 3]
    assert entrants([5, 3], 8, trainings) == [5, 3], "it is not complete"


def test_the_posterior_of_two_configs_by_hand() -> None:
    """Of d = m1 - m2 the prior is N(0, 8), and y1 - y2 = d + N(0, 2): mean 8 / 10 * 3, variance 8 * 2 / 10."""
    standing = stand(prior({1: 50.0, 2: 50.0}), {1: {1: 43.0}, 2: {1: 40.0}})
    assert standing.numbers == (1, 2)
    assert standing.behind[1] == pytest.approx((2.4, math.sqrt(1.6)), rel=1e-6)
    assert standing.better(1) == pytest.approx(0.5 * math.erfc(2.4 / math.sqrt(1.6) / math.sqrt(2)), rel=1e-6)
    assert standing.best[0] == pytest.approx(1 - standing.better(1), abs=0.01)
    assert standing.better(0) == 0.5


def test_a_split_that_is_hard_for_all_says_nothing_about_who_is_best() -> None:
    easy = stand(prior({1: 50.0, 2: 50.0}), {1: {1: 43.0}, 2: {1: 40.0}})
    hard = stand(prior({1: 50.0, 2: 50.0}), {1: {1: 13.0}, 2: {1: 10.0}})
    assert hard.behind[1] == pytest.approx(easy.behind[1], rel=1e-6)


def test_luck_in_the_search_is_drawn_back_and_few_replicates_do_not_overrule_many_trials() -> None:
    assert stand(prior({1: 50.0, 2: 49.0}), {1: {1: 40.0}, 2: {1: 42.0}}).numbers == (2, 1)
    assert stand(prior({1: 50.0, 2: 40.0}, variance=0.1), {1: {1: 40.0}, 2: {1: 42.0}}).numbers == (1, 2)


def test_the_published_setting_stays_first_unless_another_is_clearly_better() -> None:
    start = prior({0: 50.0, 1: 50.0})
    little, much = {0: {1: 50.0}, 1: {1: 51.0}}, {0: {1: 50.0}, 1: {1: 60.0}}
    assert stand(start, little).numbers == (1, 0)
    kept = stand(start, little, published=0)
    assert kept.numbers == (0, 1)
    assert 0.5 < kept.better(1) < 0.95
    assert kept.best[1] > kept.best[0]
    assert stand(start, much, published=0).numbers == (1, 0)


def test_a_collapsed_replicate_speaks_against_its_config() -> None:
    start = prior({1: 51.0, 2: 50.0})
    values = {1: {1: 50.0, 2: 12.0}, 2: {1: 50.0, 2: 50.0}}
    assert stand(start, values).numbers == (2, 1)
    assert stand(start, values).better(1) < 0.05


def test_ties_go_to_the_lower_number() -> None:
    assert stand(prior({7: 50.0, 2: 50.0}), {}).numbers == (2, 7)


def test_the_clearly_worse_drop_out_and_do_not_come_back() -> None:
    start = prior({1: 50.0, 2: 50.0, 3: 50.0})
    assert next_round(start, {}, 9) == [(1, 1), (2, 1), (3, 1)]
    first = {1: {1: 50.0}, 2: {1: 49.5}, 3: {1: 40.0}}
    assert next_round(start, first, 9) == [(1, 2), (2, 2)]
    second = {1: {1: 50.0, 2: 40.0}, 2: {1: 49.5, 2: 49.5}, 3: {1: 40.0}}
    assert all(number != 3 for number, _ in next_round(start, second, 9))


def test_the_race_ends_with_its_money_or_with_one_left() -> None:
    start = prior({1: 50.0, 2: 50.0, 3: 50.0})
    even = {1: {1: 50.0}, 2: {1: 50.0}, 3: {1: 50.0}}
    assert next_round(start, even, 5) == [(1, 2), (2, 2)]
    assert next_round(start, even, 4) == []
    assert next_round(start, {1: {1: 60.0}, 2: {1: 40.0}, 3: {1: 40.0}}, 9) == []


def test_those_without_hope_do_not_enter_but_for_the_published_setting() -> None:
    start = prior({1: 50.0, 2: 40.0, 3: 30.0}, variance=1.0)
    assert hopeful(start, None) == [1]
    assert hopeful(start, 3) == [1, 3]
    assert hopeful(prior({1: 50.0, 2: 49.0}), None) == [1, 2]


def test_who_diverged_is_out() -> None:
    start = prior({1: 50.0, 2: 50.0, 3: 50.0})
    values = {1: {1: math.nan}, 2: {1: 50.0}, 3: {1: 50.0}}
    assert stand(start, values).numbers == (2, 3)
    assert next_round(start, values, 9) == [(2, 2), (3, 2)]
    assert stand(start, {number: {1: math.nan} for number in (1, 2, 3)}).numbers == ()


def test_coordinates_are_of_the_unit_cube(tmp_path: Path) -> None:
    space = tiny_space(tmp_path)
    params: list[dict[str, float]] = [
        {"lr": 0.002, "lr_asymmetry": 16, "warmup_epochs": 1},
        {"lr": 0.02, "lr_asymmetry": 0.2, "warmup_epochs": 2},
    ]
    np.testing.assert_allclose(coordinates(space.parameters, params), np.array([[0, 1, 0], [0.5, 0, 1.0]]), atol=1e-12)


def test_a_collapsed_training_counts_as_a_bad_one() -> None:
    values = np.array([50.0, 51.0, 49.0, 52.0, 12.0])
    lifted = without_collapsed(values)
    assert lifted[:4].tolist() == values[:4].tolist()
    assert 40 < lifted[4] < 49


def test_the_process_draws_a_lucky_value_back(tmp_path: Path) -> None:
    space = tiny_space(tmp_path)
    stream = np.random.default_rng(0)
    lrs = 0.002 * 100.0 ** stream.random(40)
    params = [{"lr": float(lr), "lr_asymmetry": 1.0, "warmup_epochs": 1} for lr in lrs]
    mean = 50 - 10 * (coordinates(space.parameters, params)[:, 0] - 0.5) ** 2
    noise = stream.normal(0, 0.5, 40)
    likely = Likely(space.parameters, params, (mean + noise).tolist(), 2.0)
    assert np.abs(likely.means() - mean).mean() < 0.5 * np.abs(noise).mean()
    assert 0.3 < math.sqrt(likely.noise) < 0.9
    found = likely.prior([3, 5], [30, 50])
    assert found.numbers == (30, 50)
    assert np.linalg.eigvalsh(found.covariance).min() > 0


# ---- with trainings


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return tiny_plan(tmp_path, name="own", trials="12", pruner="none")


def run_race(plan: Plan, here: Here) -> object:
    run = load_run(plan.files.root)
    return race(plan, run, Console(write=here.said.append), Trainer(here.train, room=lambda: 1))


@pytest.mark.slow
def test_a_race_from_trials_to_the_answer(plan: Plan) -> None:
    complete(plan, [60.0, 40.0, 50.0, 61.0, 40.0, 41.0, 42.0, 43.0, 44.0, 45.0, 46.0, 47.0])
    here = Here(plan)
    here.stop_after = 1
    assert run_race(plan, here) == "interrupted"
    assert load_run(plan.files.root).answer == Answer(0, "objective", highest=3)
    here.stop_after = None
    found = run_race(plan, here)
    assert isinstance(found, Confirmation)
    # 12 trials afford three replicates: one of each of two, and there is no second round for the third.
    assert len(here.trained) == len(set(here.trained)) == 2
    assert {name.partition("-")[0] for name in here.trained} >= {"000"}
    table = pq.read_table(plan.files.replicates_table).to_pylist()
    assert [(row["kind"], row["replicate"], row["seed"], row["split_seed"]) for row in table] == [("race", 1, 1, 1)] * 2
    assert {row["noise_seed"] for row in table} == {0}, "a user's labels cannot be drawn again"
    answer = load_run(plan.files.root).answer
    assert answer is not None
    assert (answer.number, answer.by) == (found.winner, "replicates")
    assert answer.probability is not None
    assert 0 < answer.probability <= 1
    trained = list(here.trained)
    assert run_race(plan, here) == found
    assert here.trained == trained, "nothing is trained twice"


def test_a_small_search_has_no_race(tmp_path: Path) -> None:
    plan = tiny_plan(tmp_path, name="own", trials="7", epochs=2, pruner="none")
    complete(plan, [60.0 + number for number in range(7)])
    assert plan.race_sentence() is None
    here = Here(plan)
    assert run_race(plan, here) is None
    assert here.said[0].startswith("no replicates: they need 8 complete trials")
    assert not plan.files.race.exists()


def test_what_the_plan_says_first(tmp_path: Path) -> None:
    plan = tiny_plan(tmp_path, name="own", trials="12")
    assert "at most 25% of the trials' epochs more (3 trainings of 6)" in str(plan.race_sentence())
    assert plan.settings()["race"] is True
    without = tiny_plan(tmp_path, name="own", trials="12", confirm="none")
    assert without.race_sentence() is None
    assert without.settings()["race"] is False
