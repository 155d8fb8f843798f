"""Starting Ray: further attempts, a limit, and one error for everything that it raises."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from tiny_search import tiny_plan

from tune_lnl.tuning import driver
from tune_lnl.tuning.engine import start
from tune_lnl.tuning.engine.local import LocalRay
from tune_lnl.tuning.engine.start import RayStartError, StartCutError, limited_start, start_ray
from tune_lnl.tuning.monitor.console import Console

LIMIT = "RAY_raylet_start_wait_time_s"
TIMED_OUT = "The current node timed out during startup. This could happen because some of the raylet failed to startup."


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "PAUSE_SECONDS", 0.0)


def fail(monkeypatch: pytest.MonkeyPatch, times: int) -> list[dict[str, Any]]:
    """Make the first starts of Ray fail as on a busy machine; return the list of what each was asked."""
    asked: list[dict[str, Any]] = []

    def init(**options: Any) -> Any:
        asked.append({**options, "limit": int(os.environ[LIMIT])})
        os.write(2, b"[2026-01-01 00:00:00,000 E 1 1] gcs_rpc_client.h:151: Failed to connect to GCS\n")
        if len(asked) <= times:
            raise Exception(TIMED_OUT)
        return SimpleNamespace(dashboard_url="")

    monkeypatch.setattr(ray, "init", init)
    return asked


def test_a_start_that_fails_is_tried_again_with_longer_limits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    asked = fail(monkeypatch, 2)
    told: list[str] = []
    start_ray(tmp_path / "ray", tmp_path / "search.log", told.append, num_cpus=2)
    assert [each["limit"] for each in asked] == [60, 120, 240]
    assert len({each["_temp_dir"] for each in asked}) == 3
    assert max(len(each["_temp_dir"]) for each in asked) == len(str(tmp_path / "ray")), "sockets still fit"
    assert len(told) == 2
    assert "Ray did not start: The current node timed out during startup." in told[0]
    assert f"on {os.cpu_count()} CPUs" in told[0]
    assert LIMIT not in os.environ
    assert "Failed to connect to GCS" not in capfd.readouterr().err
    assert (tmp_path / "search.log").read_text().count("Failed to connect to GCS") == 3


def test_the_end_is_one_error_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = fail(monkeypatch, 9)
    with pytest.raises(RayStartError, match=r"timed out during startup.*load .* CPUs"):
        start_ray(tmp_path / "ray", tmp_path / "search.log", lambda line: None)
    assert len(asked) == 3


def test_a_search_ends_in_words_and_the_same_command_starts_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail(monkeypatch, 9)
    told: list[str] = []
    for seed in (0, 0, 7):  # also with another setting: nothing of the run has begun
        told.clear()
        plan = tiny_plan(tmp_path, seed=seed)
        assert driver.run_plan(plan, False, Console(write=told.append), LocalRay(2)) == "failed"
        assert told[-1].startswith("stopped: Ray did not start: ")
        assert told[-1].endswith("continue with:\n  python -m tune_lnl.search tiny.yaml --resume")
        assert not any("Traceback" in line for line in told)
        assert "Traceback" in plan.files.driver_log.read_text()
        assert {trial.state.name for trial in plan.place.read_trials()} == {"WAITING"}
        assert not plan.files.ray_folder.exists()


def test_a_run_with_a_trial_or_anything_of_the_users_is_not_unbegun(tmp_path: Path) -> None:
    files = tiny_plan(tmp_path).files
    assert not files.is_unbegun()
    files.root.mkdir(parents=True)
    files.settings.touch()
    files.lock.touch()
    files.driver_log.touch()
    files.checkpoints.mkdir()
    assert files.is_unbegun()
    for path in (files.log(0), files.checkpoint(0, 1), files.root / "notes.txt", files.best):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        assert not files.is_unbegun()
        path.unlink()


@pytest.mark.parametrize("budget", [True, False])
def test_a_start_that_hangs_is_ended(budget: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "START_SECONDS", 60.0 if budget else 0.2)
    before = signal.getsignal(signal.SIGALRM)
    began = time.monotonic()

    def hang() -> None:
        while time.monotonic() - began < 60.0:
            with suppress(Exception):  # as Ray does
                time.sleep(60.0)

    limits = limited_start(0.2 if budget else 90.0, lambda code, message: None, "resume")
    with pytest.raises(StartCutError if budget else RayStartError), limits:
        hang()
    assert signal.getsignal(signal.SIGALRM) == before


def test_a_start_that_cannot_be_interrupted_ends_the_process() -> None:
    program = (
        "import os, threading, signal; from tune_lnl.tuning.engine import start; start.LEAVE_SECONDS = 0.5\n"
        "def leave(code, message): print(message, flush=True); os._exit(7)\n"
        "with start.limited_start(0.2, leave, 'RESUME'):\n"
        "    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})\n"
        "    threading.Event().wait(100)\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100)
    assert ran.returncode == 7, ran.stderr
    assert ran.stdout == "the time budget is used up: Ray was still starting; continue with:\n  RESUME\n"
