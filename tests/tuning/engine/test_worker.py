"""A job in a worker, without Ray: settings in, a reply per epoch out, everything on disk before the reply."""

from __future__ import annotations

import errno
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_search import tiny_space

from tune_lnl.config.trial import TrialConfig
from tune_lnl.datasets.base import NoisyData
from tune_lnl.datasets.images.noisy import load_noisy
from tune_lnl.errors import InputError
from tune_lnl.training import classification
from tune_lnl.training.act import ActTraining
from tune_lnl.training.failures import OUT_OF_MEMORY
from tune_lnl.training.heldout import read_heldout
from tune_lnl.training.loop import Surroundings, Training
from tune_lnl.training.registry import start_training
from tune_lnl.tuning.engine import worker
from tune_lnl.tuning.engine.messages import Job, WorkerReport
from tune_lnl.tuning.engine.worker import TrialRun, _captured
from tune_lnl.tuning.runs.epochs import read_epochs
from tune_lnl.tuning.runs.layout import RunFiles

EPOCHS = 4
PARAMS = {"lr": 0.02, "lr_asymmetry": 2.0, "warmup_epochs": 1}
WHOLE_TRIAL = f"""
import json, sys
from tune_lnl.tuning.engine.messages import Job
from tune_lnl.tuning.engine.worker import TrialRun
trial = TrialRun(Job.from_json(sys.argv[1]))
for _ in range({EPOCHS}):
    assert trial.step().get("failure") is None
"""
TIMES = ("seconds", "train_seconds", "images_per_second", "attempt")

Trial = Callable[..., TrialRun]


@pytest.fixture
def trial(tmp_path: Path) -> Trial:
    """Return ``trial(attempt=..., run=..., changes of the fixed settings)``, which makes trial 7 of a run."""

    def trial(attempt: int = 1, run: str = "run", params: dict[str, Any] = PARAMS, **fixed: Any) -> TrialRun:
        objective = {"metric": "val_accuracy", "mode": "max", "average_last": 2}
        space = tiny_space(tmp_path, fixed={"epochs": EPOCHS, "batch_size": 64}, objective=objective)
        sections = {**space.base, "fixed": {**space.base["fixed"], **fixed, **params}}
        job = Job(7, attempt, str(tmp_path / run), sections, params)
        return TrialRun(Job.from_json(job.to_json()))

    return trial


def without_times(reports: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in report.items() if name not in TIMES} for report in reports]


def without_measured_times(reply: dict[str, Any]) -> dict[str, Any]:
    return {**reply, "measures": without_times([json.loads(reply["measures"])])}


def curve(run: TrialRun) -> list[float]:
    return [float(report["val_accuracy"]) for report in read_epochs(run.files.epochs(7))]


