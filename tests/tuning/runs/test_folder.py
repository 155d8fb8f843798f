"""The folder of a run in object storage, without Ray: the test is driver and workers in turn, on several machines."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from s3_server import S3Server
from stored_runs import in_storage, objects_of
from toy_runs import TOY, check_complete, local_session, open_run, run_locally, spread, toy_plan, worker, write_toy

from tune_lnl import export, logs, report, search
from tune_lnl.object_storage import ObjectFolder, StorageError
from tune_lnl.training.failures import STORAGE_AWAY
from tune_lnl.tuning.engine.messages import WorkerReport
from tune_lnl.tuning.engine.node_check import storage_refuses
from tune_lnl.tuning.plan.plan import Plan
from tune_lnl.tuning.runs.best import write_best
from tune_lnl.tuning.runs.folder import RunFolder, SyncedRunFolder
from tune_lnl.tuning.runs.run import Run, load_run
from tune_lnl.tuning.runs.tables import write_tables
from tune_lnl.tuning.study.study import SearchStudy

EPOCHS = 4
TRIALS = 4


@pytest.fixture(params=["s3", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a results folder; the test begins on machine ``one``."""
    monkeypatch.setenv("TUNE_LNL_CACHE", str(tmp_path / "one"))
    if request.param == "file":
        return (tmp_path / "storage").as_uri()
    server: S3Server = request.getfixturevalue("s3")
    return server.url(f"{tmp_path.name}/results")


