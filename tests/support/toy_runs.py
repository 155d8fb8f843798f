"""Searches of the toy method of ``benchmarks/toy``: starting them as a user would, watching and killing them.

Only processes that a :class:`Driver` has started are ever touched: its descendants, and whatever carries its mark.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from tune_lnl.config.yaml import dump_yaml
from tune_lnl.object_storage import ObjectFolder
from tune_lnl.tuning.engine.listeners import Checkpoints, StopFlag
from tune_lnl.tuning.engine.messages import Output, WorkerReport
from tune_lnl.tuning.engine.runner import Runner, trial_job
from tune_lnl.tuning.engine.session import Session
from tune_lnl.tuning.engine.tune import JobOf
from tune_lnl.tuning.engine.worker import TrialRun
from tune_lnl.tuning.plan.options import SearchOptions
from tune_lnl.tuning.plan.plan import Plan, plan_search
from tune_lnl.tuning.resources.divide import Machine
from tune_lnl.tuning.runs.layout import RunFiles
from tune_lnl.tuning.runs.run import Run, load_run
from tune_lnl.tuning.study.study import SearchStudy, Suggestion
from tune_lnl.tuning.study.trials import ENDED

TOY = Path(__file__).resolve().parents[2] / "benchmarks" / "toy"
MARK = "TUNE_LNL_TEST_MARK"
WORKER_NICENESS = "RAY_worker_niceness"
"""Ray's workers are polite by default: beside other work on the machine a test would wait for them for minutes."""
PATIENCE = 300.0
"""Seconds; the machine may be busy with other things."""


def toy_method() -> ModuleType:
    """The module ``toy_method``; importing it does not register the method, its folder on the path does."""
    if str(TOY) not in sys.path:
        sys.path.append(str(TOY))
    return importlib.import_module("toy_method")


def write_toy(
    folder: Path,
    points: Sequence[dict[str, Any]],
    *,
    epochs: int = 6,
    fixed: dict[str, Any] | None = None,
    trials: int | None = None,
    name: str = "toy",
    **budget: Any,
) -> Path:
    """A space that searches x (and fault, where a point has one), beginning with ``points``."""
    search: dict[str, Any] = {"x": {"type": "uniform", "low": 0.0, "high": 1.0}}
    faults = list(dict.fromkeys(["none", *(point["fault"] for point in points if "fault" in point)]))
    if len(faults) > 1:
        search["fault"] = {"type": "choice", "choices": faults}
        points = [{"fault": "none", **point} for point in points]
    else:
        points = [{"x": point["x"]} for point in points]
    sections = {
        "description": "a test",
        "method": "toy",
        "dataset": {"name": "digits8no"},
        "objective": {"metric": "val_accuracy", "mode": "max", "average_last": 1},
        "validation": {"fraction": 0.3},
        "fixed": {"epochs": epochs, **(fixed or {})},
        "search": search,
        "start": list(points),
        "budget": {"trials": trials or len(points), "sampler": "random", "pruner": "none", **budget},
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(sections, sort_keys=False), encoding="utf-8")
    return path


