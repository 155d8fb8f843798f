"""The process that trains trials, one after another: settings in, a report per epoch out."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ray import tune

from tune_lnl.config.base import ObjectiveSettings
from tune_lnl.config.trial import build_config
from tune_lnl.object_storage import StorageError
from tune_lnl.training.checkpoint import DamagedCheckpointError, load_checkpoint, save_checkpoint, write_whole
from tune_lnl.training.devices import cap_memory
from tune_lnl.training.failures import DivergedError, classify
from tune_lnl.training.loop import Report, Surroundings, Training, objective_so_far
from tune_lnl.training.registry import start_training
from tune_lnl.training.seeds import append_report
from tune_lnl.tuning.engine.messages import Job
from tune_lnl.tuning.engine.node_check import change_folder
from tune_lnl.tuning.engine.tensorboard import EventFile
from tune_lnl.tuning.engine.tune import JOB
from tune_lnl.tuning.runs.folder import RunFolder

logger = logging.getLogger(__name__)


class StopRequested(Exception):  # noqa: N818 (a request, not an error)
    """The search is ending; leave now, the last epoch's checkpoint stays."""


class TrialWorker(tune.Trainable):
    """Ray's class API: ``setup`` once per process, ``reset_config`` per further trial, ``step`` per epoch."""

    def setup(self, config: dict[str, Any]) -> None:
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._run.close()
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        return self._run.step()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Ray keeps no checkpoints: the run's own are written after each epoch."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        raise NotImplementedError("trials continue from the run's own checkpoints")

    def cleanup(self) -> None:
        self._run.close()

    def _begin(self, config: dict[str, Any]) -> None:
        self._run = TrialRun(Job.from_json(config[JOB]))


