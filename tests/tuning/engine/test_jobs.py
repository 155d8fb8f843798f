"""A search as a job of a real Ray cluster: sent, watched, stopped and resumed with the very commands that it prints."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
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

from tune_lnl.search import main
from tune_lnl.tuning.engine import submitting
from tune_lnl.tuning.runs.results import load_run
from tune_lnl.tuning.study.study import ENDED

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

ROOT = Path(__file__).parents[3]
TRIALS, EPOCHS, PAUSE = 8, 8, 0.15
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
class Server:
    """A cluster of two nodes that asks for a token, and the laptop that has it."""

    url: str
    laptop: dict[str, str]
    capsys: pytest.CaptureFixture[str]

    def submit(self, *words: str) -> tuple[int, str, str]:
        """The command, its exit code and what it said; in this process, where it may wait longer than a user would."""
        code = main([*words, "--submit", self.url])
        said = self.capsys.readouterr()
        return code, said.out, said.err

    def run(self, command: str) -> tuple[int, str]:
        """A command in a shell of the laptop: its exit code, and all it said."""
        ran = subprocess.run(
            ["bash", "-c", command],
            env=self.laptop,
            cwd=self.laptop["HOME"],
            capture_output=True,
            text=True,
            timeout=3 * PATIENCE,
            check=False,
        )
        return ran.returncode, ran.stdout + ran.stderr

    def follow(self, command: str) -> str:
        """One that works; what it said."""
        code, said = self.run(command)
        assert code == 0, said
        return said


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
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Server]:
    token, port = secrets.token_hex(32), free_port()
    url = f"http://127.0.0.1:{port}"
    for folder in ("home", "home of the cluster", "events"):
        (tmp_path / folder).mkdir()
    (tmp_path / "token").write_text(token)
    common = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": f"{ROOT}:{TOY}",
        "TUNE_LNL_CACHE": os.environ["TUNE_LNL_CACHE"],
        "OMP_NUM_THREADS": "1",
    }
    laptop = {"HOME": str(tmp_path / "home"), "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")}
    monkeypatch.syspath_prepend(str(TOY))
    monkeypatch.setattr(submitting, "WATCH_SECONDS", PATIENCE)
    for name, value in laptop.items():
        monkeypatch.setenv(name, value)
    theirs = {"HOME": str(tmp_path / "home of the cluster"), "TOY_EVENTS": str(tmp_path / "events")}
    head = Head(port, {**common, **theirs, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token})
    try:
        head.wait(url)
        head.join()
        yield Server(url, {**common, **laptop}, capsys)
    finally:
        head.close()


def until(condition: Callable[[], object], what: str, timeout: float = PATIENCE) -> None:
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, f"waited {timeout} s for {what}"
        time.sleep(0.2)


def commands_in(output: str) -> dict[str, str]:
    found = dict(re.findall(r"^  (status|watch|stop|resume): +(.+)$", output, flags=re.MULTILINE))
    assert set(found) == {"status", "watch", "stop", "resume"}
    return found


def test_a_job_is_submitted_watched_stopped_and_resumed(tmp_path: Path, server: Server) -> None:
    space = write_toy(tmp_path, spread(TRIALS), epochs=EPOCHS, fixed={"pause": PAUSE})
    results = tmp_path / "results"
    run = Driver(tmp_path, space)  # never started: it knows where the run's files are, and what they must be
    asked = (str(space), "--results-dir", str(results), "--concurrent", "2", "--no-dashboard")

    code, said, error = server.submit(*asked)
    assert code == 0, error
    assert said.endswith("the search has begun\n")
    printed = commands_in(said)
    assert "RUNNING" in server.follow(printed["status"]).upper()

    code, _, error = server.submit(*asked)
    assert code == 2
    assert "run 'toy' in " in error
    assert " is being run by job toy-" in error

    def ended() -> int:
        return sum(trial.state in ENDED for trial in load_run(run.files.root).trials)

    until(lambda: ended() >= 2 and run.epochs_written() > 2 * EPOCHS, "two trials to end, and others to have begun")
    server.follow(printed["stop"])
    until(lambda: "STOPPED" in server.run(printed["status"])[1].upper(), "the job to be stopped")
    log = server.follow(printed["watch"])
    assert "stopping: running trials end at their next batch" in log
    assert "interrupted; continue with:" in log
    stopped = load_run(run.files.root).trials
    assert {trial.state.name for trial in stopped} <= {"COMPLETE", "WAITING"}, log
    complete = [trial.number for trial in stopped if trial.state.name == "COMPLETE"]
    assert 2 <= len(complete) < TRIALS

    printed = commands_in(server.follow(printed["resume"]))
    log = server.follow(printed["watch"])
    assert f"kept {len(complete)}, continued " in log
    assert "SUCCEEDED" in server.follow(printed["status"]).upper()
    check_whole(run, TRIALS, EPOCHS)

    code, _, error = server.submit(*asked)
    assert code == 2, error
    assert "run 'toy' exists already in " in error

    (tmp_path / "token").write_text(secrets.token_hex(32))
    code, _, error = server.submit(*asked)
    assert code == 2
    assert "does not take the token" in error
