from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial
from recorded import search
from tiny_search import EPOCHS, TINY, curve, tiny_plan, tiny_space

from tune_lnl.tuning.space.ranges import parse_parameter
from tune_lnl.tuning.study.journal import read_trials, repair_journal
from tune_lnl.tuning.study.study import SearchStudy, distribution
from tune_lnl.tuning.study.trials import ATTEMPTS, FAILURE, MESSAGE, STANDARD_ERROR, best_trial, last_value, ranked


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "study.log"


@pytest.fixture
def study(path: Path) -> SearchStudy:
    return SearchStudy.create(path, tiny_space(path.parent), 0)


def reopen(path: Path, seed: int = 0) -> SearchStudy:
    return SearchStudy.reopen(path, tiny_space(path.parent), seed)


def seen_by_optuna(path: Path) -> optuna.Study:
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(path)))
    return optuna.load_study(study_name=None, storage=storage)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"type": "uniform", "low": 0, "high": 1}, FloatDistribution(0, 1)),
        ({"type": "uniform", "low": 0, "high": 1, "step": 0.25}, FloatDistribution(0, 1, step=0.25)),
        ({"type": "loguniform", "low": 0.01, "high": 1}, FloatDistribution(0.01, 1, log=True)),
        ({"type": "int", "low": 5, "high": 12, "step": 3}, IntDistribution(5, 11, step=3)),
        ({"type": "int", "low": 1, "high": 12, "log": True}, IntDistribution(1, 12, log=True)),
        ({"type": "choice", "choices": ["a", None]}, CategoricalDistribution(["a", None])),
    ],
)
def test_distributions(spec: dict[str, Any], expected: Any) -> None:
    assert distribution(parse_parameter(spec, "x")) == expected


