"""Running a plan: the study, Ray, signals, and the files of the run."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Literal

from tune_lnl.config.yaml import dump_yaml
from tune_lnl.files import is_disk_full, replace_text
from tune_lnl.object_storage import StorageError
from tune_lnl.tuning.confirm.stage import ConfirmError, Stopper, confirm
from tune_lnl.tuning.engine.cluster import Members, Roll, Site
from tune_lnl.tuning.engine.health import Stoppable, Watchman, local_ray_alive
from tune_lnl.tuning.engine.messages import Job, StopReason, WorkerReport
from tune_lnl.tuning.engine.session import BUGS_TO_STOP, Session
from tune_lnl.tuning.monitor.console import Console
from tune_lnl.tuning.monitor.dashboards import LOOPBACK, ray_dashboard_line, study_dashboard
from tune_lnl.tuning.monitor.progress import Progress
from tune_lnl.tuning.monitor.prometheus_targets import discoverable
from tune_lnl.tuning.plan.checks import check_database
from tune_lnl.tuning.plan.options import ConfirmRequest
from tune_lnl.tuning.plan.plan import Plan
from tune_lnl.tuning.plan.resume import require_same_search, total_trials
from tune_lnl.tuning.plan.warm_start import first_trials
from tune_lnl.tuning.runs.best import write_best
from tune_lnl.tuning.runs.folder import RunFolder
from tune_lnl.tuning.runs.keeping import remove_half_written, tidy
from tune_lnl.tuning.runs.lease import FolderLease, holding
from tune_lnl.tuning.runs.location import location
from tune_lnl.tuning.runs.run import Run, read_settings
from tune_lnl.tuning.runs.snapshot import write_snapshot
from tune_lnl.tuning.runs.tables import write_tables
from tune_lnl.tuning.study.password import password_hidden
from tune_lnl.tuning.study.place import StudyLostError
from tune_lnl.tuning.study.study import FirstTrials, SearchStudy, Suggestion
from tune_lnl.tuning.study.trials import ENDED, TrialState, best_trial

if TYPE_CHECKING:
    import pyarrow as pa

    from tune_lnl.tuning.monitor.prometheus import MetricsExport

Outcome = Literal["done", "failed", "interrupted"]
RAY_FOLDER_PREFIX = "tune_lnl-"
TABLE_INTERVAL = 2.0
"""Seconds between rewrites of the tables while trials end."""
STOP_PATIENCE = 12.0
"""Seconds from the first signal until it counts as a second one; a stop is promised within 20."""

RAY_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # our own handler lets trials end at their next batch
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the study and the run's tables hold what Ray would write
    # The session decides how many run; by itself Tune would wait for each worker to start before it asks for the next.
    "TUNE_MAX_PENDING_TRIALS_PG": "100000",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",  # Ray's own experiment state is never read
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths (of a folder, a label file) mean the same in the workers as here
}


def set_ray_environment() -> None:
    """Before Ray is started or joined; what the user has set stays."""
    os.environ.update({key: os.environ.get(key, value) for key, value in RAY_ENVIRONMENT.items()})


def run_plan(plan: Plan, resume: bool, say: Callable[[str], None], site: Site | None = None) -> Outcome:
    """Carry out one study.

    Args:
        resume: continue the study that is there.
        say: prints a line for the user; a :class:`Console` does more with it.
        site: in the cluster that was joined; ``None``: on a Ray of its own.

    Raises:
        InputError: another driver runs it, the run is of other settings or data, or its study is damaged or in a
            database that cannot be written.
    """
    say = Console.of(say)
    with _only_writer(plan, resume), holding(FolderLease(plan.files, plan.run, say.tell)):
        if resume:
            plan = _agreeing(plan)
        try:
            return _run_alone(plan, resume, say, site)
        except StorageError as error:
            say(
                f"stopped: {error}\nwhat the storage lacks is kept in {plan.files.root}; when it answers again, "
                f"continue on this machine with:\n  {plan.resume_command()}"
            )
            return "failed"
        except OSError as error:
            if not is_disk_full(error):
                raise
            _say_disk_full(plan, say)
            return "failed"
        except StudyLostError as error:
            say(
                f"stopped: {error}\nwhat it holds is whole; once it can be written, continue with:\n  "
                f"{plan.resume_command()}"
            )
            return "failed"


def _run_alone(plan: Plan, resume: bool, say: Console, site: Site | None) -> Outcome:
    """:func:`run_plan`, in the only process that writes to the run."""
    deadline = None if plan.options.time_budget is None else time.time() + plan.options.time_budget
    plan.place.read_trials()  # a damaged study is refused before anything is written
    plan.files.write(plan.files.settings, dump_yaml(plan.settings()))
    _clear_leftovers(plan.files)
    study = _open_study(plan)
    progress = Progress(plan, study, say, deadline)
    progress.begin(resume)
    if study.count(TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL) >= plan.space.budget.trials:
        outcome: Outcome = "done"
    else:
        outcome = _search(plan, study, progress, say, site)
    tidy(plan.files, study.trials, study.mode)
    _TableWriter(plan, study).write()
    plan.files.sync(plan.files.driver_log)
    progress.end(outcome)
    if plan.options.confirm is not None and outcome == "done" and study.count(*ENDED) >= plan.space.budget.trials:
        run = Run(plan.files, plan.settings(), plan.space, study.trials)
        return _confirm(plan, plan.options.confirm, run, Stopper(plan.files, deadline), say, site)
    return outcome


def _confirm(
    plan: Plan, request: ConfirmRequest, run: Run, stopper: Stopper, say: Console, site: Site | None
) -> Outcome:
    if run.best is None:
        say("no trial is complete, so there is nothing to confirm")
        return "failed"
    set_ray_environment()

    @contextmanager
    def at_work(stopper: Stopper) -> Iterator[None]:
        folder = _new_ray_folder(plan.files)
        with (
            _stopped_by_signals(plan, stopper, say),
            _ray(plan, folder, say) if site is None else _on_cluster(plan, site, say),
            _watched(plan, stopper, say, site),
        ):
            yield

    found = None
    stopped = ""
    try:
        found = confirm(plan, request, run, stopper, at_work, say, None if site is None else site.members)
    except ConfirmError as error:
        stopped = f"stopped: {error}"
    except (KeyboardInterrupt, SystemExit):
        stopper.stop("interrupted")
    finally:
        _clear_leftovers(plan.files)
    if found is not None:
        return "done" if found.winner is not None else "failed"
    # The command that is kept may ask for another confirmation, or for none.
    command = re.sub(r" --confirm[ =]\S+", "", plan.resume_command()) + f" --confirm {request}"
    why = stopped or {"time budget": "the time budget is used up"}.get(str(stopper.stop_reason), stopper.stop_reason)
    say(f"{why}; what is done is kept, continue with:\n  {command}")
    outcomes: dict[StopReason | None, Outcome] = {"interrupted": "interrupted", "time budget": "done"}
    return outcomes.get(stopper.stop_reason, "failed")


@contextmanager
def _only_writer(plan: Plan, resume: bool) -> Iterator[None]:
    """Hold a study in a database for this process, before the run has a folder: what is refused leaves nothing."""
    if plan.database is None:
        yield
        return
    plan.database.acquire()
    try:
        # Once more: what was seen when this was planned may have changed until now, and no longer does.
        check_database(plan.database, resume, plan.files)
        with password_hidden():
            yield
    finally:
        plan.database.release()


def _agreeing(plan: Plan) -> Plan:
    """The plan with the run's total and its first command, after checking that it continues the same search."""
    if not plan.files.settings.exists():
        return plan
    # Read again by the only writer: another driver may have been at work since this was planned.
    stored = read_settings(plan.files.settings)
    require_same_search(stored, plan.settings())
    total = total_trials(plan.options.trials, stored, plan.place)
    options = replace(plan.options, command=stored["command"])
    return replace(plan, space=plan.space.with_trials(total), options=options)


