"""A simulated cluster around the real driver: how busy 64 GPUs keep it, and where it stops scaling.

    python benchmarks/simulated_cluster.py [--only NAME]... [--output FILE]

Real: the whole driver of a search. :func:`tune_lnl.tuning.runner.run_plan` runs the session, the study with its journal
on disk, TPE, the stopping rule, progress, the figures for Prometheus, the tables, tidying, and Ray Tune's own
controller with its bookkeeping of trials and actors.

Simulated: time, and the workers, which stand where Tune's controller calls Ray's actors. A worker takes seconds to
start, has a GPU of one of three speeds, and takes its epochs' time for them; curves are drawn from the settings and a
seed; some workers die, hang, run out of memory or diverge. A worker writes the files of a real one, but no networks.

Simulated seconds pass while the driver waits for a worker, and while it works they pass as its work does: reports queue
where it is too slow, and workers wait for its answer. Its work is measured: the processor time of its thread, and for
every wait for the disk the median of such waits, measured before each search where its files lie. Other programs on the
machine are thereby not counted as the driver's load; the wall time, which has them in it, is beside it.

Not in it: Ray's processes (object store, scheduling, unpickling of reports), the threads of a terminal's table and of
the watchman, the network. ``engine_cost.py`` measures Ray's whole cost, on one machine.

After every search: each trial has ended exactly once, complete ones have their whole curve, stopped ones end at a rung,
the study read anew from disk is the one in memory, and the tables have a row per trial and epoch. One search loses its
driver in the middle, with half a record at the end of the journal, and is resumed.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import logging
import math
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal
from unittest.mock import patch

import numpy as np
import yaml
from evidence import evidence, write_evidence

ROOT = Path(__file__).resolve().parents[1]

SPACE: dict[str, Any] = {
    "description": "ACT over the ranges of act_cifar80no",
    "method": "act",
    "dataset": {"name": "digits8no"},
    "objective": {"metric": "val_accuracy", "mode": "max", "average_last": 10},
    "validation": {"fraction": 0.3},
    "search": {
        "lr": {"type": "loguniform", "low": 2.0e-3, "high": 0.2},
        "lr_asymmetry": {"type": "loguniform", "low": 0.2, "high": 16},
        "tau": {"type": "uniform", "low": 0.0, "high": 0.2},
        "warmup_epochs": {"type": "int", "low": 5, "high": 60, "step": 5},
    },
    "start": [{"lr": 0.01, "lr_asymmetry": 8, "tau": 0.025, "warmup_epochs": 50}],
}
LONGEST_WARMUP = 60
CPUS_PER_GPU = 16
SPEEDS = (1.0, 0.7, 1.4)
"""Seconds of an epoch on the cluster's kinds of GPU, relative."""
START_SECONDS = 8.0
"""From asking for a worker until its process has imported torch and Ray."""
FIRST_STEP_SECONDS = 2.0
EMPTY_ROUND_SECONDS = 10.0
"""Tune's controller looks around ten times a second when nothing comes; the simulation does so in longer steps."""
BEGINNING = 1.0e9

Fate = Literal["none", "dies", "dies_again", "hangs", "out_of_memory", "diverges"]


@dataclass(frozen=True)
class Scenario:
    """One search on one cluster."""

    name: str
    gpus: int = 64
    per_gpu: int = 1
    trials: int = 1000
    epochs: int = 150
    epoch_seconds: float = 20.0
    """On the middle kind of GPU, whatever share of it the trial has."""
    minutes: float | None = None
    """The search is stopped after so many simulated minutes."""
    crash_after: int | None = None
    """The driver is lost after so many reports, and the search is resumed."""
    deaths: float = 0.05
    """Share of trials whose worker dies once; a tenth as many hang, and a twentieth as many die three times."""
    out_of_memory: float = 0.0
    diverging: float = 0.03
    seed: int = 0

    @property
    def places(self) -> int:
        return self.gpus * self.per_gpu


# ---- time


class Clock:
    """Simulated seconds: they pass as the driver's work does while it works, and by leaps while it waits."""

    def __init__(self, disk_seconds: float = 0.0) -> None:
        self.disk_seconds = disk_seconds
        """What a wait for the disk takes."""
        self.disk = 0.0
        """Seconds of waiting for the disk."""
        self.syncs = 0
        self._now = BEGINNING
        self._working_since: float | None = None
        self._worked = 0.0
        self._wall = 0.0
        self._wall_since = 0.0

    def __call__(self) -> float:
        return self._now + self._at_work()

    def worked(self) -> float:
        """Seconds of the driver's work so far."""
        return self._worked + self._at_work()

    def wall(self) -> float:
        """The same by the wall clock."""
        return self._wall + (0.0 if self._working_since is None else time.perf_counter() - self._wall_since)

    def work(self) -> None:
        self._working_since, self._wall_since = time.thread_time() + self.disk, time.perf_counter()

    def rest(self) -> None:
        self._wall, worked = self.wall(), self._at_work()
        self._now, self._worked, self._working_since = self._now + worked, self._worked + worked, None

    def leap(self, to: float) -> None:
        self._now = max(self._now, to)

    def synced(self, descriptor: int) -> None:
        """In the place of ``os.fsync``."""
        if self._working_since is not None:
            self.disk += self.disk_seconds
            self.syncs += 1

    def _at_work(self) -> float:
        return 0.0 if self._working_since is None else time.thread_time() + self.disk - self._working_since

    def __reduce__(self) -> tuple[Any, ...]:
        """Ray makes a copy of all that its searcher can reach, which nobody reads."""
        return Clock, ()


