"""The copy of a run's rows that is read without Optuna."""

from __future__ import annotations

import json
import os

import pytest
from filelock import FileLock

from tune_lnl.tuning.runs.listing import run_lines
from tune_lnl.tuning.runs.run import Run, load_run
from tune_lnl.tuning.runs.snapshot import read_snapshot, write_snapshot


@pytest.fixture(autouse=True)
def snapshot(run: Run) -> None:
    """The run has a copy of its rows that is up to date."""
    write_snapshot(run.files, run.rows())


def test_it_gives_the_rows_of_the_study(run: Run) -> None:
    assert read_snapshot(run.files) == run.rows()
    again = load_run(run.files.root)
    assert again.rows() == run.rows()
    assert again.best == run.best
    assert "trials" not in vars(again), "the study was read"
    assert [trial.number for trial in again.trials] == sorted(row.number for row in run.rows())


def test_a_study_that_has_changed_since_then_is_read_instead(run: Run) -> None:
    os.utime(run.files.study, ns=(1, 1))
    assert read_snapshot(run.files) is None
    write_snapshot(run.files, run.rows()[:1])
    assert len(load_run(run.files.root).rows()) == 1
    with run.files.study.open("ab") as study:
        study.write(b'{"torn')
    assert read_snapshot(run.files) is None
    assert load_run(run.files.root).rows() == run.rows()


def test_a_list_takes_the_last_copy_of_a_run_that_is_driven(run: Run) -> None:
    write_snapshot(run.files, run.rows()[:1])
    os.utime(run.files.study, ns=(1, 1))
    results = run.files.root.parent
    (idle,) = run_lines(results)
    assert (idle.state, idle.trials) == ("interrupted", "4/6")
    with FileLock(run.files.lock):
        (driven,) = run_lines(results)
    assert (driven.state, driven.trials) == ("running", "1/6")
    assert driven.best.startswith("60.00 ± 1.50 (trial 0; chance about")


@pytest.mark.parametrize("text", ["", "[]", "{}", "\x00", '{"study": [1, 2]}', '{"study": [1, 2], "rows": [{"a": 1}]}'])
def test_a_damaged_copy_is_none(run: Run, text: str) -> None:
    run.files.snapshot.write_text(text)
    assert read_snapshot(run.files, current=False) is None


def test_one_of_another_version_is_none(run: Run) -> None:
    content = json.loads(run.files.snapshot.read_text())
    content["rows"][0]["later"] = 1
    run.files.snapshot.write_text(json.dumps(content))
    assert read_snapshot(run.files) is None
    assert load_run(run.files.root).rows() == run.rows()


def test_a_study_in_a_database_has_none(run: Run) -> None:
    run.files.snapshot.unlink()
    run.files.study.unlink()
    write_snapshot(run.files, run.rows())
    assert not run.files.snapshot.exists()
