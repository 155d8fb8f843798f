"""``deploy/slurm.sh``: the signal before the end of an allocation stops a search, which is queued again and goes on."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from toy_runs import TOY, Driver, spread, write_toy

SCRIPT = Path(__file__).parents[1] / "deploy" / "slurm.sh"
TRIALS, EPOCHS = 6, 8
PATIENCE = 200.0


class Allocation:
    """The script as Slurm starts it; ``scontrol`` is a file that notes its arguments.

    The process group is its own: Slurm signals the batch shell alone (``--signal=B:USR1``).
    """

    def __init__(self, folder: Path, restarts: int, environment: dict[str, str], *words: str) -> None:
        self.called = folder / "scontrol.txt"
        programs = folder / "bin"
        programs.mkdir(exist_ok=True)
        control = programs / "scontrol"
        control.write_text(f'#!/bin/sh\necho "$@" >> {self.called}\n')
        control.chmod(0o755)
        self.output = folder / f"job-{restarts}.log"
        own = {"PATH": f"{programs}:{os.environ['PATH']}", "PYTHON": sys.executable, "SLURM_JOB_ID": "7"}
        if restarts:
            own["SLURM_RESTART_COUNT"] = str(restarts)
        with self.output.open("w") as out:
            self.process = subprocess.Popen(
                ["bash", str(SCRIPT), *words],
                cwd=folder,
                env={**environment, **own},
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def text(self) -> str:
        return self.output.read_text(errors="replace")

    def finish(self) -> int:
        return self.process.wait(PATIENCE)


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Driver:
    """A toy search: its space, environment and run folder."""
    monkeypatch.syspath_prepend(str(TOY))
    space = write_toy(tmp_path, spread(TRIALS), epochs=EPOCHS, fixed={"pause": 0.3})
    return Driver(tmp_path, space)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_search_goes_on_in_the_next_allocation(toy: Driver, tmp_path: Path, number: signal.Signals) -> None:
    words = (str(toy.space), "--no-dashboard", "--concurrent", "2")
    first = Allocation(tmp_path, 0, toy.environment, *words)
    until = time.monotonic() + PATIENCE
    while not any(toy.files.root.glob("trials/*/epochs.jsonl")):
        assert first.process.poll() is None, first.text
        assert time.monotonic() < until, first.text
        time.sleep(0.2)
    os.kill(first.process.pid, number)
    assert first.finish() == 130, first.text
    assert first.called.read_text() == "requeue 7\n"
    assert not all(trial.state.is_finished() for trial in toy.run().trials)
    assert (toy.files.root / "report.html").is_file()

    second = Allocation(tmp_path, 1, toy.environment, *words)
    assert second.finish() == 0, second.text
    assert first.called.read_text() == "requeue 7\n", "a search that has ended is not queued again"
    trials = toy.run().trials
    assert len(trials) == TRIALS
    assert all(trial.state.is_finished() for trial in trials)


def test_a_search_that_is_refused_is_not_queued_again(tmp_path: Path) -> None:
    refused = Allocation(tmp_path, 0, dict(os.environ), "no_such_space")
    assert refused.finish() == 2
    assert "unknown search space 'no_such_space'" in refused.text
    assert not refused.called.exists()


def test_an_array_has_a_condition_per_task(tmp_path: Path) -> None:
    (tmp_path / "python").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "python").chmod(0o755)
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHON": str(tmp_path / "python"),
        "CONDITIONS": "sym20 asym40",
        "SLURM_ARRAY_TASK_ID": "1",
        "SLURM_JOB_ID": "8",
    }
    told = subprocess.run(
        ["bash", str(SCRIPT), "act_cifar80no", "--trials", "3"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    words = "act_cifar80no --trials 3 --condition asym40 --name act_cifar80no-asym40"
    assert told.stdout == f"-m tune_lnl.search {words}\n"


def test_bash_reads_it() -> None:
    assert shutil.which("bash") is not None
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True)
