"""The folder of a run that somebody removes while the search runs: words, and no traceback."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from toy_runs import TOY, InThisProcess, spread, toy_plan, write_toy

from tune_lnl.tuning.driver import run_plan
from tune_lnl.tuning.engine.listener import Listener
from tune_lnl.tuning.engine.messages import WorkerReport
from tune_lnl.tuning.engine.session import Session
from tune_lnl.tuning.monitor.console import Console


class Remover(Listener):
    """Removes a folder after an epoch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_epoch(self, report: WorkerReport) -> None:
        if report.epoch == 1 and report.number == 1:
            shutil.rmtree(self.folder, ignore_errors=True)


@pytest.mark.parametrize("all_results", [False, True])
def test_it_ends_in_two_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, all_results: bool) -> None:
    monkeypatch.syspath_prepend(str(TOY))
    monkeypatch.setenv("TOY_EVENTS", str(tmp_path))
    told: list[str] = []
    plan = toy_plan(tmp_path, write_toy(tmp_path, spread(4), epochs=4))
    removed = plan.files.root.parent if all_results else plan.files.root

    def before(session: Session) -> None:
        session.listeners.append(Remover(removed))

    outcome: Any = run_plan(plan, False, Console(write=told.append), InThisProcess(2, before))
    assert outcome == "failed"
    last = [line for line in told if "was deleted or renamed while the search ran; put it back" in line]
    assert len(last) == 1
    assert str(plan.files.root) in last[0]
    assert "--resume" in last[0]
    assert not any("Traceback" in line for line in told)
