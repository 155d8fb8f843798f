"""trials.parquet and epochs.parquet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from tiny_search import EPOCHS, tiny_plan, write_space

from tune_lnl.config.yaml import dump_yaml, read_mapping
from tune_lnl.datasets.bounds import ScoreBounds
from tune_lnl.training.run import append_report
from tune_lnl.tuning.runs.run import Run, load_run
from tune_lnl.tuning.runs.tables import trials_table, write_tables
from tune_lnl.tuning.space.space import load_space
from tune_lnl.tuning.study.study import SearchStudy


def table(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows


def test_trials(run: Run) -> None:
    write_tables(run)
    rows = table(run.files.trials_table)
    by_number = sorted(run.rows(), key=lambda row: row.number)
    assert [row["number"] for row in rows] == [row.number for row in by_number]
    for written, row in zip(rows, by_number, strict=True):
        for name in ("state", "value", "standard_error", "epochs", "failure", "message", "attempts", "seconds"):
            assert written[name] == getattr(row, name)
        assert {name: written[f"params.{name}"] for name in row.params} == row.params


def test_ceiling_and_chance_stand_beside_every_value(run: Run) -> None:
    stored = read_mapping(run.files.settings)
    bounds = ScoreBounds.stored(stored.pop("score_bounds"))
    assert bounds is not None
    rows = trials_table(run).to_pylist()
    assert {(row["ceiling"], row["chance"]) for row in rows} == {(bounds.ceiling, bounds.chance)}
    run.files.settings.write_text(dump_yaml(stored))  # as of a metric whose bounds are not known
    rows = trials_table(load_run(run.files.root)).to_pylist()
    assert len(rows) == len(run.rows())
    assert {(row["ceiling"], row["chance"]) for row in rows} == {(None, None)}


def test_epochs(run: Run) -> None:
    write_tables(run)
    rows = table(run.files.epochs_table)
    assert len(rows) == EPOCHS + EPOCHS + 3 + 2 + 1
    assert [(row["number"], row["epoch"]) for row in rows] == sorted((row["number"], row["epoch"]) for row in rows)
    for row in rows:
        assert row["objective"] == run.trials[row["number"]].intermediate_values[row["epoch"]]
        assert row["test_accuracy"] == row["val_accuracy"] / 2


def test_an_epoch_that_the_study_has_not_heard_of_yet(run: Run) -> None:
    append_report(run.files.epochs(4), {"attempt": 1, "epoch": 1.0, "val_accuracy": 3.0, "lr1": 0.5})
    write_tables(run)
    last = table(run.files.epochs_table)[-1]
    assert (last["number"], last["epoch"], last["objective"], last["lr1"]) == (4, 1, None, 0.5)


def test_choices_of_any_kind(tmp_path: Path) -> None:
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


def test_nothing_yet(tmp_path: Path, run: Run) -> None:
    empty = Run(run.files, run.settings, run.space, [])
    write_tables(empty)
    assert table(run.files.trials_table) == table(run.files.epochs_table) == []


def test_files_are_replaced_whole(run: Run) -> None:
    write_tables(run)
    with run.files.trials_table.open("rb") as before:
        write_tables(run)
        assert len(pq.read_table(before)) == len(run.trials)
    assert not list(run.files.root.glob(".*.parquet*"))
