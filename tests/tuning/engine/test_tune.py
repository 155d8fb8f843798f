"""Ray's two hooks with a session that is scripted and no cluster."""

from __future__ import annotations

import errno
import pickle
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import ray
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from tune_lnl.tuning.engine.messages import DeviceLostError, Job, WorkerReport
from tune_lnl.tuning.engine.session import Session
from tune_lnl.tuning.engine.tune import JOB, LOOK_SECONDS, NODES, NUMBER, StudyScheduler, StudySearcher, share_on
from tune_lnl.tuning.study.place import StudyLostError
from tune_lnl.tuning.study.study import Suggestion


@dataclass
class ScriptedSession:
    suggestions: list[Suggestion | None] = field(default_factory=list)
    finished: bool = False
    goes_on: bool = True
    silent: list[int] = field(default_factory=list)
    raises: Exception | None = None
    reports: list[WorkerReport] = field(default_factory=list)
    deaths: list[int] = field(default_factory=list)
    lost_nodes: list[int] = field(default_factory=list)
    withdrawn: list[int] = field(default_factory=list)
    stop_reasons: list[str] = field(default_factory=list)
    without_worker: list[int] = field(default_factory=list)
    alone: list[int] = field(default_factory=list)
    failed_devices: list[tuple[int, str, str]] = field(default_factory=list)

    def open_nodes(self, nodes: str | None) -> str | None:
        return nodes

    def device_failed(self, number: int, place: str, message: str) -> None:
        self.failed_devices.append((number, place, message))

    def next_job(self) -> Suggestion | None:
        if self.raises is not None:
            raise self.raises
        return self.suggestions.pop(0)

    def runs_alone(self, number: int) -> bool:
        return number in self.alone

    def heard(self, report: WorkerReport) -> bool:
        if self.raises is not None:
            raise self.raises
        self.reports.append(report)
        return self.goes_on

    def worker_died(self, number: int, with_its_node: bool = False) -> None:
        (self.lost_nodes if with_its_node else self.deaths).append(number)

    def withdraw(self, number: int) -> None:
        self.withdrawn.append(number)

    def starting(self, numbers: Iterable[int]) -> None:
        self.without_worker = list(numbers)

    def stuck(self) -> list[int]:
        return self.silent

    def stop(self, reason: str) -> None:
        self.stop_reasons.append(reason)


SECTIONS = {"method": "act", "fixed": {"lr_decay": "step:1,2", "a.b": [1, {"grid_search": [1]}]}}


def job_of(suggestion: Suggestion) -> Job:
    return Job(suggestion.number, suggestion.attempt, "run", SECTIONS, suggestion.params, memory_fraction=0.5)


def searcher(session: ScriptedSession) -> StudySearcher:
    return StudySearcher(cast(Session, session), job_of)


def scheduler(session: ScriptedSession) -> StudyScheduler:
    return StudyScheduler(cast(Session, session))


def ray_trial(number: int, status: str = Trial.RUNNING, actor: object = None) -> Any:
    return SimpleNamespace(
        config={NUMBER: number},
        status=status,
        temporary_state=SimpleNamespace(ray_actor=actor),
        trial_id=str(number),
        error_file=None,
    )


def controller(*trials: Any) -> Any:
    return SimpleNamespace(get_live_trials=lambda: list(trials))


class TestSearcher:
    def test_a_trial_carries_all_the_worker_needs(self) -> None:
        session = ScriptedSession([Suggestion(3, {"lr": 0.1, "model": None}, 2)])
        config = searcher(session).suggest("id")
        assert config[NUMBER] == 3
        assert set(config) == {NUMBER, JOB}
        assert Job.from_json(config[JOB]) == Job(3, 2, "run", SECTIONS, {"lr": 0.1, "model": None}, memory_fraction=0.5)

    def test_in_a_cluster_it_names_the_nodes_that_may_take_it(self) -> None:
        session = ScriptedSession([Suggestion(3, {}, 1)])
        config = StudySearcher(cast(Session, session), job_of, lambda: "aa,bb").suggest("id")
        assert config[NODES] == "aa,bb"
        request = share_on({"cpu": 2.0, "gpu": 0.5})(config)
        assert request.bundles == [{"CPU": 2.0, "GPU": 0.5}]
        assert request == share_on({"cpu": 2.0, "gpu": 0.5})(config), "workers are kept for trials that ask the same"
        assert request != share_on({"cpu": 2.0, "gpu": 0.5})({NODES: "aa"})

    def test_one_that_has_the_machine_to_itself_has_all_its_memory(self) -> None:
        session = ScriptedSession([Suggestion(3, {}, 2)], alone=[3])
        assert Job.from_json(searcher(session).suggest("id")[JOB]).memory_fraction is None

    def test_no_room_now(self) -> None:
        session = ScriptedSession([None, Suggestion(0, {}, 1)])
        asked = searcher(session)
        assert asked.suggest("a") is None
        assert asked.suggest("b")[NUMBER] == 0

    def test_nothing_left(self) -> None:
        assert searcher(ScriptedSession(finished=True)).suggest("a") == Searcher.FINISHED

    def test_it_keeps_nothing_of_its_own(self, tmp_path: Any) -> None:
        asked = searcher(ScriptedSession())
        asked.on_trial_complete("a", {"value": 1.0}, error=True)
        asked.save(str(tmp_path / "state"))
        assert not (tmp_path / "state").exists()
        with pytest.raises(NotImplementedError, match="resumed from its study"):
            asked.restore("state")


