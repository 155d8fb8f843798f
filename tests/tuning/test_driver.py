"""Whole searches: Ray, workers, study, files, commands."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pyarrow.parquet as pq
import pytest
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from tiny_search import write_space

from tune_lnl import load_run, run_search
from tune_lnl.config.yaml import read_mapping
from tune_lnl.errors import InputError
from tune_lnl.export import main as export
from tune_lnl.search import main as search
from tune_lnl.train import main as train
from tune_lnl.tuning.engine.local import LocalRay
from tune_lnl.tuning.runs.epochs import read_epochs
from tune_lnl.tuning.runs.export import export_run
from tune_lnl.tuning.runs.run import Run

TRIALS, EPOCHS = 4, 6
ARGUMENTS = ["act_digits8no", "--epochs", str(EPOCHS), "--set", "dataset.subset=0.3", "--no-dashboard"]
# With the portfolio, whose configs are about as good as the start points, no trial of so few need be stopped.
ARGUMENTS += ["--portfolio", "none"]
CONTRACT = ("run.yaml", "study.log", "trials.parquet", "epochs.parquet", "best.yaml")


def study_of(root: Path) -> optuna.Study:
    """The study as plain Optuna opens it."""
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(root / "study.log")))
    return optuna.load_study(study_name=None, storage=storage)


def table(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows


def check_unbroken(run: Run, trials: int) -> None:
    """Every trial has ended once, and its curve has no gap."""
    assert [trial.number for trial in run.trials] == list(range(trials))
    for trial in run.trials:
        assert trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
        epochs = list(trial.intermediate_values)
        assert epochs == list(range(len(epochs)))
        assert len(epochs) == EPOCHS or trial.state == TrialState.PRUNED
        reported = run.epoch_reports(trial.number)
        assert [int(report["epoch"]) for report in reported][: len(epochs)] == epochs


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with one finished search in it, run by the command."""
    folder = tmp_path_factory.mktemp("home")
    before = Path.cwd()
    os.chdir(folder)
    try:
        assert search([*ARGUMENTS, "--trials", str(TRIALS)]) == 0
        yield folder
    finally:
        os.chdir(before)


@pytest.fixture
def root(home: Path) -> Path:
    return home / "results" / "act_digits8no"


