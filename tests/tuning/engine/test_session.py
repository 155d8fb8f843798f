"""One search without Ray: the test is the worker, the study is real, the clock is the test's."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from clock import Clock
from optuna.trial import FrozenTrial, TrialState
from tiny_search import EPOCHS, curve, tiny_space

from tune_lnl.training.failures import BUG, DATA_ERROR, DEVICE, DISK_FULL, DIVERGED, OUT_OF_MEMORY, STUCK, WORKER_DIED
from tune_lnl.tuning.engine.listener import Listener
from tune_lnl.tuning.engine.messages import StopReason, WorkerReport
from tune_lnl.tuning.engine.session import BUGS_TO_STOP, DEATHS_WITHOUT_PROGRESS, Session
from tune_lnl.tuning.study.journal import read_trials
from tune_lnl.tuning.study.study import SearchStudy, Suggestion
from tune_lnl.tuning.study.trials import ATTEMPTS, ENDED, FAILURE, MESSAGE, STANDARD_ERROR


class Recorder(Listener):
    """Keeps what a session tells its listeners."""

    def __init__(self) -> None:
        self.epochs: list[tuple[int, int, float]] = []
        self.ended: list[int] = []
        self.stops: list[StopReason] = []

    def on_epoch(self, report: WorkerReport) -> None:
        self.epochs.append((report.number, report.epoch, report.measured().get("seconds", 0.0)))

    def on_end(self, number: int) -> None:
        self.ended.append(number)

    def on_stop(self, reason: StopReason) -> None:
        self.stops.append(reason)


@dataclass
class Search:
    """A session with everything around it."""

    path: Path
    study: SearchStudy
    session: Session
    clock: Clock
    heard: Recorder

    def ask(self) -> Suggestion:
        suggestion = self.session.next_job()
        assert suggestion is not None
        return suggestion

    def says(self, trial: Suggestion, epoch: int, value: float, **more: Any) -> bool:
        return self.session.heard(WorkerReport(trial.number, trial.attempt, epoch, value, 1.5, **more))

    def fails(self, trial: Suggestion, failure: str, message: str = "why") -> bool:
        return self.session.heard(WorkerReport(trial.number, trial.attempt, failure=failure, message=message))

    def runs(self, trial: Suggestion, last: float, start: int = 0) -> int:
        """Report epoch after epoch until the session ends the trial; return how many were reported."""
        for epoch, value in list(enumerate(curve(trial.number, last)))[start:]:
            self.clock.now += 1.0
            if not self.says(trial, epoch, value):
                return epoch + 1
        raise AssertionError("nobody ended this trial")

    def passes(self, seconds: float) -> None:
        """Let time pass in which the driver is awake."""
        until = self.clock.now + seconds
        while self.clock.now < until:
            self.clock.now = min(until, self.clock.now + 1.0)
            self.session.heard(WorkerReport(99, 1))

    @property
    def trials(self) -> list[FrozenTrial]:
        return read_trials(self.path)

    def states(self) -> list[str]:
        return [trial.state.name for trial in self.trials]


Begin = Callable[..., Search]


@pytest.fixture
def begin(tmp_path: Path) -> Begin:
    def begin(pruner: str = "none", again: bool = False, **options: Any) -> Search:
        space = tiny_space(tmp_path, overrides=[f"budget.pruner={pruner}"])
        path = tmp_path / "study.log"
        study = SearchStudy.reopen(path, space, 0) if again else SearchStudy.create(path, space, 0)
        clock = Clock()
        jobs = options.pop("trials", 4) - study.count(*ENDED)
        given: dict[str, Any] = {"epochs": EPOCHS, "concurrent": 2, "clock": clock, **options}
        heard = Recorder()
        return Search(path, study, Session(study, jobs=jobs, listeners=[heard], **given), clock, heard)

    return begin


def test_from_a_ray_result() -> None:
    result = {"number": 3, "attempt": 2, "epoch": 4, "value": 1.5, "standard_error": None, "history": ((0, 1.0),)}
    ray_adds = {"training_iteration": 5, "config": {"number": 3}, "done": False, "node_ip": "127.0.0.1"}
    assert WorkerReport.from_result(result | ray_adds) == WorkerReport(3, 2, 4, 1.5, None, history=((0, 1.0),))


def test_who_watches_hears_every_epoch_once_and_what_runs(begin: Begin) -> None:
    search = begin()
    first, second = search.ask(), search.ask()
    assert search.session.running() == [first.number, second.number]
    assert search.says(first, 0, 50.0, measures='{"seconds": 1.5}')
    stale = WorkerReport(first.number, first.attempt + 1, 1, 50.0, measures='{"seconds": 1.0}')
    assert not search.session.heard(stale)
    search.fails(second, DATA_ERROR)
    assert search.heard.epochs == [(first.number, 0, 1.5)]
    assert search.session.running() == [first.number]


class TestHowMany:
    def test_no_more_at_once_than_asked(self, begin: Begin) -> None:
        search = begin(concurrent=2)
        first, second = search.ask(), search.ask()
        assert search.session.next_job() is None
        assert not search.session.finished
        search.runs(first, 50.0)
        assert search.ask().number == second.number + 1

    def test_what_fits_may_change(self, begin: Begin) -> None:
        room = [1]
        search = begin(concurrent=lambda: room[0])
        first = search.ask()
        assert search.session.next_job() is None
        room[0] = 2
        search.ask()
        room[0] = 0
        search.runs(first, 50.0)
        assert search.session.next_job() is None
        assert not search.session.finished

    @pytest.mark.parametrize("trials", [1, 2, 3, 7])
    def test_the_total_is_exact(self, begin: Begin, trials: int) -> None:
        search = begin(trials=trials, concurrent=3)
        running: list[Suggestion] = []
        while not search.session.finished:
            while (suggestion := search.session.next_job()) is not None:
                running.append(suggestion)
            search.runs(running.pop(), 50.0)
        assert sorted(search.heard.ended) == list(range(trials))
        assert search.session.next_job() is None
        assert search.states()[:trials] == ["COMPLETE"] * trials
        assert set(search.states()[trials:]) <= {"WAITING"}  # a start point beyond the total

    def test_trials_of_an_earlier_start_count(self, begin: Begin) -> None:
        search = begin(trials=3)
        search.runs(search.ask(), 50.0)
        search.fails(search.ask(), BUG)
        again = begin(trials=3, again=True)
        again.runs(again.ask(), 50.0)
        assert again.session.finished
        assert again.heard.ended == [2]

    def test_a_failed_trial_is_one_of_the_total(self, begin: Begin) -> None:
        search = begin(trials=1)
        assert not search.fails(search.ask(), DATA_ERROR, "no such file")
        assert search.session.finished
        (trial, _) = search.trials
        assert (trial.state, trial.user_attrs[FAILURE]) == (TrialState.FAIL, DATA_ERROR)
        assert trial.user_attrs[MESSAGE] == "no such file"


class TestReports:
    def test_a_full_trial_is_complete_with_its_last_value(self, begin: Begin) -> None:
        search = begin()
        assert search.runs(search.ask(), 50.0) == EPOCHS
        trial = search.trials[0]
        assert (trial.state, trial.value) == (TrialState.COMPLETE, 50.0)
        assert trial.intermediate_values == dict(enumerate(curve(0, 50.0)))
        assert trial.user_attrs[STANDARD_ERROR] == 1.5
        assert search.heard.ended == [0]

    def test_the_study_stops_the_worse_of_two(self, begin: Begin) -> None:
        search = begin(pruner="asha")
        good, bad = search.ask(), search.ask()
        assert search.runs(good, 60.0) == EPOCHS
        assert search.runs(bad, 40.0) == 3  # the first rung
        trial = search.trials[bad.number]
        assert trial.state == TrialState.PRUNED
        assert list(trial.intermediate_values) == [0, 1, 2]
        assert trial.value == trial.intermediate_values[2]
        assert trial.user_attrs[STANDARD_ERROR] == 1.5
        assert search.heard.ended == [0, 1]

    def test_nobody_is_stopped_after_the_last_epoch(self, begin: Begin) -> None:
        search = begin(pruner="median", trials=20, concurrent=1)
        for level in (60.0, 60.0, 60.0, 60.0, 60.0, 60.0):
            search.runs(search.ask(), level)
        trial = search.ask()
        for epoch in range(EPOCHS - 1):
            assert search.says(trial, epoch, 100.0)
        assert not search.says(trial, EPOCHS - 1, 0.0)
        assert search.trials[trial.number].state == TrialState.COMPLETE

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_a_value_that_is_not_finite_is_divergence(self, begin: Begin, value: float) -> None:
        search = begin()
        trial = search.ask()
        assert search.says(trial, 0, 10.0)
        assert not search.says(trial, 1, value)
        stored = search.trials[0]
        assert (stored.state, stored.user_attrs[FAILURE]) == (TrialState.FAIL, DIVERGED)
        assert "epoch 2" in stored.user_attrs[MESSAGE]
        assert stored.intermediate_values == {0: 10.0}
        assert search.heard.ended == [0]

    def test_the_last_epoch_too(self, begin: Begin) -> None:
        search = begin(epochs=1)
        assert not search.says(search.ask(), 0, math.nan)
        assert search.states()[0] == "FAIL"

    def test_a_late_writer_is_not_heard(self, begin: Begin) -> None:
        """After a restart the worker of the attempt before may still be writing."""
        search = begin()
        old = search.ask()
        assert search.says(old, 0, 1.0)
        search.session.worker_died(old.number)
        new = search.ask()
        assert (new.number, new.attempt) == (old.number, old.attempt + 1)
        before = search.path.read_bytes()
        assert not search.says(old, 1, 99.0)
        assert not search.fails(old, BUG)
        assert not search.says(old, EPOCHS - 1, 99.0)
        assert not search.says(Suggestion(17, {}, 1), 0, 99.0)
        assert search.path.read_bytes() == before
        assert search.says(new, 1, 2.0)

    def test_an_ended_trial_is_not_heard_again(self, begin: Begin) -> None:
        search = begin()
        trial = search.ask()
        search.runs(trial, 50.0)
        assert not search.says(trial, EPOCHS - 1, 99.0)
        assert search.trials[0].value == 50.0

    def test_a_lost_report_may_be_the_one_that_stops_it(self, begin: Begin) -> None:
        search = begin(pruner="asha")
        search.runs(search.ask(), 60.0)
        trial = search.ask()
        history = tuple(enumerate(curve(1, 40.0)))[:4]
        assert not search.says(trial, 4, 40.0, history=history)
        assert search.states()[1] == "PRUNED"
        assert list(search.trials[1].intermediate_values) == [0, 1, 2]

    @pytest.mark.parametrize("pruner", ["none", "asha", "median"])
    def test_repeated_epochs_are_dropped_and_nothing_is_decided_again(self, begin: Begin, pruner: str) -> None:
        """A worker continues from a checkpoint that is older than the last report; others have got better meanwhile."""
        search = begin(pruner=pruner, trials=8, concurrent=8)
        trial, *others = [search.ask() for _ in range(7)]
        assert all(search.says(trial, epoch, 50.0) for epoch in range(EPOCHS - 1))
        search.session.worker_died(trial.number)
        for other in others:
            search.runs(other, 99.0)
        again = search.ask()
        assert again.number == trial.number
        told = len(search.heard.epochs)
        for epoch in range(1, EPOCHS - 1):
            assert search.says(again, epoch, 49.0, history=((0, 50.0),) if epoch == 1 else ())
        assert len(search.heard.epochs) == told
        assert not search.says(again, EPOCHS - 1, 50.0)
        ended = search.trials[trial.number]
        assert (ended.state, ended.value) == (TrialState.COMPLETE, 50.0)
        assert ended.intermediate_values == dict.fromkeys(range(EPOCHS), 50.0)

    def test_history_fills_in_what_was_lost(self, begin: Begin) -> None:
        """A report can be lost between the checkpoint and the study; the continued trial sends all of them again."""
        search = begin()
        trial = search.ask()
        search.says(trial, 0, 1.0)
        again = begin(again=True)
        continued = again.ask()
        assert continued.number == trial.number
        assert again.says(continued, 3, 4.0, history=((0, 99.0), (1, 2.0), (2, 3.0)))
        assert again.trials[0].intermediate_values == {0: 1.0, 1: 2.0, 2: 3.0, 3: 4.0}


class TestFailures:
    def test_three_bugs_in_a_row_end_the_search(self, begin: Begin) -> None:
        search = begin(trials=10, concurrent=4)
        asked = [search.ask() for _ in range(4)]
        for trial in asked[: BUGS_TO_STOP - 1]:
            search.fails(trial, BUG)
        assert not search.session.stopping
        search.fails(asked[BUGS_TO_STOP - 1], BUG)
        assert search.session.stop_reason == "failing"
        assert search.session.finished
        assert search.session.next_job() is None
        assert len(search.heard.stops) == 1

    @pytest.mark.parametrize("between", ["complete", "stopped early", DATA_ERROR, DIVERGED])
    def test_anything_else_between_bugs_breaks_the_row(self, begin: Begin, between: str) -> None:
        search = begin(pruner="asha", trials=10, concurrent=1)
        search.runs(search.ask(), 60.0)
        for _ in range(BUGS_TO_STOP - 1):
            search.fails(search.ask(), BUG)
        if between in (DATA_ERROR, DIVERGED):
            search.fails(search.ask(), between)
        else:
            search.runs(search.ask(), 70.0 if between == "complete" else 40.0)
        search.fails(search.ask(), BUG)
        assert not search.session.stopping

    def test_a_device_that_fails_later_on_closes_nothing_and_is_no_bug(self, begin: Begin) -> None:
        search = begin(trials=10, concurrent=1)
        for _ in range(BUGS_TO_STOP + 1):
            trial = search.ask()
            assert search.says(trial, search.study.epochs(trial.number), 50.0)
            search.session.device_failed(trial.number, "node 0", "CUDA error: device-side assert triggered")
        assert (search.session.closed, search.session.bugs_in_a_row, search.session.stopping) == ([], 0, False)
        assert search.ask().number == 0, "the trial continues"

    def test_a_place_that_fails_two_trials_in_their_first_epoch_is_closed(self, begin: Begin) -> None:
        search = begin(trials=10, concurrent=3)
        trials = [search.ask() for _ in range(3)]
        for trial, place in zip(trials, ("bad 1", "good 0", "bad 1"), strict=True):
            assert search.session.closed == []
            search.session.device_failed(trial.number, place, "CUDA error: ECC")
        assert search.session.closed == ["bad 1"]
        assert search.session.open_nodes("bad,good,other") == "good,other"
        assert not search.session.stopping
        search.session.open_nodes("bad")
        assert search.session.stop_reason == "device", "no other node is left"

    def test_on_one_machine_a_closed_place_stops_the_search(self, begin: Begin) -> None:
        search = begin(trials=10, concurrent=2)
        for trial in (search.ask(), search.ask()):
            assert search.session.open_nodes(None) is None
            search.session.device_failed(trial.number, "here 0", "CUDA error: ECC")
        assert not search.session.stopping
        search.session.open_nodes(None)
        assert search.session.stop_reason == "device"
        assert search.trials[0].state != TrialState.FAIL, "and --resume continues the trial"

    def test_a_job_whose_devices_fail_again_and_again_fails_by_its_class(self, begin: Begin) -> None:
        search = begin(trials=2, concurrent=1)
        for number in range(DEATHS_WITHOUT_PROGRESS):
            search.session.device_failed(search.ask().number, "node 0", f"CUDA error: launch failure {number}")
        stored = search.trials[0]
        assert (stored.state, stored.user_attrs[FAILURE]) == (TrialState.FAIL, DEVICE)
        assert (search.session.bugs_in_a_row, search.session.closed) == (0, []), "one trial closes no place"

    def test_out_of_memory_is_tried_once_more_and_alone(self, begin: Begin) -> None:
        search = begin(trials=5, concurrent=2)
        hungry, other = search.ask(), search.ask()
        assert not search.session.runs_alone(hungry.number)
        assert not search.fails(hungry, OUT_OF_MEMORY)
        assert search.session.next_job() is None  # not beside the other one
        search.runs(other, 50.0)
        alone = search.ask()
        assert (alone.number, alone.params, alone.attempt) == (hungry.number, hungry.params, 2)
        assert search.session.runs_alone(alone.number)
        assert search.session.next_job() is None  # and nobody beside it
        search.fails(alone, OUT_OF_MEMORY, "no")
        stored = search.trials[hungry.number]
        assert (stored.state, stored.user_attrs[FAILURE]) == (TrialState.FAIL, OUT_OF_MEMORY)
        search.ask()
        search.ask()
        assert search.heard.ended == [other.number, hungry.number]
        assert not search.session.runs_alone(hungry.number)

    def test_a_full_disk_ends_the_search_and_no_trial(self, begin: Begin) -> None:
        search = begin()
        first, second = search.ask(), search.ask()
        assert not search.fails(first, DISK_FULL)
        assert search.session.stop_reason == "disk full"
        search.session.heard(WorkerReport(second.number, second.attempt, stopped=True))
        assert search.states()[:2] == ["WAITING", "WAITING"]
        assert search.heard.ended == []


class TestDeaths:
    def test_the_trial_of_a_dead_worker_is_given_again(self, begin: Begin) -> None:
        search = begin()
        trial = search.ask()
        search.says(trial, 0, 1.0)
        search.session.worker_died(trial.number)
        assert search.states()[0] == "WAITING"
        again = search.ask()
        assert (again.number, again.params, again.attempt) == (trial.number, trial.params, 2)
        assert search.runs(again, 50.0, start=1) == EPOCHS
        assert search.trials[0].state == TrialState.COMPLETE
        assert search.heard.ended == [0]

    def test_dying_in_the_same_epoch_is_failing(self, begin: Begin) -> None:
        search = begin(trials=1)
        for _ in range(DEATHS_WITHOUT_PROGRESS):
            assert not search.session.finished
            search.session.worker_died(search.ask().number)
        stored = search.trials[0]
        assert (stored.state, stored.user_attrs[FAILURE]) == (TrialState.FAIL, WORKER_DIED)
        assert stored.user_attrs[ATTEMPTS] == DEATHS_WITHOUT_PROGRESS
        assert search.session.finished
        assert search.heard.ended == [0]

    def test_dying_further_on_each_time_is_bad_luck(self, begin: Begin) -> None:
        search = begin(trials=1)
        for epoch in range(EPOCHS - 1):
            trial = search.ask()
            assert trial.number == 0
            search.says(trial, epoch, float(epoch))
            search.session.worker_died(0)
        assert not search.says(search.ask(), EPOCHS - 1, 5.0)
        assert search.states()[0] == "COMPLETE"

    def test_dying_while_it_repeats_epochs_is_bad_luck_too(self, begin: Begin) -> None:
        """Each attempt continues an epoch later than the one before, and dies before it reaches what the study has."""
        search = begin(trials=1)
        for first, last in [(0, 5), (1, 2), (2, 3), (3, 4)]:
            trial = search.ask()
            for epoch in range(first, last):
                assert search.says(trial, epoch, 50.0)
            search.session.worker_died(trial.number)
            assert search.states()[0] == "WAITING"
        assert search.runs(search.ask(), 50.0, start=4) == EPOCHS

    def test_the_death_of_a_stranger_changes_nothing(self, begin: Begin) -> None:
        search = begin()
        before = search.path.read_bytes()
        search.session.worker_died(3)
        assert search.path.read_bytes() == before


class TestSilence:
    def test_a_silent_trial_is_named_once_and_started_once_more(self, begin: Begin) -> None:
        search = begin(stuck_seconds=10.0)
        silent, other = search.ask(), search.ask()
        assert search.session.stuck() == []
        search.passes(1.0)
        search.says(other, 0, 1.0)
        search.passes(9.5)
        assert search.session.stuck() == [silent.number]
        assert search.session.stuck() == []
        search.session.worker_died(silent.number)
        again = search.ask()
        assert again.number == silent.number
        search.passes(100.0)
        assert set(search.session.stuck()) == {silent.number, other.number}
        search.session.worker_died(silent.number)
        stored = search.trials[silent.number]
        assert (stored.state, stored.user_attrs[FAILURE]) == (TrialState.FAIL, STUCK)

    def test_silence_begins_when_there_is_a_worker(self, begin: Begin) -> None:
        """A start may take longer than all the silence that is allowed; a hang after it must still be seen."""
        search = begin(stuck_seconds=10.0)
        slow, other = search.ask(), search.ask()
        search.passes(1.0)
        search.says(other, 0, 1.0)
        search.passes(100.0)
        search.says(other, 1, 2.0)
        search.session.starting([slow.number, 17])
        assert search.session.stuck() == []
        search.passes(5.0)
        assert search.session.stuck() == []
        search.passes(1000.0)
        assert slow.number in search.session.stuck()

    def test_slow_epochs_are_not_silence(self, begin: Begin) -> None:
        search = begin(stuck_seconds=10.0)
        trial = search.ask()
        for epoch in range(3):
            search.passes(100.0)
            search.says(trial, epoch, 1.0)
        search.passes(400.0)
        assert search.session.stuck() == []
        search.passes(101.0)
        assert search.session.stuck() == [trial.number]


class TestStopping:
    def test_what_runs_waits_and_nothing_starts(self, begin: Begin) -> None:
        search = begin()
        first, second = search.ask(), search.ask()
        search.says(first, 0, 1.0)
        search.session.stop("interrupted")
        search.session.stop("time budget")
        assert (search.session.stop_reason, len(search.heard.stops)) == ("interrupted", 1)
        assert search.session.finished
        assert search.session.next_job() is None
        assert not search.session.heard(WorkerReport(first.number, first.attempt, stopped=True))
        search.session.put_back_running()
        assert search.states()[:2] == ["WAITING", "WAITING"]
        assert search.heard.ended == []

        again = begin(again=True)
        assert [again.ask().params for _ in range(2)] == [first.params, second.params]
        assert again.trials[0].intermediate_values == {0: 1.0}

    def test_an_epoch_that_ends_while_stopping_still_counts(self, begin: Begin) -> None:
        search = begin()
        first, second = search.ask(), search.ask()
        search.session.stop("interrupted")
        assert not search.says(first, 0, 1.0)
        assert not search.says(second, EPOCHS - 1, 5.0)
        assert search.trials[0].intermediate_values == {0: 1.0}
        assert search.states()[:2] == ["WAITING", "COMPLETE"]
        assert search.heard.ended == [1]

    def test_workers_that_die_while_stopping_are_put_back(self, begin: Begin) -> None:
        search = begin()
        trial = search.ask()
        search.session.stop("interrupted")
        search.session.worker_died(trial.number)
        assert search.states()[0] == "WAITING"

    def test_the_time_budget(self, begin: Begin) -> None:
        search = begin(deadline=1010.0)
        trial = search.ask()
        search.clock.now = 1009.9
        assert not search.session.stopping
        search.clock.now = 1010.0
        assert search.session.next_job() is None
        assert search.session.finished
        assert (search.session.stop_reason, len(search.heard.stops)) == ("time budget", 1)
        assert not search.says(trial, 0, 1.0)
        assert search.trials[0].intermediate_values == {0: 1.0}
        assert search.states()[0] == "WAITING"

    def test_putting_back_includes_who_waits_to_run_alone(self, begin: Begin) -> None:
        search = begin()
        hungry, _ = search.ask(), search.ask()
        search.fails(hungry, OUT_OF_MEMORY)
        search.session.put_back_running()
        assert search.states()[:2] == ["WAITING", "WAITING"]


def test_a_trial_whose_node_goes_down_is_never_to_blame(begin: Begin) -> None:
    search = begin(trials=1)
    trial = search.ask()
    for _ in range(2 * DEATHS_WITHOUT_PROGRESS):
        search.session.worker_died(trial.number, with_its_node=True)
        trial = search.ask()
    assert trial.number == 0
    search.runs(trial, 50.0)
    assert search.states()[0] == "COMPLETE"


def test_a_trial_that_nobody_has_begun_is_asked_for_again(begin: Begin) -> None:
    search = begin(trials=2)
    first = search.ask()
    search.session.withdraw(first.number)
    assert search.session.running() == []
    search.session.withdraw(first.number)  # once is enough
    again = search.ask()
    assert (again.number, again.params) == (first.number, first.params)
