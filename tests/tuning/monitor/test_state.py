"""The state of a running search; the test plays the search and its clock."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from clock import Clock
from optuna.trial import TrialState
from tiny_search import EPOCHS, tiny_plan

from tune_lnl.tuning.engine.messages import WorkerReport
from tune_lnl.tuning.monitor.state import SearchState
from tune_lnl.tuning.study.study import SearchStudy, Suggestion


class Search:
    """Six trials of six epochs, two at once."""

    def __init__(self, folder: Path, deadline: float | None = None) -> None:
        plan = tiny_plan(folder)
        plan.files.root.mkdir(parents=True)
        self.clock = Clock()
        self.study = SearchStudy.create(plan.files.study, plan.space, plan.seed)
        self.running: list[int] = []
        self.state = SearchState(plan, self.study, deadline, self.clock)
        self.state.begin(lambda: self.running)

    def start(self) -> Suggestion:
        suggestion = self.study.ask()
        self.running.append(suggestion.number)
        return suggestion

    def epoch(self, trial: Suggestion, epoch: int, value: float, seconds: float, **measures: float) -> None:
        self.clock.now += seconds
        self.study.report(trial.number, epoch, value)
        told = json.dumps({"seconds": seconds, **measures})
        self.state.on_epoch(WorkerReport(trial.number, trial.attempt, epoch, value, measures=told))

    def end(self, trial: Suggestion, value: float | None) -> None:
        if value is None:
            self.study.prune(trial.number, None)
        else:
            self.study.complete(trial.number, value, 1.5)
        self.running.remove(trial.number)
        self.state.on_end(trial.number)


def test_before_anything_is_known(tmp_path: Path) -> None:
    search = Search(tmp_path)
    search.start()
    view = search.state.view()
    (trial,) = view.running
    assert (trial.number, trial.epochs, trial.value, trial.seconds_left) == (0, 0, None, None)
    assert (view.best, view.ended, view.trials, view.progress, view.seconds_left) == (None, 0, 6, 0.0, None)


def test_a_running_trial(tmp_path: Path) -> None:
    search = Search(tmp_path)
    trial = search.start()
    search.epoch(trial, 0, 40.0, 3.0, images_per_second=100.0)
    search.epoch(trial, 1, 41.0, 5.0, images_per_second=60.0)
    (seen,) = search.state.view().running
    assert (seen.epochs, seen.value, seen.params) == (2, 41.0, trial.params)
    assert seen.measures == {"seconds": 5.0, "images_per_second": 60.0}
    # Four epochs of (3 + 5) / 2 s, and one second of the next is over.
    search.clock.now += 1.0
    assert search.state.view().running[0].seconds_left == pytest.approx(15.0)
    # One that hangs has three to go however long it hangs.
    search.clock.now += 1000.0
    assert search.state.view().running[0].seconds_left == pytest.approx(12.0)
    search.clock.now -= 1000.0
    assert search.state.view().progress == pytest.approx(2 / EPOCHS / 6)


def test_time_left_at_the_pace_so_far(tmp_path: Path) -> None:
    search = Search(tmp_path)
    first = search.start()
    for epoch in range(EPOCHS):
        search.epoch(first, epoch, 50.0 + epoch, 10.0)
    search.end(first, 55.0)
    second = search.start()
    search.epoch(second, 0, 30.0, 10.0)
    search.end(second, None)
    view = search.state.view()
    assert view.counts == {TrialState.COMPLETE: 1, TrialState.PRUNED: 1, TrialState.FAIL: 0}
    assert view.best is not None
    assert (view.best.number, view.best.value, view.best.standard_error) == (0, 55.0, 1.5)
    # Two of six took 70 s: a trial that was stopped early counts whole.
    assert view.progress == pytest.approx(1 / 3)
    assert view.seconds_left == pytest.approx(140.0)


def test_until_a_trial_has_ended_the_start_of_workers_does_not_count(tmp_path: Path) -> None:
    search = Search(tmp_path)
    trials = [search.start(), search.start()]
    search.clock.now += 1000.0
    search.epoch(trials[0], 0, 40.0, 2.0)
    # 35 epochs are left, of 2 s each as far as one knows, and two trials run.
    assert search.state.view().seconds_left == pytest.approx(35.0)


def test_the_slowest_decides_when_nothing_more_starts(tmp_path: Path) -> None:
    search = Search(tmp_path)
    for _ in range(5):
        trial = search.start()
        search.epoch(trial, 0, 40.0, 1.0)
        search.end(trial, None)
    last = search.start()
    search.epoch(last, 0, 40.0, 20.0)
    assert search.state.view().seconds_left == pytest.approx(100.0)


def test_a_time_budget_bounds_it(tmp_path: Path) -> None:
    search = Search(tmp_path, deadline=1030.0)
    assert search.state.view().seconds_left == pytest.approx(30.0)
    trial = search.start()
    search.epoch(trial, 0, 40.0, 20.0)
    assert search.state.view().seconds_left == pytest.approx(10.0)


def test_a_continued_search_has_no_pace_yet(tmp_path: Path) -> None:
    search = Search(tmp_path)
    search.end(search.start(), None)
    search.clock.now += 1000.0
    search.state.begin(lambda: search.running)
    view = search.state.view()
    assert view.progress == pytest.approx(1 / 6)
    assert (view.ended, view.seconds_left) == (1, None)