class TestScheduler:
    @pytest.mark.parametrize(("goes_on", "expected"), [(True, TrialScheduler.CONTINUE), (False, TrialScheduler.STOP)])
    def test_a_result_is_passed_on(self, goes_on: bool, expected: str) -> None:
        session = ScriptedSession(goes_on=goes_on)
        result = {"number": 3, "attempt": 1, "epoch": 5, "value": 2.0, "training_iteration": 6, "done": False}
        assert scheduler(session).on_trial_result(controller(), ray_trial(3), result) == expected
        assert session.reports == [WorkerReport(3, 1, 5, 2.0)]

    def test_an_error_is_the_death_of_its_worker(self) -> None:
        session = ScriptedSession()
        scheduler(session).on_trial_error(controller(), ray_trial(4))
        assert session.deaths == [4]

    @pytest.mark.parametrize(
        ("error", "with_its_node"),
        [
            (RuntimeError("The actor died unexpectedly.\nThe actor died because its node has died. Node: ab"), True),
            (ray.exceptions.ActorUnavailableError("RPC error: Socket closed", None), True),
            (RuntimeError("The actor died unexpectedly.\nWorker exits with code 1"), False),
            (None, False),
        ],
    )
    def test_the_end_of_a_machine_is_not_the_trial_s_doing(
        self, error: Exception | None, with_its_node: bool, tmp_path: Path
    ) -> None:
        session = ScriptedSession()
        hooks = StudyScheduler(cast(Session, session), lambda: "aa")
        trial = ray_trial(4)
        if error is not None:
            (tmp_path / "error.txt").write_text(str(error))
            trial.error_file = str(tmp_path / "error.txt")
        hooks.on_trial_error(controller(), trial)
        assert (session.lost_nodes, session.deaths) == (([4], []) if with_its_node else ([], [4]))

    def test_a_failed_gpu_is_no_death_of_a_worker(self, tmp_path: Path) -> None:
        session = ScriptedSession()
        trial = ray_trial(4)
        (tmp_path / "error.txt").write_text(str(DeviceLostError.at("ab 0", "CUDA error: misaligned address")))
        trial.error_file = str(tmp_path / "error.txt")
        scheduler(session).on_trial_error(controller(), trial)
        assert session.failed_devices == [(4, "ab 0", "CUDA error: misaligned address")]
        assert session.deaths == []

    def test_a_trial_that_waits_for_nodes_of_before_is_asked_for_anew(self) -> None:
        session = ScriptedSession()
        stopped: list[Any] = []
        runs, waits, misplaced = ray_trial(0), ray_trial(1, Trial.PENDING), ray_trial(2, Trial.PENDING)
        for trial, nodes in ((runs, "aa"), (waits, "aa,bb"), (misplaced, "aa")):
            trial.config[NODES] = nodes

        def stop(trial: Any) -> None:
            stopped.append(trial)
            trial.status = Trial.TERMINATED

        tuner = controller(runs, waits, misplaced)
        tuner.stop_trial = stop
        # As Ray has it: what waits for a worker is staged, and stopping it does not change that.
        tuner._staged_trials = [waits, misplaced]
        tuner._unstage_trial_with_resources = tuner._staged_trials.remove
        hooks = StudyScheduler(cast(Session, session), lambda: "aa,bb")
        for trial in (misplaced, waits):
            hooks.on_trial_add(tuner, trial)
        assert hooks.choose_trial_to_run(tuner) is waits
        assert (stopped, session.withdrawn) == ([misplaced], [2])
        assert tuner._staged_trials == [waits], "Ray keeps an idle worker for a trial that will never begin"

    def test_ray_starts_what_waits_in_order(self) -> None:
        hooks = scheduler(ScriptedSession())
        assert hooks.choose_trial_to_run(controller(ray_trial(0))) is None
        first: Any = ray_trial(1, Trial.PENDING)
        second: Any = ray_trial(2, Trial.PENDING)
        for trial in (first, second):
            hooks.on_trial_add(controller(), trial)
        live = controller(ray_trial(0), first, second)
        chosen = []
        for trial, status in ((first, Trial.RUNNING), (second, Trial.ERROR), (first, Trial.TERMINATED)):
            chosen.append(hooks.choose_trial_to_run(live))
            trial.status = status
        assert chosen == [first, second, None]

    def test_workers_of_silent_trials_are_killed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        killed: list[object] = []
        monkeypatch.setattr(ray, "kill", killed.append)
        live = [ray_trial(0, actor="zero"), ray_trial(1, actor="one"), ray_trial(2, actor=None)]
        scheduler(ScriptedSession(silent=[1, 2])).choose_trial_to_run(controller(*live))
        assert killed == ["one"]

    def test_not_every_round_looks_at_all_that_runs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        times = iter([100.0, 100.0, 100.0 + LOOK_SECONDS / 2, 100.0 + LOOK_SECONDS, 200.0])
        monkeypatch.setattr("tune_lnl.tuning.engine.tune.time", SimpleNamespace(monotonic=times.__next__))
        session, looks = ScriptedSession(), []
        hooks, live = scheduler(session), controller(ray_trial(1, Trial.PENDING, actor=None))
        for _ in range(3):
            session.without_worker = []
            hooks.choose_trial_to_run(live)
            looks.append(session.without_worker)
        assert looks == [[1], [], [1]]

    def test_a_worker_that_is_still_starting_is_not_silent(self) -> None:
        session = ScriptedSession()
        # The trial of a dead worker stays in Ray's list beside the one that continues it under the same number.
        live = [ray_trial(0), ray_trial(1, Trial.PENDING, actor=None), ray_trial(2, Trial.ERROR, actor=None)]
        scheduler(session).choose_trial_to_run(controller(*live))
        assert session.without_worker == [1]

    def test_the_other_hooks_do_nothing(self) -> None:
        session = ScriptedSession()
        hooks = scheduler(session)
        hooks.on_trial_add(controller(), ray_trial(0))
        hooks.on_trial_complete(controller(), ray_trial(0), {})
        hooks.on_trial_remove(controller(), ray_trial(0))
        assert session == ScriptedSession()
        assert "pruner" in hooks.debug_string()

    def test_reports_are_not_buffered(self) -> None:
        """Whatever ``TUNE_RESULT_BUFFER_LENGTH`` is: a worker would train on after the end of its trial."""
        assert not scheduler(ScriptedSession()).supports_buffered_results


