"""Signals, the time budget, and the failures that need real processes: workers that die, hang, or have to be alone."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from toy_runs import TOY, WORKER_NICENESS, Driver, check_whole, spread, write_toy

from tune_lnl import run_search
from tune_lnl.tuning import driver as driver_module
from tune_lnl.tuning.engine.session import Session

pytestmark = [pytest.mark.kill, pytest.mark.timeout(900)]

Start = Callable[..., Driver]


@pytest.fixture
def search(tmp_path: Path) -> Iterator[Start]:
    drivers: list[Driver] = []

    def make(*flags: str, points: int = 6, **space: Any) -> Driver:
        given = {"epochs": 20, "fixed": {"pause": 0.05}, **space}
        drivers.append(Driver(tmp_path, write_toy(tmp_path, spread(points), **given), *flags))
        return drivers[-1]

    yield make
    for driver in drivers:
        driver.close()


def states(driver: Driver) -> set[str]:
    return {trial.state.name for trial in driver.run().trials}


def check_stopped_and_finish(driver: Driver, trials: int, epochs: int) -> None:
    """A stopped search leaves nothing running, and goes on to the end it would have had."""
    assert "Traceback" not in driver.text
    assert driver.left() == []
    assert sum("--resume" in line for line in driver.text.splitlines()) == 1
    assert states(driver) <= {"COMPLETE", "PRUNED", "WAITING"}
    begun = [t.number for t in driver.run().trials if t.state.name == "WAITING" and t.intermediate_values]
    assert all(driver.files.checkpoints_of(number) for number in begun)
    driver.start("--time-budget", "1h")
    assert driver.finish() == 0, driver.text
    assert driver.text.count(" finished") == 1
    check_whole(driver, trials, epochs)
    assert driver.left() == []
    assert driver.ray_folders() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("when", ["starting", "running"])
def test_the_first_signal_stops_at_the_next_batch(search: Start, number: signal.Signals, when: str) -> None:
    driver = search().start()
    if when == "running":
        driver.train_on(10)
    else:
        driver.wait(driver.files.ray_folder.exists, "Ray's folder")
        driver.rest(0.7)
    began = time.monotonic()
    driver.signal(number)
    assert driver.finish(90) == 130, driver.text
    print(f"{number.name} while {when}: ended after {time.monotonic() - began:.1f} s")
    if when == "running":
        # Where Ray was still starting, its folder may be left to the next start.
        assert driver.ray_folders() == []
        assert not driver.files.stop_flag.exists()
    check_stopped_and_finish(driver, 6, 20)


def test_the_second_signal_leaves_at_once(search: Start) -> None:
    # Epochs of a batch each, which is far away when the signals come.
    driver = search(fixed={"pause": 30.0, "batches": 1}).start()
    driver.wait(lambda: list(driver.events.glob("*.jsonl")), "a batch")
    driver.signal(signal.SIGINT)
    driver.rest(1.0)
    assert driver.running
    driver.signal(signal.SIGINT)
    assert driver.finish(30) == 130, driver.text
    assert driver.left() == []
    assert states(driver) == {"WAITING"}
    assert driver.ray_folders() == []


def test_a_batch_that_takes_too_long_is_not_waited_for(search: Start) -> None:
    driver = search(fixed={"pause": 600.0, "batches": 1}).start()
    driver.wait(lambda: list(driver.events.glob("*.jsonl")), "a batch")
    driver.signal(signal.SIGTERM)
    assert driver.finish(90) == 130, driver.text
    assert driver.left() == []
    assert states(driver) == {"WAITING"}
    assert "--resume" in driver.text


def test_the_time_budget_ends_it_with_0(search: Start) -> None:
    # 6 trials of 20 epochs of 4 pauses, two at once, sleep for 36 s at least: never done when the budget ends.
    driver = search("--time-budget", "20s", fixed={"pause": 0.15}).start()
    assert driver.finish() == 0, driver.text
    assert "the time budget is used up; continue with:" in driver.text
    assert "WAITING" in states(driver)
    driver.flags = ()
    assert driver.left() == []
    driver.start()
    assert driver.finish() == 0, driver.text
    check_whole(driver, 6, 20)


def test_a_search_that_was_suspended_goes_on_as_if_nothing_had_been(search: Start) -> None:
    """All of its processes stop, as with a container that is paused: that is no silence, and no part of the budget."""
    driver = search("--time-budget", "100s", points=4, fixed={"pause": 0.1}).start()
    driver.train_on(6)
    family = driver.family()
    for process in family:
        os.kill(process.pid, signal.SIGSTOP)
    time.sleep(110.0)
    for process in reversed(family):
        os.kill(process.pid, signal.SIGCONT)
    assert driver.finish() == 0, driver.text
    assert "used up" not in driver.text
    check_whole(driver, 4, 20)
    assert {row.attempts for row in driver.run().rows()} == {1}


def test_failures_of_real_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One search with all of them; the views are tested without Ray."""
    faults = ["none", "none", "die_once", "die", "hang_once", "hang", "oom_once", "oom", "bug", "nan", "none", "none"]
    faults += ["device_once"]
    points = [{"x": round(0.1 + 0.05 * index, 2), "fault": fault} for index, fault in enumerate(faults)]
    space = write_toy(tmp_path, points, epochs=10, fixed={"pause": 0.02, "fault_epoch": 2})
    events = tmp_path / "events"
    events.mkdir()
    monkeypatch.setenv("TOY_EVENTS", str(events))
    monkeypatch.setenv("PYTHONPATH", str(TOY))
    monkeypatch.setenv(WORKER_NICENESS, "0")
    monkeypatch.syspath_prepend(str(TOY))
    monkeypatch.setattr(driver_module, "Session", partial(Session, stuck_seconds=6.0))
    run = run_search(space, quiet=True, results_dir=tmp_path / "results", dashboard=False)
    rows = {faults[row.number] + ("" if faults[row.number] != "none" else str(row.number)): row for row in run.rows()}
    assert len(run.trials) == len(faults)
    ends = {name: (row.state, row.failure, row.epochs, row.attempts) for name, row in rows.items()}
    complete = {f"none{number}": ("COMPLETE", None, 10, 1) for number in (0, 1, 10, 11)}
    assert ends == complete | {
        "die_once": ("COMPLETE", None, 10, 2),
        "die": ("FAIL", "worker died", 2, 3),
        "hang_once": ("COMPLETE", None, 10, 2),
        "hang": ("FAIL", "stuck", 2, 2),
        "oom_once": ("COMPLETE", None, 10, 2),
        "oom": ("FAIL", "out of memory", 2, 2),
        "bug": ("FAIL", "bug", 2, 1),
        "nan": ("FAIL", "diverged", 2, 1),
        "device_once": ("COMPLETE", None, 10, 2),
    }
    for number in (6, 7):
        assert beside(events, run.trials[number].params["x"]) == []
    check_curves(run.trials)