class TestWaitingForTheDisk:
    """Each wait takes milliseconds, ten of which would be most of what a short trial costs."""

    @pytest.fixture
    def waits(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        """The size of the file at every wait."""
        sizes: list[int] = []
        monkeypatch.setattr(os, "fsync", lambda descriptor: sizes.append(os.fstat(descriptor).st_size))
        return sizes

    def test_once_per_call_and_for_all_it_wrote(self, path: Path, study: SearchStudy, waits: list[int]) -> None:
        calls = (
            study.ask,
            lambda: study.report(0, 0, 1.0),
            lambda: study.complete(0, 1.0, 0.5),
            study.ask,
            lambda: study.fail(1, "bug", "no"),
        )
        for call in calls:
            before = path.stat().st_size
            waits.clear()
            call()
            assert waits == [path.stat().st_size]
            assert waits[0] > before

    def test_what_is_not_waited_for_yet_is_in_the_file(self, path: Path, study: SearchStudy, waits: list[int]) -> None:
        number = study.ask().number
        waits.clear()
        with study.place.access():
            study.report(number, 0, 1.0)
            assert seen_by_optuna(path).trials[number].intermediate_values == {0: 1.0}
            with study.place.access():
                study.report(number, 1, 2.0)
            assert seen_by_optuna(path).trials[number].intermediate_values == {0: 1.0, 1: 2.0}
            assert waits == []
        assert waits == [path.stat().st_size]

    def test_an_error_inside_leaves_the_next_records_waited_for(self, study: SearchStudy, waits: list[int]) -> None:
        number = study.ask().number
        with pytest.raises(ZeroDivisionError), study.place.access():
            raise ZeroDivisionError
        waits.clear()
        study.report(number, 0, 1.0)
        assert len(waits) == 1


class TestAsking:
    def test_start_points_come_first_and_in_order(self, study: SearchStudy) -> None:
        assert [study.ask().params for _ in range(2)] == TINY["start"]

    def test_then_the_sampler_stays_inside_the_ranges(self, tmp_path: Path, study: SearchStudy) -> None:
        ranges = tiny_space(tmp_path).parameters
        for number in range(10):
            suggestion = study.ask()
            assert (suggestion.number, suggestion.attempt) == (number, 1)
            assert set(suggestion.params) == set(ranges)
            assert all(ranges[name].contains(value) for name, value in suggestion.params.items())

    def test_the_seed_decides_what_is_suggested(self, tmp_path: Path) -> None:
        space = tiny_space(tmp_path)
        drawn: list[list[dict[str, Any]]] = []
        for seed in (0, 0, 1):
            study = SearchStudy.create(tmp_path / f"study-{len(drawn)}.log", space, seed)
            drawn.append([study.ask().params for _ in range(5)])
        assert drawn[0] == drawn[1]
        assert drawn[0][:2] == drawn[2][:2]
        assert drawn[0][2:] != drawn[2][2:]

    def test_a_trial_put_back_is_given_again(self, path: Path, study: SearchStudy) -> None:
        for _ in range(3):
            study.ask()
        third = study.ask()
        study.report(third.number, 0, 10.0)
        study.wait(third.number)
        assert read_trials(path)[third.number].state == TrialState.WAITING
        again = study.ask()
        assert (again.number, again.params, again.attempt) == (third.number, third.params, 2)
        study.report(again.number, 0, 99.0)
        study.report(again.number, 1, 11.0)
        assert read_trials(path)[third.number].intermediate_values == {0: 10.0, 1: 11.0}

    def test_a_further_attempt_at_a_running_trial(self, path: Path, study: SearchStudy) -> None:
        first = study.ask()
        again = study.restart(first.number)
        assert (again.number, again.params, again.attempt) == (first.number, first.params, 2)
        trial = read_trials(path)[first.number]
        assert (trial.state, trial.user_attrs[ATTEMPTS]) == (TrialState.RUNNING, 2)

    def test_notes_stay(self, path: Path, study: SearchStudy) -> None:
        number = study.ask().number
        assert not study.noted(number, "seen")
        study.note(number, "seen")
        study.wait(number)
        again = reopen(path)
        assert again.ask().number == number
        assert again.noted(number, "seen")


class TestTelling:
    def test_every_end_as_plain_optuna_sees_it(self, path: Path, study: SearchStudy) -> None:
        for _ in range(5):
            study.ask()
        for number in range(4):
            for epoch, value in enumerate(curve(number, 50.0 + number, 3 if number else EPOCHS)):
                study.report(number, epoch, value)
        study.complete(0, 50.0, 1.25)
        study.prune(1, 2.5)
        study.fail(2, "diverged", "not finite at epoch 3")
        study.wait(3)

        plain = seen_by_optuna(path)
        assert plain.study_name == "search"
        assert plain.direction == optuna.study.StudyDirection.MAXIMIZE
        assert plain.metric_names == ["val_accuracy"]
        trials = plain.trials
        assert [trial.state.name for trial in trials] == ["COMPLETE", "PRUNED", "FAIL", "WAITING", "RUNNING"]
        assert plain.best_trial.number == 0
        assert [trials[0].value, trials[1].value, trials[2].value] == [50.0, 51.0, None]
        assert trials[0].intermediate_values == dict(enumerate(curve(0, 50.0)))
        assert len(trials[3].intermediate_values) == 3
        assert [trial.user_attrs.get(STANDARD_ERROR) for trial in trials[:3]] == [1.25, 2.5, None]
        assert (trials[2].user_attrs[FAILURE], trials[2].user_attrs[MESSAGE]) == ("diverged", "not finite at epoch 3")

    def test_a_report_sent_twice_is_recorded_once(self, path: Path, study: SearchStudy) -> None:
        number = study.ask().number
        study.report(number, 0, 1.0)
        before = path.read_bytes()
        study.report(number, 0, 2.0)
        assert path.read_bytes() == before
        assert read_trials(path)[number].intermediate_values == {0: 1.0}
        assert study.epochs(number) == 1

    def test_an_error_that_is_not_finite_is_left_out(self, path: Path, study: SearchStudy) -> None:
        number = study.ask().number
        study.report(number, 0, 1.0)
        study.complete(number, 1.0, float("nan"))
        assert STANDARD_ERROR not in read_trials(path)[number].user_attrs

    def test_minimising(self, path: Path) -> None:
        space = tiny_space(path.parent, objective={"metric": "val_loss", "mode": "min", "average_last": 1})
        SearchStudy.create(path, space, 0)
        assert seen_by_optuna(path).direction == optuna.study.StudyDirection.MINIMIZE

    def test_stopping_is_the_studys_pruner(self, study: SearchStudy) -> None:
        for _ in range(2):
            study.ask()
        for epoch in range(3):
            study.report(0, epoch, 50.0)
            study.report(1, epoch, 40.0)
            assert study.should_prune(1) == (epoch == 2)
            assert not study.should_prune(0)

    def test_the_published_setting_is_never_stopped(self, study: SearchStudy) -> None:
        for _ in range(2):
            study.ask()
        study.report(1, 2, 50.0)
        study.report(0, 2, 40.0)
        assert not study.should_prune(0)

    def test_counting(self, study: SearchStudy) -> None:
        for _ in range(3):
            study.ask()
        study.report(0, 0, 1.0)
        study.prune(0, None)
        study.wait(1)
        assert study.count(TrialState.PRUNED) == 1
        assert study.count(TrialState.PRUNED, TrialState.WAITING, TrialState.RUNNING) == 3


class TestReopening:
    def test_what_ran_waits_under_its_number_and_settings(self, path: Path, study: SearchStudy) -> None:
        asked = [study.ask() for _ in range(4)]
        study.report(1, 0, 5.0)
        study.report(0, 0, 5.0)
        study.complete(0, 5.0, None)
        again = reopen(path)
        states = [trial.state for trial in again.trials]
        assert states == [TrialState.COMPLETE, *[TrialState.WAITING] * 3]
        for before in asked[1:]:
            now = again.ask()
            assert (now.number, now.params, now.attempt) == (before.number, before.params, 2)
        assert again.ask().number == 4
        assert again.trials[1].intermediate_values == {0: 5.0}

    def test_the_sampler_does_not_repeat_itself(self, path: Path, study: SearchStudy) -> None:
        drawn = [study.ask().params for _ in range(6)]
        for number in range(6):
            study.report(number, 0, 1.0)
            study.prune(number, None)
        further = reopen(path)
        assert all(further.ask().params not in drawn for _ in range(4))


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_search_that_was_interrupted_is_the_search_that_was_not(tmp_path: Path, sampler: str) -> None:
    """One trial at a time: the same settings, values and ends, wherever its drivers died."""
    runs = [
        search(tiny_plan(tmp_path, name=f"run{number}", trials="25", sampler=sampler), crashes=crashes)
        for number, crashes in enumerate([(), (15, 16, 40), (60, 71)])
    ]
    found = [[(trial.state, trial.params, trial.intermediate_values) for trial in run.trials] for run in runs]
    assert found[0] == found[1] == found[2]
    assert {trial.state.name for trial in runs[0].trials} >= {"COMPLETE", "PRUNED"}


class TestDyingAtTheBeginning:
    @pytest.mark.parametrize("records", [0, 1, 2, 3, 4, 5, 6])
    def test_a_driver_that_died_while_it_began(self, path: Path, study: SearchStudy, records: int) -> None:
        """Whatever was written by then, the start points come first, once, and in order."""
        whole = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(whole[:records]) + b'{"op_code": 4, "worker')
        again = reopen(path)
        asked = [again.ask().params for _ in range(3)]
        assert asked[:2] == TINY["start"]
        assert asked[2] not in TINY["start"]


