"""The process that runs jobs, one after another: settings in, a report per epoch out."""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
from ray import tune

from tune_lnl.config.trial import build_config
from tune_lnl.object_storage import StorageError
from tune_lnl.training.accelerator import cap_memory, release_memory
from tune_lnl.training.failures import DEVICE, classify
from tune_lnl.training.loop import Surroundings, objective_so_far
from tune_lnl.training.registry import start_training
from tune_lnl.training.run import StopRequested, TrainingFiles, TrainingRun, stop_at
from tune_lnl.tuning.engine.messages import DeviceLostError, Job
from tune_lnl.tuning.engine.node_check import change_folder
from tune_lnl.tuning.engine.tensorboard import EventFile
from tune_lnl.tuning.engine.tune import JOB
from tune_lnl.tuning.runs.folder import RunFolder
from tune_lnl.wording import settings_text

logger = logging.getLogger(__name__)


class TrialWorker(tune.Trainable):
    """Ray's class API: ``setup`` once per process, ``reset_config`` per further trial, ``step`` per epoch."""

    def setup(self, config: dict[str, Any]) -> None:
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._run.close()
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        reply = self._run.step()
        if reply.get("failure") == DEVICE:
            # As an error, after which Ray ends the process: no other trial may get it.
            raise DeviceLostError.at(place_of_worker(), reply["message"])
        return reply

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Do nothing: a training writes its own checkpoints."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        raise NotImplementedError("trials continue from the run's own checkpoints")

    def cleanup(self) -> None:
        self._run.close()

    def _begin(self, config: dict[str, Any]) -> None:
        self._run = TrialRun(Job.from_json(config[JOB]))


def place_of_worker() -> str:
    """Return the id of the node that this worker is on, and its GPUs: ``NODE 0``."""
    context = ray.get_runtime_context()
    return " ".join([context.get_node_id(), *(str(each) for each in ray.get_gpu_ids())])