class Meter:
    """What the driver's work goes into, each part without the parts inside it."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.parts: dict[str, float] = defaultdict(float)
        self.calls: dict[str, list[float]] = defaultdict(list)
        """Seconds of whole calls, with all that is inside them."""
        self._inside: list[float] = []

    def watch(self, stack: ExitStack, part: str, owner: Any, *names: str, each: str = "") -> None:
        """Time functions of a class or module as ``part``, and every call on its own where ``each`` names them.

        Asking that gives no trial is no asking.
        """
        for name in names:
            stack.enter_context(patch.object(owner, name, self._timed(part, getattr(owner, name), each)))

    def _timed(self, part: str, function: Callable[..., Any], each: str) -> Callable[..., Any]:
        def timed(*args: Any, **options: Any) -> Any:
            self._inside.append(0.0)
            began, answer = self.clock.worked(), None
            try:
                answer = function(*args, **options)
                return answer
            finally:
                whole = self.clock.worked() - began
                self.parts[part] += whole - self._inside.pop()
                if self._inside:
                    self._inside[-1] += whole
                if each and (answer is not None or each != "ask"):
                    self.calls[each].append(whole)

        return timed


# ---- the cluster


class DriverLost(BaseException):
    """The driver's process is killed here."""


@dataclass(frozen=True)
class Course:
    """What a trial would report, and what happens to it."""

    values: Sequence[float]
    fate: Fate
    at: int
    """The epoch of its fate (0-based)."""
    seconds: float
    """Of an epoch, relative to others."""


def course(scenario: Scenario, number: int, params: Mapping[str, Any]) -> Course:
    """The same for the same trial, however often it starts anew."""
    draw = random.Random(f"{scenario.seed} {number}")
    away = abs(math.log10(params["lr"] / 0.02)) + 0.3 * abs(math.log(params["lr_asymmetry"] / 4)) + 3 * params["tau"]
    level, slow = 66.0 - 9.0 * away, draw.uniform(8.0, 30.0)
    values = [level * (1.0 - math.exp(-(epoch + 1) / slow)) + draw.gauss(0.0, 0.3) for epoch in range(scenario.epochs)]
    chance = draw.random()
    fate: Fate = "none"
    shares: dict[Fate, float] = {
        "dies": scenario.deaths,
        "dies_again": scenario.deaths / 20,
        "hangs": scenario.deaths / 10,
        "out_of_memory": scenario.out_of_memory,
        "diverges": scenario.diverging,
    }
    for name, share in shares.items():
        if 0 <= chance < share:
            fate = name
        chance -= share
    return Course(values, fate, draw.randrange(scenario.epochs), draw.lognormvariate(0.0, 0.15))


@dataclass(eq=False)
class Worker:
    """A simulated process: it has one trial at a time."""

    place: int
    payload: dict[str, Any] = field(default_factory=dict)
    first_step: bool = True
    resend: bool = False
    task: Event | None = None

    def begin(self, config: Mapping[str, Any]) -> None:
        self.payload, self.first_step = json.loads(config["payload"]), True


