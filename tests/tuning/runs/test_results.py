from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from optuna.trial import TrialState
from tiny_search import EPOCHS, curve, record_run, tiny_plan, tiny_space, write_space

from tune_lnl.config.base import ValidationSettings
from tune_lnl.config.registry import settings_type
from tune_lnl.config.yaml import load_yaml
from tune_lnl.errors import InputError
from tune_lnl.files import replace_text
from tune_lnl.training.run import append_report
from tune_lnl.training.seeds import read_config
from tune_lnl.tuning.runs.results import (
    Run,
    TrialRow,
    config_yaml,
    describe_held_out,
    describe_state,
    describe_value,
    find_run,
    load_run,
    read_epochs,
    space_from_settings,
    write_best,
    write_tables,
)
from tune_lnl.tuning.space.space import load_space
from tune_lnl.tuning.study.study import SearchStudy


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record_run(tmp_path_factory.mktemp("recorded")).files.root


@pytest.fixture
def run(tmp_path: Path, recorded: Path) -> Run:
    return load_run(shutil.copytree(recorded, tmp_path / "results" / "tiny"))


def table(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows


class TestReading:
    def test_a_run_is_what_was_planned(self, tmp_path: Path, run: Run) -> None:
        assert (run.name, run.metric, run.mode) == ("tiny", "val_accuracy", "max")
        planned = tiny_plan(tmp_path, name="other").space
        assert run.space.to_dict() == planned.to_dict()
        assert run.space.parameters == planned.parameters

    def test_the_one_order(self, run: Run) -> None:
        rows = run.rows()
        assert [row.number for row in rows[:4]] == [0, 1, 2, 3]
        assert [row.state for row in rows[:5]] == ["COMPLETE", "COMPLETE", "PRUNED", "FAIL", "RUNNING"]
        assert run.best == rows[0]

    def test_a_row(self, run: Run) -> None:
        complete, _, pruned, failed, running = run.rows()[:5]
        assert (complete.value, complete.standard_error, complete.epochs) == (60.0, 1.5, EPOCHS)
        assert complete.params == {"lr": 0.01, "lr_asymmetry": 8, "warmup_epochs": 2}
        assert complete.seconds is not None
        assert complete.seconds >= 0
        assert (pruned.value, pruned.standard_error, pruned.epochs) == (90.0, 2.5, 3)
        assert (failed.failure, failed.message, failed.epochs) == ("bug", "ValueError: no", 2)
        assert (running.value, running.seconds, running.attempts) == (curve(4, 50.0, 1)[0], None, 1)

    def test_the_config_of_a_row(self, run: Run) -> None:
        flat = run.config(run.rows()[0]).flat()
        assert (flat["lr"], flat["lr1"], flat["warmup_epochs"]) == (0.01, pytest.approx(0.08), 2)
        assert (flat["seed"], flat["threads"]) == (0, 1)

    def test_per_epoch_metrics(self, run: Run) -> None:
        assert [report["val_accuracy"] for report in run.epoch_reports(1)] == curve(1, 60.0)
        assert run.epoch_reports(99) == []

    def test_minimising(self, tmp_path: Path) -> None:
        objective = {"metric": "val_loss", "mode": "min", "average_last": 1}
        space = tiny_space(tmp_path, objective=objective)
        path = tmp_path / "study.log"
        study = SearchStudy.create(path, space, 0)
        for value in (2.0, 1.0, 3.0):
            study.complete(study.ask().number, value, None)
        settings = {"run": "r", "space_name": "tiny", "condition": None, "space": space.to_dict()}
        run = Run(tiny_plan(tmp_path).files, settings, space_from_settings(settings, "run.yaml"), study.trials)
        assert (run.metric, run.mode) == ("val_loss", "min")
        assert [row.number for row in run.rows()] == [1, 0, 2]


class TestFinding:
    def test_by_name_or_path(self, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        root = tmp_path / "results" / "tiny"
        assert load_run("tiny", tmp_path / "results").files.root == root
        assert load_run(root, "nowhere").files.root == root
        monkeypatch.chdir(tmp_path)
        assert load_run("tiny").files.root == Path("results/tiny")

    def test_unknown(self, tmp_path: Path, run: Run) -> None:
        with pytest.raises(InputError, match=r"no run 'tinny' under .*did you mean 'tiny'"):
            find_run("tinny", tmp_path / "results")
        with pytest.raises(InputError, match="there are no runs yet"):
            find_run("tiny", tmp_path / "absent")

    def test_a_run_per_condition(self, tmp_path: Path) -> None:
        for name in ("asym40", "sym20"):
            folder = tmp_path / "many" / name
            folder.mkdir(parents=True)
            (folder / "run.yaml").write_text("run: x\n")
        with pytest.raises(InputError, match="many holds one run per condition; name one of: many/asym40, many/sym20"):
            find_run("many", tmp_path)
        assert find_run("many/sym20", tmp_path) == tmp_path / "many" / "sym20"

    @pytest.mark.parametrize("content", [None, b"", b'{"op_code": 0'])
    def test_before_the_study_has_begun(self, tmp_path: Path, run: Run, content: bytes | None) -> None:
        run.files.study.unlink()
        if content is not None:
            run.files.study.write_bytes(content)
        begun = load_run(run.files.root)
        assert (begun.trials, begun.best, begun.rows()) == ([], None, [])


class TestEpochs:
    def test_torn_and_foreign_lines(self, tmp_path: Path) -> None:
        path = tmp_path / "epochs.jsonl"
        for epoch in range(3):
            append_report(path, {"attempt": 1, "epoch": float(epoch), "val_accuracy": float(epoch)})
        with path.open("ab") as file:
            file.write(b'{"attempt": 1, "epoch": 3.0, "val_a\xff')
        assert [report["val_accuracy"] for report in read_epochs(path)] == [0.0, 1.0, 2.0]

    def test_the_latest_attempt_counts(self, tmp_path: Path) -> None:
        path = tmp_path / "epochs.jsonl"
        for attempt, epoch in ((1, 0), (1, 1), (2, 1), (1, 2), (2, 2), (1, 3)):
            append_report(path, {"attempt": attempt, "epoch": float(epoch), "val_accuracy": attempt})
        assert [report["val_accuracy"] for report in read_epochs(path)] == [1, 2, 2, 1]


class TestTables:
    def test_trials(self, run: Run) -> None:
        write_tables(run)
        rows = table(run.files.trials_table)
        by_number = sorted(run.rows(), key=lambda row: row.number)
        assert [row["number"] for row in rows] == [row.number for row in by_number]
        for written, row in zip(rows, by_number, strict=True):
            for name in ("state", "value", "standard_error", "epochs", "failure", "message", "attempts", "seconds"):
                assert written[name] == getattr(row, name)
            assert {name: written[f"params.{name}"] for name in row.params} == row.params

    def test_epochs(self, run: Run) -> None:
        write_tables(run)
        rows = table(run.files.epochs_table)
        assert len(rows) == EPOCHS + EPOCHS + 3 + 2 + 1
        assert [(row["number"], row["epoch"]) for row in rows] == sorted((row["number"], row["epoch"]) for row in rows)
        for row in rows:
            assert row["objective"] == run.trials[row["number"]].intermediate_values[row["epoch"]]
            assert row["test_accuracy"] == row["val_accuracy"] / 2

    def test_an_epoch_that_the_study_has_not_heard_of_yet(self, run: Run) -> None:
        append_report(run.files.epochs(4), {"attempt": 1, "epoch": 1.0, "val_accuracy": 3.0, "lr1": 0.5})
        write_tables(run)
        last = table(run.files.epochs_table)[-1]
        assert (last["number"], last["epoch"], last["objective"], last["lr1"]) == (4, 1, None, 0.5)

    def test_choices_of_any_kind(self, tmp_path: Path) -> None:
        searched = {
            "lr": {"type": "loguniform", "low": 0.01, "high": 0.1},
            "warmup_lr": {"type": "choice", "choices": [None, 0.01]},
            "selection": {"type": "choice", "choices": [True, False]},
        }
        fixed = {"epochs": EPOCHS, "lr1": 0.1, "warmup_epochs": 1}
        plan_space = load_space(str(write_space(tmp_path, {"search": searched, "fixed": fixed, "start": None})))
        study = SearchStudy.create(tmp_path / "study.log", plan_space, 0)
        for _ in range(4):
            study.ask()
        run = Run(tiny_plan(tmp_path, overrides=["start=[]"]).files, {}, plan_space, study.trials)
        run.files.root.mkdir(parents=True)
        write_tables(run)
        written = table(run.files.trials_table)
        for row, trial in zip(written, study.trials, strict=True):
            for name in ("warmup_lr", "selection"):
                value = trial.params[name]
                assert row[f"params.{name}"] == (None if value is None else str(value))

    def test_nothing_yet(self, tmp_path: Path, run: Run) -> None:
        empty = Run(run.files, run.settings, run.space, [])
        write_tables(empty)
        assert table(run.files.trials_table) == table(run.files.epochs_table) == []

    def test_files_are_replaced_whole(self, run: Run) -> None:
        write_tables(run)
        with run.files.trials_table.open("rb") as before:
            write_tables(run)
            assert len(pq.read_table(before)) == len(run.trials)
        assert not list(run.files.root.glob(".*.parquet*"))
        replace_text(run.files.best, "old")
        replace_text(run.files.best, "new")
        assert run.files.best.read_text() == "new"


class TestBest:
    def test_it_is_a_config_that_train_runs(self, run: Run) -> None:
        assert write_best(run)
        config = read_config(run.files.best, [], None)
        best = run.best
        assert best is not None
        assert config == run.config(best)
        text = run.files.best.read_text()
        assert text.startswith("# Trial 0 of run tiny: val_accuracy 60.00 ± 1.50 on the held-out noisy split.\n")
        provenance = load_yaml(text, "best.yaml")["provenance"]
        assert (provenance["trial"], provenance["value"], provenance["params"]) == (0, 60.0, dict(best.params))
        assert provenance["fingerprints"] == run.settings["fingerprints"]

    def test_it_says_what_was_held_out(self) -> None:
        validation = settings_type("core").Validation
        told = [
            describe_held_out(held) for held in (ValidationSettings(), ValidationSettings(labels="clean"), validation())
        ]
        assert told == ["the held-out noisy split", "the held-out split under its true labels", "held-out persons"]

    def test_none_while_no_trial_is_complete(self, run: Run) -> None:
        unfinished = [trial for trial in run.trials if trial.state != TrialState.COMPLETE]
        assert not write_best(Run(run.files, run.settings, run.space, unfinished))
        assert not run.files.best.exists()

    def test_any_trial_can_be_written(self, tmp_path: Path, run: Run) -> None:
        path = tmp_path / "pruned.yaml"
        path.write_text(config_yaml(run, run.rows()[2]))
        assert read_config(path, [], None) == run.config(run.rows()[2])


def row(value: float | None, error: float | None) -> TrialRow:
    return TrialRow(0, "COMPLETE", value, error, 1, {}, None, None, 1, None)


def test_words(run: Run) -> None:
    assert describe_value(row(71.254, 1.096)) == "71.25 ± 1.10"
    assert describe_value(row(71.254, None)) == "71.25"
    assert describe_value(row(None, None)) == "-"
    assert describe_state([]) == "none"
    words = describe_state(run.trials).split(", ")
    assert {"2 complete", "1 stopped early", "1 failed", "1 running"} <= set(words)


def test_json_lines_have_no_nan(tmp_path: Path) -> None:
    path = tmp_path / "epochs.jsonl"
    append_report(path, {"epoch": 0.0, "val_loss": float("nan")})
    assert json.loads(path.read_text()) == {"epoch": 0.0, "val_loss": None}
    assert read_epochs(path)[0]["val_loss"] is None
