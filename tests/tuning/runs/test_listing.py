"""The list of runs, whatever lies in the results folder."""

from __future__ import annotations

import json
import os
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock
from tiny_search import tiny_plan

from tune_lnl.config.yaml import dump_yaml
from tune_lnl.errors import InputError
from tune_lnl.files import replace_text
from tune_lnl.search import main as search
from tune_lnl.tuning.runs.listing import list_runs, run_lines, run_state
from tune_lnl.tuning.runs.run import Run
from tune_lnl.tuning.study.study import SearchStudy


def test_an_interrupted_run(run: Run, tmp_path: Path) -> None:
    os.utime(run.files.study, (time.time() - 7200, time.time() - 7200))
    header, line = list_runs(tmp_path / "results")
    assert header.split() == ["run", "state", "trials", "best", "age", "method", "dataset"]
    first = ["tiny", "interrupted", "4/6", "60.00 ± 1.50 (trial 0; chance about 12.5, ceiling about 51)"]
    assert re.split(r" {2,}", line) == [*first, "2.0 h", "act", "digits8no"]


def state_of(run: Run) -> str:
    (line,) = run_lines(run.files.root.parent)
    return line.state


def test_a_running_one_is_held_by_its_driver(run: Run) -> None:
    assert state_of(run) == "interrupted"
    with FileLock(run.files.lock):
        assert state_of(run) == "running"
    assert state_of(run) == "interrupted"
    with FileLock(run.files.lock, timeout=0):
        pass
    beat = {"machine": "another 1", "pid": 7, "key": "k", "beat": 3}
    run.files.heartbeat.write_text(json.dumps(beat))
    assert state_of(run) == "running", "on another machine"


def test_finished_and_failed_ones(run: Run) -> None:
    rows = run.rows()
    assert run_state(rows, 4, driven=False) == "finished"
    assert run_state(rows, 5, driven=False) == "interrupted"
    assert run_state(rows[2:], 2, driven=False) == "failed"
    taken = [replace(row, taken_from="other trial 3") for row in rows[:2]]
    assert run_state([*taken, *rows[2:]], 4, driven=False) == "interrupted", "what another run made counts"


def test_a_run_that_has_just_begun(tmp_path: Path) -> None:
    plan = tiny_plan(tmp_path, name="new")
    plan.files.root.mkdir(parents=True)
    replace_text(plan.files.settings, dump_yaml(plan.settings()))
    (line,) = run_lines(tmp_path / "results")
    assert (line.name, line.state, line.trials, line.best) == ("new", "interrupted", "0/6", "-")


def test_conditions_are_runs(tmp_path: Path) -> None:
    for name in ("a", "b"):
        plan = tiny_plan(tmp_path, name=name)
        root = tmp_path / "results" / "both" / name
        root.mkdir(parents=True)
        (root / "run.yaml").write_text(dump_yaml(plan.settings()))
        SearchStudy.create(root / "study.log", plan.space, 0)
    assert [line.name for line in run_lines(tmp_path / "results")] == ["both/a", "both/b"]


def test_damaged_and_foreign_folders_are_listed_as_such(run: Run, tmp_path: Path) -> None:
    results = tmp_path / "results"
    content = {
        "empty": "",
        "half": "run: half\nspace_name: half\n",
        "list": "- 1\n- 2\n",
        "no yaml": "{: [",
        "strange": dump_yaml({**run.settings, "space": {"budget": 3}}),
        "binary": "\udcff\udcfe",
    }
    for name, text in content.items():
        (results / name).mkdir()
        (results / name / "run.yaml").write_bytes(text.encode("utf-8", errors="surrogateescape"))
    broken = results / "study"
    broken.mkdir()
    (broken / "run.yaml").write_text(dump_yaml(dict(run.settings)))
    (broken / "study.log").write_text("no record\nno record\n")
    (results / "pictures").mkdir()
    (results / "a\x1b[31mred").mkdir()
    (results / ".hidden").mkdir()
    (results / "README.md").write_text("a file")
    states = {line.name: line.state for line in run_lines(results)}
    assert states.pop("tiny") == "interrupted"
    assert states.pop("pictures") == states.pop("a\\x1b[31mred") == "not a run"
    assert set(states) == {*content, "study"}
    assert all(state.startswith("damaged: ") for state in states.values()), states
    assert "the study is damaged" in states["study"]
    listed = list_runs(results)
    assert len(listed) == 1 + len(content) + 4
    assert not any("\n" in line or "\x1b" in line for line in listed)


def test_the_command(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert search(["--runs", "--results-dir", str(tmp_path / "results")]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("tiny  interrupted  4/6")
    assert search(["--runs", "--results-dir", str(tmp_path / "none")]) == 0
    assert capsys.readouterr().out == f"no runs in {str(tmp_path / 'none')!r} yet\n"
    with pytest.raises(InputError, match="is a file"):
        list_runs(run.files.settings)
