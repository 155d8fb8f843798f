"""A search as a job of a real Ray cluster, with the commands of docs/tutorial_cluster.md."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from toy_runs import MARK, PATIENCE, TOY, Driver, check_whole, spread, write_toy

from tune_lnl.tuning.runs.run import load_run
from tune_lnl.tuning.study.trials import ENDED
from tune_lnl.wording import counted

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

ROOT = Path(__file__).parents[3]
TUTORIAL = (ROOT / "docs" / "tutorial_cluster.md").read_text(encoding="utf-8")
URL = "http://127.0.0.1:8265"
TRIALS, EPOCHS, PAUSE = 8, 12, 0.25
PATIENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
    # Limits on how long a start may take, and a loaded machine takes longer.
    "RAY_raylet_start_wait_time_s": "120",
    "RAY_worker_register_timeout_seconds": "240",
}


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@dataclass
class Laptop:
    """A machine with the cluster's token, outside of the cluster."""

    url: str
    environment: dict[str, str]

    def run(self, command: str) -> tuple[int, str]:
        """Run a command line in a shell; return its exit code and output."""
        ran = subprocess.run(
            ["bash", "-c", command],
            env=self.environment,
            cwd=self.environment["HOME"],
            capture_output=True,
            text=True,
            timeout=3 * PATIENCE,
            check=False,
        )
        return ran.returncode, ran.stdout + ran.stderr

    def ray_job(self, action: str, job: str) -> str:
        """Run ``ray job ACTION JOB``; return its output."""
        code, output = self.run(documented(f"ray job {action}").replace(" ID ", f" {job} ").replace(URL, self.url))
        assert code == 0, output
        return output


class Head:
    """A cluster as ``ray start`` makes it; only processes that carry its mark are ever touched."""

    def __init__(self, port: int, environment: dict[str, str]) -> None:
        self.mark = uuid.uuid4().hex
        self.folder = Path(tempfile.mkdtemp(prefix="rj-"))  # not under pytest's: sockets have short paths
        self.output = self.folder / "output.txt"
        self.environment = {**environment, **PATIENT, MARK: self.mark}
        self.address = f"127.0.0.1:{free_port()}"
        # Jobs look in the temporary folder for the cluster that they belong to.
        self.processes = [
            self._start(
                "--head",
                f"--temp-dir={self.folder / 'ray'}",
                f"--port={self.address.partition(':')[2]}",
                f"--dashboard-port={port}",
                f"--ray-client-server-port={free_port()}",
            )
        ]

    def join(self) -> None:
        """Another node. On the same machine, so it has Ray's files in the same folder."""
        self.processes.append(self._start(f"--address={self.address}"))

    def _start(self, *words: str) -> subprocess.Popen[bytes]:
        own = ["--num-cpus=1", "--num-gpus=0", f"--dashboard-agent-listen-port={free_port()}"]
        start = [str(Path(sys.executable).with_name("ray")), "start", "--block", *own, *words]
        with self.output.open("a") as output:
            return subprocess.Popen(
                [*start, "--min-worker-port=0", "--max-worker-port=0"],
                env=self.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def wait(self, url: str) -> None:
        """Until jobs are taken."""

        def answers() -> bool:
            assert all(process.poll() is None for process in self.processes), self.output.read_text()
            try:
                with urllib.request.urlopen(f"{url}/api/authentication_mode", timeout=10) as answer:
                    return b"token" in answer.read()
            except OSError:
                return False

        until(answers, "the job server")

    def close(self) -> None:
        for process in reversed(self.processes):
            process.terminate()
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal() and self._is_ours(entry):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(entry.name), signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _is_ours(self, entry: Path) -> bool:
        try:
            return self.mark.encode() in (entry / "environ").read_bytes()
        except OSError:
            return False


@pytest.fixture
def laptop(tmp_path: Path) -> Iterator[Laptop]:
    """A laptop, and a cluster of two nodes that asks for its token."""
    token, port = secrets.token_hex(32), free_port()
    for folder in ("home", "home of the cluster", "events"):
        (tmp_path / folder).mkdir()
    (tmp_path / "token").write_text(token)
    common = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "TUNE_LNL_CACHE": os.environ["TUNE_LNL_CACHE"],
        "OMP_NUM_THREADS": "1",
    }
    theirs = {
        "HOME": str(tmp_path / "home of the cluster"),
        "PYTHONPATH": f"{ROOT}:{TOY}",
        "TOY_EVENTS": str(tmp_path / "events"),
        "RAY_AUTH_TOKEN": token,
    }
    head = Head(port, {**common, **theirs, **exported("ray start --head")})
    own = {"HOME": str(tmp_path / "home"), "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token"), **exported("ray job submit")}
    try:
        head.wait(f"http://127.0.0.1:{port}")
        head.join()
        yield Laptop(f"http://127.0.0.1:{port}", {**common, **own})
    finally:
        head.close()


