"""A whole search: plan every study, then carry them out one after another, with the views that show it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Literal

from tune_lnl.bugs import write_traceback
from tune_lnl.config.yaml import dump_yaml
from tune_lnl.errors import InputError
from tune_lnl.files import is_disk_full
from tune_lnl.object_storage import StorageError
from tune_lnl.tuning.confirm.stage import ConfirmError, Trainer, confirm, race
from tune_lnl.tuning.engine.awake import awake
from tune_lnl.tuning.engine.joining import joined
from tune_lnl.tuning.engine.listeners import Checkpoints, StopFlag, Tables
from tune_lnl.tuning.engine.local import LocalRay
from tune_lnl.tuning.engine.messages import Job, StopReason
from tune_lnl.tuning.engine.node_probing import measure_on_nodes
from tune_lnl.tuning.engine.runner import Runner, carry_out, set_ray_environment, trial_job
from tune_lnl.tuning.engine.session import BUGS_TO_STOP, Session
from tune_lnl.tuning.engine.start import RayStartError, StartCutError
from tune_lnl.tuning.engine.temporary import clear_leftovers, place_for_ray
from tune_lnl.tuning.engine.tune import JobOf
from tune_lnl.tuning.monitor.console import Console
from tune_lnl.tuning.monitor.dashboards import about_run, study_dashboard
from tune_lnl.tuning.monitor.progress import Progress
from tune_lnl.tuning.monitor.state import SearchState
from tune_lnl.tuning.monitor.status import status_lines
from tune_lnl.tuning.monitor.table import table_shown
from tune_lnl.tuning.plan.checks import check_database, check_search, run_name
from tune_lnl.tuning.plan.options import SearchOptions
from tune_lnl.tuning.plan.plan import Plan, plan_study
from tune_lnl.tuning.plan.resume import require_same_search, total_trials
from tune_lnl.tuning.plan.values import ConfirmRequest
from tune_lnl.tuning.plan.warm_start import first_trials, related_runs
from tune_lnl.tuning.resources.divide import Machine
from tune_lnl.tuning.resources.measure import measure_sharing
from tune_lnl.tuning.runs.confirmation import Confirmation
from tune_lnl.tuning.runs.keeping import tidy, tidy_heldout
from tune_lnl.tuning.runs.lease import FolderLease, holding
from tune_lnl.tuning.runs.location import nearby
from tune_lnl.tuning.runs.run import Run
from tune_lnl.tuning.runs.settings import read_settings
from tune_lnl.tuning.study.password import password_hidden
from tune_lnl.tuning.study.place import StudyLostError
from tune_lnl.tuning.study.study import SearchStudy, Suggestion
from tune_lnl.tuning.study.trials import ENDED, best_trial

Outcome = Literal["done", "failed", "interrupted"]
EXIT_CODES: dict[Outcome, int] = {"done": 0, "failed": 1, "interrupted": 130}


def search(options: SearchOptions, console: Console) -> int:
    """Run a search; one study per condition.

    Returns:
        the exit code: 0 done, 1 it ran and failed, 130 interrupted.

    Raises:
        InputError: nothing was started and nothing written.
    """
    studies = check_search(options)  # a mistyped option is refused before a cluster is asked for anything
    if options.address is None:
        place_for_ray()
        here = Machine.here().for_device(options.device)
        plans = [plan_study(study, here, lambda question: measure_sharing(question, console.tell)) for study in studies]
        return _run_all([(plan, LocalRay(plan.resources.concurrent)) for plan in plans], console)
    set_ray_environment()
    try:
        with joined(options.address, run_name(options), console, options.time_budget) as cluster:
            machine = cluster.machine().for_device(options.device)
            plans = [
                plan_study(study, machine, lambda question: measure_on_nodes(question, machine.nodes, console.tell))
                for study in studies
            ]
            return _run_all([(plan, cluster.admit(plan)) for plan in plans], console)
    except RayStartError as error:
        console(f"stopped: {error}\nno trial was started; give the same command again")
        return EXIT_CODES["failed"]


def _run_all(plans: Sequence[tuple[Plan, Runner]], console: Console) -> int:
    codes = []
    for plan, runner in plans:
        outcome = run_plan(plan, plan.options.resume, console, runner)
        codes.append(EXIT_CODES[outcome])
        if outcome == "interrupted":
            return EXIT_CODES[outcome]
    return max(codes)


def run_plan(plan: Plan, resume: bool, console: Console, runner: Runner) -> Outcome:
    """Carry out one study.

    Args:
        resume: continue the study that exists.

    Raises:
        InputError: another driver runs it, the run is of other settings or data, or its study is damaged or in a
            database that cannot be written.
    """
    with awake.ticking(), _only_writer(plan, resume), holding(FolderLease(plan.files, plan.run, console.tell)):
        if resume and plan.files.settings.exists():
            # Read again by the only writer: another driver may have been at work since this was planned.
            stored = read_settings(plan.files.settings)
            require_same_search(stored, plan.settings())
            total = total_trials(plan.options.trials, stored, plan.place)
            options = replace(plan.options, command=stored["command"])
            plan = replace(plan, space=plan.space.with_trials(total), options=options)
        try:
            return _search_and_confirm(plan, resume, console, runner)
        except StorageError as error:
            console(
                f"stopped: {error}\nfiles not yet uploaded are kept in {plan.files.root}; when the storage answers "
                f"again, continue on this machine with:\n  {plan.resume_command()}"
            )
        except OSError as error:
            if is_disk_full(error):
                console(_disk_full(plan))
            elif not plan.files.settings.exists():
                console(
                    f"stopped: {plan.files.root} was deleted or renamed while the search ran; put it back, then:\n  "
                    f"{plan.resume_command()}"
                )
            else:
                _report_bug(error, plan, console)
                raise
        except StartCutError as error:
            console(f"{error}; continue with:\n  {plan.resume_command()}")
            return "done"
        except RayStartError as error:
            console(f"stopped: {error}\ncontinue with:\n  {plan.resume_command()}")
        except InputError:
            raise
        except StudyLostError as error:
            console(
                f"stopped: {error}\nthe study there is whole; once it can be written, continue with:\n  "
                f"{plan.resume_command()}"
            )
        except Exception as error:
            _report_bug(error, plan, console)
            raise
        return "failed"


def _report_bug(error: Exception, plan: Plan, console: Console) -> None:
    """Write the traceback to the log of the run, and print how to continue; the door prints the rest."""
    write_traceback(error, plan.files.driver_log)
    console(f"stopped by an unexpected error; ended trials are kept; continue with:\n  {plan.resume_command()}")


@contextmanager
def _only_writer(plan: Plan, resume: bool) -> Iterator[None]:
    """Hold a study in a database for this process, before the run has a folder: a refusal leaves nothing."""
    if plan.database is None:
        yield
        return
    plan.database.acquire()
    try:
        # Again: the database may have changed since the search was planned; from now on it cannot.
        check_database(plan.database, resume, plan.files)
        with password_hidden():
            yield
    finally:
        plan.database.release()


def _search_and_confirm(plan: Plan, resume: bool, console: Console, runner: Runner) -> Outcome:
    """Carry out a plan in the only process that writes to the run."""
    deadline = None if plan.options.time_budget is None else awake() + plan.options.time_budget
    if not resume:
        plan.files.discard_unbegun()
    plan.place.read_trials()  # a damaged study is refused before anything is written
    plan.files.write(plan.files.settings, dump_yaml(plan.settings()))
    clear_leftovers(plan.files)
    study = open_study(plan)
    progress = Progress(plan, study, console)
    progress.begin(resume)
    left = plan.space.budget.trials - study.count(*ENDED)
    outcome: Outcome = "done"
    if left > 0:
        outcome = _search(plan, study, left, progress, deadline, console, runner)
    tidy(plan.files, study.trials, study.mode)
    tidy_heldout(plan.files, study.trials, study.mode, plan.heldout_room)
    Tables(plan, study).write()
    plan.files.sync(plan.files.driver_log)
    again = plan.races or isinstance(plan.options.confirm, ConfirmRequest)
    if not again or outcome != "done" or study.count(*ENDED) < plan.space.budget.trials:
        progress.end(outcome)
        return outcome
    if not plan.races:
        progress.end(outcome)  # a confirmation prints its own summary
    run = Run(plan.files, plan.settings(), plan.space, study.trials)
    outcome = _train_again(plan, run, deadline, console, runner)
    Tables(plan, study).write()
    if plan.races:
        progress.end("done")  # how to continue has been said
    return outcome


def open_study(plan: Plan) -> SearchStudy:
    """Return the study of a plan, continued if it exists."""
    begin = SearchStudy.reopen if plan.place.exists() else SearchStudy.create
    return begin(
        plan.place,
        plan.space,
        plan.seed,
        first=lambda: first_trials(plan.warm_starts, plan.space, plan.files),
        related=lambda: related_runs(
            plan.warm_starts, plan.earlier, plan.portfolio.related if plan.portfolio else None, plan.space
        ),
    )


def _search(
    plan: Plan,
    study: SearchStudy,
    left: int,
    progress: Progress,
    deadline: float | None,
    console: Console,
    runner: Runner,
) -> Outcome:
    """Run the trials that are left."""
    state = SearchState(plan, study, deadline)
    session = Session(
        study,
        jobs=left,
        epochs=plan.space.epochs,
        concurrent=runner.room,
        deadline=deadline,
        listeners=[
            StopFlag(plan.files),
            state,
            progress,
            Checkpoints(plan.files, study, plan.heldout_room),
            Tables(plan, study),
        ],
    )

    @contextmanager
    def views() -> Iterator[None]:
        from tune_lnl.tuning.monitor.prometheus import MetricsExport  # Ray

        about = about_run(Run(plan.files, plan.settings(), plan.space, study.trials))
        dashboard = (
            study_dashboard(plan.files, console.tell, plan.database, about) if plan.options.dashboard else nullcontext()
        )
        state.begin(session.running)
        every = plan.options.status_every
        with dashboard, table_shown(plan, state, console), status_lines(state, plan.space.epochs, every, console):
            session.listeners.append(MetricsExport(plan, state))
            yield

    def job_of(suggestion: Suggestion) -> Job:
        return trial_job(plan, suggestion, runner.working_folder)

    carry_out(plan, session, job_of, runner, console, views())
    match session.stop_reason:
        case None:
            return "done" if best_trial(study.trials, study.mode) is not None else "failed"
        case "interrupted":
            return "interrupted"
        case "time budget":
            console(f"the time budget is used up; continue with:\n  {plan.resume_command()}")
            return "done"
        case "failing":
            where = nearby(plan.files.root / "trials")
            console(f"stopped: {BUGS_TO_STOP} trials in a row ended with a bug; tracebacks in {where}")
        case "device":
            console(
                "stopped: a GPU failed two trials in their first epoch (search.log names it); leave it out, by "
                f"CUDA_VISIBLE_DEVICES or --address, and continue with:\n  {plan.resume_command()}"
            )
        case "object storage away":
            plan.files.sync(plan.files.settings)  # raises, with the reason, if the driver cannot write there either
            where = nearby(plan.files.root)
            console(f"stopped: workers could not write to {where}; continue with:\n  {plan.resume_command()}")
        case "disk full":
            console(_disk_full(plan))
        case "study lost":
            pass  # the tables cannot be read either, and the error is reported there
        case "disk budget":
            console(
                f"stopped: the run uses more than its {plan.options.disk_budget / 1e9:.1f} GB; raise --disk-budget or "
                f"lower --concurrent, then:\n  {plan.resume_command()}"
            )
    return "failed"


def _disk_full(plan: Plan) -> str:
    return f"stopped: the disk of {plan.files.root} is full; make room, then:\n  {plan.resume_command()}"


def _train_again(plan: Plan, run: Run, deadline: float | None, console: Console, runner: Runner) -> Outcome:
    """Train the best configs of a finished search again: the race, or the confirmation that was asked for."""
    request = plan.options.confirm
    if run.best is None:
        console("no trial is complete, so there is nothing to train again")
        return "failed"

    def train(session: Session, job_of: JobOf) -> None:
        carry_out(plan, session, job_of, runner, console)

    trainer = Trainer(train, runner.room, runner.working_folder, deadline)
    found: Confirmation | StopReason | None
    try:
        if isinstance(request, ConfirmRequest):
            found = confirm(plan, request, run, console, trainer)
        else:
            found = race(plan, run, console, trainer)
    except ConfirmError as error:
        found, reason = "failing", f"stopped: {error}"
    else:
        if found is None:
            return "done"
        if isinstance(found, Confirmation):
            return "done" if found.winner is not None or found.is_race else "failed"
        reason = "the time budget is used up" if found == "time budget" else str(found)
    # The command of the run may ask for another confirmation, or for none.
    command = plan.resume_command()
    if isinstance(request, ConfirmRequest):
        command = re.sub(r" --confirm[ =]\S+", "", command) + f" --confirm {request}"
    console(f"{reason}; finished trainings are kept; continue with:\n  {command}")
    outcomes: dict[StopReason, Outcome] = {"interrupted": "interrupted", "time budget": "done"}
    return outcomes.get(found, "failed")
