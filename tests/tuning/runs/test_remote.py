"""Runs in object storage, without Ray: the test is driver and workers in turn, on one machine and on another."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from s3_server import S3Server
from tiny_search import write_space
from toy_runs import TOY, check_complete, local_session, open_run, run_locally, spread, toy_plan, worker, write_toy

from tune_lnl import export, logs, report, search
from tune_lnl.errors import InputError
from tune_lnl.object_storage import ObjectFolder, StorageError
from tune_lnl.training.failures import STORAGE_AWAY
from tune_lnl.tuning.engine.messages import WorkerReport
from tune_lnl.tuning.engine.node_check import storage_refuses
from tune_lnl.tuning.plan.plan import Machine as Cores
from tune_lnl.tuning.plan.plan import Plan, SearchOptions, plan_search
from tune_lnl.tuning.runs import remote as run_store
from tune_lnl.tuning.runs.layout import RunFiles
from tune_lnl.tuning.runs.remote import LEASE, TAIL, ObjectStore, bring_here, local_folder, shown, store_of
from tune_lnl.tuning.runs.results import Run, load_run, write_best, write_tables
from tune_lnl.tuning.study.journal import STUDY_FILE, read_trials
from tune_lnl.tuning.study.study import SearchStudy

EPOCHS = 4
TRIALS = 4

Machine = Callable[[str], None]


@pytest.fixture
def on_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Go to another machine: nothing of what the last one had is there."""

    def go(name: str) -> None:
        monkeypatch.setenv("TUNE_LNL_CACHE", str(tmp_path / name))

    go("one")
    return go


