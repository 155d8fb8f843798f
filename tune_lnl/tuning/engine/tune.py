"""Ray Tune's two hooks, thin over :class:`tune_lnl.tuning.engine.session.Session`.

Why not Ray's own ``OptunaSearch`` with ``ASHAScheduler``: there the searcher never learns that a trial was stopped
early (it is stored as complete with the value it had), and a failed one stays running in the study forever.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from tune_lnl.files import is_disk_full
from tune_lnl.object_storage import StorageError
from tune_lnl.tuning.engine.messages import Job, WorkerReport, device_loss
from tune_lnl.tuning.engine.ray_compat import NamedTasks, is_loss_of_node, kill_worker, last_error, withdraw
from tune_lnl.tuning.engine.session import Session
from tune_lnl.tuning.engine.signals import in_interactive_session
from tune_lnl.tuning.study.place import StudyLostError
from tune_lnl.tuning.study.study import Suggestion

logger = logging.getLogger(__name__)

# Keys of a Tune trial's config.
NUMBER = "number"
JOB = "job"
NODES = "nodes"
"""Ids of the nodes of a cluster that may take the job, separated by commas."""
NODE_LABEL = "ray.io/node-id"
LOOK_SECONDS = 1.0
"""Seconds between checks of all running jobs. Tune asks for a trial in every round of its loop, hundreds of times a
second if hundreds run."""

JobOf = Callable[[Suggestion], Job]
NodeIds = Callable[[], str | None]
"""Gives the ids of the nodes that may take jobs now, separated by commas; ``None``: there is one machine."""


def one_machine() -> str | None:
    """The :data:`NodeIds` of a Ray on this machine alone."""
    return None


def train(
    trainable: type[tune.Trainable],
    session: Session,
    job_of: JobOf,
    share: Mapping[str, float],
    nodes: NodeIds,
    folder: Path,
) -> None:
    """Train a session's jobs until it is finished. Ray runs already.

    Args:
        trainable: class of the workers.
        job_of: gives the job of a suggestion.
        share: CPUs and GPUs of each job, as ``cpu`` and ``gpu``.
        nodes: may change while the session runs.
        folder: for Tune's own files.
    """
    worker = tune.with_resources(trainable, dict(share) if nodes() is None else share_on(share))
    worker.__name__ = worker.__qualname__ = trainable.__name__  # Ray's pages would show with_resources.<locals>...
    tune.Tuner(
        worker,
        tune_config=tune.TuneConfig(
            search_alg=StudySearcher(session, job_of, nodes),
            scheduler=StudyScheduler(session, nodes),
            num_samples=-1,
            reuse_actors=True,
            trial_name_creator=lambda trial: Job.from_json(trial.config[JOB]).name,
            trial_dirname_creator=lambda trial: f"trial-{trial.trial_id}",
        ),
        run_config=tune.RunConfig(
            name="search",
            storage_path=str(folder),
            verbose=0,
            # In a notebook Tune would otherwise erase the lines that the cell has printed so far.
            progress_reporter=tune.CLIReporter() if in_interactive_session() else None,
            callbacks=[NamedTasks(lambda config: Job.from_json(config[JOB]).name)],
            # Workers write their own checkpoints; an empty request for one would cost a round trip per trial.
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    ).fit()


def share_on(share: Mapping[str, float]) -> Callable[[dict[str, Any]], tune.PlacementGroupFactory]:
    """Return a function that gives a trial's resources by its config: its share, on one of the nodes named there."""
    bundle = {name.upper(): value for name, value in share.items()}

    def request(config: dict[str, Any]) -> tune.PlacementGroupFactory:
        return tune.PlacementGroupFactory([bundle], bundle_label_selector=[{NODE_LABEL: f"in({config[NODES]})"}])

    return request


@contextmanager
def _unwritable_study_stops(session: Session) -> Iterator[None]:
    """Stop the session in order on a full disk or a lost database; Ray would print a traceback."""
    try:
        yield
    except StudyLostError:
        session.stop("study lost")
    except StorageError as error:
        logger.warning("%s", error)
        session.stop("object storage away")
    except OSError as error:
        if not is_disk_full(error):
            raise
        session.stop("disk full")