class TrialRun:
    """One trial in this process. Failures become reports: only a dead process reaches Ray as an error."""

    def __init__(self, job: Job) -> None:
        self.number = job.number
        self.attempt = job.attempt
        run_dir = Path(job.run_dir)
        self.files = RunFolder.for_worker(run_dir, job.store)
        # On the driver's machine alone, where the run is in object storage: elsewhere a trial ends after its epoch, or
        # with its process when that takes too long. Either way only the epoch in progress is lost.
        self._stop_flag = RunFolder(run_dir).stop_flag
        self._job = job
        self._training: Training | None = None
        self._reports: list[Report] = []
        self._resend = False
        self._events: EventFile | None = None

    def close(self) -> None:
        """Another trial begins in this process, or it ends."""
        if self._events is not None:
            self._events.close()
        self.files.close()

    def step(self) -> dict[str, Any]:
        """Run one epoch and say how it went."""
        try:
            if self._training is None:
                self._fetch()
            with _captured(self.files.log(self.number)):
                reply = self._logged_epoch()
            return self._reply(reply)
        except Exception as error:
            # Not only of the epoch: on a full disk the log itself cannot be opened, or closed.
            failure, message = classify(error)
            return self._reply({"failure": failure, "message": message})

    def _logged_epoch(self) -> dict[str, Any]:
        try:
            return self._epoch()
        except StopRequested:
            logger.info("asked to stop; the checkpoint of the last finished epoch stays")
            return {"stopped": True}
        except Exception:
            logger.exception("trial %d failed", self.number)
            with contextlib.suppress(StorageError):  # what is told is why the trial failed
                self.files.sync(self.files.log(self.number), self.files.epochs(self.number))
            raise

    def _reply(self, content: dict[str, Any]) -> dict[str, Any]:
        return {"number": self.number, "attempt": self.attempt, **content}

    def _epoch(self) -> dict[str, Any]:
        if self._training is None:
            self._training = self._start()
        training = self._training
        history: tuple[tuple[int, float], ...] = ()
        if self._resend:
            history, self._resend = self._history(training.config.objective), False
        if not training.finished:
            report = training.run_epoch()
            self._reports.append(report)
            self._keep(training, report)
        told = self._objective_report(training)
        if self._events is not None:
            self._events.epoch(told["epoch"], self._reports[-1], told["value"])
            self.files.sync(*self.files.tensorboard(self.number).iterdir())
        return told | {"history": history}

    def _start(self) -> Training:
        self._check_stop()
        job = self._job
        if job.cwd is not None:
            change_folder(job.cwd)
        started = time.perf_counter()
        config = build_config(dict(job.sections), f"trial {self.number}")
        surroundings = Surroundings(
            data_dir=None if job.data_dir is None else Path(job.data_dir),
            device=job.device,
            test_from=config.settings.epochs - config.objective.average_last,
            between_batches=self._check_stop,
        )
        cap_memory(surroundings.device, job.memory_fraction)
        training = start_training(config, surroundings)
        end_torn_line(self.files.epochs(self.number))
        self._continue(training)
        if job.tensorboard:
            folder = self.files.tensorboard(self.number)
            self._events = EventFile(folder, self.attempt, training.epoch, job.params)
        logger.info(
            "trial %d, attempt %d, from epoch %d, started in %.2f s: %s",
            self.number,
            self.attempt,
            training.epoch,
            time.perf_counter() - started,
            job.params,
        )
        return training

    def _fetch(self) -> None:
        """Bring what earlier attempts have left, on whatever machine they ran."""
        number = f"{self.number:03d}"
        self.files.fetch(f"trials/{number}/*", f"checkpoints/{number}.*.pt")

    def _continue(self, training: Training) -> None:
        """Go on from the newest state that an earlier attempt has left whole."""
        for path in self.files.checkpoints_of(self.number):
            try:
                self._reports = load_checkpoint(path, training)
            except DamagedCheckpointError as error:
                logger.warning("%s", error)
                continue
            self._resend = True
            return

    def _keep(self, training: Training, report: Report) -> None:
        """Put the epoch on disk before anybody hears of it."""
        append_report(self.files.epochs(self.number), {"attempt": self.attempt, **report})
        logger.info("%s", " ".join(f"{name}={value:.6g}" for name, value in report.items()))
        reason = training.diverged(report)
        if reason is not None:
            raise DivergedError(f"{reason} at epoch {training.epoch - 1}")
        if training.finished:
            # Before the checkpoint, which says that nothing is left to do.
            write_whole(self.files.model(self.number), training.model_file())
        own = self.files.checkpoint(self.number, self.attempt)
        save_checkpoint(own, training, self._reports)
        # The checkpoint last, which says that the rest is there.
        self.files.sync(*(at(self.number) for at in (self.files.epochs, self.files.log, self.files.model)), own)
        # Only earlier ones: this process may itself be the late writer.
        earlier = [self.files.checkpoint(self.number, attempt) for attempt in range(1, self.attempt)]
        self.files.delete(*(path for path in earlier if path.exists()))

    def _objective_report(self, training: Training) -> dict[str, Any]:
        objective = training.config.objective
        last = self._reports[-1]
        return {
            "epoch": training.epoch - 1,
            "value": objective_so_far(objective.metric, objective.average_last, self._reports),
            "standard_error": last.get(f"{objective.metric}_standard_error"),
            # Without the test metrics: nothing that decides may see them. As text: Ray would keep statistics of each.
            "measures": json.dumps({name: v for name, v in last.items() if not name.startswith("test_")}),
        }

    def _history(self, objective: ObjectiveSettings) -> tuple[tuple[int, float], ...]:
        return tuple(
            (epoch, objective_so_far(objective.metric, objective.average_last, self._reports[: epoch + 1]))
            for epoch in range(len(self._reports))
        )

    def _check_stop(self) -> None:
        if self.files.stop_flag.exists():
            raise StopRequested


def end_torn_line(path: Path) -> None:
    """Keep what is appended next off a line that a killed process left half written."""
    if path.exists() and not path.read_bytes().endswith(b"\n"):
        with path.open("a", encoding="utf-8") as file:
            file.write("\n")


@contextlib.contextmanager
def _captured(path: Path) -> Iterator[None]:
    """Send prints, warnings and logging of the trial to its log file, and what libraries write past Python."""
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
    """Point the process's own stdout and stderr there: a CUDA assertion or a crash report knows no ``sys.stderr``."""
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
