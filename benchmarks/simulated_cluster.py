"""A simulated cluster around the real driver: how busy 64 GPUs keep it, and where it stops scaling.

    python benchmarks/simulated_cluster.py [--only NAME]... [--output FILE]

Real: the whole driver of a search. ``run_plan`` of ``tuning/driver.py`` runs the session, the study with its
journal on disk, TPE, the stopping rule, progress, the figures for Prometheus, the tables, tidying, and Ray Tune's own
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
import json
import logging
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import yaml
from evidence import evidence, write_evidence
from simulated_workers import BEGINNING, Clock, Cluster, DriverLost, Scenario

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


class _Awake:
    """The clock of a driver that never sleeps, on simulated time."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock

    def __call__(self) -> float:
        return self._clock()

    def ticking(self) -> AbstractContextManager[None]:
        return nullcontext()


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


# ---- one search


def plan_of(scenario: Scenario, folder: Path, resume: bool = False) -> Any:
    from tune_lnl.tuning.plan.options import SearchOptions
    from tune_lnl.tuning.plan.plan import plan_search
    from tune_lnl.tuning.resources.divide import Machine

    space = folder / "simulated.yaml"
    fixed = {"epochs": scenario.epochs, "batch_size": 64}
    budget = {"trials": scenario.trials, "sampler": "tpe", "pruner": "asha"}
    content = {**SPACE, "fixed": fixed, "budget": budget}
    if scenario.epochs < 2 * LONGEST_WARMUP:
        content["objective"] = {**content["objective"], "average_last": 1}
        content["search"] = {**content["search"], "warmup_epochs": {"type": "int", "low": 1, "high": 2}}
        content["start"] = [{**start, "warmup_epochs": 2} for start in content["start"]]
    space.write_text(yaml.safe_dump(content, sort_keys=False))
    options = SearchOptions.of(
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
        from tune_lnl.tuning import driver
        from tune_lnl.tuning.engine.local import LocalRay
        from tune_lnl.tuning.monitor.console import Console

        class Simulated(LocalRay):
            """Its cluster stands in for Ray's actors, see :meth:`Driver._simulate`."""

            def started(self, *given: Any) -> Any:
                return nullcontext()

        plan = plan_of(self.scenario, self.folder, resume=True) if resume else self.plan
        with ExitStack() as stack:
            self._watch(stack)  # before functions of partial arguments stand in for the classes
            self._simulate(stack)
            self.clock.work()
            try:
                return driver.run_plan(
                    plan, resume, Console(write=self.lines.append), Simulated(plan.resources.concurrent)
                )
            finally:
                self.clock.rest()

    def _simulate(self, stack: ExitStack) -> None:
        import ray
        from ray.train._internal import storage
        from ray.tune.execution import tune_controller

        from tune_lnl.tuning import driver
        from tune_lnl.tuning.engine import listeners, runner
        from tune_lnl.tuning.engine import tune as ray_bridge
        from tune_lnl.tuning.engine.session import Session
        from tune_lnl.tuning.monitor import progress, prometheus
        from tune_lnl.tuning.monitor.prometheus import MetricsExport
        from tune_lnl.tuning.monitor.state import SearchState
        from tune_lnl.tuning.plan import plan as planning
        from tune_lnl.tuning.study import study

        clock, open_study, put_back = self.clock, driver.open_study, Session.put_back_running
        now = SimpleNamespace(time=clock, monotonic=clock, sleep=time.sleep)

        def opened(plan: Any) -> Any:
            self.studies.append(open_study(plan))
            return self.studies[-1]

        def unless_lost(*args: Any) -> None:
            # A killed process puts nothing in order.
            if not isinstance(sys.exc_info()[1], DriverLost):
                put_back(*args)

        def replace(owner: Any, **new: Any) -> None:
            for name, value in new.items():
                stack.enter_context(patch.object(owner, name, value))

        replace(runner, _watched=lambda *args: nullcontext())
        replace(Session, put_back_running=unless_lost)
        replace(driver, Session=partial(Session, clock=clock), open_study=opened, awake=_Awake(clock))
        replace(listeners, time=now)
        replace(prometheus, MetricsExport=partial(MetricsExport, clock=clock))
        replace(driver, SearchState=partial(SearchState, clock=clock))
        replace(progress, time=now)
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

        from tune_lnl.tuning.engine.listeners import Checkpoints, Tables
        from tune_lnl.tuning.engine.session import Session
        from tune_lnl.tuning.engine.tune import StudyScheduler, StudySearcher
        from tune_lnl.tuning.monitor.progress import Progress
        from tune_lnl.tuning.monitor.prometheus import MetricsExport
        from tune_lnl.tuning.monitor.state import SearchState
        from tune_lnl.tuning.study.journal import WholeLinesBackend
        from tune_lnl.tuning.study.study import SearchStudy

        on_end = Progress.on_end

        def counted(progress: Progress, number: int) -> None:
            self.ended[number] += 1
            on_end(progress, number)

        stack.enter_context(patch.object(Progress, "on_end", counted))
        watch = partial(self.meter.watch, stack)
        watch("Ray Tune's controller", TuneController, "step", each="event")
        watch("bridge", StudyScheduler, "choose_trial_to_run")
        watch("bridge", StudyScheduler, "on_trial_result", each="report")
        watch("bridge", StudySearcher, "suggest")
        watch("session", Session, "heard", "stuck", "starting", "worker_died")
        watch("session", Session, "next_job", each="ask")
        watch("asking", SearchStudy, "ask")
        watch("reporting", SearchStudy, "report", "epochs")
        watch("stopping rule", SearchStudy, "should_prune")
        watch("telling", SearchStudy, "complete", "prune", "fail", "wait", "restart", "note")
        watch("journal", WholeLinesBackend, "append_logs")
        watch("reading the journal", WholeLinesBackend, "read_logs")
        watch("tables", Tables, "write", each="tables")
        watch("progress", Progress, "on_epoch", "on_end")
        watch("progress", SearchState, "on_epoch", "on_end")
        watch("figures for Prometheus", MetricsExport, "refresh")
        watch("tidying", Checkpoints, "on_end")


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

    from tune_lnl.tuning.runs.run import load_run

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
    scenario, minutes = driver.scenario, (driver.clock() - BEGINNING) / 60
    return {
        "scenario": asdict(scenario),
        "trials at once": scenario.places,
        "outcome": outcome,
        "states": dict(Counter(trial.state.name for trial in driver.studies[-1].trials)),
        "reports": driver.cluster.reports,
        "simulated hours": round(minutes / 60, 3),
        "driver": driver_load(driver),
        "workers": workers_load(driver),
        **storage_load(driver, minutes),
    }


def driver_load(driver: Driver) -> dict[str, Any]:
    """How busy it is, and with what."""
    clock, cluster, meter = driver.clock, driver.cluster, driver.meter
    simulated, worked = clock() - BEGINNING, clock.worked()
    by_kind: dict[str, list[float]] = defaultdict(list)
    for kind, seconds in zip(cluster.kinds, meter.calls["event"], strict=False):
        by_kind[kind].append(seconds)
    by_part = {**meter.parts, "start and end": worked - sum(meter.parts.values())}
    largest_first = dict(sorted(by_part.items(), key=lambda part: -part[1]))
    return {
        "busy share": round(worked / simulated, 5),
        "busy share by the wall clock": round(clock.wall() / simulated, 5),
        "seconds": round(worked, 2),
        "of them waiting for the disk": round(clock.disk, 2),
        "ms of a wait for the disk": round(1e3 * clock.disk_seconds, 3),
        "busy share on a disk without waits": round((worked - clock.disk) / simulated, 5),
        "reports per simulated second": round(cluster.reports / simulated, 3),
        "share of its time by part": {part: round(seconds / worked, 4) for part, seconds in largest_first.items()},
        "ms per report by part": {
            part: round(1e3 * seconds / cluster.reports, 3) for part, seconds in largest_first.items()
        },
        "ms of an event": {kind: spread(seconds) for kind, seconds in by_kind.items()},
        "ms of asking": spread(meter.calls["ask"]),
        "ms of taking a report": spread(meter.calls["report"]),
    }


def workers_load(driver: Driver) -> dict[str, Any]:
    """What workers wait for."""
    cluster = driver.cluster
    seconds = driver.scenario.places * (driver.clock() - BEGINNING)
    taken = sorted(cluster.first_trained.values())
    return {
        "seconds until a report is turned to": spread(cluster.waits, 1.0, digits=4),
        "longest queue": cluster.longest_queue,
        "share of their time spent waiting for the driver": round(sum(cluster.waits) / seconds, 5),
        "share of their time spent training": round(cluster.trained / seconds, 4),
        "seconds until half of them had a trial": round(taken[len(taken) // 2] - BEGINNING, 1),
        "seconds until all of them had one": round(taken[-1] - BEGINNING, 1),
        "killed for their silence": cluster.killed,
    }


def storage_load(driver: Driver, minutes: float) -> dict[str, dict[str, Any]]:
    """What is written where, by simulated minute."""
    files, written, meter = driver.plan.files, driver.cluster.written, driver.meter
    content = files.study.read_bytes()
    return {
        "journal": {
            "MB": round(len(content) / 1e6, 2),
            "kB per simulated minute": round(len(content) / 1e3 / minutes, 2),
            "records per simulated minute": round(content.count(b"\n") / minutes, 1),
            "waits for the disk per simulated minute": round(driver.clock.syncs / minutes, 1),
        },
        "storage written by workers": {
            "checkpoints per simulated minute": round(written["checkpoints"] / minutes, 1),
            "kB of epoch lines per simulated minute": round(written["bytes of lines"] / 1e3 / minutes, 1),
        },
        "tables": {
            "times written": len(meter.calls["tables"]),
            "ms each": spread(meter.calls["tables"]),
            "MB at the end": round(sum(path.stat().st_size for path in files.root.glob("*.parquet")) / 1e6, 2),
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