class TrialRun:
    """One job in this process. Failures become reports: only a dead process reaches Ray as an error."""

    def __init__(self, job: Job) -> None:
        run_dir = Path(job.run_dir)
        self._job = job
        self.files = RunFolder.for_worker(run_dir, job.store)
        # The flag exists on the driver's machine only. Where the run is in object storage, a job on another machine
        # ends after its epoch, or with its process if that takes too long: the epoch in progress is lost either way.
        self._check_stop = stop_at(RunFolder(run_dir).stop_flag)
        self._title = f"trial {job.number}" if job.replicate is None else f"replicate {job.replicate}"
        self._run: TrainingRun | None = None
        self._events: EventFile | None = None

    @property
    def _log(self) -> Path:
        job = self._job
        return self.files.log(job.number) if job.replicate is None else self.files.confirm / f"{job.replicate}.log"

    def close(self) -> None:
        """Release the files; another job begins in this process, or the process ends."""
        if self._run is not None:
            # Where the flag is on another machine the state is written: the driver deletes that of an ended trial.
            if self._job.store is None and not self._stop_requested():
                self._run.discard()
            self._epochs.close()
        if self._events is not None:
            self._events.close()
        self.files.close()
        # The networks and data of a job that is over would stay on the GPU until the next one has its own.
        self._run = None
        if self._job.device == "cuda":
            gc.collect()
            release_memory()

    def _stop_requested(self) -> bool:
        try:
            self._check_stop()
        except StopRequested:
            return True
        return False

    def step(self) -> dict[str, Any]:
        """Run one epoch.

        Returns:
            the fields of a :class:`tune_lnl.tuning.engine.messages.WorkerReport`.
        """
        job = self._job
        reply: dict[str, Any] = {"number": job.number, "attempt": job.attempt}
        try:
            if self._run is None:
                # From object storage: what earlier attempts left, on whatever machine they ran.
                if job.replicate is None:
                    self.files.fetch(f"trials/{job.number:03d}/*", f"checkpoints/{job.number:03d}.*.pt")
                else:
                    self.files.fetch(f"confirm/{job.replicate}.*")
            with _captured(self._log):
                try:
                    return reply | self._epoch()
                except StopRequested:
                    logger.info("asked to stop; the state after the last finished epoch is kept")
                    return reply | {"stopped": True}
                except Exception:
                    logger.exception("%s failed", self._title)
                    with contextlib.suppress(StorageError):  # the report names the first failure
                        self.files.sync(self._log, self.files.epochs(job.number))
                    raise
        except Exception as error:
            # Also where the log cannot be opened or closed: on a full disk.
            failure, message = classify(error)
            return reply | {"failure": failure, "message": message}

    def _epoch(self) -> dict[str, Any]:
        history: tuple[tuple[int, float], ...] = ()
        if self._run is None:
            self._run = run = self._start()
            self._epochs = run.epochs()
            if run.continued:
                # Sent again: the driver may have died before it recorded them.
                history = tuple((epoch, self._value(epoch + 1)) for epoch in range(len(run.reports)))
        run, job = self._run, self._job
        next(self._epochs, None)  # a finished job that is continued only reports
        if self._stop_requested():
            run.save()  # the driver takes this report and asks for no further epoch
        last, epoch = run.reports[-1], run.training.epoch - 1
        metric = run.training.config.objective.metric
        value = self._value(len(run.reports))
        reply = {
            "epoch": epoch,
            "value": value,
            "standard_error": last.get(f"{metric}_standard_error"),
            # Without test metrics: nothing that decides may see them. As text: Ray would keep statistics of each.
            "measures": json.dumps({name: v for name, v in last.items() if not name.startswith("test_")}),
            "history": history,
        }
        if job.replicate is not None and run.training.finished:
            reply["result"] = json.dumps({"fingerprints": run.training.fingerprints, "reports": run.reports})
        if self._events is not None:
            self._events.epoch(epoch, last, value)
            self.files.sync(*self.files.tensorboard(job.number).iterdir())
        return reply

    def _value(self, epochs: int) -> float:
        """Return the objective after that number of epochs; 0 for a training without a held-out part."""
        assert self._run is not None
        objective, reports = self._run.training.config.objective, self._run.reports[:epochs]
        if self._run.training.config.validation.fraction == 0:
            return 0.0
        return objective_so_far(objective.metric, objective.average_last, reports)

    def _start(self) -> TrainingRun:
        self._check_stop()
        job = self._job
        if job.cwd is not None:
            change_folder(job.cwd)
        started = time.perf_counter()
        config = build_config(dict(job.sections), self._title)
        surroundings = Surroundings(
            data_dir=None if job.data_dir is None else Path(job.data_dir),
            device=job.device,
            test_from=config.settings.epochs - config.objective.average_last if job.scores_test else None,
            between_batches=self._check_stop,
        )
        cap_memory(surroundings.device, job.memory_fraction)
        files = self._training_files()

        def to_storage() -> None:
            # The checkpoint last: it implies that the other files are there.
            kinds = (files.epochs, self._log, files.model, files.heldout, files.checkpoint)
            written = [path for path in kinds if path is not None]
            self.files.sync(*written)
            self.files.delete(*(path for path in files.earlier if path.exists()))

        run = TrainingRun(start_training(config, surroundings), files, on_saved=to_storage)
        epoch = run.training.epoch
        if job.tensorboard:
            self._events = EventFile(self.files.tensorboard(job.number), job.attempt, epoch, job.params)
        logger.info(
            "%s, attempt %d, from epoch %d, started in %.2f s: %s",
            *(self._title, job.attempt, epoch + 1, time.perf_counter() - started, settings_text(job.params)),
        )
        return run

    def _training_files(self) -> TrainingFiles:
        """Return the paths of a trial, or of a replicate, whose result is in its last report."""
        job, files = self._job, self.files
        if job.replicate is not None:
            attempts = [files.confirm / f"{job.replicate}.{attempt}.pt" for attempt in range(job.attempt, 0, -1)]
            first = files.confirm / f"{job.replicate}.pt"  # the name in version 0.1.0
            model = files.confirmed_model if job.scores_test else None
            return TrainingFiles(attempts[0], (*attempts[1:], first), model=model)
        after = job.checkpoint_after
        # Checkpoints of later attempts are not touched: this process may have outlived its driver.
        attempts = [files.checkpoint(job.number, attempt) for attempt in range(job.attempt, 0, -1)]
        columns = {"attempt": job.attempt}
        model, heldout = files.model(job.number), files.heldout(job.number)
        epochs = files.epochs(job.number)
        return TrainingFiles(attempts[0], tuple(attempts[1:]), epochs, columns, model, heldout, after)


@contextlib.contextmanager
def _captured(path: Path) -> Iterator[None]:
    """Send prints, warnings and logging of a job to its log file, and what libraries write past Python."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8", buffering=1) as file:
        handler = logging.StreamHandler(file)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        root = logging.getLogger()
        level = root.level
        root.addHandler(handler)
        root.setLevel(logging.INFO)
        try:
            with _descriptors_to(file.fileno()), contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
                yield
        finally:
            root.removeHandler(handler)
            root.setLevel(level)


@contextlib.contextmanager
def _descriptors_to(target: int) -> Iterator[None]:
    """Redirect the process's own stdout and stderr: a CUDA assertion or a crash report bypasses ``sys.stderr``."""
    sys.stdout.flush()
    sys.stderr.flush()
    before = [(descriptor, os.dup(descriptor)) for descriptor in (1, 2)]
    try:
        for descriptor, _ in before:
            os.dup2(target, descriptor)
        yield
    finally:
        for descriptor, saved in before:
            os.dup2(saved, descriptor)
            os.close(saved)