class TestRepair:
    def write_two(self, study: SearchStudy) -> None:
        for number in range(2):
            study.ask()
            study.report(number, 0, float(number))

    @pytest.mark.parametrize("left", [1, 10, -1])
    def test_a_torn_tail_is_cut_so_that_the_next_append_is_read(
        self, path: Path, study: SearchStudy, left: int
    ) -> None:
        self.write_two(study)
        whole = path.read_bytes()
        last = whole.splitlines(keepends=True)[-1]
        path.write_bytes(whole + last[:left])
        assert [trial.intermediate_values for trial in read_trials(path)] == [{0: 0.0}, {0: 1.0}]

        repair_journal(path)
        assert path.read_bytes() == whole
        again = reopen(path)
        assert again.ask().number == 0
        again.report(0, 1, 7.0)
        assert [trial.intermediate_values for trial in read_trials(path)] == [{0: 0.0, 1: 7.0}, {0: 1.0}]

    def test_a_whole_journal_is_left_alone(self, path: Path, study: SearchStudy) -> None:
        self.write_two(study)
        before = path.read_bytes()
        repair_journal(path)
        assert path.read_bytes() == before

    @pytest.mark.parametrize("dangling", [False, True])
    def test_the_lock_of_a_dead_writer_goes(self, path: Path, study: SearchStudy, dangling: bool) -> None:
        lock = path.with_name("study.log.lock")
        lock.symlink_to("gone" if dangling else path)
        other = path.with_name("study.log.lock1234.rename")
        other.touch()
        repair_journal(path)
        assert not os.path.lexists(lock)
        assert not other.exists()
        assert study.ask().number == 0  # would wait half a minute for the lock