@pytest.fixture
def plan(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> Plan:
    monkeypatch.syspath_prepend(str(TOY))
    space = write_toy(tmp_path, spread(TRIALS), epochs=EPOCHS)
    return in_storage(toy_plan(tmp_path, space), url)


def finish(plan: Plan, study: SearchStudy) -> Run:
    """Do what a driver does until the end of a search."""
    run_locally(plan, local_session(plan, study))
    plan.files.fetch("trials/*/epochs.jsonl")
    run = Run(plan.files, plan.settings(), plan.space, study.trials)
    write_tables(run)
    write_best(run)
    plan.files.sync(plan.files.study)  # in place of a database
    return run


def test_the_files_are_those_of_a_local_run(
    tmp_path: Path, plan: Plan, url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    finish(plan, open_run(plan))
    stored = set(objects_of(plan).list())
    models = {f"checkpoints/{number:03d}-model.pt" for number in (0, 1, 2)}
    assert {key for key in stored if key.startswith("checkpoints/")} == models
    trials = {f"trials/{number:03d}/{name}" for number in range(TRIALS) for name in ("log.txt", "epochs.jsonl")}
    tables = {"run.yaml", "study.log", "trials.parquet", "epochs.parquet", "best.yaml", "trials.csv", "epochs.csv"}
    heldout = {f"heldout/{number:03d}.npz" for number in range(TRIALS)}
    assert stored - models == trials | tables | heldout
    assert list((tmp_path / "one" / "work").iterdir()) == [], "workers left files behind"

    # Every command reads it, on another machine.
    monkeypatch.setenv("TUNE_LNL_CACHE", str(tmp_path / "two"))
    run = load_run("toy", url)
    check_complete(run, TRIALS, EPOCHS)
    assert run.heldout(3).shape == (3, 2)
    assert export.main(["toy", "--results-dir", url, "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["run"] == "toy"
    assert export.main([str(ObjectFolder.of(url) / "toy")]) == 0
    assert "Trial 2 of run toy" in capsys.readouterr().out
    for follow in ([], ["-f"]):
        assert logs.main(["toy", "2", *follow, "--results-dir", url]) == 0
        assert "trial 2, attempt 1, from epoch 1" in capsys.readouterr().out
    assert report.main(["toy", "--results-dir", url]) == 0
    assert b"<html" in (objects_of(plan).get("report.html") or b"")
    capsys.readouterr()
    assert search.main(["--runs", "--results-dir", url]) == 0
    assert f"toy  finished  {TRIALS}/{TRIALS}" in capsys.readouterr().out
    assert export.main(["other", "--results-dir", url]) == 2
    assert "no run 'other' under" in capsys.readouterr().err


@pytest.mark.usefixtures("checkpoint_after_every_epoch")
def test_another_machine_continues_each_trial(
    tmp_path: Path, plan: Plan, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = open_run(plan)
    session = local_session(plan, study)
    asked = [session.next_job(), session.next_job()]
    for epochs, suggestion in zip((1, 3), asked, strict=True):
        assert suggestion is not None
        running = worker(plan, suggestion)
        for _ in range(epochs):
            assert session.heard(WorkerReport.from_result(running.step()))
    plan.files.sync(plan.files.study)
    # The machine is gone, with both workers.
    monkeypatch.setenv("TUNE_LNL_CACHE", str(tmp_path / "two"))
    plan = in_storage(plan, url)
    assert plan.files.checkpointed() == {0, 1}
    study = open_run(plan)
    continued = study.trial(1)
    finish(plan, study)
    run = load_run("toy", url)
    check_complete(run, TRIALS, EPOCHS)
    assert continued.params == run.trials[1].params
    attempts = [[report["attempt"] for report in run.epoch_reports(number)] for number in (0, 1)]
    assert attempts == [[1, 2, 2, 2], [1, 1, 1, 2]], "what was kept was trained again"


@pytest.mark.usefixtures("checkpoint_after_every_epoch")
@pytest.mark.parametrize("url", ["file"], indirect=True)
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


@pytest.mark.usefixtures("checkpoint_after_every_epoch")
@pytest.mark.parametrize("url", ["file"], indirect=True)
def test_a_storage_that_is_away(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    study = open_run(plan)
    session = local_session(plan, study)
    suggestion = session.next_job()
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
            plan.files.write(plan.files.best, "text")
    session.put_back_running()
    assert {trial.state.name for trial in study.trials} == {"WAITING"}
    finish(plan, study)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * TRIALS


@pytest.mark.parametrize("url", ["file"], indirect=True)
def test_workers_that_cannot_reach_it_end_the_search(plan: Plan) -> None:
    session = local_session(plan, open_run(plan))
    for _ in range(3):
        assert session.stop_reason is None
        suggestion = session.next_job()
        assert suggestion is not None
        session.heard(WorkerReport(suggestion.number, suggestion.attempt, failure=STORAGE_AWAY, message="away"))
    assert session.stop_reason == "object storage away"
    assert session.running() == []


def folders(tmp_path: Path) -> list[RunFolder]:
    """A local folder, and the working copy of one in object storage."""
    remote = ObjectFolder.of((tmp_path / "storage" / "run").as_uri())
    return [RunFolder(tmp_path / "local"), SyncedRunFolder(tmp_path / "copy", remote)]


def test_the_size_of_a_run_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Away:
        def get_file_info(self, selector: object) -> None:
            raise OSError("no answer")

    def waited(seconds: float) -> None:
        pytest.fail(f"waits {seconds} s for a storage that is away")

    monkeypatch.setattr(ObjectFolder, "_system", Away())
    monkeypatch.setattr("tune_lnl.object_storage.time.sleep", waited)
    with pytest.raises(StorageError, match="no answer"):
        folders(tmp_path)[1].bytes_used()


def test_writing_listing_and_deleting_are_the_same_wherever_the_run_lies(tmp_path: Path) -> None:
    for files in folders(tmp_path):
        files.write(files.model(3), "a network")
        files.checkpoint(12, 1).write_text("a state")
        files.sync(files.checkpoint(12, 1), files.checkpoint(13, 1))
        with pytest.raises(RuntimeError), files.writing(files.best) as beside:  # noqa: PT012
            beside.write_text("half")
            raise RuntimeError
        assert not files.best.exists()
        assert files.listed("checkpoints") == [files.model(3), files.checkpoint(12, 1)]
        assert files.checkpointed() == {12}
        assert files.bytes_used() == len("a network") + len("a state")
        files.delete(files.model(3), files.model(4))
        assert files.listed("checkpoints") == [files.checkpoint(12, 1)]
        assert files.root.exists()
        files.close()
        assert files.root.exists(), "only a worker's temporary folder goes"


def test_a_worker_fetches_what_matches(tmp_path: Path) -> None:
    _, files = folders(tmp_path)
    for path in (files.epochs(1), files.epochs(2), files.log(1), files.checkpoint(1, 1)):
        files.write(path, path.name)
    assert files.url is not None
    there = RunFolder.for_worker(Path("nowhere"), files.url)
    there.fetch("trials/*/epochs.jsonl", "checkpoints/001.*.pt", "confirm/001-1.pt")
    found = {path.relative_to(there.root).as_posix() for path in there.root.rglob("*") if path.is_file()}
    assert found == {"trials/001/epochs.jsonl", "trials/002/epochs.jsonl", "checkpoints/001.1.pt"}
    there.close()
    assert not there.root.exists()


def test_work_folders_of_killed_processes_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNE_LNL_CACHE", str(tmp_path / "cache"))
    _, files = folders(tmp_path)
    assert files.url is not None
    first = RunFolder.for_worker(Path("nowhere"), files.url)
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    dead = first.root.rename(first.root.with_name(first.root.name.replace(f".{os.getpid()}.", f".{child}.")))
    second = RunFolder.for_worker(Path("nowhere"), files.url)
    assert not dead.exists()
    second.close()


def test_a_node_that_cannot_reach_it_says_why(tmp_path: Path, s3: S3Server) -> None:
    assert storage_refuses(s3.url(f"{tmp_path.name}/run")) is None
    assert s3.keys(tmp_path.name) == []
    why = storage_refuses(s3.url("run", bucket="nobody-made-this"))
    assert why is not None
    assert "cannot use the object storage" in why
    assert "create the bucket" in why
