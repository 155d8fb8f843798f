"""Kill what runs at random moments; resumed until it is done, every search ends as if nothing had happened.

The moments are drawn from seeds that are printed and are part of the test's name. 50 in all: 10 of the driver, 8 of
everything at once, 2 of Ray's raylet, 30 of trial workers.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from toy_runs import Driver, Process, check_whole, spread, write_toy

TRIALS, EPOCHS = 10, 30
PAUSE = 0.02
"""Seconds per batch, four batches an epoch: a search works for about 12 s beyond Ray's start."""

WORKER_KILLS = 30

pytestmark = [pytest.mark.kill, pytest.mark.timeout(1500)]

Start = Callable[..., Driver]


@pytest.fixture
def search(tmp_path: Path) -> Iterator[Start]:
    drivers: list[Driver] = []

    def make(**space: Any) -> Driver:
        budget = {"epochs": EPOCHS, "fixed": {"pause": PAUSE}, **space}
        drivers.append(Driver(tmp_path, write_toy(tmp_path, spread(TRIALS), **budget)))
        return drivers[-1]

    yield make
    for driver in drivers:
        driver.close()


def at_a_random_moment(driver: Driver, rng: random.Random) -> None:
    """Two in five while it starts, else while trials run."""
    if rng.random() < 0.4:
        driver.rest(rng.uniform(0.0, 9.0))
    else:
        driver.train_on(1)
        driver.rest(rng.uniform(0.0, 1.2))
    driver.family()


def kill_driver(driver: Driver) -> None:
    driver.process.kill()
    driver.process.wait()


def kill_everything(driver: Driver) -> None:
    driver.kill_family()


@pytest.mark.parametrize(("kill", "kills"), [(kill_driver, 5), (kill_everything, 4)])
@pytest.mark.parametrize(("seed", "pruner"), [(1, "none"), (2, "asha")])
def test_killed_and_resumed_until_done(
    search: Start, kill: Callable[[Driver], None], kills: int, seed: int, pruner: str
) -> None:
    print(f"seed {seed}")
    rng = random.Random(f"{seed} {kill.__name__}")
    driver = search(pruner=pruner, trials=TRIALS + 4, fixed={"pause": 2 * PAUSE}).start()
    done = 0
    for _ in range(kills):
        at_a_random_moment(driver, rng)
        done += driver.running
        kill(driver)
        driver.start()
    assert driver.finish() == 0, driver.text
    print(f"{done} kills of a running search by {kill.__name__}")
    check_whole(driver, TRIALS + 4, EPOCHS)
    assert done == kills
    assert driver.left() == []
    assert driver.ray_folders() == []


def test_workers_are_killed(search: Start) -> None:
    rng = random.Random(3)
    driver = search(fixed={"pause": 2 * PAUSE}, trials=TRIALS + 10).start()
    killed = 0
    while killed < WORKER_KILLS and driver.running:
        driver.rest(rng.uniform(0.1, 1.5))
        workers = driver.trained_workers()
        if workers:
            rng.choice(workers).kill()
            killed += 1
    assert driver.finish() == 0, driver.text
    assert killed == WORKER_KILLS
    check_whole(driver, TRIALS + 10, EPOCHS)
    assert max(row.attempts for row in driver.run().rows()) > 1
    assert driver.left() == []


@pytest.mark.parametrize("seed", [4, 5])
def test_ray_is_killed(search: Start, seed: int) -> None:
    rng = random.Random(seed)
    driver = search().start()
    driver.train_on(rng.randrange(1, 200))
    for process in raylets(driver):
        process.kill()
    assert driver.finish(60) == 1, driver.text
    assert "Ray's own processes are gone" in driver.text
    assert "--resume" in driver.text
    assert "Traceback" not in driver.text
    assert driver.left() == []
    states = {trial.state.name for trial in driver.run().trials}
    assert states <= {"COMPLETE", "WAITING"}
    driver.start()
    assert driver.finish() == 0, driver.text
    check_whole(driver, TRIALS, EPOCHS)
    assert driver.left() == []
    assert driver.ray_folders() == []


def raylets(driver: Driver) -> list[Process]:
    return [process for process in driver.family() if "raylet/raylet" in process.command]


def test_a_real_trial_goes_on_with_the_same_numbers(tmp_path: Path) -> None:
    """Both nets, both optimizers, counts, label averages and the schedule come back: no digit differs."""
    space = Path(__file__).resolve().parents[3] / "search_spaces" / "act_digits8no.yaml"
    flags = ("--trials", "2", "--epochs", "12", "--pruner", "none")
    curves: list[dict[tuple[int, int], dict[str, Any]]] = []
    for name, kills in (("undisturbed", 0), ("killed", 3)):
        folder = tmp_path / name
        folder.mkdir()
        driver = Driver(folder, space, *flags).start()
        try:
            for _ in range(kills):
                driver.train_on(2)
                for process in driver.workers():
                    process.kill()
            assert driver.finish() == 0, driver.text
            curves.append({(number, e): r for number in (0, 1) for e, r in enumerate(reports(driver, number))})
        finally:
            driver.close()
    assert max(row.attempts for row in driver.run().rows()) > 1
    assert len(curves[0]) == 24
    assert curves[0] == curves[1]


def reports(driver: Driver, number: int) -> list[dict[str, Any]]:
    """The epochs of a trial without what is measured in seconds, and without the attempt."""
    timed = {"attempt", "seconds", "train_seconds", "images_per_second"}
    found = driver.run().epoch_reports(number)
    values = driver.run().trials[number].intermediate_values
    assert sorted(values) == list(range(len(found)))
    return [
        {key: value for key, value in report.items() if key not in timed} | {"objective": values[int(report["epoch"])]}
        for report in found
    ]
