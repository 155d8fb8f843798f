"""Running a plan: the study, Ray, signals, and the files of the run."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from filelock import FileLock, Timeout
from optuna.trial import TrialState

from tune_lnl.errors import InputError
from tune_lnl.trainables.config_file import dump_yaml, read_mapping
from tune_lnl.tuning.files import RunFiles
from tune_lnl.tuning.keeping import remove_half_written, tidy
from tune_lnl.tuning.planning import Plan
from tune_lnl.tuning.progress import Progress
from tune_lnl.tuning.results import Run, replace_text, write_best, write_tables
from tune_lnl.tuning.session import BUGS_TO_STOP, Session
from tune_lnl.tuning.study import SearchStudy
from tune_lnl.tuning.watching import Watchman, local_ray_alive

Outcome = Literal["done", "failed", "interrupted"]
RAY_FOLDER_PREFIX = "tune_lnl-"
TABLE_INTERVAL = 2.0
"""Seconds between rewrites of the tables while trials end."""

RAY_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # our own handler lets trials end at their next batch
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the study and the run's tables hold what Ray would write
    "TUNE_MAX_PENDING_TRIALS_PG": "1",  # the session decides how many run
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",  # Ray's own experiment state is never read
    "RAY_AIR_NEW_OUTPUT": "0",
}


def run_plan(plan: Plan, resume: bool, more_trials: int, say: Callable[[str], None]) -> Outcome:
    """Carry out one study.

    Args:
        resume: continue the study that is there.
        more_trials: with ``resume``, trials to add to the run's total.
        say: prints a line for the user.

    Raises:
        InputError: another driver runs it, or the run is of other settings or data.
    """
    with _only_driver(plan.files, plan.run):
        if resume:
            plan = _agreeing(plan, more_trials)
        replace_text(plan.files.settings, dump_yaml(plan.settings()))
        _clear_leftovers(plan.files)
        study = _open_study(plan)
        progress = Progress(plan, study, say)
        progress.begin(resume)
        if study.count(TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL) >= plan.space.budget.trials:
            outcome: Outcome = "done"
        else:
            outcome = _search(plan, study, progress, say)
        tidy(plan.files, study.trials, study.mode)
        _TableWriter(plan, study).write()
        progress.end(outcome)
        return outcome


@contextmanager
def _only_driver(files: RunFiles, run: str) -> Iterator[None]:
    """Hold the run for this process; two drivers would write one study."""
    files.root.mkdir(parents=True, exist_ok=True)
    lock = FileLock(files.lock)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(
            f"run {run!r} is being run by another process; wait for it, stop it, or give another --name"
        ) from None
    try:
        yield
    finally:
        lock.release()


def _agreeing(plan: Plan, more_trials: int) -> Plan:
    """The plan with the run's total, after checking that it continues the same search."""
    if not plan.files.settings.exists():
        return plan
    stored = read_mapping(plan.files.settings)
    own = plan.settings()
    total = max(stored["space"]["budget"]["trials"] + more_trials, 0 if more_trials else plan.space.budget.trials)
    for place, before, now in _differences(stored, own):
        raise InputError(
            f"--resume: this run was started with {place} = {before!r}, now it is {now!r}; "
            "give the same flags and data, or another --name"
        )
    budget = plan.space.budget.model_copy(update={"trials": total})
    return replace(plan, space=replace(plan.space, budget=budget), command=stored["command"])


