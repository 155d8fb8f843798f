"""The loop that drives every training: its files, continuing, and its ends."""

from __future__ import annotations

import copy
import itertools
import json
import math
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import EPOCHS, finish, start, tiny, without_times

from tune_lnl.errors import InputError
from tune_lnl.files import is_disk_full
from tune_lnl.training.checkpoint import CheckpointWriter, content_of, write_whole
from tune_lnl.training.failures import DISK_FULL, DivergedError, classify
from tune_lnl.training.loop import Report, Surroundings, Training
from tune_lnl.training.registry import start_training
from tune_lnl.training.run import (
    StopRequested,
    TrainingFiles,
    TrainingRun,
    append_report,
    log_line,
    run_training,
    stop_at,
)


def files_in(folder: Path) -> TrainingFiles:
    return TrainingFiles(folder / "state.pt", epochs=folder / "epochs.jsonl", model=folder / "model.pt")


def some_epochs(training: Training, files: TrainingFiles, count: int) -> TrainingRun:
    run = TrainingRun(training, files)
    for _ in itertools.islice(run.epochs(), count):
        pass
    return run


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line, parse_constant=pytest.fail) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def whole() -> list[Report]:
    return without_times(finish(start(tiny("standard"))))


# ---- epochs and files


def test_without_files_it_only_trains(whole: list[Report], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    seen: list[Report] = []
    reports = run_training(start(tiny("standard")), on_epoch=seen.append)
    assert seen == reports
    assert without_times(reports) == whole
    assert not list(tmp_path.iterdir())


def test_its_files(whole: list[Report], tmp_path: Path) -> None:
    training, files = start(tiny("standard")), files_in(tmp_path)
    run_training(training, files)
    assert without_times(lines_of(tmp_path / "epochs.jsonl")) == whole
    model = torch.load(tmp_path / "model.pt", weights_only=True)
    assert all(torch.equal(model["weights"][name], value) for name, value in training.model_file()["weights"].items())
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("done", range(1, EPOCHS + 1))
def test_continued_it_equals_a_training_that_never_stopped(whole: list[Report], tmp_path: Path, done: int) -> None:
    files = files_in(tmp_path)
    some_epochs(start(tiny("standard")), files, done)
    assert files.model is not None
    assert files.model.exists() == (done == EPOCHS)
    seen: list[Report] = []
    reports = run_training(start(tiny("standard")), files, on_epoch=seen.append)
    assert len(seen) == EPOCHS - done
    assert without_times(reports) == whole
    assert without_times(lines_of(tmp_path / "epochs.jsonl")) == whole
    assert files.model.exists()


def test_when_a_checkpoint_is_written(tmp_path: Path) -> None:
    files = TrainingFiles(tmp_path / "state.pt", checkpoint_after=(1,))
    saved: list[int] = []

    def look() -> None:
        saved.append(len(torch.load(tmp_path / "state.pt", weights_only=True)["reports"]))

    for _ in TrainingRun(start(tiny("standard")), files, on_saved=look).epochs():
        pass
    assert saved == [1, 2, EPOCHS]  # not after the third epoch, which follows at once


def test_a_checkpoint_that_is_old_enough_is_replaced_by_a_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tune_lnl.training.checkpoint.CHECKPOINT_SECONDS", 0.0)
    files = TrainingFiles(tmp_path / "state.pt")
    saved: list[threading.Thread] = []
    run = TrainingRun(start(tiny("standard")), files, on_saved=lambda: saved.append(threading.current_thread()))
    for _ in run.epochs():
        pass
    assert len(saved) > 2
    assert threading.main_thread() not in saved


def test_a_killed_training_repeats_the_epochs_since_its_checkpoint(whole: list[Report], tmp_path: Path) -> None:
    files = files_in(tmp_path)
    killed = TrainingRun(start(tiny("standard")), files)
    epochs = killed.epochs()
    assert [int(next(epochs)["epoch"]) for _ in range(3)] == [0, 1, 2]
    assert len(lines_of(tmp_path / "epochs.jsonl")) == 3
    seen: list[Report] = []
    reports = run_training(start(tiny("standard")), files, on_epoch=seen.append)
    killed.discard()
    assert [int(report["epoch"]) for report in seen] == [1, 2, 3]
    assert without_times(reports) == whole
    assert without_times(lines_of(tmp_path / "epochs.jsonl")) == whole


def test_the_kept_state_is_a_copy() -> None:
    training = start(tiny("act"))
    reports = [training.run_epoch()]
    content = content_of(training, reports)
    before = copy.deepcopy(content)
    reports.append(training.run_epoch())
    assert content["reports"] == before["reports"]
    kept, unchanged = (each["state"] for each in (content, before))
    assert kept["epoch"] == 1
    for place in ("networks", "act"):
        flat, expected = (torch.utils._pytree.tree_leaves(each[place]) for each in (kept, unchanged))
        assert all(torch.equal(one, other) for one, other in zip(flat, expected, strict=True))


def test_what_an_epoch_gathers_is_part_of_the_checkpoint(tmp_path: Path) -> None:
    gathered: dict[str, torch.Tensor] = {"sum": torch.zeros((), dtype=torch.float64)}

    def add(report: Report) -> None:
        gathered["sum"] = gathered["sum"] + report["val_accuracy"]

    files = TrainingFiles(tmp_path / "state.pt")
    run = TrainingRun(start(tiny("standard")), files, on_epoch=add, gathered=gathered)
    next(run.epochs())
    gathered["sum"] = torch.full((), math.nan, dtype=torch.float64)
    reports = run_training(start(tiny("standard")), files, on_epoch=add, gathered=gathered)
    assert float(gathered["sum"]) == pytest.approx(sum(report["val_accuracy"] for report in reports))


def test_the_latest_readable_checkpoint_counts_and_earlier_ones_go_after_the_next_epoch(tmp_path: Path) -> None:
    first, second, own = (tmp_path / f"{attempt}.pt" for attempt in (1, 2, 3))
    some_epochs(start(tiny("standard")), TrainingFiles(first), 1)
    second.write_bytes(first.read_bytes()[:1000])
    saved: list[bool] = []
    files = TrainingFiles(own, (second, first))
    run = TrainingRun(start(tiny("standard")), files, on_saved=lambda: saved.append(first.exists() and own.exists()))
    assert (run.continued, run.training.epoch) == (True, 1)
    next(run.epochs())
    assert saved == [True]
    assert [path.name for path in tmp_path.iterdir()] == ["3.pt"]


def test_the_checkpoint_of_another_config_is_refused(tmp_path: Path) -> None:
    files = files_in(tmp_path)
    some_epochs(start(tiny("standard")), files, 1)
    with pytest.raises(InputError, match=r"written with lr = .*, this training has 0\.5"):
        run_training(start(tiny("standard", lr=0.5)), files)


# ---- the epochs file


def test_reports_are_appended_as_lines_that_every_reader_accepts(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "epochs.jsonl"
    append_report(path, {"epoch": 0.0, "val_loss": 0.1 + 0.2})
    append_report(path, {"epoch": 1.0, "val_loss": math.nan, "train_loss": -math.inf})
    assert lines_of(path) == [
        {"epoch": 0.0, "val_loss": 0.1 + 0.2},
        {"epoch": 1.0, "val_loss": None, "train_loss": None},
    ]


def test_a_line_after_a_torn_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "epochs.jsonl"
    path.write_text('{"epoch": 0.0, "val')
    append_report(path, {"epoch": 0.0})
    assert path.read_text() == '{"epoch": 0.0, "val\n{"epoch": 0.0}\n'


@pytest.mark.parametrize("damage", ["torn", "an epoch more", "lost"])
def test_the_epochs_file_is_made_to_agree_with_the_checkpoint(tmp_path: Path, damage: str) -> None:
    files = TrainingFiles(tmp_path / "state.pt", epochs=tmp_path / "epochs.jsonl", columns={"attempt": 1})
    run = some_epochs(start(tiny("standard")), files, 2)
    path = tmp_path / "epochs.jsonl"
    text = path.read_text()
    changed = {
        "torn": text + '{"attempt": 1, "epoch": 2.0, "val_acc',
        "an epoch more": text + '{"attempt": 1, "epoch": 2.0}\n',
        "lost": text.splitlines(keepends=True)[0],
    }
    path.write_text(changed[damage])
    TrainingRun(start(tiny("standard")), files)
    assert lines_of(path) == [{"attempt": 1, **report} for report in run.reports]


# ---- ends


def test_a_diverged_training_stops_at_once_and_leaves_neither_model_nor_state_of_its_lost_network(
    tmp_path: Path,
) -> None:
    files = files_in(tmp_path)
    training = start(tiny("act"))
    run = TrainingRun(training, files)
    epochs = run.epochs()
    next(epochs)
    before = (tmp_path / "state.pt").read_bytes()
    with torch.no_grad():
        next(iter(training.state_dict()["networks"]["_ntm"].values())).fill_(math.nan)
    with pytest.raises(DivergedError, match="at epoch 2"):
        next(epochs)
    assert (tmp_path / "state.pt").read_bytes() == before
    assert not (tmp_path / "model.pt").exists()
    assert [line["epoch"] for line in lines_of(tmp_path / "epochs.jsonl")] == [0.0, 1.0]
    assert len(run.reports) == 2


def test_a_stop_request_ends_the_epoch_at_the_next_batch(tmp_path: Path) -> None:
    flag = tmp_path / "stop"
    files = files_in(tmp_path)
    run = TrainingRun(start_training(tiny("standard"), Surroundings(between_batches=stop_at(flag))), files)
    epochs = run.epochs()
    next(epochs)
    flag.touch()
    with pytest.raises(StopRequested):
        next(epochs)
    assert len(lines_of(tmp_path / "epochs.jsonl")) == 1
    flag.unlink()
    assert TrainingRun(start(tiny("standard")), files).training.epoch == 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder]).returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("free", [0, 8192], ids=["no room at all", "room for the beginning"])
