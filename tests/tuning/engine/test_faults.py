"""Every way in which a trial can fail, provoked: the study records it, and every view agrees."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import signal
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow.parquet as pq
import pytest
import toy_runs
from optuna.trial import TrialState
from stored_runs import in_storage
from toy_runs import TOY, InThisProcess, local_session, open_run, run_locally, toy_plan, worker, write_toy

from tune_lnl.object_storage import ObjectFolder, StorageError
from tune_lnl.training.checkpoint import load_checkpoint, save_checkpoint
from tune_lnl.training.loop import Surroundings
from tune_lnl.training.registry import start_training
from tune_lnl.tuning.driver import run_plan
from tune_lnl.tuning.engine import signals
from tune_lnl.tuning.engine.messages import WorkerReport
from tune_lnl.tuning.engine.runner import trial_job
from tune_lnl.tuning.engine.session import RETRIED_ALONE, STOP_SECONDS, Session
from tune_lnl.tuning.engine.tune import NUMBER, StudyScheduler, StudySearcher
from tune_lnl.tuning.engine.worker import TrialRun
from tune_lnl.tuning.monitor.console import Console
from tune_lnl.tuning.plan.plan import Plan
from tune_lnl.tuning.runs.export import export_run
from tune_lnl.tuning.runs.run import load_run
from tune_lnl.tuning.runs.tables import write_tables
from tune_lnl.tuning.study.journal import WholeLinesBackend, read_trials
from tune_lnl.tuning.study.study import SearchStudy
from tune_lnl.tuning.study.trials import FAILURE, MESSAGE

EPOCHS = 5

Prepare = Callable[..., Plan]


@pytest.fixture(autouse=True)
def _toy_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TOY))
    events = tmp_path / "events"
    events.mkdir()
    monkeypatch.setenv("TOY_EVENTS", str(events))


@pytest.fixture
def prepare(tmp_path: Path) -> Prepare:
    def prepare(*faults: str, **space: Any) -> Plan:
        points = [{"x": 0.1 + 0.05 * index, "fault": fault} for index, fault in enumerate(faults)]
        name = space.pop("name", "toy")
        return toy_plan(tmp_path, write_toy(tmp_path, points, epochs=EPOCHS, name=name, **space))

    return prepare


def views(plan: Plan) -> dict[str, dict[int, tuple[Any, ...]]]:
    """(state, value, epochs, failure, message) of every trial, as each view tells it; csv has no message."""
    run = load_run(plan.files.root)
    write_tables(run)
    seen: dict[str, dict[int, tuple[Any, ...]]] = {
        "study": {
            t.number: (
                t.state.name,
                toy_search_value(t.intermediate_values, t.value),
                len(t.intermediate_values),
                t.user_attrs.get(FAILURE),
                t.user_attrs.get(MESSAGE),
            )
            for t in read_trials(plan.files.study)
        }
    }
    keys = ("state", "value", "epochs", "failure", "message")
    records = pq.read_table(plan.files.trials_table).to_pylist()
    seen["parquet"] = {record["number"]: tuple(record[key] for key in keys) for record in records}
    exported = json.loads(export_run(run, 1000, "json").text)["trials"]
    seen["json"] = {record["number"]: tuple(record.get(key) for key in keys) for record in exported}
    rows = csv.DictReader(io.StringIO(export_run(run, 1000, "csv").text))
    seen["csv"] = {
        int(row["number"]): (
            row["state"],
            float(row["value"]) if row["value"] else None,
            int(row["epochs"]),
            row["failure"] or None,
        )
        for row in rows
    }
    return seen


def toy_search_value(curve: dict[int, float], value: float | None) -> float | None:
    return value if value is not None else curve[max(curve)] if curve else None


EXPECTED = {
    "none": ("COMPLETE", EPOCHS, None, None),
    "nan": ("FAIL", 1, "diverged", "the objective is not finite at epoch 2"),
    "nan_weights": ("FAIL", 1, "diverged", "weight is not finite at epoch 2"),
    "data": ("FAIL", 1, "data error", "toy.tar: truncated at byte 17; fetch it again"),
    "oom": ("FAIL", 1, "out of memory", "CUDA out of memory. The toy tried to allocate 7.00 GiB."),
    "oom_once": ("COMPLETE", EPOCHS, None, None),
    "bug": ("FAIL", 1, "bug", "ZeroDivisionError: the toy divides by zero (toy_method.py:"),
}


def test_every_class_of_failure_in_every_view(prepare: Prepare) -> None:
    plan = prepare(*EXPECTED)
    study = open_run(plan)
    session = local_session(plan, study)
    run_locally(plan, session)
    assert session.finished
    assert session.stop_reason is None
    seen = views(plan)
    for number, (fault, (state, epochs, failure, message)) in enumerate(EXPECTED.items()):
        told = seen["study"][number]
        assert (told[0], told[2], told[3]) == (state, epochs, failure), fault
        assert told[4] is None if message is None else told[4].startswith(message), fault
    assert seen["parquet"] == seen["json"] == seen["study"]
    assert seen["csv"] == {number: told[:4] for number, told in seen["study"].items()}
    best = load_run(plan.files.root).best
    assert best is not None
    assert best.number in (0, 5)
    left = {path.name for path in plan.files.checkpoints.iterdir()}
    assert left == {"000-model.pt", "005-model.pt"}


def test_out_of_memory_is_retried_once_with_nothing_beside_it(prepare: Prepare) -> None:
    plan = prepare("none", "oom_once", "oom", "none", "none")
    study = open_run(plan)
    turns = run_locally(plan, local_session(plan, study, concurrent=3))
    for number in (1, 2):
        together = [turn for turn in turns if number in turn]
        # Side by side until the failure in epoch 1, then alone.
        assert len(together[0]) > 1
        assert len(together) > 2
        assert all(turn == (number,) for turn in together[2:])
    assert [t.user_attrs["attempts"] for t in study.trials] == [1, 2, 2, 1, 1]
    assert [t.state.name for t in study.trials] == ["COMPLETE", "COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]


def test_the_lone_retry_survives_a_crash(prepare: Prepare) -> None:
    plan = prepare("none", "oom", "none")
    study = open_run(plan)
    session = local_session(plan, study)
    first, hungry = session.next_job(), session.next_job()
    assert first is not None
    assert hungry is not None
    session.heard(WorkerReport(hungry.number, hungry.attempt, failure="out of memory", message="no"))
    assert study.noted(hungry.number, RETRIED_ALONE)
    # The driver is killed here; the next one may not put it beside another trial.
    again = open_run(plan)
    turns = run_locally(plan, local_session(plan, again))
    assert [turn for turn in turns if 1 in turn] == [(1,), (1,)]
    assert [t.state.name for t in again.trials] == ["COMPLETE", "FAIL", "COMPLETE"]


def test_three_bugs_in_a_row_stop_the_search(prepare: Prepare) -> None:
    plan = prepare("none", "bug", "bug", "bug", "none", "none")
    study = open_run(plan)
    session = local_session(plan, study, concurrent=1)
    run_locally(plan, session)
    assert session.stop_reason == "failing"
    assert [t.state.name for t in study.trials] == ["COMPLETE", "FAIL", "FAIL", "FAIL", "WAITING", "WAITING"]
    assert [t.user_attrs.get("attempts", 0) for t in study.trials] == [1, 1, 1, 1, 0, 0]
    assert "test_faults" not in plan.files.log(1).read_text()
    assert "toy_method.py" in plan.files.log(1).read_text()


# ---- silence


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_hung_worker_does_not_delay_a_stop(prepare: Prepare) -> None:
    plan = prepare("none", "none")
    study = open_run(plan)
    clock = Clock()
    session = local_session(plan, study, clock=clock)
    hung = session.next_job()
    assert hung is not None
    assert session.stuck() == []
    session.stop("interrupted")
    clock.now += STOP_SECONDS
    assert session.stuck() == []
    clock.now += 0.1
    assert session.stuck() == [hung.number]
    session.worker_died(hung.number)
    trial = study.trials[hung.number]
    assert trial.state == TrialState.WAITING
    assert "restarted_stuck" not in trial.user_attrs


# ---- a full disk


def test_a_full_disk_under_a_trial_ends_the_search_resumably(prepare: Prepare) -> None:
    plan = prepare("none", "disk_full", "none")
    study = open_run(plan)
    session = local_session(plan, study, concurrent=1)
    run_locally(plan, session)
    assert session.stop_reason == "disk full"
    assert [t.state.name for t in study.trials] == ["COMPLETE", "WAITING", "WAITING"]
    assert plan.files.checkpoints_of(1)


def no_room(*arguments: Any, **options: Any) -> Any:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_under_the_log_of_a_trial(prepare: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = prepare("none", "none")
    study = open_run(plan)
    session = local_session(plan, study, concurrent=1)
    monkeypatch.setattr("tune_lnl.tuning.engine.worker._captured", no_room)
    run_locally(plan, session)
    assert session.stop_reason == "disk full"
    assert [t.state.name for t in study.trials] == ["WAITING", "WAITING"]


def half_a_record(journal: WholeLinesBackend, file: BinaryIO, records: bytes) -> None:
    file.write(records[:20])
    file.flush()
    no_room()


def test_a_full_disk_leaves_no_half_record_in_the_study(prepare: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = prepare("none", "none")
    study = open_run(plan)
    trial = study.ask()
    before = plan.files.study.read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(WholeLinesBackend, "_write", half_a_record)
        with pytest.raises(OSError, match="No space"):
            study.report(trial.number, 0, 1.0)
    assert plan.files.study.read_bytes() == before
    study.report(trial.number, 0, 2.0)
    assert read_trials(plan.files.study)[0].intermediate_values == {0: 2.0}


class RayTrial:
    def __init__(self, number: int) -> None:
        self.config = {NUMBER: number}
        self.error_file = None


@pytest.mark.parametrize("call", ["report", "death", "ask"])
def test_a_full_disk_under_the_study_ends_the_search_in_order(
    prepare: Prepare, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    plan = prepare("none", "none")
    study = open_run(plan)
    session = local_session(plan, study)
    scheduler, searcher = (
        StudyScheduler(session),
        StudySearcher(session, lambda suggestion: trial_job(plan, suggestion)),
    )
    config = searcher.suggest("a")
    assert config[NUMBER] == 0
    trial: Any = RayTrial(0)
    monkeypatch.setattr(WholeLinesBackend, "_write", half_a_record)
    if call == "report":
        report = {"number": 0, "attempt": 1, "epoch": 0, "value": 1.0}
        assert scheduler.on_trial_result(None, trial, report) == "STOP"
    elif call == "death":
        scheduler.on_trial_error(None, trial)
    else:
        assert searcher.suggest("b") is None
    assert session.stop_reason == "disk full"
    assert searcher.suggest("c") == "FINISHED"


def test_a_trial_whose_end_finds_no_room_is_put_back(prepare: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = prepare("none")
    study = open_run(plan)
    session = local_session(plan, study)
    scheduler, searcher = (
        StudyScheduler(session),
        StudySearcher(session, lambda suggestion: trial_job(plan, suggestion)),
    )
    searcher.suggest("a")
    with monkeypatch.context() as patched:
        patched.setattr(study._study, "tell", no_room)
        last = {"number": 0, "attempt": 1, "epoch": EPOCHS - 1, "value": 1.0}
        trial: Any = RayTrial(0)
        assert scheduler.on_trial_result(None, trial, last) == "STOP"
    assert session.stop_reason == "disk full"
    session.put_back_running()
    assert [trial.state.name for trial in read_trials(plan.files.study)] == ["WAITING"]


@pytest.mark.parametrize(
    "where",
    ["toy_runs.run_locally", "tune_lnl.tuning.engine.listeners.write_tables", "tune_lnl.tuning.driver.open_study"],
)
def test_a_full_disk_under_the_driver(prepare: Prepare, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    plan = prepare("none")
    said: list[str] = []
    with monkeypatch.context() as patched:
        patched.setattr(where, no_room)
        assert run_plan(plan, False, Console(write=said.append), InThisProcess()) == "failed"
    assert "is full; make room, then:" in "\n".join(said)
    assert plan.resume_command() in "\n".join(said)
    assert run_plan(plan, True, Console(write=said.append), InThisProcess()) == "done"
    assert [t.state.name for t in read_trials(plan.files.study)] == ["COMPLETE"]
    assert not plan.files.ray_folder.exists()


def test_an_object_storage_that_is_away_gives_its_reason_once(
    prepare: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNE_LNL_CACHE", str(tmp_path / "cache"))
    plan = in_storage(prepare("none"), (tmp_path / "storage").as_uri())
    said: list[str] = []

    def away(*_: Any) -> None:
        raise StorageError("the storage is away")

    with monkeypatch.context() as patched:
        outage = InThisProcess(before=lambda session: patched.setattr(ObjectFolder, "put", away))
        assert run_plan(plan, False, Console(write=said.append), outage) == "failed"
    stopped = [line for line in said if line.startswith("stopped: ")]
    assert len(stopped) == 1, stopped
    assert stopped[0].startswith("stopped: the storage is away\nfiles not yet uploaded are kept in")
    assert run_plan(plan, True, Console(write=said.append), InThisProcess()) == "done"


def test_the_disk_budget_stops_resumably(prepare: Prepare) -> None:
    plan = prepare("none", "none")
    said: list[str] = []

    def over_budget(session: Session) -> None:
        assert session.next_job() is not None
        session.stop("disk budget")

    assert run_plan(plan, False, Console(write=said.append), InThisProcess(before=over_budget)) == "failed"
    assert "uses more than its 20.0 GB; raise --disk-budget" in "\n".join(said)
    assert [t.state.name for t in read_trials(plan.files.study)] == ["WAITING", "WAITING"]
    assert run_plan(plan, True, Console(write=said.append), InThisProcess()) == "done"


# ---- late writers and damaged states


def begun(plan: Plan, study: SearchStudy, epochs: int) -> TrialRun:
    """A first attempt at trial 0 that has run for so long."""
    suggestion = study.ask()
    first = worker(plan, suggestion)
    for epoch in range(epochs):
        reply = first.step()
        assert reply["epoch"] == epoch
        study.report(0, epoch, reply["value"])
    return first


def continue_to_the_end(plan: Plan, study: SearchStudy) -> list[float]:
    """The next attempt at trial 0, alone; the objective that the study then holds."""
    run_locally(plan, local_session(plan, study, concurrent=1))
    (trial,) = study.trials
    assert trial.state == TrialState.COMPLETE
    return [trial.intermediate_values[epoch] for epoch in range(EPOCHS)]


def expected(plan: Plan) -> list[float]:
    values: list[float] = toy_runs.toy_method().curve(0.1, 0, EPOCHS)
    return values


@pytest.mark.usefixtures("checkpoint_after_every_epoch")
def test_a_late_writer_spoils_nothing(prepare: Prepare) -> None:
    """The worker of a killed driver trains on beside its successor, and writes its epochs and states between."""
    plan = prepare("none")
    late = begun(plan, open_run(plan), 2)
    study = open_run(plan)
    session = local_session(plan, study, concurrent=1)
    suggestion = session.next_job()
    assert suggestion is not None
    assert suggestion.attempt == 2
    new = worker(plan, suggestion)
    while session.heard(WorkerReport.from_result(new.step())):
        reply = late.step()
        assert not session.heard(WorkerReport.from_result(reply))
    values = [study.trials[0].intermediate_values[epoch] for epoch in range(EPOCHS)]
    assert values == expected(plan)
    reports = load_run(plan.files.root).epoch_reports(0)
    assert [int(report["epoch"]) for report in reports] == list(range(EPOCHS))
    assert [report["attempt"] for report in reports] == [1, 1, 2, 2, 2]


@pytest.mark.usefixtures("checkpoint_after_every_epoch")
def test_a_state_written_late_is_not_taken_for_the_newest(prepare: Prepare) -> None:
    plan = prepare("none")
    late = begun(plan, open_run(plan), 1)
    study = open_run(plan)
    suggestion = study.ask()
    second = worker(plan, suggestion)
    for _ in range(3):
        second.step()
    late.step()
    assert [path.name for path in plan.files.checkpoints_of(0)] == ["000.2.pt", "000.1.pt"]
    assert continue_to_the_end(plan, open_run(plan)) == expected(plan)
    log = plan.files.log(0).read_text()
    assert "attempt 3, from epoch 5" in log
    assert not plan.files.checkpoints_of(0)


@pytest.mark.usefixtures("checkpoint_after_every_epoch")
@pytest.mark.parametrize("damage", ["empty", "half", "flipped", "text"])
@pytest.mark.parametrize("older", [True, False])
def test_a_damaged_state_falls_back_to_an_older_one_or_to_none(prepare: Prepare, damage: str, older: bool) -> None:
    plan = prepare("none")
    run = begun(plan, open_run(plan), 3)._run
    assert run is not None
    whole = plan.files.checkpoint(0, 1).read_bytes()
    weight = struct.pack("<d", run.training.state_dict()["weight"])
    assert weight in whole
    broken = {
        "empty": b"",
        "half": whole[: len(whole) // 2],
        "flipped": whole.replace(weight, weight[:-1] + bytes([weight[-1] ^ 1])),
        "text": b"<html>504</html>",
    }[damage]
    study = open_run(plan)
    study.ask()
    (plan.files.checkpoint(0, 2) if older else plan.files.checkpoint(0, 1)).write_bytes(broken)
    assert continue_to_the_end(plan, open_run(plan)) == expected(plan)
    log = plan.files.log(0).read_text()
    assert "not a readable checkpoint" in log
    assert f"attempt 3, from epoch {4 if older else 1}" in log
    reports = load_run(plan.files.root).epoch_reports(0)
    assert [report["val_accuracy"] for report in reports] == expected(plan)


def test_the_state_of_another_method_is_refused_by_name(prepare: Prepare, tmp_path: Path) -> None:
    plan = prepare("none", "none")
    study = open_run(plan)
    study.ask()
    other = toy_search_standard(tmp_path)
    stranger = plan.files.checkpoint(0, 1)
    save_checkpoint(stranger, other, [])
    before = stranger.read_bytes()
    again = open_run(plan)
    session = local_session(plan, again, concurrent=1)
    suggestion = session.next_job()
    assert suggestion is not None
    reply = worker(plan, suggestion).step()
    assert reply["failure"] == "data error"
    assert "written with" in reply["message"]
    assert stranger.read_bytes() == before
    with pytest.raises(ValueError, match="written with"):
        load_checkpoint(stranger, start_training(plan.space.config({"x": 0.1}), Surroundings()))


def toy_search_standard(folder: Path) -> Any:
    """A training of plain cross-entropy on a few digits."""
    from tune_lnl.config.trial import build_config

    sections = {
        "method": "standard",
        "dataset": {"name": "digits8no", "subset": 0.1},
        "validation": {"fraction": 0.3},
        "objective": {"average_last": 1},
        "fixed": {"epochs": EPOCHS, "lr": 0.01},
    }
    return start_training(build_config(sections, "test"), Surroundings())


def test_a_trial_killed_between_its_last_state_and_its_report_keeps_its_model(prepare: Prepare) -> None:
    plan = prepare("none")
    begun(plan, open_run(plan), EPOCHS)
    assert continue_to_the_end(plan, open_run(plan)) == expected(plan)
    assert plan.files.model(0).is_file()


# ---- signals


class Left(BaseException):
    """Instead of ending the process of the tests."""


def test_a_stop_that_takes_too_long_leaves_by_itself(prepare: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = prepare("none", "none")
    study = open_run(plan)
    session = local_session(plan, study)
    assert session.next_job() is not None
    said: list[str] = []
    left: list[int] = []
    gone = threading.Event()

    def leave(code: int) -> None:
        left.append(code)
        gone.set()

    monkeypatch.setattr(signals, "STOP_PATIENCE", 0.2)
    monkeypatch.setattr(os, "_exit", leave)
    with signals.stopped_by_signals(plan, session, Console(write=said.append)):
        os.kill(os.getpid(), signal.SIGTERM)
        assert gone.wait(20)
    assert left == [130]
    assert session.stop_reason == "interrupted"
    assert [trial.state.name for trial in study.trials] == ["WAITING", "WAITING"]
    assert any(plan.resume_command() in line for line in said)


def test_a_second_signal_leaves_whatever_the_first_one_met(prepare: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = prepare("none")
    session = local_session(plan, open_run(plan))
    said: list[str] = []

    def leave(code: int) -> None:
        raise Left(code)

    monkeypatch.setattr(os, "_exit", leave)
    session.stop("time budget")
    before = signal.getsignal(signal.SIGINT)
    with signals.stopped_by_signals(plan, session, Console(write=said.append)):
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(Left, match="130"):
            signal.raise_signal(signal.SIGINT)
    assert session.stop_reason == "time budget"
    assert any(plan.resume_command() in line for line in said)
    assert signal.getsignal(signal.SIGINT) is before