def _differences(stored: dict[str, Any], own: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """(what, stored, now) for whatever makes it another search; the number of trials may grow."""
    for key in ("space_name", "condition", "seed", "fingerprints"):
        yield from _unequal(key, stored.get(key), own[key])
    before, now = ({**side["space"], "budget": {**side["space"]["budget"], "trials": None}} for side in (stored, own))
    yield from _unequal("", before, now)


def _unequal(place: str, before: Any, now: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in dict.fromkeys([*before, *now]):
            yield from _unequal(f"{place}.{key}" if place else str(key), before.get(key), now.get(key))
    elif before != now:
        yield place, before, now


def _open_study(plan: Plan) -> SearchStudy:
    if plan.files.study.exists() and plan.files.study.stat().st_size:
        return SearchStudy.reopen(plan.files.study, plan.space, plan.seed)
    return SearchStudy.create(plan.files.study, plan.space, plan.seed)


def _search(plan: Plan, study: SearchStudy, progress: Progress, say: Callable[[str], None]) -> Outcome:
    os.environ.update({key: os.environ.get(key, value) for key, value in RAY_ENVIRONMENT.items()})
    tables = _TableWriter(plan, study)

    def on_end(number: int) -> None:
        progress.trial_ended(number)
        tidy(plan.files, study.trials, study.mode)
        tables.refresh()

    session = Session(
        study,
        trials=plan.space.budget.trials,
        epochs=plan.space.epochs,
        concurrent=plan.resources.concurrent,
        deadline=None if plan.time_budget is None else time.time() + plan.time_budget,
        on_end=on_end,
        on_stop=plan.files.stop_flag.touch,
    )
    temporary = Path(tempfile.mkdtemp(prefix=RAY_FOLDER_PREFIX))
    plan.files.ray_folder.write_text(str(temporary))
    try:
        with (
            _ray(plan, temporary, say),
            _watched(plan, session, say),
            _stopped_by_signals(session, say),
        ):
            _fit(plan, session, temporary)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        session.stop("disk full")
    finally:
        session.put_back_running()
        _clear_leftovers(plan.files)
    return _outcome(plan, session, study, say)


def _outcome(plan: Plan, session: Session, study: SearchStudy, say: Callable[[str], None]) -> Outcome:
    """How the search ended, saying so where it ended before its last trial."""
    match session.stop_reason:
        case None:
            return "done" if study.count(TrialState.COMPLETE) else "failed"
        case "interrupted":
            return "interrupted"
        case "time budget":
            say(f"the time budget is used up; continue with:\n  {plan.resume_command()}")
            return "done"
        case "failing":
            say(f"stopped: {BUGS_TO_STOP} trials in a row ended with a bug; tracebacks in {plan.files.root / 'trials'}")
        case "disk full":
            say(f"stopped: the disk of {plan.files.root} is full; make room, then:\n  {plan.resume_command()}")
        case "disk budget":
            say(
                f"stopped: the run uses more than its {plan.disk_budget / 1e9:.1f} GB; raise --disk-budget or lower "
                f"--concurrent, then:\n  {plan.resume_command()}"
            )
    return "failed"


def _clear_leftovers(files: RunFiles) -> None:
    """What this process, or a killed one before it, needed only while it ran."""
    files.stop_flag.unlink(missing_ok=True)
    if files.ray_folder.exists():
        folder = Path(files.ray_folder.read_text())
        if folder.name.startswith(RAY_FOLDER_PREFIX):
            shutil.rmtree(folder, ignore_errors=True)
        files.ray_folder.unlink()
    remove_half_written(files)


@contextmanager
def _watched(plan: Plan, session: Session, say: Callable[[str], None]) -> Iterator[None]:
    """Have somebody look after Ray and the disk while the search runs."""

    def on_ray_lost() -> None:
        say(f"Ray's own processes are gone (killed?); nothing is lost, continue with:\n  {plan.resume_command()}")
        os._exit(1)

    watchman = Watchman(session, plan.files, plan.disk_budget, local_ray_alive, on_ray_lost)
    watchman.start()
    try:
        yield
    finally:
        watchman.rest()


def _fit(plan: Plan, session: Session, temporary: Path) -> None:
    from ray import tune

    from tune_lnl.tuning.ray_bridge import NUMBER, StudyScheduler, StudySearcher
    from tune_lnl.tuning.worker import TrialWorker

    payload = {
        "run_dir": str(plan.files.root),
        "base": plan.space.base,
        "data_dir": None if plan.data_dir is None else str(plan.data_dir),
        "device": plan.resources.device,
    }
    share = {"cpu": plan.resources.cpus_per_trial, "gpu": plan.resources.gpus_per_trial}
    tuner = tune.Tuner(
        tune.with_resources(TrialWorker, share),
        tune_config=tune.TuneConfig(
            search_alg=StudySearcher(session, payload),
            scheduler=StudyScheduler(session),
            num_samples=-1,
            reuse_actors=True,
            trial_name_creator=lambda trial: f"trial-{trial.config[NUMBER]:03d}",
            trial_dirname_creator=lambda trial: f"trial-{trial.trial_id}",
        ),
        run_config=tune.RunConfig(name="search", storage_path=str(temporary), verbose=0),
    )
    tuner.fit()


@contextmanager
def _ray(plan: Plan, temporary: Path, say: Callable[[str], None]) -> Iterator[None]:
    """A local Ray for this search alone, gone with it."""
    import ray

    log = logging.FileHandler(plan.files.driver_log)
    log.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    names = ("ray", "ray.tune", "optuna")
    # Ray looks for tables of its own, which are switched off, and says at length that it found none.
    logging.getLogger("ray.tune.analysis.experiment_analysis").setLevel(logging.ERROR)
    with _logging_to(log, names):
        context = ray.init(
            num_cpus=plan.machine.cpus,
            num_gpus=plan.machine.gpus,
            include_dashboard=plan.dashboard,
            dashboard_host="127.0.0.1",
            log_to_driver=False,
            logging_level=logging.WARNING,
            _temp_dir=str(temporary / "ray"),
        )
        if plan.dashboard and context.dashboard_url:
            say(f"  Ray dashboard: http://{context.dashboard_url} (sign in with the output of: ray get-auth-token)")
        try:
            yield
        finally:
            ray.shutdown()


@contextmanager
def _logging_to(handler: logging.Handler, names: Sequence[str]) -> Iterator[None]:
    """Send these loggers to the run's log instead of the console."""
    loggers = [logging.getLogger(name) for name in names]
    before = [(logger.handlers[:], logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.handlers, logger.propagate = [handler], False
    try:
        yield
    finally:
        for logger, (handlers, propagate) in zip(loggers, before, strict=True):
            logger.handlers, logger.propagate = handlers, propagate
        handler.close()


@contextmanager
def _stopped_by_signals(session: Session, say: Callable[[str], None]) -> Iterator[None]:
    """First SIGINT or SIGTERM: trials end at their next batch. Second: leave at once."""

    def on_signal(number: int, frame: FrameType | None) -> None:
        if session.stop_reason == "interrupted":
            _leave_at_once()
        say("stopping: running trials end at their next batch (again to leave at once)")
        session.stop("interrupted")

    if threading.current_thread() is not threading.main_thread():
        # Only the main thread may handle signals; elsewhere (a notebook's worker) the caller does.
        yield
        return
    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave_at_once() -> None:
    import ray

    # In a thread and with a limit: the interrupted main thread may hold a lock that the shutdown wants.
    ending = threading.Thread(target=ray.shutdown, daemon=True)
    ending.start()
    ending.join(timeout=5)
    os._exit(130)


class _TableWriter:
    """Keeps the run's tables and best config fresh without spending more than a little time on them."""

    def __init__(self, plan: Plan, study: SearchStudy) -> None:
        self._plan = plan
        self._study = study
        self._settings = plan.settings()
        self._next = 0.0

    def refresh(self) -> None:
        """Write, unless that was done just now."""
        if time.monotonic() < self._next:
            return
        began = time.monotonic()
        self.write()
        self._next = time.monotonic() + max(TABLE_INTERVAL, 20 * (time.monotonic() - began))

    def write(self) -> None:
        run = Run(self._plan.files, self._settings, self._plan.space, self._study.trials)
        write_tables(run)
        write_best(run)