def _open_study(plan: Plan) -> SearchStudy:
    begin = SearchStudy.reopen if plan.place.exists() else SearchStudy.create
    return begin(plan.place, plan.space, plan.seed, _first_trials(plan))


def _first_trials(plan: Plan) -> FirstTrials | None:
    warm_start = plan.warm_start
    return None if warm_start is None else lambda: first_trials(warm_start, plan.space, plan.files)


def _search(plan: Plan, study: SearchStudy, progress: Progress, say: Console, site: Site | None) -> Outcome:
    set_ray_environment()
    tables = _TableWriter(plan, study)
    exported: list[MetricsExport] = []

    def export() -> None:
        for metrics in exported:
            metrics.refresh(progress.board.view)

    def on_epoch(report: WorkerReport) -> None:
        progress.epoch(report)
        export()

    def on_end(number: int) -> None:
        progress.trial_ended(number)
        export()
        tidy(plan.files, study.trials, study.mode)
        tables.refresh()

    def ask_workers_to_stop() -> None:
        # On a full disk there may be no room for the flag; trials then end after their epoch.
        with contextlib.suppress(OSError):
            plan.files.stop_flag.touch()

    session = Session(
        study,
        trials=plan.space.budget.trials,
        epochs=plan.space.epochs,
        concurrent=plan.resources.concurrent if site is None else site.members.room,
        deadline=None if plan.options.time_budget is None else time.time() + plan.options.time_budget,
        on_end=on_end,
        on_stop=ask_workers_to_stop,
        on_epoch=on_epoch,
    )
    try:
        temporary = _new_ray_folder(plan.files)
        with (
            _stopped_by_signals(plan, session, say),
            _ray(plan, temporary, say) if site is None else _on_cluster(plan, site, say),
            _watched(plan, session, say, site),
            study_dashboard(plan.files, say.tell, plan.database) if plan.options.dashboard else nullcontext(),
            progress.showing(session.running),
        ):
            exported.append(_metrics_export(plan))
            _fit(plan, session, temporary, None if site is None else site.members)
    except (KeyboardInterrupt, SystemExit):
        # A signal while Ray was starting: it handles SIGTERM in its own way there.
        session.stop("interrupted")
    finally:
        _let_go(session, plan.files)
    return _outcome(plan, session, study, say)


