"""The workers of a simulated cluster and its clock, for simulated_cluster.py.

They stand where Ray Tune's controller calls Ray's actors: a worker takes seconds to start, has a GPU of one of three
speeds, and takes its epochs' time for them; curves are drawn from the settings and a seed; some workers die, hang, run
out of memory or diverge. A worker writes the files of a real one, but no networks.
"""

from __future__ import annotations

import heapq
import itertools
import json
import math
import random
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Literal

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
    job: dict[str, Any] = field(default_factory=dict)
    first_step: bool = True
    resend: bool = False
    task: Event | None = None

    def begin(self, config: Mapping[str, Any]) -> None:
        self.job, self.first_step = json.loads(config["job"]), True


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
        number, params = worker.job["number"], worker.job["params"]
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
        number, attempt = worker.job["number"], worker.job["attempt"]
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
        attempt = worker.job["attempt"]
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
        return {**report, **added, **seconds, **where, "config": {"number": report["number"], "job": "{}"}}