def test_on_a_full_disk_the_error_names_it_and_the_earlier_file_stays(small_disk: Path, free: int) -> None:
    path = small_disk / "state.pt"
    write_whole(path, {"weight": torch.zeros(10)})
    before = path.read_bytes()
    room = os.statvfs(small_disk)
    (small_disk / "rest").write_bytes(b"x" * (room.f_bavail * room.f_frsize - free))
    with pytest.raises(OSError, match="No space left") as caught:
        write_whole(path, {"weight": torch.zeros(10_000)})
    assert is_disk_full(caught.value)
    assert classify(caught.value)[0] == DISK_FULL
    assert path.read_bytes() == before
    assert sorted(each.name for each in small_disk.iterdir()) == ["rest", "state.pt"]


@pytest.mark.parametrize("call", ["flush", "keep"])
def test_a_full_disk_under_the_thread_is_an_error_of_the_next_call(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    monkeypatch.setattr("tune_lnl.training.checkpoint.CHECKPOINT_SECONDS", 0.0)
    writer = CheckpointWriter(small_disk / "state.pt")
    writer.keep({"weight": torch.zeros(10)}, now=True)
    before = (small_disk / "state.pt").read_bytes()
    large = {"weight": torch.zeros(100_000)}
    writer.keep(large)

    def go_on() -> None:
        if call == "flush":
            writer.flush()
        for _ in range(1000):
            writer.keep(large)
            time.sleep(0.01)

    with pytest.raises(OSError, match="No space left") as caught:
        go_on()
    assert classify(caught.value)[0] == DISK_FULL
    assert (small_disk / "state.pt").read_bytes() == before


WRITING = """
import itertools, sys
from pathlib import Path
import torch
from tune_lnl.training import checkpoint
checkpoint.CHECKPOINT_SECONDS = 0.0
writer = checkpoint.CheckpointWriter(Path(sys.argv[1]))
for number in itertools.count():
    writer.keep({"weight": torch.full((5_000_000,), float(number))}, now=number == 0)
"""


def test_killed_while_the_thread_writes_it_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    with subprocess.Popen([sys.executable, "-c", WRITING, str(path)]) as process:
        half = path.with_name(f".state.pt.{process.pid}")
        while not (path.exists() and half.exists()):
            process.send_signal(signal.SIGCONT)
            time.sleep(0.003)
            process.send_signal(signal.SIGSTOP)
            assert (stopped := os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED)) is not None
            assert stopped.si_code == os.CLD_STOPPED
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert half.exists()
    weight = torch.load(path, weights_only=True)["weight"]
    assert len(weight.unique()) == 1


def test_a_training_whose_checkpoint_does_not_fit_can_be_continued(
    whole: list[Report], small_disk: Path, tmp_path: Path
) -> None:
    files = TrainingFiles(small_disk / "state.pt", epochs=tmp_path / "epochs.jsonl")
    with pytest.raises(OSError, match="No space left"):
        run_training(start(tiny("standard", model="cnn_digits")), files)
    files = TrainingFiles(tmp_path / "state.pt", epochs=tmp_path / "epochs.jsonl")
    assert without_times(run_training(start(tiny("standard")), files)) == whole
    assert without_times(lines_of(tmp_path / "epochs.jsonl")) == whole


def test_a_limit_on_file_sizes_counts_as_a_full_disk(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            write_whole(tmp_path / "state.pt", {"weight": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert classify(caught.value)[0] == DISK_FULL
    assert not list(tmp_path.iterdir())


def test_a_log_line_counts_from_one_and_holds_no_test_metric() -> None:
    report = {"epoch": 0.0, "val_accuracy": 45.5, "test_accuracy": 90.0, "test_accuracy_ntm": 80.0}
    assert log_line(report) == "epoch 1: val_accuracy=45.5"
