"""A search starts a Ray of its own, whatever Ray finds in the environment."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from tiny_search import tiny_plan

from tune_lnl.tuning.engine.local import LocalRay, is_running
from tune_lnl.tuning.engine.start import vital_children
from tune_lnl.tuning.monitor.console import Console


class Started(BaseException):
    """Far enough; not an error, after which a start is tried again."""


def test_it_joins_no_cluster_that_happens_to_be_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def init(**options: Any) -> None:
        asked.update(options)
        raise Started

    # Ray sets it for every job of a cluster; an address that is not given would be taken from there.
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    monkeypatch.setattr(ray, "init", init)
    plan = tiny_plan(tmp_path)
    plan.files.root.mkdir(parents=True)
    with pytest.raises(Started), LocalRay(2).started(plan, tmp_path, Console("quiet")):
        pass
    assert asked["address"] == "local"
    assert (asked["num_cpus"], asked["num_gpus"]) == (2, 0)


def test_ray_is_shut_down_where_its_first_line_cannot_be_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``run_search`` in a process that goes on would find it running the next time."""
    shut_down: list[bool] = []
    monkeypatch.setattr(ray, "init", lambda **options: SimpleNamespace(dashboard_url=""))
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_job_id=lambda: "01000000"))
    monkeypatch.setattr(ray, "shutdown", lambda: shut_down.append(True))

    def closed(line: str) -> None:
        raise BrokenPipeError

    plan = tiny_plan(tmp_path, dashboard=True)
    plan.files.root.mkdir(parents=True)
    with pytest.raises(BrokenPipeError), LocalRay(2).started(plan, tmp_path, Console(write=closed)):
        pass
    assert shut_down == [True]


def test_a_killed_raylet_is_noticed_before_anybody_collects_it(tmp_path: Path) -> None:
    program = shutil.copy(shutil.which("sleep") or "", tmp_path / "raylet")
    other = subprocess.Popen(["sleep", "60"])
    child = subprocess.Popen([program, "60"])
    try:
        until = time.monotonic() + 30.0
        while [process.pid for process in vital_children()] != [child.pid]:
            assert time.monotonic() < until  # it begins as a copy of this process
        (process,) = vital_children()
        assert is_running(process)
        child.kill()
        while is_running(process):
            assert time.monotonic() < until + 30.0
        assert process.is_running(), "still listed: a zombie"
        child.wait()
        assert not is_running(process)
    finally:
        for each in (other, child):
            each.kill()
            each.wait()