def _let_go(session: Session, files: RunFolder) -> None:
    """Whatever runs waits again, and nothing is left that only this process needed."""
    try:
        session.put_back_running()
    except StudyLostError:
        # What still reads as running waits again when the search is resumed.
        session.stop("study lost")
    except OSError as error:
        if not is_disk_full(error):
            raise
        session.stop("disk full")
    finally:
        _clear_leftovers(files)


def _outcome(plan: Plan, session: Session, study: SearchStudy, say: Callable[[str], None]) -> Outcome:
    """How the search ended, saying so where it ended before its last trial."""
    match session.stop_reason:
        case None:
            return "done" if best_trial(study.trials, study.mode) is not None else "failed"
        case "interrupted":
            return "interrupted"
        case "time budget":
            say(f"the time budget is used up; continue with:\n  {plan.resume_command()}")
            return "done"
        case "failing":
            where = location(plan.files.root / "trials")
            say(f"stopped: {BUGS_TO_STOP} trials in a row ended with a bug; tracebacks in {where}")
        case "object storage away":
            where = location(plan.files.root)
            say(f"stopped: workers could not write to {where}; continue with:\n  {plan.resume_command()}")
        case "disk full":
            _say_disk_full(plan, say)
        case "study lost":
            pass  # said where the tables, too, find that they cannot be read
        case "disk budget":
            say(
                f"stopped: the run uses more than its {plan.options.disk_budget / 1e9:.1f} GB; raise --disk-budget or "
                f"lower --concurrent, then:\n  {plan.resume_command()}"
            )
    return "failed"


def _say_disk_full(plan: Plan, say: Callable[[str], None]) -> None:
    say(f"stopped: the disk of {plan.files.root} is full; make room, then:\n  {plan.resume_command()}")


def _new_ray_folder(files: RunFolder) -> Path:
    """A folder for Ray's temporary files; its name is on disk before it is, so that no crash can leave it for good."""
    folder = Path(tempfile.gettempdir()) / f"{RAY_FOLDER_PREFIX}{secrets.token_hex(4)}"
    with files.ray_folder.open("a", encoding="utf-8") as file:
        file.write(f"{folder}\n")
    folder.mkdir(mode=0o700)
    return folder


def _clear_leftovers(files: RunFolder) -> None:
    """What this process, or a killed one before it, needed only while it ran."""
    files.stop_flag.unlink(missing_ok=True)
    if files.ray_folder.exists():
        folders = [Path(line) for line in files.ray_folder.read_text(encoding="utf-8").splitlines()]
        remaining = [path for path in folders if path.name.startswith(RAY_FOLDER_PREFIX) and not _removed(path)]
        if remaining:
            replace_text(files.ray_folder, "".join(f"{path}\n" for path in remaining))
        else:
            files.ray_folder.unlink()
    remove_half_written(files)