def beside(events: Path, x: float) -> list[float]:
    """The x of trials that trained while the second attempt at trial x did."""
    records = [json.loads(line) for path in events.glob("*.jsonl") for line in path.read_text().splitlines()]
    records.sort(key=lambda record: record["time"])
    # Epoch 2 begins twice: the second time it is the lone retry.
    begins = [record for record in records if (record["x"], record["event"], record["epoch"]) == (x, "begin", 2)]
    second = begins[1]
    own = [record["time"] for record in records if record["x"] == x and record["time"] >= second["time"]]
    return [record["x"] for record in records if own[0] < record["time"] < own[-1] and record["x"] != x]


def check_curves(trials: list[Any]) -> None:
    from toy_runs import toy_method

    for trial in trials:
        values = [trial.intermediate_values[epoch] for epoch in sorted(trial.intermediate_values)]
        assert values == toy_method().curve(trial.params["x"], 0, 10)[: len(values)]


def test_three_bugs_in_a_row_exit_1(tmp_path: Path) -> None:
    points = [{"x": 0.1 * index, "fault": "bug" if index else "none"} for index in range(6)]
    driver = Driver(tmp_path, write_toy(tmp_path, points, epochs=4), "--concurrent", "1").start()
    try:
        assert driver.finish() == 1, driver.text
        assert "stopped: 3 trials in a row ended with a bug; tracebacks in" in driver.text
        assert "toy_method.py:" in driver.text
        assert [t.state.name for t in driver.run().trials] == ["COMPLETE", "FAIL", "FAIL", "FAIL", "WAITING", "WAITING"]
        assert driver.left() == []
    finally:
        driver.close()
