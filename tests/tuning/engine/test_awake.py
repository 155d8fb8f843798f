"""Sleep counts as no time: neither as silence of a trial nor towards the time budget."""

from __future__ import annotations

from pathlib import Path

import pytest
from clock import Clock
from tiny_search import tiny_space

from tune_lnl.tuning.engine.awake import AwakeClock
from tune_lnl.tuning.engine.messages import WorkerReport
from tune_lnl.tuning.engine.session import Session
from tune_lnl.tuning.study.study import SearchStudy


def test_the_clock_stands_still_while_the_process_is_stopped() -> None:
    wall = Clock()
    clock = AwakeClock(wall)
    began = clock()
    for _ in range(20):
        wall.now += 1.0
        clock()
    wall.now += 3600.0
    assert clock() - began == pytest.approx(20.0)
    wall.now += 9.0  # a busy machine
    assert clock() - began == pytest.approx(29.0)


def test_it_ticks_by_itself() -> None:
    clock = AwakeClock()
    with clock.ticking():
        pass
    assert clock() > 0


def test_a_laptop_that_sleeps_twice_does_not_end_a_healthy_trial(tmp_path: Path) -> None:
    clock = Clock()
    study = SearchStudy.create(tmp_path / "study.log", tiny_space(tmp_path, ["budget.pruner=none"]), 0)
    session = Session(study, jobs=1, epochs=20, concurrent=1, clock=clock)
    trial = session.next_job()
    assert trial is not None
    epoch = 0
    for _ in range(2):
        for _ in range(3):
            clock.now += 10.0
            session.heard(WorkerReport(trial.number, trial.attempt, epoch, 50.0 + epoch, 1.0))
            epoch += 1
        clock.now += 3600.0
        for _ in range(59):
            assert session.stuck() == []
            clock.now += 1.0
    # Silence while the driver is awake still counts.
    silent = 0
    while not session.stuck():
        clock.now += 1.0
        silent += 1
    assert silent <= 5