def _removed(folder: Path) -> bool:
    """Delete a folder of Ray's, into which processes that are just ending may still write."""
    until = time.monotonic() + 3.0
    while folder.exists():
        shutil.rmtree(folder, ignore_errors=True)
        if time.monotonic() > until:
            return False
        time.sleep(0.1 if folder.exists() else 0.0)
    return True


@contextmanager
def _watched(plan: Plan, session: Stoppable, say: Console, site: Site | None) -> Iterator[None]:
    """Have somebody look after Ray and the disk while the search runs."""

    def on_ray_lost() -> None:
        interrupted = session.stop_reason == "interrupted"
        gone = "Ray's own processes are gone (killed?)"
        if site is not None:
            gone = f"the cluster at {site.cluster.address} is gone, or cannot be reached any more"
        lost = "interrupted" if interrupted else f"{gone}; nothing is lost"
        goodbye = f"{lost}; continue with:\n  {plan.resume_command()}"
        _leave_at_once(session, plan.files, 130 if interrupted else 1, say, goodbye)

    alive = local_ray_alive if site is None else site.cluster.alive
    watchman = Watchman(session, plan.files, plan.options.disk_budget, alive, on_ray_lost)
    watchman.start()
    try:
        yield
    finally:
        watchman.rest()


def _fit(plan: Plan, session: Session, temporary: Path, members: Members | None = None) -> None:
    from ray import tune

    from tune_lnl.tuning.engine.trial_names import NamedTasks, trial_name
    from tune_lnl.tuning.engine.tune import NUMBER, StudyScheduler, StudySearcher, share_on
    from tune_lnl.tuning.engine.worker import TrialWorker

    cwd = None if members is None else str(Path.cwd())
    share = {"cpu": plan.resources.cpus_per_trial, "gpu": plan.resources.gpus_per_trial}
    worker = tune.with_resources(TrialWorker, share if members is None else share_on(share))
    worker.__name__ = worker.__qualname__ = TrialWorker.__name__  # Ray's pages would call it with_resources.<locals>...
    tuner = tune.Tuner(
        worker,
        tune_config=tune.TuneConfig(
            search_alg=StudySearcher(session, lambda suggestion: trial_job(plan, suggestion, cwd), members),
            scheduler=StudyScheduler(session, members),
            num_samples=-1,
            reuse_actors=True,
            trial_name_creator=lambda trial: trial_name(trial.config[NUMBER]),
            trial_dirname_creator=lambda trial: f"trial-{trial.trial_id}",
        ),
        run_config=tune.RunConfig(
            name="search",
            storage_path=str(temporary),
            verbose=0,
            callbacks=[NamedTasks()],
            # The run has its own; a request for one, which says nothing, would stand between any two trials.
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    )
    tuner.fit()


def trial_job(plan: Plan, suggestion: Suggestion, cwd: str | None = None) -> Job:
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
        cwd=cwd,
    )


def _metrics_export(plan: Plan) -> MetricsExport:
    from tune_lnl.tuning.monitor.prometheus import MetricsExport

    return MetricsExport(plan)


@contextmanager
def _on_cluster(plan: Plan, site: Site, say: Console) -> Iterator[None]:
    """The cluster that was joined, with an eye on who joins and leaves it."""
    with _logged(plan.files):
        if plan.options.dashboard and site.cluster.dashboard:
            say.tell(ray_dashboard_line(site.cluster.dashboard))
        roll = Roll(site, say)
        roll.start()
        try:
            yield
        finally:
            roll.rest()


@contextmanager
def _logged(files: RunFolder) -> Iterator[None]:
    """What Ray and Optuna have to say goes to the run's log."""
    log = logging.FileHandler(files.driver_log)
    log.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    # Ray looks for tables of its own, which are switched off, and says at length that it found none.
    logging.getLogger("ray.tune.analysis.experiment_analysis").setLevel(logging.ERROR)
    with _logging_to(log, ("ray", "ray.tune", "optuna", "tune_lnl.tuning")):
        yield


