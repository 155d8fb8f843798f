"""Carrying out ``--confirm KxS``: the replicates, then the winner on all the data, as Ray tasks that can be resumed.

Every training that is done is a file under ``confirm/``; one that was cut short goes on from its last epoch.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tune_lnl.config.trial import PROVENANCE, TrialConfig, build_config
from tune_lnl.config.yaml import dump_yaml
from tune_lnl.metrics.classification import mean_and_std
from tune_lnl.object_storage import StorageError
from tune_lnl.training.devices import cap_memory
from tune_lnl.training.failures import DIVERGED, WORKER_DIED, DivergedError, classify
from tune_lnl.training.loop import Surroundings, objective_so_far, spoken
from tune_lnl.training.registry import start_training
from tune_lnl.training.run import StopRequested, TrainingFiles, TrainingRun, stop_at
from tune_lnl.tuning.confirm.statistics import (
    final_config,
    rank_candidates,
    replicate_config,
    replicate_seeds,
)
from tune_lnl.tuning.engine.cluster import Members
from tune_lnl.tuning.engine.messages import StopReason
from tune_lnl.tuning.engine.node_check import change_folder
from tune_lnl.tuning.engine.session import STOP_SECONDS
from tune_lnl.tuning.monitor.console import Console
from tune_lnl.tuning.plan.options import ConfirmRequest
from tune_lnl.tuning.plan.plan import Plan
from tune_lnl.tuning.runs.best import provenance
from tune_lnl.tuning.runs.confirmation import Confirmation
from tune_lnl.tuning.runs.folder import RunFolder
from tune_lnl.tuning.runs.location import location
from tune_lnl.tuning.runs.rows import TrialRow
from tune_lnl.tuning.runs.run import Run

logger = logging.getLogger(__name__)

Result = Mapping[str, Any]
"""A finished training: ``config`` (flat), ``fingerprints``, ``reports``; or ``failure`` and ``message``."""

RETRIES = 3
"""How often a training goes on from its checkpoint after its process has died."""

LOOK_SECONDS = 0.5
"""How often the time budget is looked at while trainings run."""


class ConfirmError(RuntimeError):
    """A training failed for a reason that says nothing about its settings."""


@dataclass(frozen=True)
class Job:
    """One training of a confirmation."""

    name: str
    config: TrialConfig
    scores_test: bool

    def result(self, files: RunFolder) -> Path:
        return files.confirm / f"{self.name}.json"

    def checkpoint(self, files: RunFolder) -> Path:
        return files.confirm / f"{self.name}.pt"


class Stopper:
    """Who is told to stop a confirmation, by a signal, the clock or the disk."""

    def __init__(self, files: RunFolder, deadline: float | None, clock: Callable[[], float] = time.time) -> None:
        self._files = files
        self._deadline = deadline
        self._clock = clock
        self._since = math.inf
        self.stop_reason: StopReason | None = None

    def stop(self, reason: StopReason) -> None:
        """Trainings end at their next batch."""
        if self.stop_reason is None:
            self.stop_reason = reason
            self._since = self._clock()
            # On a full disk there may be no room for the flag; trainings then end with Ray.
            with contextlib.suppress(OSError):
                self._files.stop_flag.touch()

    def put_back_running(self) -> None:
        """Nothing to put back: what has no file yet is trained when the run is resumed."""

    @property
    def stopping(self) -> bool:
        if self._deadline is not None and self._clock() >= self._deadline:
            self.stop("time budget")
        return self.stop_reason is not None

    @property
    def waited_enough(self) -> bool:
        """A training that has not reached its next batch by now will not do so in time; it is killed with Ray."""
        return self.stopping and self._clock() - self._since > STOP_SECONDS


AtWork = Callable[[Stopper], AbstractContextManager[None]]
"""Gives a context in which Ray runs and signals reach the stopper."""


def confirm(
    plan: Plan,
    request: ConfirmRequest,
    run: Run,
    stopper: Stopper,
    at_work: AtWork,
    say: Callable[[str], None],
    members: Members | None = None,
) -> Confirmation | None:
    """Confirm the best trials of a finished search, or go on doing so.

    Writes ``confirm.yaml``, ``confirmed.yaml`` and ``confirm/``; says what comes out.

    Args:
        members: the nodes that may train, where Ray is a cluster's.

    Returns:
        ``None`` where it was stopped; ``stopper`` knows why.

    Raises:
        ConfirmError: a training could not be done.
    """
    rows = [row for row in run.rows() if row.state == "COMPLETE"][: request.top]
    if len(rows) < request.top:
        say(f"confirming {len(rows)} trials: no more are complete")
    replicates = [
        Job(_name(row, replicate), replicate_config(run.config(row), replicate), scores_test=False)
        for row in rows
        for replicate in range(request.replicates)
    ]
    with _Bench(plan, stopper, at_work, Console.of(say).tell, members) as bench:
        done = bench.train(replicates)
        if done is None:
            return None
        found = _compare(request, run, rows, done)
        _write(run.files, found)
        for line in found.lines():
            say(line)
        say(found.conclusion())
        if found.winner is None:
            return found
        row = next(row for row in rows if row.number == found.winner)
        job = Job(f"{row.number:03d}-all", final_config(run.config(row)), scores_test=True)
        _forget_other_winners(run.files, job)
        last = bench.train([job])
    if last is None:
        return None
    return _finish(run, row, job, last[job.name], found, say)


def _forget_other_winners(files: RunFolder, job: Job) -> None:
    """Only one model is kept, so only the training that gave it counts as done."""

    others = [path for path in files.listed("confirm") if "-all." in path.name and path.stem != job.name]
    files.delete(*others)


def _compare(request: ConfirmRequest, run: Run, rows: Sequence[TrialRow], done: Mapping[str, Result]) -> Confirmation:
    values = {
        row.number: [_objective(run, done[_name(row, replicate)]) for replicate in range(request.replicates)]
        for row in rows
    }
    config = run.config(rows[0])
    seeds = tuple(replicate_seeds(replicate_config(config, replicate)) for replicate in range(request.replicates))
    assert run.best is not None
    candidates = tuple(rank_candidates(values, run.mode))
    return Confirmation(str(request), run.metric, run.mode, seeds, candidates, run.best.number)


def _name(row: TrialRow, replicate: int) -> str:
    return f"{row.number:03d}-{replicate + 1}"


def _objective(run: Run, result: Result) -> float:
    if "failure" in result:
        return math.nan
    average_last = int(result["config"]["objective.average_last"])
    return objective_so_far(run.metric, average_last, result["reports"])


def _finish(
    run: Run, row: TrialRow, job: Job, result: Result, found: Confirmation, say: Callable[[str], None]
) -> Confirmation:
    if "failure" in result:
        raise ConfirmError(f"trial {row.number} diverged on all the data ({result['message']}); nothing is confirmed")
    last = job.config.objective.average_last
    mean, std = mean_and_std([report[job.config.settings.test_metrics[0]] for report in result["reports"][-last:]])
    found = replace(found, test={"mean": mean, "std": std, "epochs": last})
    _write(run.files, found)
    run.files.write(run.files.confirmed, _confirmed_yaml(run, row, job, result, found))
    say(
        f"trial {row.number} on all the data: test {_test_name(job)} {mean:.2f} ± {std:.2f} over the last {last} "
        "epochs, scored once"
    )
    say(f"  confirmed config: {location(run.files.confirmed)}, model: {location(run.files.confirmed_model)}")
    say(f"  best by the search alone stays trial {found.best_of_study}: {location(run.files.best)}")
    return found


def _test_name(job: Job) -> str:
    return spoken(job.config.settings.test_metrics[0])


def _write(files: RunFolder, found: Confirmation) -> None:
    files.write(files.confirmation, dump_yaml(found.to_dict()))


def _confirmed_yaml(run: Run, row: TrialRow, job: Job, result: Result, found: Confirmation) -> str:
    assert found.test is not None
    first = found.candidates[0]
    header = (
        f"# Trial {row.number} of run {run.name}, confirmed on {len(found.replicates)} fresh splits, seeds and noises: "
        f"{run.metric} {first.mean:.2f} ± {first.std:.2f}.\n"
        f"# On all the training data: test {_test_name(job)} {found.test['mean']:.2f}, mean of the last "
        f"{found.test['epochs']} epochs.\n"
        "# Train it: python -m tune_lnl.train THIS_FILE\n"
    )
    origin = provenance(run, row) | {
        "fingerprints": result["fingerprints"],
        "confirmed": {"mean": first.mean, "std": first.std, "replicates": len(found.replicates)},
        "test": dict(found.test),
    }
    return header + dump_yaml(job.config.sections() | {PROVENANCE: origin})


# ---- training


class _Bench:
    """Runs jobs, those that have no result yet, on a Ray that is started for the first of them."""

    def __init__(
        self, plan: Plan, stopper: Stopper, at_work: AtWork, tell: Callable[[str], None], members: Members | None
    ) -> None:
        self._plan = plan
        self._stopper = stopper
        self._at_work = at_work
        self._tell = tell
        self._members = members
        self._open: AbstractContextManager[None] | None = None

    def __enter__(self) -> _Bench:
        return self

    def __exit__(self, *raised: Any) -> None:
        if self._open is not None:
            self._open.__exit__(*raised)

    def train(self, jobs: Sequence[Job]) -> dict[str, Result] | None:
        """The result of every job by its name, or ``None`` where that was stopped."""
        files = self._plan.files
        done = {job.name: result for job in jobs if (result := read_result(files, job)) is not None}
        left = [job for job in jobs if job.name not in done]
        if not left:
            return done
        if self._open is None:
            self._tell(f"confirming: {len(left)} trainings to do, {len(done)} done")
            self._open = self._at_work(self._stopper)
            self._open.__enter__()
        for job, result in self._run(left):
            if result.get("stopped"):
                continue
            if "failure" in result and result["failure"] != DIVERGED:
                self._stopper.stop("failing")
                raise ConfirmError(f"confirming {job.name}: {result['failure']}: {result['message']}")
            done[job.name] = result
            self._tell(f"[{len(done):>3}/{len(jobs)}] {_describe(job, result)}")
        return done if len(done) == len(jobs) else None

    def _run(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Result]]:
        """As many at once as the search may run, so that a stop leaves none waiting inside Ray."""
        import ray

        from tune_lnl.tuning.engine.tune import selector

        resources = self._plan.resources
        cpus, gpus = resources.cpus_per_trial, resources.gpus_per_trial
        task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=RETRIES)(train_job)
        waiting, running = list(jobs), dict[Any, Job]()
        members = self._members
        while True:
            room = resources.concurrent if members is None else members.room()
            while waiting and len(running) < room and not self._stopper.stopping:
                job = waiting.pop(0)
                placed = task if members is None else task.options(label_selector=selector(members.ids()))
                running[placed.remote(json.dumps(self._payload(job)))] = job
            over = not running and (not waiting or self._stopper.stopping)
            if over or self._stopper.waited_enough:
                return
            if not running:
                time.sleep(LOOK_SECONDS)  # until a node joins
                continue
            ready, _ = ray.wait(list(running), timeout=LOOK_SECONDS)
            for reference in ready:
                job = running.pop(reference)
                try:
                    result = json.loads(ray.get(reference))
                except ray.exceptions.RayError as error:
                    result = {"failure": WORKER_DIED, "message": str(error).strip().splitlines()[0]}
                yield job, result

    def _payload(self, job: Job) -> dict[str, Any]:
        return {
            "name": job.name,
            "run_dir": str(self._plan.files.root),
            "store": self._plan.files.url,
            "sections": job.config.sections(),
            "scores_test": job.scores_test,
            "data_dir": None if self._plan.data_dir is None else str(self._plan.data_dir),
            "device": self._plan.resources.device,
            "cwd": None if self._members is None else str(Path.cwd()),
            # The last one trains alone, with nobody to protect.
            "memory_fraction": None if job.scores_test else self._plan.resources.memory_fraction,
        }


def train_job(payload: str) -> str:
    """Train one job in this process, JSON in and out, and leave its result in its file.

    A diverged training is a result: it says something about the settings. Any other failure is only told.
    """
    asked = json.loads(payload)
    if asked.get("cwd") is not None:
        change_folder(asked["cwd"])
    files = RunFolder.for_worker(Path(asked["run_dir"]), asked.get("store"))
    try:
        return _train_job(asked, files, RunFolder(Path(asked["run_dir"])).stop_flag)
    finally:
        files.close()


def _train_job(asked: Mapping[str, Any], files: RunFolder, stop_flag: Path) -> str:
    config = build_config(asked["sections"], f"confirmation {asked['name']}")
    job = Job(asked["name"], config, asked["scores_test"])
    check_stop = stop_at(stop_flag)

    surroundings = Surroundings(
        data_dir=None if asked["data_dir"] is None else Path(asked["data_dir"]),
        device=asked["device"],
        test_from=config.settings.epochs - config.objective.average_last if job.scores_test else None,
        between_batches=check_stop,
    )
    files.confirm.mkdir(exist_ok=True)
    result: dict[str, Any]
    try:
        check_stop()
        files.fetch(f"confirm/{job.name}.pt")
        cap_memory(asked["device"], asked["memory_fraction"])
        result = {"config": config.flat(), **_trained(job, files, surroundings)}
    except StopRequested:
        return json.dumps({"stopped": True})
    except DivergedError as error:
        result = {"config": config.flat(), "failure": DIVERGED, "message": str(error), "reports": []}
    except Exception as error:
        logger.exception("confirmation %s failed", job.name)
        failure, message = classify(error)
        return json.dumps({"failure": failure, "message": message})
    try:
        files.write(job.result(files), json.dumps(result) + "\n")
        files.delete(job.checkpoint(files))
    except StorageError as error:
        failure, message = classify(error)
        return json.dumps({"failure": failure, "message": message})
    return json.dumps(result)


def _trained(job: Job, files: RunFolder, surroundings: Surroundings) -> dict[str, Any]:
    """Train to the end, from the job's checkpoint if there is one."""
    training = start_training(job.config, surroundings)
    model = files.confirmed_model if job.scores_test else None
    path = job.checkpoint(files)
    run = TrainingRun(training, TrainingFiles(path, model=model), on_saved=lambda: files.sync(path))
    for _ in run.epochs():
        pass
    if model is not None:
        files.sync(model)
    return {"fingerprints": training.fingerprints, "reports": run.reports}


def read_result(files: RunFolder, job: Job) -> Result | None:
    """The result of a training that is done, of this very config; an older one of the same name does not count."""
    try:
        found: dict[str, Any] = json.loads(job.result(files).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    known = json.loads(json.dumps([job.config.flat(), job.config.flat_as_before()]))
    return found if found.get("config") in known else None


def _describe(job: Job, result: Result) -> str:
    trial, _, which = job.name.partition("-")
    where = "on all the data" if job.scores_test else f"replicate {which}"
    if "failure" in result:
        return f"trial {int(trial):>3} {where}: {result['message']}"
    if job.scores_test:
        return f"trial {int(trial):>3} {where}: trained"
    objective = job.config.objective
    value = objective_so_far(objective.metric, objective.average_last, result["reports"])
    return f"trial {int(trial):>3} {where}: {value:.2f}"