@pytest.fixture(params=["s3", "file"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a results folder."""
    if request.param == "file":
        return (tmp_path / "storage").as_uri()
    server: S3Server = request.getfixturevalue("s3")
    return server.url(f"{tmp_path.name}/results")


@pytest.fixture
def space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_machine: Machine) -> Path:
    monkeypatch.syspath_prepend(str(TOY))
    return write_toy(tmp_path, spread(TRIALS), epochs=EPOCHS)


@pytest.fixture
def plan(tmp_path: Path, space: Path, place: str) -> Plan:
    return toy_plan(tmp_path, space, results_dir=place)


def objects_of(plan: Plan) -> ObjectFolder:
    store = store_of(plan.files)
    assert store.url is not None
    return ObjectFolder(store.url)


def finish(plan: Plan, study: SearchStudy) -> Run:
    """What a driver does at the end."""
    run_locally(plan, local_session(plan, study))
    store = store_of(plan.files)
    store.fetch_epochs()
    run = Run(plan.files, plan.settings(), plan.space, study.trials)
    write_tables(run)
    write_best(run)
    store.put(plan.files.trials_table, plan.files.epochs_table, plan.files.best)
    store.end()
    return run


def test_a_search_is_what_it_is_in_a_local_folder(
    tmp_path: Path, space: Path, plan: Plan, place: str, on_machine: Machine
) -> None:
    finish(plan, open_run(plan))
    stored = set(objects_of(plan).list())
    models = {f"checkpoints/{number:03d}-model.pt" for number in (0, 1, 2)}
    assert {key for key in stored if key.startswith("checkpoints/")} == models
    trials = {f"trials/{number:03d}/{name}" for number in range(TRIALS) for name in ("log.txt", "epochs.jsonl")}
    tables = {"run.yaml", STUDY_FILE, "trials.parquet", "epochs.parquet", "best.yaml"}
    assert stored - models == trials | tables

    local = toy_plan(tmp_path, space)
    finish(local, open_run(local))
    on_machine("two")
    there, here = load_run("toy", place), load_run(local.files.root)
    check_complete(there, TRIALS, EPOCHS)
    check_complete(here, TRIALS, EPOCHS)
    assert there.best is not None
    assert here.best is not None
    assert (there.best.number, there.config(there.best)) == (here.best.number, here.config(here.best))
    assert list((tmp_path / "one" / "work").iterdir()) == [], "workers left files behind"


def test_another_machine_goes_on(tmp_path: Path, space: Path, plan: Plan, place: str, on_machine: Machine) -> None:
    study = open_run(plan)
    session = local_session(plan, study)
    asked = [session.next_trial(), session.next_trial()]
    for epochs, suggestion in zip((1, 3), asked, strict=True):
        assert suggestion is not None
        running = worker(plan, suggestion)
        for _ in range(epochs):
            assert session.heard(WorkerReport.from_result(running.step()))
    # The machine is gone, with the study's newest lines and both workers.
    on_machine("two")
    plan = toy_plan(tmp_path, space, results_dir=place, resume=True)
    assert store_of(plan.files).checkpointed() == {0, 1}
    begun = [trial for trial in read_trials(plan.files.study) if trial.params]
    assert [trial.params["x"] for trial in begun] == [s.params["x"] for s in asked if s is not None]
    study = open_run(plan)
    continued = study.trial(1)
    finish(plan, study)
    run = load_run("toy", place)
    check_complete(run, TRIALS, EPOCHS)
    assert continued.params == run.trials[1].params
    attempts = [[report["attempt"] for report in run.epoch_reports(number)] for number in (0, 1)]
    assert attempts == [[1, 2, 2, 2], [1, 1, 1, 2]], "what was kept was trained again"


def test_an_end_that_the_storage_has_not_heard_of(
    tmp_path: Path, space: Path, plan: Plan, place: str, on_machine: Machine
) -> None:
    """The driver's machine dies between writing the end of a trial and putting it there."""
    study = open_run(plan)
    suggestion = study.ask()
    store_of(plan.files).before_trial()
    running = worker(plan, suggestion)
    reports = [WorkerReport.from_result(running.step()) for _ in range(EPOCHS)]
    for told in reports:
        study.report(told.number, told.epoch, told.value)
    study.complete(0, reports[-1].value, None)
    on_machine("two")
    plan = toy_plan(tmp_path, space, results_dir=place, resume=True)
    assert read_trials(plan.files.study)[0].state.name == "RUNNING"
    finish(plan, open_run(plan))
    run = load_run("toy", place)
    check_complete(run, TRIALS, EPOCHS)
    assert {report["attempt"] for report in run.epoch_reports(0)} == {1}, "nothing was left to train"


def test_a_damaged_checkpoint_is_passed_over(plan: Plan) -> None:
    study = open_run(plan)
    first = study.ask()
    running = worker(plan, first)
    for _ in range(2):
        study.report(0, 0, running.step()["value"])
    objects = objects_of(plan)
    objects.put("checkpoints/000.2.pt", b"torn")
    last = worker(plan, first.__class__(0, first.params, 3))
    told = WorkerReport.from_result(last.step())
    assert told.epoch == 2
    assert list(objects.list("checkpoints")) == ["checkpoints/000.3.pt"]


def test_a_storage_that_is_away(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    study = open_run(plan)
    session = local_session(plan, study)
    suggestion = session.next_trial()
    assert suggestion is not None
    running = worker(plan, suggestion)
    assert session.heard(WorkerReport.from_result(running.step()))

    def away(*_: Any) -> None:
        raise StorageError("away")

    with monkeypatch.context() as outage:
        outage.setattr(ObjectFolder, "put", away)
        told = WorkerReport.from_result(running.step())
        assert (told.failure, told.message) == (STORAGE_AWAY, "away")
        assert not session.heard(told)
        with pytest.raises(StorageError):
            session.next_trial()
    session.put_back_running()
    assert {trial.state.name for trial in study.trials} == {"WAITING"}
    finish(plan, study)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * TRIALS


def test_workers_that_cannot_reach_it_end_the_search(plan: Plan) -> None:
    session = local_session(plan, open_run(plan))
    for _ in range(3):
        assert session.stop_reason is None
        suggestion = session.next_trial()
        assert suggestion is not None
        session.heard(WorkerReport(suggestion.number, suggestion.attempt, failure=STORAGE_AWAY, message="away"))
    assert session.stop_reason == "object storage away"
    assert session.running() == []


# ---- the study


def test_a_long_study_is_written_whole_now_and_then(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_store, "LONGEST_TAIL", 1500)
    study = open_run(plan)
    store, objects = store_of(plan.files), objects_of(plan)
    wholes = set()
    for _ in range(TRIALS):
        number = study.ask().number
        for epoch in range(EPOCHS):
            study.report(number, epoch, 50.0)
            store.before_trial()
            wholes.add(objects.list()[STUDY_FILE].size)
            assert run_store._read_study(objects) == plan.files.study.read_bytes()
            assert len(objects.get(TAIL) or b"") < 1600
    assert len(wholes) > 2


def test_which_study_counts(tmp_path: Path, space: Path, plan: Plan, place: str) -> None:
    objects, study = objects_of(plan), plan.files.study
    open_run(plan)
    there = study.read_bytes()
    study.write_bytes(there + b"the last words of a driver that was killed here\n")
    bring_here(place, "toy")
    assert study.read_bytes().endswith(b"killed here\n")
    objects.put(TAIL, b"%d\n" % len(there) + b"written elsewhere\n")
    bring_here(place, "toy")
    assert study.read_bytes() == there + b"written elsewhere\n"
    assert study.with_name("study.log.parted").read_bytes().endswith(b"killed here\n")
    # Between reading the whole study and its tail, a driver wrote it whole and began another tail.
    objects.put(TAIL, b"%d\n" % (len(there) + 100) + b"of another whole\n")
    bring_here(place, "toy")
    assert study.read_bytes() == there + b"written elsewhere\n"


def test_a_run_that_is_driven_here_is_left_alone(plan: Plan, place: str) -> None:
    from filelock import FileLock

    open_run(plan)
    objects_of(plan).put(TAIL, b"0\nsomething else\n")
    before = plan.files.study.read_bytes()
    with FileLock(plan.files.lock):
        bring_here(place, "toy")
    assert plan.files.study.read_bytes() == before


def test_a_run_that_was_deleted_there_is_none(tmp_path: Path, space: Path, plan: Plan, place: str) -> None:
    open_run(plan)
    objects = objects_of(plan)
    for key in objects.list():
        objects.delete(key)
    with pytest.raises(InputError, match="no run 'toy' under"):
        load_run("toy", place)
    again = toy_plan(tmp_path, space, results_dir=place)
    assert not again.files.root.exists()


# ---- who drives


def test_a_living_driver_elsewhere_is_not_disturbed(
    tmp_path: Path, space: Path, plan: Plan, place: str, on_machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_store, "BEAT", 0.2)
    monkeypatch.setattr(run_store, "SILENCE", 30.0)
    plan.files.root.mkdir(parents=True)  # for its lock
    with store_of(plan.files).driven("toy", print):
        open_run(plan)
        on_machine("two")
        other = toy_plan(tmp_path, space, results_dir=place, resume=True)
        assert store_of(other.files).is_driven()
        driving = store_of(other.files).driven("toy", print)
        with pytest.raises(InputError, match=r"run 'toy' is being run by process \d+ on "), driving:
            pass
    assert LEASE not in objects_of(plan).list()


def test_a_dead_driver_elsewhere_is_followed(
    tmp_path: Path, space: Path, plan: Plan, place: str, on_machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_store, "SILENCE", 1.0)
    open_run(plan)
    lease = {"driver": "gone", "host": "elsewhere", "process": 7, "beat": 3}
    objects_of(plan).put(LEASE, json.dumps(lease).encode())
    said: list[str] = []
    with store_of(plan.files).driven("toy", said.append):
        assert json.loads(objects_of(plan).get(LEASE) or b"{}")["driver"] != "gone"
    assert "driven by process 7 on elsewhere" in said[0]


def test_the_own_dead_predecessor_is_not_waited_for(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    open_run(plan)
    store = ObjectStore(plan.files, objects_of(plan))
    store._take_lease("toy", print)  # and is killed
    said: list[str] = []
    with ObjectStore(plan.files, objects_of(plan)).driven("toy", said.append):
        pass
    assert said == []


def test_who_was_taken_for_dead_stops(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_store, "BEAT", 0.1)
    study = open_run(plan)
    store = store_of(plan.files)
    with store.driven("toy", print):
        objects_of(plan).put(LEASE, b'{"driver": "another", "host": "elsewhere", "process": 7}')
        until = time.monotonic() + 30
        with pytest.raises(StorageError, match="process 7 on elsewhere has taken over"):  # noqa: PT012
            while time.monotonic() < until:
                study.ask()
                store.before_trial()
                time.sleep(0.1)
    assert b"another" in (objects_of(plan).get(LEASE) or b"")


# ---- who reads


def test_every_command_reads_it(
    tmp_path: Path, plan: Plan, place: str, on_machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    finish(plan, open_run(plan))
    on_machine("two")
    assert export.main(["toy", "--results-dir", place, "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["run"] == "toy"
    url = str(ObjectFolder.of(place) / "toy")
    assert export.main([url]) == 0
    assert "Trial 2 of run toy" in capsys.readouterr().out
    assert logs.main(["toy", "2", "--results-dir", place]) == 0
    assert "trial 2, attempt 1, from epoch 0" in capsys.readouterr().out
    assert logs.main(["toy", "2", "-f", "--results-dir", place]) == 0
    assert "trial 2, attempt 1, from epoch 0" in capsys.readouterr().out
    assert report.main(["toy", "--results-dir", place]) == 0
    assert b"<html" in (objects_of(plan).get("report.html") or b"")
    capsys.readouterr()
    assert search.main(["--runs", "--results-dir", place]) == 0
    assert f"toy  finished  {TRIALS}/{TRIALS}" in capsys.readouterr().out
    assert export.main(["other", "--results-dir", place]) == 2
    assert "no run 'other' under" in capsys.readouterr().err


def test_a_warm_start_takes_networks_along(
    tmp_path: Path, space: Path, plan: Plan, place: str, on_machine: Machine
) -> None:
    finish(plan, open_run(plan))
    on_machine("two")
    second = toy_plan(tmp_path, space, results_dir=place, name="second", warm_start="toy", trials="5")
    assert second.warm_start is not None
    assert second.warm_start.folder == str(ObjectFolder.of(place) / "toy")
    from tune_lnl.tuning.engine.runner import _open_study

    second.files.root.mkdir(parents=True)
    _open_study(second)
    store_of(second.files).begin()
    stored = objects_of(second).list()
    assert {f"trials/{number:03d}/epochs.jsonl" for number in range(TRIALS)} <= set(stored)
    assert sum(key.endswith("-model.pt") for key in stored) == 3


def test_conditions_are_runs_of_their_own(tmp_path: Path, place: str, on_machine: Machine) -> None:
    space = write_space(tmp_path, {"conditions": {"one": {"fixed.batch_size": 16}, "two": {"fixed.batch_size": 32}}})

    def plans(**options: Any) -> list[Plan]:
        asked = SearchOptions(str(space), results_dir=place, all_conditions=True, command="search", **options)
        return plan_search(asked, Cores(cpus=2, gpus=0))

    first, _ = plans()
    open_run(first)
    on_machine("two")
    with pytest.raises(InputError, match=r"tiny/one' exists already in (s3|file)://"):
        plans()
    again = plans(resume=True)
    assert [plan.files.settings.exists() for plan in again] == [True, False]
    with pytest.raises(InputError, match="holds one run per condition; name one of: tiny/one"):
        load_run("tiny", place)
    assert load_run("tiny/one", place).space.condition == "one"
    assert load_run(str(ObjectFolder.of(place) / "tiny" / "one")).space.condition == "one"


def test_places_are_shown_as_they_were_given(tmp_path: Path, plan: Plan, place: str) -> None:
    assert shown(plan.files.best) == str(ObjectFolder.of(place) / "toy/best.yaml")
    assert shown(local_folder(place)) == ObjectFolder.of(place).url
    assert shown(tmp_path / "results" / "toy") == str(tmp_path / "results" / "toy")


def test_a_local_folder_has_nothing_behind_it(tmp_path: Path) -> None:
    store = store_of(RunFiles(tmp_path / "results" / "toy"))
    assert type(store) is run_store.RunStore
    assert store.url is None
    assert bring_here(tmp_path / "results", "toy") == tmp_path / "results"
    assert not (tmp_path / "results").exists()


def test_a_storage_that_refuses_is_told_before_anything(
    tmp_path: Path, space: Path, s3: S3Server, capsys: pytest.CaptureFixture[str]
) -> None:
    url = s3.url("results", bucket="nobody-made-this")
    assert search.main([str(space), "--results-dir", url]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "NO_SUCH_BUCKET" in said.err
    assert "create the bucket, or give another --results-dir" in said.err
    assert search.main([str(space), "--results-dir", "s3://key:hidden@bucket/results"]) == 2
    assert "hidden" not in capsys.readouterr().err


def test_a_node_that_cannot_reach_it_says_why(tmp_path: Path, s3: S3Server) -> None:
    assert storage_refuses(s3.url(f"{tmp_path.name}/run")) is None
    assert s3.keys(tmp_path.name) == []
    why = storage_refuses(s3.url("run", bucket="nobody-made-this"))
    assert why is not None
    assert "cannot use the object storage" in why
    assert "create the bucket" in why