@contextmanager
def _ray(plan: Plan, temporary: Path, say: Console) -> Iterator[None]:
    """A local Ray for this search alone, gone with it."""
    import ray

    on_sigterm = signal.getsignal(signal.SIGTERM)
    with _logged(plan.files):
        context = ray.init(
            address="local",  # whatever RAY_ADDRESS says: this search shares nobody's cluster
            num_cpus=plan.machine.cpus,
            num_gpus=plan.machine.gpus,
            # Not True: a dashboard that cannot start would then end the search.
            include_dashboard=None if plan.options.dashboard else False,
            dashboard_host=LOOPBACK,
            log_to_driver=False,
            logging_level=logging.WARNING,
            _temp_dir=str(temporary / "ray"),
        )
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)  # Ray has put its own in place
        if plan.options.dashboard:
            say.tell(ray_dashboard_line(context.dashboard_url))
        try:
            with discoverable(temporary / "ray") if plan.options.dashboard else nullcontext():
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
def _stopped_by_signals(plan: Plan, session: Stoppable, say: Console) -> Iterator[None]:
    """First SIGINT or SIGTERM: trials end at their next batch. Second, or when that takes too long: leave at once.

    A notebook or a Python prompt is never left: it holds the user's other work. There a second SIGINT gives up waiting.
    """

    def leave() -> None:
        goodbye = f"interrupted; continue with:\n  {plan.resume_command()}"
        _leave_at_once(session, plan.files, 130, say, goodbye)

    # A Ray that is starting on a busy machine, or ending, can be neither hurried nor relied upon.
    patience = threading.Timer(STOP_PATIENCE, leave)
    patience.daemon = True
    stays = in_interactive_session()
    asked = False

    def on_signal(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if stays and asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        if patience.is_alive():
            leave()
        asked = True
        if not stays or number != signal.SIGINT:
            patience.start()
        session.stop("interrupted")
        # In a thread: the interrupted main thread may be in the middle of printing, which cannot be entered twice.
        again = "give up waiting" if stays else "leave at once"
        message = f"stopping: running trials end at their next batch (again to {again})"
        threading.Thread(target=say, args=(message,)).start()

    if threading.current_thread() is not threading.main_thread():
        # Only the main thread may handle signals; elsewhere (a notebook's worker) the caller does.
        yield
        return
    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        patience.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)


def in_interactive_session() -> bool:
    """Whether this process is a notebook's kernel, or Python's or IPython's prompt."""
    get_ipython = getattr(sys.modules.get("IPython"), "get_ipython", None)
    return hasattr(sys, "ps1") or (get_ipython is not None and get_ipython() is not None)


def _leave_at_once(session: Stoppable, files: RunFolder, code: int, say: Console, goodbye: str) -> None:
    """End this process and its Ray now, with the study in order where that is possible within seconds."""

    import ray

    session.stop("interrupted")  # or the main thread would ask for the next trial as soon as one is put back
    _within(2.0, say.take_table_down)
    _within(2.0, lambda: say(goodbye))
    _within(2.0, session.put_back_running)
    _within(2.0, ray.shutdown)
    _within(3.0, lambda: _clear_leftovers(files))
    _within(1.0, lambda: files.heartbeat.unlink(missing_ok=True))
    os._exit(code)


def _within(seconds: float, action: Callable[[], None]) -> None:
    """Do something for at most so long: the interrupted main thread may hold a lock that it wants."""
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    thread.join(timeout=seconds)


class _TableWriter:
    """Keeps the run's tables and best config fresh without spending more than a little time on them."""

    def __init__(self, plan: Plan, study: SearchStudy) -> None:
        self._plan = plan
        self._study = study
        self._settings = plan.settings()
        self._ended: dict[int, pa.Table] = {}
        self._next = 0.0

    def refresh(self) -> None:
        """Write, unless that was done just now."""
        if time.monotonic() < self._next:
            return
        began = time.monotonic()
        self.write()
        self._next = time.monotonic() + max(TABLE_INTERVAL, 20 * (time.monotonic() - began))

    def write(self) -> None:
        files = self._plan.files
        files.fetch("trials/*/epochs.jsonl")
        run = Run(files, self._settings, self._plan.space, self._study.trials)
        write_snapshot(files, run.rows())
        write_tables(run, self._ended)
        write_best(run)