class TestReading:
    def test_while_it_is_written(self, path: Path, study: SearchStudy) -> None:
        """A reader sees whole records only, ever more of them, and takes no lock."""
        done = threading.Event()
        failures: list[BaseException] = []

        def write() -> None:
            try:
                for number in range(15):
                    study.ask()
                    for epoch in range(EPOCHS):
                        study.report(number, epoch, float(epoch))
                    study.complete(number, 5.0, None)
            except BaseException as error:
                failures.append(error)
            finally:
                done.set()

        writer = threading.Thread(target=write)
        writer.start()
        seen = [0]
        while not done.is_set():
            trials = read_trials(path)
            seen.append(sum(len(trial.intermediate_values) for trial in trials))
            assert all(set(trial.intermediate_values.values()) <= set(range(EPOCHS)) for trial in trials)
        writer.join()
        assert not failures
        assert seen == sorted(seen)
        assert len(read_trials(path)) == 15
        assert not list(path.parent.glob("*.lock*"))

    @pytest.mark.parametrize("content", [b"", b'{"op_code": 0, "work'])
    def test_before_the_first_record(self, path: Path, content: bytes) -> None:
        path.write_bytes(content)
        assert read_trials(path) == []


def ended(number: int, state: TrialState, value: float | None, **intermediate: float) -> FrozenTrial:
    trial = create_trial(
        state=state, value=value, intermediate_values={int(key[1:]): one for key, one in intermediate.items()}
    )
    trial.number = number
    return trial


def test_what_is_counted_along_the_way_is_what_the_trials_say(path: Path, study: SearchStudy) -> None:
    values = [50.0, 70.0, None, 70.0, 60.0]
    for number, value in enumerate(values):
        study.ask()
        study.report(number, 0, 1.0)
        if value is None:
            study.prune(number, None)
        else:
            study.complete(number, value, None)
        self_said = (study.best, study.count(TrialState.COMPLETE), study.count(TrialState.PRUNED))
        trials = study.trials
        states = [trial.state for trial in trials]
        assert self_said == (
            best_trial(trials, "max"),
            states.count(TrialState.COMPLETE),
            states.count(TrialState.PRUNED),
        )
        assert study.trial(number) == trials[number]
    study.ask()
    study.fail(5, "bug", "no")
    again = reopen(path)
    for each in (study, again):
        assert each.best is not None
        assert each.best.number == 1
        assert each.count(TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL) == 6
        assert each.count(TrialState.FAIL) == 1


class TestBest:
    TRIALS = (
        ended(0, TrialState.FAIL, None, e0=99.0),
        ended(1, TrialState.PRUNED, 95.0, e0=95.0),
        ended(2, TrialState.COMPLETE, 60.0),
        ended(3, TrialState.COMPLETE, 70.0),
        ended(4, TrialState.COMPLETE, 70.0),
        ended(5, TrialState.RUNNING, None, e0=98.0),
        ended(6, TrialState.COMPLETE, -5.0),
        ended(7, TrialState.PRUNED, 99.0, e0=99.0),
    )

    @pytest.mark.parametrize(("mode", "order"), [("max", [3, 4, 2, 6, 1, 7, 0, 5]), ("min", [6, 2, 3, 4, 1, 7, 0, 5])])
    def test_the_one_order(self, mode: str, order: list[int]) -> None:
        assert [trial.number for trial in ranked(self.TRIALS, mode)] == order
        assert [trial.number for trial in ranked(self.TRIALS[::-1], mode)] == order
        best = best_trial(self.TRIALS, mode)
        assert best is not None
        assert best.number == order[0]

    def test_none_without_a_complete_trial(self) -> None:
        assert best_trial([trial for trial in self.TRIALS if trial.state != TrialState.COMPLETE], "max") is None
        assert best_trial([], "max") is None

    @given(values=st.lists(st.integers(0, 3), min_size=1, max_size=8), mode=st.sampled_from(["max", "min"]))
    def test_ties_go_to_the_lower_number_as_in_optuna(self, values: list[int], mode: str) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(direction="maximize" if mode == "max" else "minimize")
        for value in values:
            study.add_trial(create_trial(value=float(value)))
        best = best_trial(study.trials, mode)
        assert best is not None
        assert best.number == values.index(max(values) if mode == "max" else min(values)) == study.best_trial.number

    def test_last_value(self) -> None:
        assert last_value(self.TRIALS[3]) == 70.0
        assert last_value(self.TRIALS[1]) == 95.0
        assert last_value(ended(0, TrialState.RUNNING, None, e0=1.0, e2=3.0, e1=2.0)) == 3.0
        assert last_value(ended(0, TrialState.WAITING, None)) is None