class _NotPickled:
    """Tune pickles its hooks for a restore that is never asked for. Their connection to the study may contain a
    password, and must not be written to disk."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class StudySearcher(_NotPickled, Searcher):
    """Gives Tune the jobs that the session starts."""

    def __init__(self, session: Session, job_of: JobOf, nodes: NodeIds = one_machine) -> None:
        super().__init__(metric=None, mode=None)
        self._session = session
        self._job_of = job_of
        self._nodes = nodes

    def suggest(self, trial_id: str) -> Any:
        if self._session.finished:
            return Searcher.FINISHED
        suggestion = None
        with _unwritable_study_stops(self._session):
            suggestion = self._session.next_job()
        if suggestion is None:
            return None
        job = self._job_of(suggestion)
        if self._session.runs_alone(suggestion.number):
            job = replace(job, memory_fraction=None)  # it ran out of its share; no other job is running now
        nodes = self._session.open_nodes(self._nodes())
        # As text: Tune would take dots and lists inside a config for a search space of its own.
        return {NUMBER: suggestion.number, JOB: job.to_json()} | ({} if nodes is None else {NODES: nodes})

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Do nothing: the session has heard it from the worker itself."""

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: the study is the state."""

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("a search is resumed from its study, not from Ray's state")


class StudyScheduler(_NotPickled, TrialScheduler):
    """Passes every report to the session and stops the trials that it ends."""

    def __init__(self, session: Session, nodes: NodeIds = one_machine) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._session = session
        self._nodes = nodes
        self._waiting: list[Trial] = []
        self._next_look = 0.0

    @property
    def supports_buffered_results(self) -> bool:
        """Return ``False``: workers would train on while reports wait, past the end of their job.

        Tune asks where ``TUNE_RESULT_BUFFER_LENGTH`` is set.
        """
        return False

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        goes_on = False
        with _unwritable_study_stops(self._session):
            goes_on = self._session.heard(WorkerReport.from_result(result))
        return str(TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP)

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        error = last_error(trial)
        lost = device_loss(error)
        if lost is not None:
            with _unwritable_study_stops(self._session):
                self._session.device_failed(trial.config[NUMBER], *lost)
            return
        with_its_node = self._nodes() is not None and is_loss_of_node(error)
        with _unwritable_study_stops(self._session):
            self._session.worker_died(trial.config[NUMBER], with_its_node)

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        self._waiting.append(trial)

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """Do nothing: the session knows since the last report."""

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        """Do nothing: only trials that never started are removed, and the end of the session puts them back."""

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        # Tune calls this in every round of its loop, which makes it the place for regular checks.
        if time.monotonic() >= self._next_look:
            self._kill_stuck(tune_controller)
            self._withdraw_misplaced(tune_controller)
            self._next_look = time.monotonic() + LOOK_SECONDS
        self._waiting = [trial for trial in self._waiting if trial.status == Trial.PENDING]
        return self._waiting[0] if self._waiting else None

    def _kill_stuck(self, tune_controller: Any) -> None:
        live = tune_controller.get_live_trials()
        self._session.starting(trial.config[NUMBER] for trial in live if trial.status == Trial.PENDING)
        stuck = set(self._session.stuck())
        for trial in live if stuck else ():
            if trial.config[NUMBER] in stuck:
                kill_worker(trial)

    def _withdraw_misplaced(self, tune_controller: Any) -> None:
        """Put back trials that wait for room on an outdated list of nodes, which may all be gone."""
        now = self._session.open_nodes(self._nodes())
        for trial in list(tune_controller.get_live_trials()) if now is not None else ():
            if trial.status == Trial.PENDING and trial.config[NODES] != now:
                with _unwritable_study_stops(self._session):
                    self._session.withdraw(trial.config[NUMBER])
                withdraw(tune_controller, trial)

    def debug_string(self) -> str:
        return "stopping rule: the study's pruner"
