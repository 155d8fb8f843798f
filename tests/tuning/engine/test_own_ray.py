"""A search starts a Ray of its own, whatever Ray finds in the environment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import ray
from tiny_search import tiny_plan

from tune_lnl.tuning.engine.local import LocalRay
from tune_lnl.tuning.monitor.console import Console


class Started(Exception):  # noqa: N818 (no error)
    """Far enough."""


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