class Handle:
    """An actor's handle, as far as the driver looks at it."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.get_auto_filled_metrics = SimpleNamespace(remote=lambda **options: {})
        self.train: SimpleNamespace = SimpleNamespace(options=lambda name: self.train)


@dataclass(eq=False)
class Event:
    """Something that a worker will tell the driver."""

    kind: Literal["start", "report", "reset", "end"]
    at: float
    worker: Worker
    tell: Callable[[Any], None]
    dead: Callable[[], None] = lambda: None
    fate: Fate | Literal["stopped"] = "none"
    seconds: float = 0.0
    """Of training."""
    cancelled: bool = False


class Cluster:
    """Workers, in the place of ``RayActorManager``; and what they have left on their disks, which outlives a driver."""

    def __init__(self, scenario: Scenario, clock: Clock, files: Any) -> None:
        self.scenario, self.clock, self.files = scenario, clock, files
        self.random = random.Random(scenario.seed)
        self.courses: dict[int, Course] = {}
        self.kept: dict[int, int] = defaultdict(int)
        """Epochs of a trial whose checkpoint is there."""
        self.struck: Counter[int] = Counter()
        """How often a trial's fate has struck."""
        self.reports = 0
        self.waits: list[float] = []
        """Seconds between a report and the driver's turning to it."""
        self.longest_queue = 0
        self.trained = 0.0
        self.killed = 0
        self.written = Counter[str]()
        self.first_trained: dict[int, float] = {}
        """When each place first had something to do."""
        self.kinds: list[str] = []
        self.crash_after = scenario.crash_after
        self.connect()

    def __reduce__(self) -> tuple[Any, ...]:
        """Ray makes a copy of all that its searcher can reach, which nobody reads."""
        return SimpleNamespace, ()

    def connect(self, resource_manager: Any = None) -> Cluster:
        """A driver comes: none of the workers of a former one is there any more."""
        self._heap: list[tuple[float, int, Event]] = []
        self._ready: deque[Event] = deque()
        self._order = itertools.count()
        self._live_actors_to_ray_actors_resources: dict[Any, tuple[Any, None]] = {}
        self._workers: dict[Any, Worker] = {}
        self._failed: set[Any] = set()
        self._places = list(range(self.scenario.places))
        self._stopping = False
        self._idle = 0.0
        return self

    # -- what Tune's controller asks

    def add_actor(
        self, cls: Any, resource_request: Any, kwargs: Any, on_start: Any, on_stop: Any, on_error: Any
    ) -> Any:
        from ray.air.execution._internal.tracked_actor import TrackedActor

        actor = TrackedActor(next(self._order), on_start=on_start, on_stop=on_stop, on_error=on_error)
        assert self._places, "more workers than places"
        worker = Worker(heapq.heappop(self._places))
        worker.begin(kwargs["config"])
        self._workers[actor] = worker

        def started(answer: Any) -> None:
            self._live_actors_to_ray_actors_resources[actor] = (Handle(worker), None)
            assert actor._on_start is not None
            actor._on_start(actor)

        self._push(Event("start", self.clock() + START_SECONDS * self.random.uniform(0.8, 1.5), worker, started))
        return actor

    def schedule_actor_task(
        self,
        tracked_actor: Any,
        method_name: str,
        args: Any = (),
        kwargs: Any = None,
        on_result: Any = None,
        on_error: Any = None,
        _return_future: bool = False,
    ) -> Any:
        worker = self._workers[tracked_actor]

        def tell(answer: Any) -> None:
            on_result(tracked_actor, answer)

        def dead() -> None:
            from ray.exceptions import RayActorError

            self._failed.add(tracked_actor)
            self._forget(tracked_actor)
            error = RayActorError()
            tracked_actor._on_error(tracked_actor, error)
            on_error(tracked_actor, error)

        if method_name == "train":
            self._push(self._epoch(worker, tell, dead))
        elif method_name == "reset":
            worker.begin(args[0])
            self._push(Event("reset", self.clock() + 0.01, worker, tell, dead))
        else:
            assert method_name == "stop", method_name

    def remove_actor(self, tracked_actor: Any, kill: bool = False, stop_future: Any = None) -> bool:
        if tracked_actor in self._failed or tracked_actor not in self._workers:
            return False
        started = tracked_actor in self._live_actors_to_ray_actors_resources
        worker = self._workers[tracked_actor]
        if not started:
            if worker.task is not None:
                worker.task.cancelled = True
            self._forget(tracked_actor)
            return False

        def stopped(answer: Any) -> None:
            self._forget(tracked_actor)
            if tracked_actor._on_stop is not None:
                tracked_actor._on_stop(tracked_actor)

        self._push(Event("end", self.clock() + 0.1, worker, stopped))
        return True

    def clear_actor_task_futures(self, tracked_actor: Any) -> None:
        worker = self._workers.get(tracked_actor)
        if worker is not None and worker.task is not None and worker.task.kind in ("report", "reset"):
            worker.task.cancelled = True

    def is_actor_started(self, tracked_actor: Any) -> bool:
        return tracked_actor in self._live_actors_to_ray_actors_resources and tracked_actor not in self._failed

    def is_actor_failed(self, tracked_actor: Any) -> bool:
        return tracked_actor in self._failed

    @property
    def num_live_actors(self) -> int:
        return len(self._live_actors_to_ray_actors_resources)

    @property
    def num_pending_actors(self) -> int:
        return len(self._workers) - self.num_live_actors

    @property
    def num_total_actors(self) -> int:
        return len(self._workers)

    @property
    def num_actor_tasks(self) -> int:
        return len(self._heap) + len(self._ready)

    def get_live_actors_resources(self) -> list[dict[str, float]]:
        return []

    def cleanup(self) -> None:
        """Nothing outlives the controller here."""

    def kill(self, handle: Any) -> None:
        """``ray.kill``."""
        task = handle.worker.task
        assert task is not None
        task.cancelled = True
        self._push(Event("report", self.clock() + 0.5, handle.worker, task.tell, task.dead, fate="dies"))
        self.killed += 1

    def next(self, timeout: float | None = None) -> bool:
        """Hand the driver one event, as soon as there is one."""
        self.clock.rest()
        try:
            event = self._take()
            answer = None if event is None else self._answer(event)
        finally:
            self.clock.work()
        self.kinds.append("empty" if event is None else event.kind)
        if event is None:
            return False
        if event.kind == "report" and event.fate in ("dies", "dies_again"):
            event.dead()
        else:
            event.tell(answer)
        return True

    # -- what happens in it

    def _forget(self, actor: Any) -> None:
        worker = self._workers.pop(actor)
        self._live_actors_to_ray_actors_resources.pop(actor, None)
        heapq.heappush(self._places, worker.place)

    def _push(self, event: Event) -> None:
        event.worker.task = event
        heapq.heappush(self._heap, (event.at, next(self._order), event))

    def _take(self) -> Event | None:
        self._notice_stop()
        now = self.clock()
        while self._heap and self._heap[0][0] <= now:
            self._ready.append(heapq.heappop(self._heap)[2])
        self.longest_queue = max(self.longest_queue, len(self._ready))
        while self._ready:
            event = self._ready.popleft()
            if not event.cancelled:
                self._idle = 0.0
                return event
        until = self._heap[0][0] if self._heap else math.inf
        if until > now + EMPTY_ROUND_SECONDS:
            self._idle += EMPTY_ROUND_SECONDS
            assert self._idle < 1e6, "nobody will ever report again, and the driver waits"
            self.clock.leap(now + EMPTY_ROUND_SECONDS)
            return None
        self.clock.leap(until)
        return self._take()

    def _notice_stop(self) -> None:
        """Workers that are asked to stop do so at their next batch."""
        if self._stopping or not self.files.stop_flag.exists():
            return
        self._stopping = True
        for _, _, event in list(self._heap):
            if event.kind == "report" and not event.cancelled and event.fate not in ("hangs", "dies", "dies_again"):
                event.cancelled = True
                again = Event("report", self.clock() + self.random.random(), event.worker, event.tell, event.dead)
                again.fate = "stopped"
                self._push(again)

    def _epoch(self, worker: Worker, tell: Any, dead: Any) -> Event:
        """The next epoch of a worker's trial, which begins now."""
        number, params = worker.payload["number"], worker.payload["params"]
        if number not in self.courses:
            self.courses[number] = course(self.scenario, number, params)
        known, epoch = self.courses[number], self.kept[number]
        self.first_trained.setdefault(worker.place, self.clock())
        speed = SPEEDS[worker.place // self.scenario.per_gpu % len(SPEEDS)]
        seconds = self.scenario.epoch_seconds * known.seconds * speed * self.random.lognormvariate(0.0, 0.03)
        if worker.first_step:
            seconds += FIRST_STEP_SECONDS
            worker.resend, worker.first_step = epoch > 0, False
        event = Event("report", self.clock() + seconds, worker, tell, dead, seconds=seconds)
        often = {"dies_again": 3}.get(known.fate, 1)
        if self._stopping:
            event.fate, event.at = "stopped", self.clock() + 0.1
        elif known.fate != "none" and epoch == known.at and self.struck[number] < often:
            self.struck[number] += 1
            event.fate = known.fate
            event.at = self.clock() + seconds * self.random.random()
            if event.fate == "dies" and self.random.random() < 0.5:
                # Between the checkpoint and the report, which is then lost.
                event.at = self.clock() + seconds
                self._keep(worker, number, epoch)
            if event.fate == "hangs":
                event.at = math.inf
        return event

    def _answer(self, event: Event) -> Any:
        """What the worker sends; it has written its files by then."""
        if event.kind != "report":
            return True
        worker = event.worker
        number, attempt = worker.payload["number"], worker.payload["attempt"]
        self.waits.append(self.clock() - event.at)
        self.trained += event.seconds
        self.reports += 1
        if self.crash_after is not None and self.reports >= self.crash_after:
            self.crash_after = None
            self.kinds.append("lost")
            raise DriverLost
        own: dict[str, Any] = {"number": number, "attempt": attempt}
        if event.fate in ("dies", "dies_again"):
            return None
        if event.fate == "stopped":
            return self._as_tune_has_it(worker, {**own, "stopped": True})
        if event.fate == "out_of_memory":
            return self._as_tune_has_it(worker, {**own, "failure": "out of memory", "message": "CUDA out of memory"})
        known, epoch = self.courses[number], self.kept[number]
        value = math.nan if event.fate == "diverges" else known.values[min(epoch, self.scenario.epochs - 1)]
        report = {
            **own,
            "epoch": epoch,
            "value": value,
            "standard_error": 0.7,
            "measures": self._measures(epoch, value),
        }
        if worker.resend:
            report["history"] = tuple(enumerate(known.values[:epoch]))
            worker.resend = False
        if event.fate != "diverges":
            if epoch >= self.scenario.epochs:
                # All was done before its last report was lost.
                report["epoch"], report["value"] = epoch - 1, known.values[-1]
            else:
                self._keep(worker, number, epoch)
        return self._as_tune_has_it(worker, report)

    def _measures(self, epoch: int, value: float) -> str:
        names = ("train_loss", "lr", "lr1", "selected", "selection_precision", "selection_recall", "selection_f1")
        shares = {name: self.random.random() for name in (*names, "mining_share", "rtm_accuracy", "ntm_accuracy")}
        rest = {"val_accuracy": value, "val_accuracy_standard_error": 0.7, "images_per_second": 2000.0}
        return json.dumps({"epoch": float(epoch), "seconds": self.scenario.epoch_seconds, **shares, **rest})

    def _keep(self, worker: Worker, number: int, epoch: int) -> None:
        """An epoch is on the worker's disk: a line, and a checkpoint in the place of the one before."""
        attempt = worker.payload["attempt"]
        path = self.files.epochs(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        value = self.courses[number].values[epoch]
        line = json.dumps({"attempt": attempt, **json.loads(self._measures(epoch, value))}) + "\n"
        with path.open("a", encoding="utf-8") as file:
            file.write(line)
        self.written["lines"] += 1
        self.written["bytes of lines"] += len(line)
        self.written["checkpoints"] += 1
        self.files.checkpoints.mkdir(exist_ok=True)
        if epoch + 1 == self.scenario.epochs:
            self.files.model(number).touch()
        self.files.checkpoint(number, attempt).touch()
        for earlier in range(1, attempt):
            self.files.checkpoint(number, earlier).unlink(missing_ok=True)
        self.kept[number] = epoch + 1

    def _as_tune_has_it(self, worker: Worker, report: dict[str, Any]) -> dict[str, Any]:
        """With what Ray's ``Trainable`` adds to a report."""
        steps = self.kept[report["number"]]
        added = {
            "done": False,
            "training_iteration": steps,
            "iterations_since_restore": steps,
            "timestamp": 1,
            "pid": 1,
        }
        seconds = {"time_this_iter_s": 20.0, "time_total_s": 20.0 * steps, "time_since_restore": 20.0 * steps}
        where = {"hostname": "node", "node_ip": "10.0.0.1", "date": "2026-01-01_00-00-00", "trial_id": "0"}
        return {**report, **added, **seconds, **where, "config": {"number": report["number"], "payload": "{}"}}


# ---- one search


def plan_of(scenario: Scenario, folder: Path, resume: bool = False) -> Any:
    from tune_lnl.tuning.planning import Machine, SearchOptions, plan_search

    space = folder / "simulated.yaml"
    fixed = {"epochs": scenario.epochs, "batch_size": 64}
    budget = {"trials": scenario.trials, "sampler": "tpe", "pruner": "asha"}
    content = {**SPACE, "fixed": fixed, "budget": budget}
    if scenario.epochs < 2 * LONGEST_WARMUP:
        content["objective"] = {**content["objective"], "average_last": 1}
        content["search"] = {**content["search"], "warmup_epochs": {"type": "int", "low": 1, "high": 2}}
        content["start"] = [{**start, "warmup_epochs": 2} for start in content["start"]]
    space.write_text(yaml.safe_dump(content, sort_keys=False))
    options = SearchOptions(
        str(space),
        results_dir=folder / "results",
        dashboard=False,
        resume=resume,
        gpus_per_trial=1 / scenario.per_gpu,
        time_budget=None if scenario.minutes is None else f"{scenario.minutes}m",
        disk_budget="1TB",
        command="python benchmarks/simulated_cluster.py",
    )
    (plan,) = plan_search(options, Machine(CPUS_PER_GPU * scenario.gpus, scenario.gpus))
    assert plan.resources.concurrent == scenario.places
    return plan


@dataclass
class Driver:
    """The engine with simulated time, over a simulated cluster."""

    scenario: Scenario
    folder: Path
    clock: Clock = field(init=False)
    lines: list[str] = field(default_factory=list)
    ended: Counter[int] = field(default_factory=Counter)
    """How often the driver heard of a trial's end, by number."""

    def __post_init__(self) -> None:
        self.clock = Clock(disk_seconds(self.folder))
        self.plan = plan_of(self.scenario, self.folder)
        self.meter = Meter(self.clock)
        self.cluster = Cluster(self.scenario, self.clock, self.plan.files)
        self.studies: list[Any] = []

    def run(self, resume: bool = False) -> str:
        """One process of the driver, from its start to its end; a lost one raises :class:`DriverLost`."""
        from tune_lnl.tuning import runner

        plan = plan_of(self.scenario, self.folder, resume=True) if resume else self.plan
        with ExitStack() as stack:
            self._simulate(stack)
            self._watch(stack)
            self.clock.work()
            try:
                return runner.run_plan(plan, resume, 0, self.lines.append)
            finally:
                self.clock.rest()

    def _simulate(self, stack: ExitStack) -> None:
        import ray
        from ray.train._internal import storage
        from ray.tune.execution import tune_controller

        from tune_lnl.tuning import planning, progress, ray_bridge, runner, study
        from tune_lnl.tuning.board import Board
        from tune_lnl.tuning.metrics_export import MetricsExport
        from tune_lnl.tuning.session import Session

        clock, open_study, let_go = self.clock, runner._open_study, runner._let_go
        now = SimpleNamespace(time=clock, monotonic=clock, sleep=time.sleep)

        def opened(plan: Any) -> Any:
            self.studies.append(open_study(plan))
            return self.studies[-1]

        def unless_lost(*args: Any) -> None:
            # A killed process puts nothing in order.
            if not isinstance(sys.exc_info()[1], DriverLost):
                let_go(*args)

        def replace(owner: Any, **new: Any) -> None:
            for name, value in new.items():
                stack.enter_context(patch.object(owner, name, value))

        replace(runner, _ray=lambda *args: nullcontext(), _watched=lambda *args: nullcontext(), time=now)
        replace(runner, Session=partial(Session, clock=clock), _open_study=opened, _let_go=unless_lost)
        replace(runner, _metrics_export=lambda plan: MetricsExport(plan, clock))
        replace(progress, Board=partial(Board, clock=clock), time=now)
        replace(study, time=now)
        replace(ray_bridge, time=now)
        replace(planning, device_name=lambda device: "simulated")
        replace(storage, _get_ray_train_session_dir=lambda: str(self.folder / "session"))
        replace(tune_controller, RayActorManager=self.cluster.connect)
        replace(ray, kill=self.cluster.kill, cluster_resources=lambda: {"GPU": float(self.scenario.gpus)})
        replace(os, fsync=clock.synced)
        # Tune's controller starts no Ray: there is nobody to talk to.
        stack.enter_context(patch.dict(os.environ, {"TUNE_DISABLE_AUTO_INIT": "1"}))

    def _watch(self, stack: ExitStack) -> None:
        from ray.tune.execution.tune_controller import TuneController

        from tune_lnl.tuning import runner
        from tune_lnl.tuning.journal import WholeLinesBackend
        from tune_lnl.tuning.metrics_export import MetricsExport
        from tune_lnl.tuning.progress import Progress
        from tune_lnl.tuning.ray_bridge import StudyScheduler, StudySearcher
        from tune_lnl.tuning.session import Session
        from tune_lnl.tuning.study import SearchStudy

        trial_ended = Progress.trial_ended

        def counted(progress: Progress, number: int) -> None:
            self.ended[number] += 1
            trial_ended(progress, number)

        stack.enter_context(patch.object(Progress, "trial_ended", counted))
        watch = partial(self.meter.watch, stack)
        watch("Ray Tune's controller", TuneController, "step", each="event")
        watch("bridge", StudyScheduler, "choose_trial_to_run")
        watch("bridge", StudyScheduler, "on_trial_result", each="report")
        watch("bridge", StudySearcher, "suggest")
        watch("session", Session, "heard", "stuck", "starting", "worker_died")
        watch("session", Session, "next_trial", each="ask")
        watch("asking", SearchStudy, "ask")
        watch("reporting", SearchStudy, "report", "epochs")
        watch("stopping rule", SearchStudy, "should_prune")
        watch("telling", SearchStudy, "complete", "prune", "fail", "wait", "restart", "note")
        watch("journal", WholeLinesBackend, "append_logs")
        watch("reading the journal", WholeLinesBackend, "read_logs")
        watch("tables", runner._TableWriter, "write", each="tables")
        watch("progress", Progress, "epoch", "trial_ended")
        watch("figures for Prometheus", MetricsExport, "refresh")
        watch("tidying", runner, "tidy")


def simulate(scenario: Scenario, folder: Path) -> dict[str, Any]:
    """One search, checked and summarised."""
    driver = Driver(scenario, folder)
    before, wall = resident_bytes(), time.perf_counter()
    lost, outcome = False, ""
    try:
        outcome = driver.run()
    except DriverLost:
        lost = True
    if lost:
        with driver.plan.files.study.open("ab") as journal:
            journal.write(b'{"op_code":6,"worker_')
        outcome = driver.run(resume=True)
    seconds = time.perf_counter() - wall
    memory = resident_bytes()
    checked = check(driver)
    return summary(driver, outcome) | {
        "checked": checked,
        "MB of the driver before": round(before / 1e6),
        "MB of the driver after": round(memory / 1e6),
        "seconds that the simulation took": round(seconds, 1),
    }


def disk_seconds(folder: Path, times: int = 100) -> float:
    """Median wait until the disk has a record of a journal's length that was appended to a file."""
    waits = []
    with (folder / "appended").open("ab", buffering=0) as file:
        for _ in range(times):
            file.write(b"x" * 200 + b"\n")
            began = time.perf_counter()
            os.fsync(file.fileno())
            waits.append(time.perf_counter() - began)
    return float(np.median(waits))


def resident_bytes() -> int:
    """Of this process now, where the system tells; else the most it has had."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def check(driver: Driver) -> dict[str, int]:
    """What must be so of every search, however it went; what was looked at, counted."""
    import pyarrow.parquet as pq

    from tune_lnl.tuning.results import load_run

    scenario, cluster, files = driver.scenario, driver.cluster, driver.plan.files
    run = load_run(files.root)
    ended = [trial for trial in run.trials if trial.state.is_finished()]
    whole = scenario.minutes is None
    assert not whole or len(ended) == len(run.trials) == scenario.trials, (len(ended), len(run.trials))
    assert driver.ended == Counter(trial.number for trial in ended), "a trial has ended twice, or unheard"
    for trial in run.trials:
        name, values = f"trial {trial.number}", trial.intermediate_values
        known = cluster.courses.get(trial.number)
        if known is None:
            assert not values, name
            continue
        assert values == dict(enumerate(known.values[: len(values)])), f"{name}: its curve has a gap or is another's"
        match trial.state.name:
            case "COMPLETE":
                assert len(values) == scenario.epochs, name
                assert trial.value == known.values[-1], name
            case "PRUNED":
                assert len(values) - 1 in run.settings["rungs"], name
            case "FAIL":
                assert known.fate in ("diverges", "dies_again", "out_of_memory"), (name, known.fate)
            case _:
                assert not whole, name
    memory = [
        (trial.number, trial.state, trial.values, trial.params, trial.intermediate_values, trial.user_attrs)
        for trial in driver.studies[-1].trials
    ]
    disk = [
        (trial.number, trial.state, trial.values, trial.params, trial.intermediate_values, trial.user_attrs)
        for trial in run.trials
    ]
    assert memory == disk, "the study on disk is another than the one in memory"
    kept = sum(cluster.kept.values())
    assert pq.read_metadata(files.epochs_table).num_rows == kept
    assert pq.read_metadata(files.trials_table).num_rows == len(run.trials)
    return {"trials": len(ended), "epochs": kept}


def summary(driver: Driver, outcome: str) -> dict[str, Any]:
    scenario, clock, cluster, meter = driver.scenario, driver.clock, driver.cluster, driver.meter
    simulated = clock() - BEGINNING
    worked, minutes, journal = clock.worked(), simulated / 60, driver.plan.files.study
    records = journal.read_bytes().count(b"\n")
    states = Counter(trial.state.name for trial in driver.studies[-1].trials)
    by_kind: dict[str, list[float]] = defaultdict(list)
    for kind, seconds in zip(cluster.kinds, meter.calls["event"], strict=False):
        by_kind[kind].append(seconds)
    by_part = {**meter.parts, "start and end": worked - sum(meter.parts.values())}
    taken = sorted(cluster.first_trained.values())
    return {
        "scenario": asdict(scenario),
        "trials at once": scenario.places,
        "outcome": outcome,
        "states": dict(states),
        "reports": cluster.reports,
        "simulated hours": round(simulated / 3600, 3),
        "driver": {
            "busy share": round(worked / simulated, 5),
            "busy share by the wall clock": round(clock.wall() / simulated, 5),
            "seconds": round(worked, 2),
            "of them waiting for the disk": round(clock.disk, 2),
            "ms of a wait for the disk": round(1e3 * clock.disk_seconds, 3),
            "busy share on a disk without waits": round((worked - clock.disk) / simulated, 5),
            "reports per simulated second": round(cluster.reports / simulated, 3),
            "share of its time by part": {
                part: round(seconds / worked, 4) for part, seconds in sorted(by_part.items(), key=lambda at: -at[1])
            },
            "ms per report by part": {
                part: round(1e3 * seconds / cluster.reports, 3)
                for part, seconds in sorted(by_part.items(), key=lambda at: -at[1])
            },
            "ms of an event": {kind: spread(seconds) for kind, seconds in by_kind.items()},
            "ms of asking": spread(meter.calls["ask"]),
            "ms of taking a report": spread(meter.calls["report"]),
        },
        "workers": {
            "seconds until a report is turned to": spread(cluster.waits, 1.0, digits=4),
            "longest queue": cluster.longest_queue,
            "share of their time spent waiting for the driver": round(
                sum(cluster.waits) / (scenario.places * simulated), 5
            ),
            "share of their time spent training": round(cluster.trained / (scenario.places * simulated), 4),
            "seconds until half of them had a trial": round(taken[len(taken) // 2] - BEGINNING, 1),
            "seconds until all of them had one": round(taken[-1] - BEGINNING, 1),
            "killed for their silence": cluster.killed,
        },
        "journal": {
            "MB": round(journal.stat().st_size / 1e6, 2),
            "kB per simulated minute": round(journal.stat().st_size / 1e3 / minutes, 2),
            "records per simulated minute": round(records / minutes, 1),
            "waits for the disk per simulated minute": round(clock.syncs / minutes, 1),
        },
        "storage written by workers": {
            "checkpoints per simulated minute": round(cluster.written["checkpoints"] / minutes, 1),
            "kB of epoch lines per simulated minute": round(cluster.written["bytes of lines"] / 1e3 / minutes, 1),
        },
        "tables": {
            "times written": len(meter.calls["tables"]),
            "ms each": spread(meter.calls["tables"]),
            "MB at the end": round(sum(p.stat().st_size for p in driver.plan.files.root.glob("*.parquet")) / 1e6, 2),
        },
    }


def spread(seconds: Sequence[float], scale: float = 1e3, digits: int = 3) -> dict[str, float] | None:
    """Mean, median and the 99th percentile; by default in milliseconds."""
    if not len(seconds):
        return None
    values = scale * np.asarray(seconds)
    low, high = np.percentile(values, (50, 99))
    found = {"mean": values.mean(), "p50": low, "p99": high, "most": values.max()}
    return {name: round(float(value), digits) for name, value in found.items()} | {"count": len(values)}


# ---- the series

SERIES = [
    Scenario("64 GPUs, 1 trial each", per_gpu=1, epochs=100),
    Scenario("64 GPUs, 2 trials each, a lost driver", per_gpu=2, epochs=40, crash_after=4000),
    Scenario("64 GPUs, 4 trials each, whole", per_gpu=4, epochs=40),
    Scenario("64 GPUs, 4 trials each, some out of memory", per_gpu=4, epochs=40, out_of_memory=0.005),
    Scenario("64 GPUs, 4 trials each, epochs of 5 s", per_gpu=4, epoch_seconds=5.0, minutes=2),
    Scenario("64 GPUs, 4 trials each, epochs of 1 s", per_gpu=4, epoch_seconds=1.0, minutes=1),
    Scenario("256 GPUs, 4 trials each", gpus=256, per_gpu=4, trials=2048, minutes=3),
    Scenario("1024 GPUs, 4 trials each", gpus=1024, per_gpu=4, trials=8192, minutes=3),
]


def in_own_process(scenario: Scenario) -> dict[str, Any]:
    """So that no search finds the memory of another."""
    with tempfile.TemporaryDirectory() as place:
        output = Path(place) / "found.json"
        command = [sys.executable, str(Path(__file__).resolve()), "--inside", place, "--only", scenario.name]
        subprocess.run(
            [*command, "--output", str(output)], check=True, cwd=place, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        found: dict[str, Any] = json.loads(output.read_text())
        return found


def show(found: Mapping[str, Any]) -> str:
    driver, workers = found["driver"], found["workers"]
    busy, without = driver["busy share"], driver["busy share on a disk without waits"]
    waiting = workers["share of their time spent waiting for the driver"]
    return (
        f"{found['scenario']['name']}: {found['reports']} reports in {found['simulated hours']:.2f} h; driver busy "
        f"{busy:.1%} ({without:.1%} without the disk's waits); workers train "
        f"{workers['share of their time spent training']:.1%} and wait for the driver {waiting:.2%} of their time; "
        f"all have a trial after {workers['seconds until all of them had one']:.0f} s"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", action="append", metavar="NAME", help="of the searches, those whose name has this in it"
    )
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "reference" / "simulated_cluster.json")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside is not None:
        (scenario,) = (each for each in SERIES if each.name == arguments.only[0])
        # Tune warns of every dead worker, and of every 0.5 s on the wall clock of a machine that has other work.
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
        arguments.output.write_text(json.dumps(simulate(scenario, arguments.inside)))
        return 0
    results: list[dict[str, Any]] = []
    content = {
        "what": "the real driver over a simulated cluster",
        **evidence(("ray", "optuna")),
        "searches": results,
    }
    for scenario in SERIES:
        if arguments.only and not any(part in scenario.name for part in arguments.only):
            continue
        load = os.getloadavg()[0]
        found = in_own_process(scenario)
        results.append({"load before": round(load, 2), "load after": round(os.getloadavg()[0], 2), **found})
        print(show(found), flush=True)
        write_evidence(arguments.output, content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
