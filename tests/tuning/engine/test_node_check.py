"""The answers of a node that is asked whether it can run trials; this machine plays the node."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from tiny_search import tiny_plan

from tune_lnl.tuning.engine import node_check
from tune_lnl.tuning.engine.node_check import (
    NodeQuestion,
    look_around,
    marker_in,
    other_data,
    prepare_data,
    question,
    versions,
    wrong_reply,
)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_check, "SEEN_WITHIN", 0.1)


def answer(asked: NodeQuestion) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(look_around(json.dumps(asdict(asked))))
    return found


def elsewhere(asked: NodeQuestion, folder: Path, other: Path) -> NodeQuestion:
    """The question as a node sees it that has another disk where the driver has ``folder``."""
    there, here = str(other), str(folder)
    return replace(asked, marker=asked.marker.replace(here, there), reply=asked.reply.replace(here, there))


def test_a_node_that_sees_the_folder_and_has_the_data(tmp_path: Path) -> None:
    plan = tiny_plan(tmp_path)
    with marker_in(plan.files.root) as marker:
        asked = question(plan, marker, "abc")
        assert answer(asked)["reason"] is None
        assert wrong_reply(marker, "abc") is None
        prepared = json.loads(prepare_data(json.dumps(asdict(asked))))
    assert prepared["reason"] is None
    assert other_data(plan.fingerprints, prepared["fingerprints"]) is None


def test_nothing_is_left_of_the_question(tmp_path: Path) -> None:
    folder = tmp_path / "results" / "run"
    with marker_in(folder) as marker:
        marker.reply("abc").write_text(marker.content)
        assert folder.is_dir()
    assert not (tmp_path / "results").exists()


def test_a_folder_that_holds_a_run_keeps_it(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("run: x\n")
    with marker_in(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["run.yaml"]


def test_a_folder_that_only_the_driver_sees(tmp_path: Path) -> None:
    plan = tiny_plan(tmp_path)
    with marker_in(plan.files.root) as marker:
        said = answer(elsewhere(question(plan, marker, "abc"), tmp_path, tmp_path / "other"))["reason"]
    assert said.startswith(f"does not see {tmp_path / 'other'}")
    assert "give a --results-dir on storage that every node has at the same path" in said


def test_another_folder_under_the_same_name(tmp_path: Path) -> None:
    plan = tiny_plan(tmp_path)
    with marker_in(plan.files.root) as marker:
        asked = question(plan, marker, "abc")
        marker.path.write_text("of yesterday")
        assert "sees another" in answer(asked)["reason"]


def test_a_folder_that_the_node_may_not_write_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, *rest: Any, **more: Any) -> int:
        raise PermissionError(13, "Permission denied")

    plan = tiny_plan(tmp_path)
    with marker_in(plan.files.root) as marker:
        asked = question(plan, marker, "abc")
        with monkeypatch.context() as patched:
            patched.setattr(Path, "write_text", refuse)
            said = answer(asked)["reason"]
    assert "(Permission denied): give a --results-dir that every node may write to" in said


def test_what_the_node_writes_goes_elsewhere(tmp_path: Path) -> None:
    with marker_in(tmp_path / "run") as marker:
        told = wrong_reply(marker, "abc")
    assert told is not None
    assert "this machine does not see it" in told


@pytest.mark.parametrize("name", ["tune_lnl", "the code of tune_lnl", "torch"])
def test_other_programs(tmp_path: Path, name: str) -> None:
    plan = tiny_plan(tmp_path)
    with marker_in(plan.files.root) as marker:
        asked = question(plan, marker, "abc")
        said = answer(replace(asked, versions={**versions(), name: "0.0.1"}))["reason"]
    assert said == f"has {name} {versions()[name]}, here 0.0.1: install the same on every node"


def test_data_that_the_node_lacks(tmp_path: Path) -> None:
    plan = tiny_plan(tmp_path)
    with marker_in(plan.files.root) as marker:
        asked = question(plan, marker, "abc")
        dataset = {"name": "folder", "root": str(tmp_path / "nothing here"), "noise": "none"}
        asked = replace(asked, sections={**asked.sections, "dataset": dataset})
        said = json.loads(prepare_data(json.dumps(asdict(asked))))["reason"]
    assert said.startswith("cannot use the data: ")
    assert "nothing here" in said


def test_other_data() -> None:
    told = other_data({"source": "a", "noise": "b"}, {"source": "a", "noise": "c"})
    assert told == "has other data (noise differ): give a --data-dir that is the same on every node"