class TestOneSearch:
    def test_the_promised_files(self, root: Path) -> None:
        assert all((root / name).is_file() for name in CONTRACT)
        for trial in study_of(root).trials:
            folder = root / "trials" / f"{trial.number:03d}"
            assert "val_accuracy=" in (folder / "log.txt").read_text()
            assert len(read_epochs(folder / "epochs.jsonl")) == len(trial.intermediate_values)
        complete = [trial.number for trial in study_of(root).trials if trial.state == TrialState.COMPLETE]
        assert sorted(path.name for path in (root / "heldout").iterdir()) == [f"{n:03d}.npz" for n in complete]
        best = study_of(root).best_trial.number
        assert (root / "checkpoints" / f"{best:03d}-model.pt").is_file()

    def test_nothing_is_left_running_or_lying_about(self, root: Path) -> None:
        assert not list(root.glob("study.log.lock*"))
        assert not list((root / "checkpoints").glob("*.[0-9]*.pt"))
        assert not (root / ".stop").exists()
        assert not (root / ".ray-folder").exists()

    def test_the_study_holds_every_epoch(self, root: Path) -> None:
        trials = study_of(root).trials
        assert len(trials) == TRIALS
        assert trials[0].params == {"lr": 0.01, "lr_asymmetry": 8, "tau": 0.025, "warmup_epochs": 2}
        for trial in trials:
            assert trial.value is not None
            assert math.isfinite(trial.value)
            epochs = list(trial.intermediate_values)
            assert epochs == list(range(EPOCHS if trial.state == TrialState.COMPLETE else len(epochs)))
            assert len(epochs) in ({EPOCHS} if trial.state == TrialState.COMPLETE else {3, 4})

    def test_the_tables_agree_with_the_study(self, root: Path) -> None:
        trials = study_of(root).trials
        for row, trial in zip(table(root / "trials.parquet"), trials, strict=True):
            assert (row["number"], row["state"], row["value"]) == (trial.number, trial.state.name, trial.value)
            assert {name: row[f"params.{name}"] for name in trial.params} == trial.params
        told = {(row["number"], row["epoch"]): row["objective"] for row in table(root / "epochs.parquet")}
        assert told == {
            (trial.number, epoch): value for trial in trials for epoch, value in trial.intermediate_values.items()
        }

    def test_run_yaml_says_what_was_run(self, root: Path) -> None:
        settings = read_mapping(root / "run.yaml")
        assert settings["command"] == " ".join(["python -m tune_lnl.search", *ARGUMENTS, "--trials", str(TRIALS)])
        assert settings["space"]["dataset"]["subset"] == 0.3
        assert settings["rungs"] == [2, 3]
        assert set(settings["fingerprints"]) == {"source", "labels", "split"}

    def test_exports_agree_with_optuna(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        best: FrozenTrial = study_of(root).best_trial
        assert export(["act_digits8no", "--format", "json", "--top", "1000"]) == 0
        content = json.loads(capsys.readouterr().out)
        assert len(content["trials"]) == TRIALS
        first = content["trials"][0]
        assert (first["number"], first["value"], first["params"]) == (best.number, best.value, best.params)
        assert first["config"]["lr1"] == min(0.5, best.params["lr"] * best.params["lr_asymmetry"])

        assert export([str(root), "--format", "csv"]) == 0
        assert capsys.readouterr().out.splitlines()[1].startswith(f"{best.number},COMPLETE,{best.value},")

        assert export(["act_digits8no", "--format", "args"]) == 0
        told = capsys.readouterr()
        answer = study_of(root).trials[content["answer"]["number"]]
        assert f"--lr {answer.params['lr']!r} " in told.out
        assert told.err.startswith("note: ")

        assert export(["act_digits8no"]) == 0
        assert capsys.readouterr().out == (root / "best.yaml").read_text()

    def test_the_best_config_trains_to_the_same_curve(self, root: Path, tmp_path: Path) -> None:
        output = tmp_path / "again"
        assert train([str(root / "best.yaml"), "--output", str(output)]) == 0
        best = load_run(root).best
        assert best is not None
        searched = read_epochs(root / "trials" / f"{best.number:03d}" / "epochs.jsonl")
        trained = read_epochs(output / "seed-0" / "epochs.jsonl")
        for name in ("val_accuracy", "val_loss", "train_loss", "val_accuracy_ntm", "selected", "lr", "lr1"):
            assert [report.get(name) for report in trained] == [report.get(name) for report in searched]
        assert trained[-1]["test_accuracy"] == searched[-1]["test_accuracy"]

    def test_from_python(self, root: Path) -> None:
        run = load_run("act_digits8no")
        plain = study_of(root)
        highest = run.rows()[0]
        assert (highest.number, highest.value) == (plain.best_trial.number, plain.best_value)
        exported = json.loads(export_run(run, TRIALS, "json").text)["trials"]
        assert [row.number for row in run.rows()] == [trial["number"] for trial in exported]

    def test_predictions_of_the_best_trial_give_its_value(self, root: Path) -> None:
        run = load_run("act_digits8no")
        assert run.best is not None
        number = run.best.number
        probabilities, stored = run.heldout(number), run.heldout_predictions(number)
        assert probabilities.shape == (len(stored.given), 8)
        assert probabilities.dtype == np.float32
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
        last = run.epoch_reports(number)[-10:]
        shown = np.mean([report["val_accuracy"] for report in last])
        assert 100 * (probabilities.argmax(axis=1) == stored.given).mean() == pytest.approx(shown, abs=10)
        pruned = next(trial.number for trial in study_of(root).trials if trial.state == TrialState.PRUNED)
        for other in (pruned, TRIALS):
            with pytest.raises(KeyError, match="complete trials"):
                run.heldout(other)

    def test_it_is_not_overwritten(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        before = (root / "study.log").read_bytes()
        assert search([*ARGUMENTS, "--trials", str(TRIALS)]) == 2
        said = capsys.readouterr().err
        assert "exists already" in said
        assert "--resume" in said
        assert "--name" in said
        assert (root / "study.log").read_bytes() == before

    def test_resuming_a_finished_one_changes_nothing(self, root: Path) -> None:
        before = [(trial.state, trial.value, trial.params) for trial in study_of(root).trials]
        assert search([*ARGUMENTS, "--trials", str(TRIALS), "--resume"]) == 0
        assert [(trial.state, trial.value, trial.params) for trial in study_of(root).trials] == before

    def test_other_flags_are_another_search(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        before = (root / "run.yaml").read_bytes()
        assert search([*ARGUMENTS, "--set", "batch_size=32", "--resume"]) == 2
        said = capsys.readouterr().err
        assert "fixed.batch_size = 64, now it is 32" in said
        assert (root / "run.yaml").read_bytes() == before


def test_one_more_trial(home: Path, tmp_path: Path) -> None:
    """On a copy: the run itself is what the other tests look at."""
    root = tmp_path / "results" / "act_digits8no"
    shutil.copytree(home / "results" / "act_digits8no", root)
    before = study_of(root).trials
    flags = [*ARGUMENTS, "--results-dir", str(tmp_path / "results")]
    assert search([*flags, "--resume", "--trials", "+1"]) == 0
    after = study_of(root).trials
    assert len(after) == TRIALS + 1
    assert [(trial.state, trial.value) for trial in after[:TRIALS]] == [(trial.state, trial.value) for trial in before]
    assert after[-1].params not in [trial.params for trial in before]
    check_unbroken(load_run(root), TRIALS + 1)
    assert read_mapping(root / "run.yaml")["space"]["budget"]["trials"] == TRIALS + 1


class TestRunSearch:
    def test_options_that_there_are_not(self) -> None:
        with pytest.raises(InputError, match="a search has no option 'trails'; did you mean 'trials'"):
            run_search("act_digits8no", trails=3)  # type: ignore[call-arg]
        with pytest.raises(InputError, match="one condition at a time"):
            run_search("act_digits8no", all_conditions=True)
        with pytest.raises(InputError, match="unknown search space"):
            run_search("act_digit8no", trials=None)

    @pytest.mark.slow
    def test_it_gives_the_run(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        run = run_search(
            write_space(tmp_path), name="mine", trials=2, results_dir=tmp_path / "out", dashboard=False, quiet=True
        )
        assert capsys.readouterr().out == ""
        check_unbroken(run, 2)
        assert run.files.root == tmp_path / "out" / "mine"
        assert run.best == load_run("mine", tmp_path / "out").best

    @pytest.mark.slow
    def test_relative_paths_mean_the_folder_it_was_started_in(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        np.save("labels.npy", np.arange(1258) % 8)
        space = write_space(tmp_path, {"dataset": {"name": "digits8no", "noise": {"file": "labels.npy"}}})
        run = run_search(space, trials=1, quiet=True, dashboard=False)
        assert (run.rows()[0].state, run.rows()[0].message) == ("COMPLETE", None)
        assert run.files.root == Path("results") / "tiny"

    @pytest.mark.slow
    def test_failures_of_every_trial(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """The labels vanish after the plan was made: each trial says so, and the search has failed."""
        labels = tmp_path / "labels.npy"
        np.save(labels, np.arange(1258) % 8)
        space = write_space(tmp_path, {"dataset": {"name": "digits8no", "noise": {"file": str(labels)}}})
        train = LocalRay.train

        def train_without_labels(*arguments: Any) -> None:
            labels.unlink()
            train(*arguments)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(LocalRay, "train", train_without_labels)
            with pytest.raises(RuntimeError, match="no trial completed"):
                run_search(space, trials=3, results_dir=tmp_path / "out", dashboard=False)
        assert "labels.npy" in capsys.readouterr().out
        run = load_run(tmp_path / "out" / "tiny")
        assert [row.failure for row in run.rows()] == ["data error"] * 3
        assert run.best is None
        assert not run.files.best.exists()


@pytest.mark.slow
def test_ctrl_c_and_on(tmp_path: Path) -> None:
    """Interrupted in the middle and resumed: every trial ends once, with an unbroken curve."""
    trials = 6
    arguments = [sys.executable, "-m", "tune_lnl.search", *ARGUMENTS, "--trials", str(trials)]
    arguments[arguments.index("dataset.subset=0.3")] = "dataset.subset=1.0"
    with subprocess.Popen(
        arguments, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        root = tmp_path / "results" / "act_digits8no"
        deadline = time.monotonic() + 120
        while not list(root.glob("trials/*/epochs.jsonl")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=200)
    assert process.returncode == 130
    assert "Traceback" not in said
    (command,) = (line for line in said.splitlines() if "--resume" in line)
    assert said.splitlines()[-1].startswith("  report: ")
    states = [trial.state for trial in study_of(root).trials]
    assert TrialState.WAITING in states
    assert TrialState.RUNNING not in states
    assert not (root / ".stop").exists()
    begun = {trial.number: trial.params for trial in study_of(root).trials if trial.params}

    resume = command.split()
    assert resume[:3] == ["python", "-m", "tune_lnl.search"]
    ended = subprocess.run([sys.executable, *resume[1:]], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    run = load_run(root)
    check_unbroken(run, trials)
    assert {number: run.trials[number].params for number in begun} == begun


@pytest.mark.slow
def test_a_study_per_condition(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    conditions = {
        "sym20": {"dataset.noise": "symmetric", "dataset.closed_ratio": 0.2},
        "none": {"dataset.noise": "none", "search.lr.high": 0.1},
    }
    space = write_space(tmp_path, {"conditions": conditions})
    results = tmp_path / "out"
    flags = [str(space), "--conditions", "all", "--results-dir", str(results), "--trials", "2", "--no-dashboard"]
    assert search(flags) == 0
    for name in conditions:
        root = results / "tiny" / name
        assert all((root / file).is_file() for file in CONTRACT)
        run = load_run(f"tiny/{name}", results)
        assert run.name == f"tiny/{name}"
        check_unbroken(run, 2)
        assert run.space.condition == name
    capsys.readouterr()
    assert export(["tiny", "--results-dir", str(results)]) == 2
    assert "name one of: tiny/none, tiny/sym20" in capsys.readouterr().err
    shutil.rmtree(results / "tiny" / "none")
    assert search([*flags, "--resume"]) == 0
    check_unbroken(load_run("tiny/none", results), 2)


@pytest.mark.slow
def test_a_time_budget_ends_in_order_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [str(write_space(tmp_path)), "--results-dir", str(tmp_path / "out"), "--trials", "2000", "--no-dashboard"]
    assert search([*flags, "--time-budget", "12s"]) == 0
    assert "the time budget is used up; continue with:" in capsys.readouterr().out
    states = {trial.state for trial in study_of(tmp_path / "out" / "tiny").trials}
    assert TrialState.RUNNING not in states
    ended = sum(trial.state.is_finished() for trial in study_of(tmp_path / "out" / "tiny").trials)
    assert ended < 2000
