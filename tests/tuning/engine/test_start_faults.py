"""Starts of Ray that really fail, hang or lose a process: words and a way on, never a traceback."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_disk import small_disk
from toy_runs import Driver, Process, check_whole, spread, write_toy

pytestmark = [pytest.mark.kill, pytest.mark.timeout(900)]


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Driver]:
    driver = Driver(tmp_path, write_toy(tmp_path, spread(3), epochs=3))
    yield driver
    driver.close()


def gcs_of(driver: Driver) -> list[Process]:
    return [process for process in driver.family() if process.name.startswith("gcs_server")]


def check_words(driver: Driver, code: int, sentence: str) -> None:
    assert driver.process.returncode == code, driver.text
    assert sentence in driver.text
    assert "Traceback" not in driver.text
    assert sum("--resume" in line for line in driver.text.splitlines()) == 1
    assert driver.left() == []


def test_the_head_of_ray_is_killed_once_while_it_starts(driver: Driver) -> None:
    driver.start()
    driver.wait(lambda: gcs_of(driver), "Ray's first process")
    gcs_of(driver)[0].kill()
    assert driver.finish() == 0, driver.text
    assert "Traceback" not in driver.text
    check_whole(driver, 3, 3)
    assert driver.left() == []


def test_every_start_loses_its_head_and_the_same_command_starts_again(driver: Driver) -> None:
    driver.start()
    until = time.monotonic() + 400.0
    while driver.running:
        assert time.monotonic() < until, driver.text
        for process in gcs_of(driver):
            process.kill()
        time.sleep(0.02)
    driver.process.wait()
    check_words(driver, 1, "stopped: Ray did not start: ")
    assert driver.text.count("trying again") == 2
    driver.files = type(driver.files)(driver.folder / "elsewhere")  # so that the next start is the same command
    driver.start()
    assert driver.finish() == 0, driver.text
    driver.files = type(driver.files)(driver.folder / "results" / "toy")
    check_whole(driver, 3, 3)


def test_the_time_budget_ends_a_start_that_hangs(driver: Driver) -> None:
    driver.start("--time-budget", "20s")
    driver.wait(lambda: gcs_of(driver), "Ray's first process")
    for process in gcs_of(driver):
        os.kill(process.pid, signal.SIGSTOP)
    assert driver.finish(90) == 0, driver.text
    check_words(driver, 0, "the time budget is used up: Ray was still starting; continue with:")


def test_a_folder_for_temporary_files_with_too_long_a_path(driver: Driver, tmp_path: Path) -> None:
    long = tmp_path / ("job-" + "0123456789" * 9)
    long.mkdir()
    driver.environment["TMPDIR"] = str(long)
    assert driver.start().finish() == 0, driver.text
    check_whole(driver, 3, 3)
    assert list(long.iterdir()) == []


def test_a_folder_for_temporary_files_without_room(driver: Driver, tmp_path: Path) -> None:
    place = Path("/tmp") / f"t{os.getpid()}"  # short enough for sockets
    with small_disk(place, "40k") as disk:
        driver.environment["TMPDIR"] = str(disk)
        driver.start().finish()
        check_words(
            driver, 1, f"stopped: Ray did not start: the disk of {disk}, where its temporary files lie, is full"
        )
    place.rmdir()
    del driver.environment["TMPDIR"]
    assert driver.start().finish() == 0, driver.text
    check_whole(driver, 3, 3)


@pytest.mark.parametrize("removed", ["run", "results"])
def test_the_results_are_removed_while_workers_train(tmp_path: Path, removed: str) -> None:
    driver = Driver(tmp_path, write_toy(tmp_path, spread(6), epochs=20, fixed={"pause": 0.1})).start()
    try:
        driver.train_on(4)
        shutil.rmtree(driver.files.root if removed == "run" else driver.files.root.parent)
        driver.finish()
        check_words(driver, 1, f"stopped: {driver.files.root} was deleted or renamed while the search ran")
    finally:
        driver.close()
