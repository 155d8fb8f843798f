"""The driver over a simulated cluster: whatever workers do, each trial ends once and the study on disk is whole."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("simulated_cluster")


@pytest.fixture
def workers(simulated: Any) -> Any:
    return importlib.import_module("simulated_workers")


def search(simulated: Any, folder: Path, **changes: Any) -> dict[str, Any]:
    """A small search; ``simulate`` itself checks every trial, the study and the tables."""
    small = {"gpus": 4, "per_gpu": 2, "trials": 40, "epochs": 9, **changes}
    found: dict[str, Any] = simulated.simulate(simulated.Scenario("small", **small), folder)
    return found


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_workers_die_and_run_out_of_memory(simulated: Any, workers: Any, tmp_path: Path) -> None:
    found = search(simulated, tmp_path, deaths=0.3, out_of_memory=0.1)
    assert found["outcome"] == "done"
    assert found["checked"]["trials"] == 40
    # All places are taken at once, not one after another.
    assert found["workers"]["seconds until all of them had one"] < 2 * workers.START_SECONDS
    assert found["driver"]["ms of taking a report"]["count"] > 40


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_driver_is_lost_in_the_middle(simulated: Any, tmp_path: Path) -> None:
    found = search(simulated, tmp_path, crash_after=100)
    assert found["outcome"] == "done"
    assert found["checked"]["trials"] == 40
    assert found["driver"]["ms of an event"]["lost"]["count"] == 1


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_search_is_stopped_by_its_time_budget(simulated: Any, tmp_path: Path) -> None:
    found = search(simulated, tmp_path, minutes=3)
    assert found["outcome"] == "done"
    assert 0 < found["checked"]["trials"] < 40
    assert found["states"]["WAITING"] > 0
    assert 3 / 60 <= found["simulated hours"] < 4 / 60


def test_time_passes_as_the_driver_works_and_by_leaps_while_it_waits(workers: Any) -> None:
    clock = workers.Clock(disk_seconds=5.0)
    began = clock()
    clock.leap(began + 100.0)
    assert clock() == began + 100.0
    clock.synced(0)
    assert clock.worked() == 0.0
    clock.work()
    clock.synced(0)
    clock.rest()
    assert clock.worked() >= 5.0
    assert clock() == pytest.approx(began + 100.0 + clock.worked())
    clock.leap(began)
    assert clock() > began + 100.0