def documented(beginning: str) -> str:
    """The first command of the tutorial that begins so."""
    return next(line for line in TUTORIAL.splitlines() if line.startswith(beginning))


def exported(before: str) -> dict[str, str]:
    """The variables that the tutorial exports in the block that contains a command."""
    block = next(block for block in re.findall(r"^```\n(.*?)^```$", TUTORIAL, re.M | re.S) if f"\n{before}" in block)
    line = next(line for line in block.splitlines() if line.startswith("export "))
    return dict(word.split("=") for word in shlex.split(line)[1:])


def until(condition: Callable[[], object], what: str, timeout: float = PATIENCE) -> None:
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, f"waited {timeout} s for {what}"
        time.sleep(0.2)


def test_a_search_is_submitted_stopped_and_resumed_by_the_commands_of_the_tutorial(
    tmp_path: Path, laptop: Laptop
) -> None:
    space = write_toy(tmp_path, spread(TRIALS), epochs=EPOCHS, fixed={"pause": PAUSE})
    run = Driver(tmp_path, space)  # never started: it knows the run's files and checks their content
    search = documented("ray job submit").replace(URL, laptop.url).replace("act_cifar80no", str(space))
    search = search.replace("/shared/results", str(tmp_path / "results")).replace(" --data-dir /shared/data", "")
    search += " --concurrent 2 --no-dashboard"

    def submit(command: str) -> str:
        code, output = laptop.run(command)
        assert code == 0, output
        found = re.search(r"Job '(\w+)' submitted successfully", output)
        assert found is not None, output
        return found[1]

    def ended() -> int:
        known = run.files.settings.exists() and run.files.study.exists()
        return sum(trial.state in ENDED for trial in load_run(run.files.root).trials) if known else 0

    job = submit(search)
    until(run.files.settings.exists, "the search to begin")
    second = submit(search)
    until(lambda: "FAILED" in laptop.ray_job("status", second).upper(), "the second driver to be refused")
    refusal = laptop.ray_job("logs -f", second)
    assert "exists already" in refusal or "is being run" in refusal  # the latter while no trial has begun
    until(lambda: ended() >= 2 and run.epochs_written() > 2 * EPOCHS, "two trials to end, and others to have begun")
    laptop.ray_job("stop", job)
    until(lambda: "STOPPED" in laptop.ray_job("status", job).upper(), "the job to be stopped")
    log = laptop.ray_job("logs -f", job)
    assert "stopping: running trials end at their next batch" in log
    assert "interrupted; continue with:" in log
    stopped = load_run(run.files.root).trials
    assert {trial.state.name for trial in stopped} <= {"COMPLETE", "WAITING"}, log
    complete = [trial.number for trial in stopped if trial.state.name == "COMPLETE"]
    assert 2 <= len(complete) < TRIALS

    job = submit(f"{search} --resume")
    log = laptop.ray_job("logs -f", job)
    assert f"{counted(len(complete), 'trial')} {'is' if len(complete) == 1 else 'are'} finished" in log
    assert "SUCCEEDED" in laptop.ray_job("status", job).upper()
    check_whole(run, TRIALS, EPOCHS)