class TestAnEpoch:
    def test_what_is_said_is_the_mean_of_the_last_epochs_and_nothing_of_the_test_set(self, trial: Trial) -> None:
        run = trial()
        replies = [run.step() for _ in range(EPOCHS)]
        accuracies = curve(run)
        assert len(accuracies) == EPOCHS
        for epoch, reply in enumerate(replies):
            assert set(reply) == {"number", "attempt", "epoch", "value", "standard_error", "history", "measures"}
            measured = WorkerReport.from_result(reply).measured()
            assert {"images_per_second", "val_accuracy"} <= set(measured)
            assert not any(name.startswith("test_") for name in measured)
            assert (reply["number"], reply["attempt"], reply["epoch"], reply["history"]) == (7, 1, epoch, ())
            assert reply["value"] == pytest.approx(np.mean(accuracies[max(0, epoch - 1) : epoch + 1]))
            assert 0 < reply["standard_error"] < 10
            assert WorkerReport.from_result(reply).value == reply["value"]

    def test_the_test_set_is_scored_where_a_reported_number_needs_it(self, trial: Trial) -> None:
        run = trial()
        for _ in range(EPOCHS):
            run.step()
        reports = read_epochs(run.files.epochs(7))
        assert [int(report["epoch"]) for report in reports] == [0, 1, 2, 3]
        assert ["test_accuracy" in report for report in reports] == [False, False, True, True]
        assert all({"val_accuracy", "lr", "lr1", "attempt"} <= set(report) for report in reports)

    def test_the_files_of_a_trial(self, trial: Trial) -> None:
        run = trial()
        run.step()
        assert [path.name for path in run.files.checkpoints_of(7)] == ["007.1.pt"]
        assert not run.files.model(7).exists()
        assert not run.files.heldout(7).exists()
        for _ in range(EPOCHS - 1):
            run.step()
        assert read_heldout(run.files.heldout(7)).probabilities.shape[::2] == (2, 8)
        model = torch.load(run.files.model(7), weights_only=True)
        assert model["model"] == "cnn_digits"
        assert model["config"]["lr1"] == pytest.approx(0.04)
        log = run.files.log(7).read_text()
        assert "trial 7, attempt 1, from epoch 1" in log
        assert log.count("val_accuracy=") == EPOCHS

    def test_a_trial_is_the_same_in_a_process_that_has_run_others(self, trial: Trial) -> None:
        first = [trial(run="a").step()["value"]]
        trial(run="b", params={**PARAMS, "lr": 0.1}).step()
        torch.rand(17)
        assert [trial(run="c").step()["value"]] == first

    @pytest.mark.slow
    def test_its_weights_are_bit_equal_to_those_of_a_fresh_process(self, trial: Trial) -> None:
        alone = trial(run="alone")
        subprocess.run([sys.executable, "-c", WHOLE_TRIAL, alone._job.to_json()], check=True)
        others: list[dict[str, Any]] = [
            {"precision": "bf16", "threads": 2},
            {"batch_size": 17, "seed": 5, "label_smoothing": 0.3},
            {"optimizer": "adam"},
        ]
        for number, fixed in enumerate(others):
            other = trial(run=f"other-{number}", params={**PARAMS, "lr": 0.003}, **fixed)
            assert other.step()["value"] > 0
            other.close()
        reused = trial(run="reused")
        for _ in range(EPOCHS):
            reused.step()
        weights, expected = (torch.load(run.files.model(7), weights_only=True)["weights"] for run in (reused, alone))
        assert weights.keys() == expected.keys()
        assert all(torch.equal(weights[name], value) for name, value in expected.items())
        assert reused.files.epochs(7).read_text().count("\n") == EPOCHS
        assert curve(reused) == curve(alone)

    def test_what_it_prints_goes_to_its_log(
        self, trial: Trial, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def talk(self: ActTraining, *arguments: Any) -> None:
            print("a word from inside")
            train_step(self, *arguments)

        train_step = ActTraining.train_step
        monkeypatch.setattr(ActTraining, "train_step", talk)
        run = trial()
        run.step()
        assert "a word from inside" in run.files.log(7).read_text()
        assert capsys.readouterr().out == ""


def test_its_memory_is_capped_before_it_allocates_any(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    monkeypatch.setattr(worker, "cap_memory", lambda device, fraction: calls.append((device, fraction)))

    def started(config: TrialConfig, surroundings: Surroundings) -> Training:
        calls.append("started")
        return start_training(config, surroundings)

    monkeypatch.setattr(worker, "start_training", started)
    run = trial()
    run._job = replace(run._job, memory_fraction=0.25)
    run.step()
    assert calls == [("cpu", 0.25), "started"]


@pytest.mark.gpu
def test_a_share_that_is_too_small_is_out_of_memory_without_a_share_it_is_not(trial: Trial) -> None:
    def on_gpu(fraction: float | None) -> dict[str, Any]:
        run = trial(run=f"share-{fraction}")
        run._job = replace(run._job, device="cuda", memory_fraction=fraction)
        return run.step()

    torch.cuda.empty_cache()
    assert on_gpu(0.0)["failure"] == OUT_OF_MEMORY
    assert "failure" not in on_gpu(None)


class TestContinuing:
    @pytest.fixture
    def whole(self, trial: Trial) -> TrialRun:
        run = trial(run="whole")
        for _ in range(EPOCHS):
            run.step()
        return run

    @pytest.mark.usefixtures("checkpoint_after_every_epoch")
    @pytest.mark.parametrize("done", [1, 2, 3])
    def test_it_equals_a_trial_that_never_stopped(self, trial: Trial, whole: TrialRun, done: int) -> None:
        before = trial()
        said = [before.step() for _ in range(done)]
        after = trial(attempt=2)
        replies = [after.step() for _ in range(EPOCHS - done)]
        assert replies[0]["history"] == tuple((reply["epoch"], reply["value"]) for reply in said)
        assert [reply["history"] for reply in replies[1:]] == [()] * (EPOCHS - done - 1)
        assert [reply["epoch"] for reply in replies] == list(range(done, EPOCHS))
        assert without_times(read_epochs(after.files.epochs(7))) == without_times(read_epochs(whole.files.epochs(7)))
        assert after.files.heldout(7).read_bytes() == whole.files.heldout(7).read_bytes()
        assert [path.name for path in after.files.checkpoints_of(7)] == ["007.2.pt"]

    def test_a_killed_one_repeats_the_epochs_since_its_checkpoint(self, trial: Trial, whole: TrialRun) -> None:
        before = trial()
        said = [before.step() for _ in range(3)]
        after = trial(attempt=2)
        replies = [after.step() for _ in range(EPOCHS - 1)]
        assert replies[0]["history"] == ((0, said[0]["value"]),)
        assert [reply["epoch"] for reply in replies] == [1, 2, 3]
        assert [reply["value"] for reply in replies[:2]] == [reply["value"] for reply in said[1:]]
        reports = read_epochs(after.files.epochs(7))
        assert without_times(reports) == without_times(read_epochs(whole.files.epochs(7)))
        assert [report["attempt"] for report in reports] == [1, 2, 2, 2]

    def test_a_rung_and_a_stop_request_leave_a_checkpoint(self, trial: Trial) -> None:
        run = trial()
        run._job = replace(run._job, checkpoint_after=(1,))

        def kept() -> int:
            return len(torch.load(run.files.checkpoint(7, 1), weights_only=True)["reports"])

        found = []
        for _ in range(3):
            run.step()
            found.append(kept())
        assert found == [1, 2, 2]
        run.files.stop_flag.touch()
        assert run.step()["stopped"]
        assert kept() == 3

    def test_an_ended_trial_leaves_no_further_checkpoint_and_one_that_is_to_wait_does(self, trial: Trial) -> None:
        for stop in (False, True):
            run = trial(run=f"stop-{stop}")
            for _ in range(2):
                run.step()
            if stop:
                run.files.stop_flag.touch()
            run.close()
            assert len(torch.load(run.files.checkpoint(7, 1), weights_only=True)["reports"]) == (2 if stop else 1)

    def test_a_finished_one_says_its_last_word_again(self, trial: Trial, whole: TrialRun) -> None:
        again = trial(attempt=2, run="whole")
        reply = again.step()
        assert (reply["epoch"], len(reply["history"])) == (EPOCHS - 1, EPOCHS)
        assert reply["value"] == pytest.approx(np.mean(curve(whole)[-2:]))
        assert len(read_epochs(again.files.epochs(7))) == EPOCHS

    def test_a_damaged_state_is_passed_over(self, trial: Trial, whole: TrialRun) -> None:
        run = trial()
        run.step()
        newer = run.files.checkpoint(7, 2)
        newer.write_bytes(run.files.checkpoint(7, 1).read_bytes()[:1000])
        after = trial(attempt=3)
        assert after.step()["epoch"] == 1
        for _ in range(EPOCHS - 2):
            after.step()
        assert curve(after) == curve(whole)
        assert "not a readable checkpoint" in after.files.log(7).read_text()

    def test_a_torn_line_of_the_epoch_file_costs_nothing(self, trial: Trial, whole: TrialRun) -> None:
        run = trial()
        run.step()
        with run.files.epochs(7).open("a") as file:
            file.write('{"attempt": 1, "epoch": 1.0, "val_acc')
        assert len(read_epochs(run.files.epochs(7))) == 1
        after = trial(attempt=2)
        for _ in range(EPOCHS - 1):
            after.step()
        assert curve(after) == curve(whole)

    def test_the_state_of_another_config_is_refused(self, trial: Trial) -> None:
        trial().step()
        reply = trial(attempt=2, weight_decay=0.001).step()
        assert reply["failure"] == "data error"
        assert "written with weight_decay = 0.0005, this training has 0.001" in reply["message"]


class TestReplicates:
    """Trainings of a confirmation: their files lie in confirm/, their result in the last report."""

    @pytest.fixture
    def replicate(self, trial: Trial) -> Trial:
        def replicate(attempt: int = 1, scores_test: bool = False, run: str = "run") -> TrialRun:
            made = trial(attempt=attempt, run=run)
            name = "007-all" if scores_test else "007-2"
            return TrialRun(replace(made._job, number=1, replicate=name, scores_test=scores_test))

        return replicate

    def test_its_result_and_files(self, replicate: Trial) -> None:
        run = replicate()
        replies = [run.step() for _ in range(EPOCHS)]
        assert [("result" in reply) for reply in replies] == [False] * (EPOCHS - 1) + [True]
        result = json.loads(WorkerReport.from_result(replies[-1]).result)
        assert result.keys() == {"fingerprints", "reports"}
        assert len(result["reports"]) == EPOCHS
        assert not any(name.startswith("test_") for report in result["reports"] for name in report)
        files = sorted(path.relative_to(run.files.root).as_posix() for path in run.files.root.rglob("*.*"))
        assert files == ["confirm/007-2.1.pt", "confirm/007-2.log"]

    @pytest.mark.usefixtures("checkpoint_after_every_epoch")
    @pytest.mark.parametrize("checkpoint", ["007-2.1.pt", "007-2.pt"], ids=["", "of version 0.1.0"])
    def test_it_continues_and_sends_its_result_again(self, replicate: Trial, checkpoint: str) -> None:
        first = replicate()
        for _ in range(2):
            first.step()
        (first.files.confirm / "007-2.1.pt").rename(first.files.confirm / checkpoint)
        second = replicate(attempt=2)
        replies = [second.step() for _ in range(EPOCHS - 2)]
        assert [epoch for epoch, _ in replies[0]["history"]] == [0, 1]
        assert [path.name for path in second.files.confirm.glob("*.pt")] == ["007-2.2.pt"]
        whole = replicate(run="whole")
        expected = [whole.step() for _ in range(EPOCHS)][-1]["result"]
        reports = [without_times(json.loads(text)["reports"]) for text in (expected, replies[-1]["result"])]
        assert reports[0] == reports[1]
        again = replicate(attempt=3).step()
        assert json.loads(again["result"]) == json.loads(replies[-1]["result"])

    def test_the_winner_on_all_data_scores_the_test_set_and_leaves_its_model(self, replicate: Trial) -> None:
        run = replicate(scores_test=True)
        for _ in range(EPOCHS):
            reply = run.step()
        reports = json.loads(reply["result"])["reports"]
        assert ["test_accuracy" in report for report in reports] == [False, False, True, True]
        assert torch.load(run.files.confirmed_model, weights_only=True)["config"]["lr1"] == pytest.approx(0.04)


class TestStopping:
    def test_before_it_began(self, trial: Trial) -> None:
        run = trial()
        run.files.root.mkdir()
        run.files.stop_flag.touch()
        assert run.step() == {"number": 7, "attempt": 1, "stopped": True}
        assert not run.files.epochs(7).exists()

    def test_at_the_next_batch_and_the_last_epoch_stays(self, trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
        run = trial()
        run.step()
        state = run.files.checkpoint(7, 1).read_bytes()
        steps = 0

        def step_and_ask(self: ActTraining, *arguments: Any) -> None:
            nonlocal steps
            steps += 1
            train_step(self, *arguments)
            run.files.stop_flag.touch()

        train_step = ActTraining.train_step
        monkeypatch.setattr(ActTraining, "train_step", step_and_ask)
        assert run.step() == {"number": 7, "attempt": 1, "stopped": True}
        assert steps == 1
        assert run.files.checkpoint(7, 1).read_bytes() == state
        assert len(read_epochs(run.files.epochs(7))) == 1


class TestFailing:
    @pytest.mark.parametrize(
        ("error", "failure", "told"),
        [
            (ZeroDivisionError("division by zero"), "bug", r"ZeroDivisionError: division by zero (test_worker.py:"),
            (KeyError("x"), "bug", "KeyError: 'x' (test_worker.py:"),
            (RuntimeError(), "bug", "RuntimeError"),
            (torch.OutOfMemoryError("CUDA out of memory.\nmore"), "out of memory", "CUDA out of memory."),
            (MemoryError(), "out of memory", "MemoryError"),
            (InputError("no such data\nget it"), "data error", "no such data"),
            (FileNotFoundError(errno.ENOENT, "gone"), "data error", "gone"),
            (OSError(errno.ENOSPC, "No space left on device"), "disk full", "No space left"),
        ],
    )
    def test_classes(
        self, trial: Trial, monkeypatch: pytest.MonkeyPatch, error: Exception, failure: str, told: str
    ) -> None:
        def fail(*arguments: Any) -> None:
            raise error

        monkeypatch.setattr(ActTraining, "train_step", fail)
        run = trial()
        reply = run.step()
        assert set(reply) == {"number", "attempt", "failure", "message"}
        assert reply["failure"] == failure
        assert told in reply["message"]
        assert "\n" not in reply["message"]
        assert "Traceback" in run.files.log(7).read_text()

    def test_weights_that_are_not_finite(self, trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
        def spoil(self: ActTraining, *arguments: Any) -> None:
            train_step(self, *arguments)
            with torch.no_grad():
                next(self.networks["_ntm"].parameters()).fill_(float("nan"))

        train_step = ActTraining.train_step
        run = trial()
        run.step()
        monkeypatch.setattr(ActTraining, "train_step", spoil)
        reply = run.step()
        assert reply["failure"] == "diverged"
        assert "epoch 2" in reply["message"]
        assert [path.name for path in run.files.checkpoints_of(7)] == ["007.1.pt"]

    def test_settings_that_do_not_fit(self, trial: Trial) -> None:
        reply = trial(params={**PARAMS, "warmup_epochs": 9}).step()
        assert reply["failure"] == "data error"
        assert "trial 7: warmup_epochs must be below epochs" in reply["message"]


def test_what_libraries_write_past_python_is_in_the_log(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "000" / "log.txt"
    with _captured(log):
        print("printed")
        os.write(1, b"from a library\n")
        subprocess.run("echo from a child >&2", shell=True, check=True)
        logging.getLogger("tune_lnl").info("logged")
    print("afterwards")
    lines = log.read_text().splitlines()
    assert lines[:3] == ["printed", "from a library", "from a child"]
    assert lines[3].endswith("INFO logged")
    assert capfd.readouterr() == ("afterwards\n", "")


class TestTensorboard:
    @pytest.fixture(autouse=True)
    def _installed(self) -> None:
        pytest.importorskip("tensorboard", reason="an extra: pip install 'tune_lnl[tensorboard]'")

    def test_an_event_file_per_attempt(self, trial: Trial) -> None:
        for attempt in (1, 2):
            run = trial(attempt=attempt)
            run._job = replace(run._job, tensorboard=True)
            run.step()
            run.close()
        folder = run.files.tensorboard(7)
        assert folder.name == "trial-007"
        assert sorted(path.suffix for path in folder.iterdir()) == [".1", ".2"]
        assert all(b"val_accuracy" in path.read_bytes() for path in folder.iterdir())

    def test_none_unless_asked(self, trial: Trial) -> None:
        run = trial()
        run.step()
        run.close()
        assert not run.files.tensorboard(7).exists()


def test_test_labels_cannot_reach_the_searcher(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random test labels change the epochs file, and no bit of the replies."""
    honest = trial(run="honest")
    said = [without_measured_times(honest.step()) for _ in range(EPOCHS)]

    def with_random_test_labels(*arguments: Any) -> NoisyData:
        noisy = load_noisy(*arguments)
        labels = np.random.default_rng(0).integers(0, noisy.num_classes, len(noisy.test_labels))
        return replace(noisy, test_labels=labels)

    monkeypatch.setattr(classification, "load_noisy", with_random_test_labels)
    deceived = trial(run="deceived")
    assert [without_measured_times(deceived.step()) for _ in range(EPOCHS)] == said

    ours, theirs = (read_epochs(run.files.epochs(7)) for run in (honest, deceived))
    assert [report["test_accuracy"] for report in ours[2:]] != [report["test_accuracy"] for report in theirs[2:]]
    for report in ours + theirs:
        for name in [name for name in report if name.startswith("test_")]:
            del report[name]
    assert without_times(ours) == without_times(theirs)


def test_where_the_files_of_a_run_are(tmp_path: Path) -> None:
    files = RunFiles(tmp_path)
    names = {path.relative_to(tmp_path).as_posix() for path in (files.log(3), files.epochs(1234), files.best)}
    assert names == {"trials/003/log.txt", "trials/1234/epochs.jsonl", "best.yaml"}
    assert files.number_of(files.checkpoint(12, 3)) == files.number_of(files.model(12)) == 12
