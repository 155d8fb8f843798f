"""Where the jobs of a run are trained, and the one way in which a session is carried out there."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path

from tune_lnl.files import is_disk_full
from tune_lnl.steps import step
from tune_lnl.tuning.engine.health import Watchdog
from tune_lnl.tuning.engine.messages import Job, Output
from tune_lnl.tuning.engine.session import Session
from tune_lnl.tuning.engine.signals import in_interactive_session, leave_at_once, stopped_by_signals
from tune_lnl.tuning.engine.start import limited_start
from tune_lnl.tuning.engine.temporary import clear_leftovers, new_ray_folder
from tune_lnl.tuning.engine.tune import JobOf, train
from tune_lnl.tuning.engine.worker import TrialWorker
from tune_lnl.tuning.plan.plan import Plan
from tune_lnl.tuning.runs.folder import RunFolder
from tune_lnl.tuning.study.place import StudyLostError
from tune_lnl.tuning.study.study import Suggestion

RAY_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # our own handler lets jobs end at their next batch
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the study and the run's tables contain what Ray would write
    # The session decides how many run; by itself Tune would wait for each worker to start before it asks for the next.
    "TUNE_MAX_PENDING_TRIALS_PG": "100000",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",  # Ray's own experiment state is never read
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths (of a folder, a label file) mean the same in the workers as here
}


def set_ray_environment() -> None:
    """Set Ray's variables, before Ray is started or joined; those that the user has set stay."""
    os.environ.update({name: os.environ.get(name, value) for name, value in RAY_ENVIRONMENT.items()})


def trial_job(plan: Plan, suggestion: Suggestion, working_folder: str | None = None) -> Job:
    """Return the job of a trial."""
    base = plan.space.base
    return Job(
        suggestion.number,
        suggestion.attempt,
        str(plan.files.root),
        {**base, "fixed": {**base["fixed"], **suggestion.params}},
        suggestion.params,
        store=plan.files.url,
        data_dir=None if plan.data_dir is None else str(plan.data_dir),
        device=plan.resources.device,
        memory_fraction=plan.resources.memory_fraction,
        tensorboard=plan.options.tensorboard,
        cwd=working_folder,
        checkpoint_after=tuple(plan.rungs),
    )


class Runner(ABC):
    """A Ray that trains the jobs of one run: its own on this machine, or a cluster that was joined.

    Attributes:
        working_folder: where workers are to run; ``None``: they start in the driver's.
        lost: sentence for the user when Ray is gone.
    """

    working_folder: str | None = None
    lost: str

    @abstractmethod
    def room(self) -> int:
        """Return how many jobs can run at once now. Any thread may ask."""

    @abstractmethod
    def nodes(self) -> str | None:
        """Return the ids of the nodes that may take a job, separated by commas; ``None``: there is one machine."""

    @abstractmethod
    def alive(self) -> bool:
        """Return whether the Ray processes that the driver needs are running."""

    @abstractmethod
    def started(self, plan: Plan, folder: Path, output: Output) -> AbstractContextManager[None]:
        """Give a context in which Ray runs, with its temporary files in ``folder``."""

    def train(self, plan: Plan, session: Session, job_of: JobOf, folder: Path) -> None:
        """Train the jobs of a session until it is finished, while :meth:`started` lasts."""
        share = {"cpu": plan.resources.cpus_per_trial, "gpu": plan.resources.gpus_per_trial}
        train(TrialWorker, session, job_of, share, self.nodes, folder)


def carry_out(
    plan: Plan,
    session: Session,
    job_of: JobOf,
    runner: Runner,
    output: Output,
    view: AbstractContextManager[object] | None = None,
) -> None:
    """Train the jobs of a session until it is finished, stopped, interrupted or out of disk; it knows which.

    Args:
        job_of: gives the job of a suggestion.
        view: entered once Ray runs.

    Raises:
        RayStartError: Ray did not start; every job of the session waits again.
    """
    set_ray_environment()
    step("starting Ray ...")
    try:
        folder = new_ray_folder(plan.files)
        with ExitStack() as running:
            running.enter_context(stopped_by_signals(plan, session, output))

            def leave(code: int, message: str) -> None:
                if not in_interactive_session():
                    leave_at_once(plan, session, code, message, output)

            with limited_start(session.seconds_left(), leave, plan.resume_command()):
                running.enter_context(runner.started(plan, folder, output))
            running.enter_context(_watched(plan, session, runner, output))
            step("starting the workers ...")  # before a table, which then shows the same
            running.enter_context(view or nullcontext())
            runner.train(plan, session, job_of, folder)
    except (KeyboardInterrupt, SystemExit):
        # A signal while Ray was starting: it handles SIGTERM in its own way there.
        session.stop("interrupted")
    finally:
        try:
            session.put_back_running()
        except StudyLostError:
            # Jobs that still count as running there wait again once the search is resumed.
            session.stop("study lost")
        except OSError as error:
            if not is_disk_full(error):
                raise
            session.stop("disk full")
        finally:
            clear_leftovers(plan.files)


@contextmanager
def _watched(plan: Plan, session: Session, runner: Runner, output: Output) -> Iterator[None]:
    """Watch Ray and the disk while the context lasts."""

    def on_ray_lost() -> None:
        interrupted = session.stop_reason == "interrupted"
        reason = "interrupted" if interrupted else f"{runner.lost}; nothing is lost"
        message = f"{reason}; continue with:\n  {plan.resume_command()}"
        leave_at_once(plan, session, 130 if interrupted else 1, message, output)

    watchdog = Watchdog(session, plan.files, plan.options.disk_budget, runner.alive, on_ray_lost)
    watchdog.start()
    try:
        yield
    finally:
        watchdog.stop()


@contextmanager
def keeping_sigterm() -> Iterator[None]:
    """Keep this process's SIGTERM handler in force while the context lasts, in which ``ray.init`` installs its own.

    Ray's raises ``SystemExit``, which is lost where the main thread is in a destructor or forks: the search would go
    on. Ours is called as well, from a thread that learns of every signal.
    """
    handler = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = socket.socketpair()
    writer.setblocking(False)

    def heed() -> None:
        received = b""
        while 0 not in received:
            received = reader.recv(64)
            if signal.SIGTERM in received and callable(handler) and signal.getsignal(signal.SIGTERM) is not handler:
                handler(signal.SIGTERM, None)

    thread = threading.Thread(target=heed, name="sigterm", daemon=True)
    thread.start()
    before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        writer.setblocking(True)
        writer.send(b"\0")
        thread.join()
        signal.signal(signal.SIGTERM, handler)
        for end in (reader, writer):
            end.close()


class _LogFile(logging.FileHandler):
    """A log that drops what it cannot write (a full disk): Python would print a traceback for each message."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Print nothing."""


@contextmanager
def logging_to_run(files: RunFolder) -> Iterator[None]:
    """Send the log messages of Ray, Optuna and the engine to the run's log instead of the console."""
    handler = _LogFile(files.driver_log)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    # Ray looks for tables of its own, which are switched off, and logs at length that it found none.
    logging.getLogger("ray.tune.analysis.experiment_analysis").setLevel(logging.ERROR)
    loggers = [logging.getLogger(name) for name in ("ray", "ray.tune", "optuna", "tune_lnl.tuning")]
    before = [(logger.handlers[:], logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.handlers, logger.propagate = [handler], False
    try:
        yield
    finally:
        for logger, (handlers, propagate) in zip(loggers, before, strict=True):
            logger.handlers, logger.propagate = handlers, propagate
        handler.close()