@pytest.fixture
def full_disk() -> ScriptedSession:
    return ScriptedSession(raises=OSError(errno.ENOSPC, "No space left on device"))


def test_a_study_on_a_full_disk_ends_the_search_in_order(full_disk: ScriptedSession) -> None:
    assert searcher(full_disk).suggest("a") is None
    result = {"number": 3, "attempt": 1}
    assert scheduler(full_disk).on_trial_result(controller(), ray_trial(3), result) == TrialScheduler.STOP
    assert full_disk.stop_reasons == ["disk full", "disk full"]


def test_other_errors_of_the_study_are_not_hidden() -> None:
    with pytest.raises(PermissionError):
        searcher(ScriptedSession(raises=PermissionError(errno.EACCES, "no"))).suggest("a")


def test_a_database_that_stays_away_ends_the_search_in_order() -> None:
    gone = ScriptedSession(raises=StudyLostError("gone"))
    assert searcher(gone).suggest("a") is None
    assert (
        scheduler(gone).on_trial_result(controller(), ray_trial(3), {"number": 3, "attempt": 1}) == TrialScheduler.STOP
    )
    assert gone.stop_reasons == ["study lost", "study lost"]


def test_nothing_of_the_study_is_in_what_ray_writes_down() -> None:
    """The study's connection may hold a password; and some connections cannot be written at all."""
    session = ScriptedSession(silent=[4711])
    for hook in (searcher(session), scheduler(session)):
        assert b"ScriptedSession" not in pickle.dumps(hook)
