"""A disk that is really full: nothing counts as failed, a sentence says so, and the run goes on once there is room."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from small_disk import fill, make_room, small_disk
from toy_runs import Driver, check_whole, spread, write_toy

pytestmark = [pytest.mark.kill, pytest.mark.timeout(900)]
SPACES = Path(__file__).resolve().parents[3] / "search_spaces"


def test_a_search_whose_checkpoints_outgrow_the_disk(tmp_path: Path) -> None:
    """Real networks: torch turns the error of the system into one of its own."""
    with small_disk(tmp_path / "disk", "700k") as disk:
        flags = ("--trials", "4", "--epochs", "6", "--pruner", "none", "--results-dir", str(disk / "results"))
        driver = Driver(disk, SPACES / "act_digits8no.yaml", *flags)
        try:
            driver.start()
            assert driver.finish() == 1, driver.text
            check_full(driver)
            make_room(disk, "60m")
            driver.start()
            assert driver.finish() == 0, driver.text
            rows = driver.run().rows()
            assert [row.state for row in rows] == ["COMPLETE"] * 4
            assert sorted(row.number for row in rows) == [0, 1, 2, 3]
        finally:
            driver.close()


@pytest.mark.parametrize("free", [0, 3000, 20_000])
def test_a_search_whose_disk_others_fill(tmp_path: Path, free: int) -> None:
    """No room at all: not for the study, the tables, the log and the stop flag either."""
    with small_disk(tmp_path / "disk", "20m") as disk:
        driver = Driver(disk, write_toy(disk, spread(6), epochs=20, fixed={"pause": 0.05}))
        try:
            driver.start().train_on(7)
            filler = fill(disk, free)
            assert driver.finish() == 1, driver.text
            check_full(driver)
            filler.unlink()
            driver.start()
            assert driver.finish() == 0, driver.text
            check_whole(driver, 6, 20)
        finally:
            driver.close()


def check_full(driver: Driver) -> None:
    assert "is full; make room, then:\n" in driver.text
    assert driver.text.rstrip().splitlines()[-1].lstrip().startswith(("python -m", "no report", "report"))
    assert "--resume" in driver.text
    assert "Traceback" not in driver.text
    assert {trial.state.name for trial in driver.run().trials} <= {"COMPLETE", "PRUNED", "WAITING", "RUNNING"}


def test_a_training_whose_output_folder_is_too_small(tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text(
        "method: standard\ndataset: {name: digits8no}\nobjective: {metric: val_accuracy, mode: max, average_last: 1}\n"
        "validation: {fraction: 0.3}\nfixed: {epochs: 2, lr: 0.01}\n"
    )
    with small_disk(tmp_path / "disk", "100k") as disk:
        command = [sys.executable, "-m", "tune_lnl.train", str(config), "--output", str(disk / "out")]
        ran = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert ran.returncode == 1, ran.stdout + ran.stderr
        assert "error: the disk is full: No space left on device" in ran.stderr
        assert "Traceback" not in ran.stderr
        make_room(disk, "20m")
        ran = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert ran.returncode == 0, ran.stderr
        assert (disk / "out" / "model.pt").exists()