def spread(count: int) -> list[dict[str, Any]]:
    """Start points over the range of x, the best (0.3) in the middle of the order."""
    xs = [round(0.02 + 0.96 * index / max(1, count - 1), 4) for index in range(count)]
    xs[count // 2] = 0.3
    return [{"x": x} for x in xs]


# ---- processes


def _stat(pid: int) -> list[str]:
    text = Path(f"/proc/{pid}/stat").read_text()
    return text[text.rindex(")") + 2 :].split()


class Process:
    """A process that stays itself: a number is given again, a number and a start time are not."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.started = _stat(pid)[19]

    @property
    def command(self) -> str:
        """As it is now: a process begins as a copy of its parent."""
        try:
            return Path(f"/proc/{self.pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            return ""

    @property
    def name(self) -> str:
        try:
            return Path(f"/proc/{self.pid}/comm").read_text()
        except OSError:
            return ""

    @property
    def alive(self) -> bool:
        try:
            stat = _stat(self.pid)
        except (FileNotFoundError, ProcessLookupError):
            return False
        return stat[19] == self.started and stat[0] not in "ZX"

    def kill(self) -> None:
        if self.alive:
            try:
                os.kill(self.pid, signal.SIGKILL)
            except ProcessLookupError:
                return


def _running() -> dict[int, int]:
    """pid -> parent of every process there is."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                found[int(entry.name)] = int(_stat(int(entry.name))[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found


class Driver:
    """``python -m tune_lnl.search`` as a process of its own, with all the processes it has ever had.

    Args:
        within: a command that runs it in its own place, in this process and not a child (``ip netns exec NAME``).
    """

    def __init__(
        self,
        folder: Path,
        space: Path,
        *flags: str,
        environment: dict[str, str] | None = None,
        within: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        self.within = tuple(within)
        self.space = space
        self.flags = flags
        self.events = folder / "events"
        self.events.mkdir(exist_ok=True)
        self.mark = uuid.uuid4().hex
        self.seen: dict[tuple[int, str], Process] = {}
        self.environment = {
            **os.environ,
            # The toy, and the package of this checkout, wherever another one is installed.
            "PYTHONPATH": os.pathsep.join([str(TOY), str(TOY.parents[1])]),
            "TOY_EVENTS": str(self.events),
            "OMP_NUM_THREADS": "1",
            WORKER_NICENESS: "0",
            MARK: self.mark,
            **(environment or {}),
        }
        self.files = RunFiles(folder / "results" / space.stem)
        self.starts = 0

    def start(self, *more: str) -> Driver:
        """Start it; the further times with ``--resume``."""
        resume = ("--resume",) if self.files.root.exists() and "--resume" not in more else ()
        self.output = self.folder / f"output-{self.starts}.txt"
        self.starts += 1
        with self.output.open("w") as out:
            self.process = subprocess.Popen(
                [
                    *(*self.within, sys.executable, "-m", "tune_lnl.search", str(self.space), "--no-dashboard"),
                    *("--results-dir", str(self.folder / "results"), *self.flags, *resume, *more),
                ],
                cwd=self.folder,
                env=self.environment,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        return self

    @property
    def text(self) -> str:
        return self.output.read_text(errors="replace")

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def family(self) -> list[Process]:
        """The driver and everything below it that runs now; also remembers it."""
        parents = _running()
        ours = {self.process.pid}
        grown = True
        while grown:
            more = {pid for pid, parent in parents.items() if parent in ours} - ours
            ours |= more
            grown = bool(more)
        ours |= {pid for pid in parents if self._marked(pid)}
        for pid in ours:
            try:
                process = Process(pid)
            except (FileNotFoundError, ProcessLookupError):
                continue
            self.seen.setdefault((process.pid, process.started), process)
        return [process for process in self.seen.values() if process.alive]

    def _marked(self, pid: int) -> bool:
        try:
            return self.mark.encode() in Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            return False

    def workers(self) -> list[Process]:
        """The processes that train, in the middle of an epoch or between two."""
        return [
            process
            for process in self.family()
            if process.name.startswith(("ray::TrialWork", "ray::trial-", "ray::replicate-"))
        ]

    def trained_workers(self) -> list[Process]:
        """Those that have begun another epoch of their trial, so that the one before is kept.

        A trial that loses three workers in the same epoch counts as failed, and an epoch that has ended is not kept
        yet: on a slow disk that takes a while.
        """

        def has_trained(process: Process) -> bool:
            events = self.events / f"{process.pid}.jsonl"
            whole = events.read_text().split("\n")[:-1] if events.exists() else []
            records = [json.loads(line) for line in whole]
            return sum((r["x"], r["event"]) == (records[-1]["x"], "begin") for r in records) > 1

        return [process for process in self.workers() if has_trained(process)]

    def wait(self, condition: Callable[[], Any], what: str, timeout: float = PATIENCE) -> None:
        """Until something is so, or the driver ends."""
        until = time.monotonic() + timeout
        while self.running and not condition():
            self.family()
            assert time.monotonic() < until, f"waited {timeout} s for {what}\n{self.text}"
            time.sleep(0.05)

    def rest(self, seconds: float) -> None:
        """So long, or until the driver ends."""
        until = time.monotonic() + seconds
        self.wait(lambda: time.monotonic() >= until, "the moment", seconds + PATIENCE)

    def train_on(self, epochs: int) -> None:
        """Until so many epochs more are written, or the driver ends."""
        target = self.epochs_written() + epochs
        self.wait(lambda: self.epochs_written() >= target, f"{epochs} more epochs")

    def finish(self, timeout: float = PATIENCE) -> int:
        """Its exit code."""
        self.wait(lambda: False, "the end", timeout)
        return self.process.wait()

    def signal(self, number: int) -> None:
        if self.running:
            self.process.send_signal(number)

    def kill_family(self) -> None:
        """Everything at once; the driver first, so that it cannot react to the rest."""
        family = self.family()
        for process in sorted(family, key=lambda p: p.pid != self.process.pid):
            process.kill()
        self.process.wait()

    def left(self, timeout: float = 60.0) -> list[str]:
        """Commands of processes that are still there after ``timeout`` seconds."""
        until = time.monotonic() + timeout
        while (alive := self.family()) and time.monotonic() < until:
            time.sleep(0.1)
        return [process.command for process in alive]

    def close(self) -> None:
        """End what still runs, and delete Ray's folders; a test may have ended before it started anything."""
        if not self.starts:
            return
        for process in self.family():
            process.kill()
        self.process.wait()
        for folder in self.ray_folders():
            shutil.rmtree(folder, ignore_errors=True)

    # ---- its run

    def epochs_written(self) -> int:
        return sum(path.read_bytes().count(b"\n") for path in self.files.root.glob("trials/*/epochs.jsonl"))

    def run(self) -> Run:
        toy_method()  # its folder on the path: the run names the method
        return load_run(self.files.root)

    def ray_folders(self) -> list[str]:
        return self.files.ray_folder.read_text().split() if self.files.ray_folder.exists() else []


class RemoteDriver(Driver):
    """Its results lie in object storage, its cache is its machine's."""

    def __init__(
        self, folder: Path, space: Path, url: str, *flags: str, environment: dict[str, str] | None = None
    ) -> None:
        folder.mkdir(exist_ok=True)
        self.cache = folder / "cache"
        environment = {"TUNE_LNL_CACHE": str(self.cache), **(environment or {})}
        super().__init__(folder, space, "--results-dir", url, *flags, environment=environment)
        self.objects = ObjectFolder.of(url) / space.stem

    def stored_epochs(self) -> int:
        keys = [key for key in self.objects.list("trials") if key.endswith("epochs.jsonl")]
        return sum((self.objects.get(key) or b"").count(b"\n") for key in keys)

    def ended(self) -> int:
        return sum(key.endswith("-model.pt") for key in self.objects.list("checkpoints"))


def check_complete(run: Run, trials: int, epochs: int, seed: int = 0) -> None:
    """Every trial ran to its end, once, with a curve that nothing has disturbed."""
    assert [trial.state.name for trial in run.trials] == ["COMPLETE"] * trials
    for trial in run.trials:
        expected = toy_method().curve(trial.params["x"], seed, epochs)
        assert [trial.intermediate_values[epoch] for epoch in range(epochs)] == expected
        assert [report["val_accuracy"] for report in run.epoch_reports(trial.number)] == expected


def check_whole(driver: Driver, trials: int, epochs: int, seed: int = 0) -> None:
    """Every trial ended once, in a state and with a curve that nothing has disturbed, and nothing is left over."""
    toy = toy_method()
    run = driver.run()
    assert [trial.number for trial in run.trials] == list(range(trials))
    assert {trial.state.name for trial in run.trials} <= {"COMPLETE", "PRUNED"}, driver.text
    assert len({trial.params["x"] for trial in run.trials}) == trials
    for trial in run.trials:
        expected = toy.curve(trial.params["x"], seed, epochs)
        values = [trial.intermediate_values[epoch] for epoch in sorted(trial.intermediate_values)]
        assert values == expected[: len(values)], trial.number
        assert sorted(trial.intermediate_values) == list(range(len(values)))
        if trial.state.name == "COMPLETE":
            assert len(values) == epochs
            assert trial.value == expected[-1]
        reports = run.epoch_reports(trial.number)
        assert [report["val_accuracy"] for report in reports][: len(values)] == values
    assert run.best is not None
    complete = [trial for trial in run.trials if trial.state.name == "COMPLETE"]
    assert run.answer is not None
    if run.answer.by == "objective":  # the race at the end may prefer another
        assert run.best.value == max(trial.value for trial in complete if trial.value is not None)
    kept = {path.name for path in driver.files.checkpoints.iterdir()}
    assert len(kept) == min(3, len(complete)), kept
    assert all(name.endswith("-model.pt") for name in kept)
    assert f"{run.best.number:03d}-model.pt" in kept
    assert not driver.files.stop_flag.exists()
    assert not list(driver.files.root.glob("**/.*.tmp*"))


# ---- the same without Ray and processes


def toy_plan(folder: Path, space: Path, **options: Any) -> Plan:
    """The plan of a search of ``space`` on two CPUs, files under ``folder``. The toy's folder must be on the path."""
    asked = {"results_dir": folder / "results", "command": f"python -m tune_lnl.search {space}", **options}
    (plan,) = plan_search(SearchOptions.of(str(space), **asked), Machine(cpus=2, gpus=0))
    return plan


def open_run(plan: Plan) -> SearchStudy:
    """The study of a plan, with run.yaml beside it."""
    plan.files.root.mkdir(parents=True, exist_ok=True)
    plan.files.write(plan.files.settings, dump_yaml(plan.settings()))
    begin = SearchStudy.reopen if plan.place.exists() else SearchStudy.create
    study = begin(plan.place, plan.space, plan.seed)
    return study


def worker(plan: Plan, suggestion: Suggestion) -> TrialRun:
    """What a worker process would hold for this trial."""
    return TrialRun(trial_job(plan, suggestion))


def local_session(plan: Plan, study: SearchStudy, concurrent: int = 2, **options: Any) -> Session:
    return Session(
        study,
        jobs=plan.space.budget.trials - study.count(*ENDED),
        epochs=plan.space.epochs,
        concurrent=concurrent,
        listeners=[StopFlag(plan.files), Checkpoints(plan.files, study, plan.heldout_room)],
        **options,
    )


def run_locally(plan: Plan, session: Session, job_of: JobOf | None = None) -> list[tuple[int, ...]]:
    """Workers take turns, an epoch each, until nothing more is started.

    Returns:
        the numbers of the jobs that ran at the same time, turn by turn.
    """
    job_of = job_of or partial(trial_job, plan)
    running: dict[int, TrialRun] = {}
    turns: list[tuple[int, ...]] = []
    while running or not session.finished:
        while (suggestion := session.next_job()) is not None:
            running[suggestion.number] = TrialRun(job_of(suggestion))
        turns.append(tuple(sorted(running)))
        for number, trial in list(running.items()):
            if not session.heard(WorkerReport.from_result(trial.step())):
                running.pop(number).close()
    session.put_back_running()
    plan.files.stop_flag.unlink(missing_ok=True)
    return turns


class InThisProcess(Runner):
    """Jobs take turns in this process, without Ray.

    Args:
        before: called with the session before its first job.
    """

    lost = "this process is gone"

    def __init__(self, at_once: int = 2, before: Callable[[Session], None] = lambda session: None) -> None:
        self._at_once = at_once
        self._before = before

    def room(self) -> int:
        return self._at_once

    def nodes(self) -> None:
        return None

    def alive(self) -> bool:
        return True

    def started(self, plan: Plan, folder: Path, output: Output) -> AbstractContextManager[None]:
        assert folder.is_dir()
        return nullcontext()

    def train(self, plan: Plan, session: Session, job_of: JobOf, folder: Path) -> None:
        self._before(session)
        run_locally(plan, session, job_of)
