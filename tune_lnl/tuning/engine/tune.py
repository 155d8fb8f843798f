"""Ray Tune's two hooks, thin over :class:`tune_lnl.tuning.engine.session.Session`.

Why not Ray's own ``OptunaSearch`` with ``ASHAScheduler``: there the searcher never learns that a trial was stopped
early (it is stored as complete with the value it had), and a failed one stays running in the study for ever.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol

import ray
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from tune_lnl.files import is_disk_full
from tune_lnl.object_storage import StorageError
from tune_lnl.tuning.engine.messages import Job, WorkerReport
from tune_lnl.tuning.engine.session import Session
from tune_lnl.tuning.study.place import StudyLostError
from tune_lnl.tuning.study.study import Suggestion

logger = logging.getLogger(__name__)

NUMBER = "number"
JOB = "job"
LOOK_SECONDS = 1.0
"""Between looks at all that runs. Ray asks what to run in every round of its loop, hundreds of times a second where
hundreds run."""
NODES = "nodes"
"""Ids of the nodes of a cluster that may take the trial."""
NODE_LABEL = "ray.io/node-id"
NODE_DIED = "node has died"
"""In Ray's words for the end of an actor whose machine went down."""


class Nodes(Protocol):
    """The nodes that may take trials now."""

    def ids(self) -> str: ...


def is_loss_of_node(error: BaseException | None) -> bool:
    """Whether a machine went down or cannot be reached, and with it a worker that was well."""
    return isinstance(error, ray.exceptions.ActorUnavailableError) or NODE_DIED in str(error)


def share_on(share: Mapping[str, float]) -> Callable[[dict[str, Any]], tune.PlacementGroupFactory]:
    """A trial's resources by its config: its share, on one of the nodes that it names."""
    bundle = {name.upper(): value for name, value in share.items()}

    def request(config: dict[str, Any]) -> tune.PlacementGroupFactory:
        return tune.PlacementGroupFactory([bundle], bundle_label_selector=[selector(config[NODES])])

    return request


def selector(ids: str) -> dict[str, str]:
    """Ray's way to say that something runs on one of these nodes."""
    return {NODE_LABEL: f"in({ids})"}


@contextmanager
def _unwritable_study_ends_search(session: Session) -> Iterator[None]:
    """A full disk, or a database that is gone, ends the search in order; Ray would make a traceback of it."""
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


def _expect_no_worker_for(trial: Trial, tune_controller: Any) -> None:
    """Ray goes on expecting a worker for a trial that is stopped before it has begun. The next worker that becomes idle
    it would keep for that trial for ever, and with it the CPU or GPU that all others wait for (seen with Ray 2.60)."""
    controller = getattr(tune_controller, "_tune_controller", tune_controller)  # what it hands over is a wrapper
    if trial in controller._staged_trials:
        controller._unstage_trial_with_resources(trial)


class _NotWritten:
    """Ray writes its Tuner down, hooks included, for a restore that is never asked for: no study, whose connection may
    hold a password, goes there."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class StudySearcher(_NotWritten, Searcher):
    """Gives Ray the trials that the study asks for."""

    def __init__(self, session: Session, job_of: Callable[[Suggestion], Job], nodes: Nodes | None = None) -> None:
        super().__init__(metric=None, mode=None)
        self._session = session
        self._job_of = job_of
        self._nodes = nodes

    def suggest(self, trial_id: str) -> Any:
        if self._session.finished:
            return Searcher.FINISHED
        suggestion = None
        with _unwritable_study_ends_search(self._session):
            suggestion = self._session.next_trial()
        if suggestion is None:
            return None
        job = self._job_of(suggestion)
        if self._session.runs_alone(suggestion.number):
            job = replace(job, memory_fraction=None)  # it ran out of its share; no other job is running now
        # As text: Ray would take dots and lists inside a config for a search space of its own.
        place = {} if self._nodes is None else {NODES: self._nodes.ids()}
        return {NUMBER: suggestion.number, JOB: job.to_json(), **place}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing to learn here: the session has heard it from the worker itself."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the study is the state."""

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("a search is resumed from its study, not from Ray's state")


class StudyScheduler(_NotWritten, TrialScheduler):
    """Passes every report to the study and stops what the study's pruner stops."""

    _supports_buffered_results = False

    def __init__(self, session: Session, nodes: Nodes | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._session = session
        self._nodes = nodes
        self._waiting: list[Trial] = []
        self._next_look = 0.0

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        goes_on = False
        with _unwritable_study_ends_search(self._session):
            goes_on = self._session.heard(WorkerReport.from_result(result))
        return str(TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP)

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        went_down = self._nodes is not None and is_loss_of_node(trial.get_pickled_error())
        with _unwritable_study_ends_search(self._session):
            self._session.worker_died(trial.config[NUMBER], with_its_node=went_down)

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        self._waiting.append(trial)

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """The study knows since the last report."""

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        """Only trials that never started are removed; the end of the search puts them back."""

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        if time.monotonic() >= self._next_look:
            self._kill_stuck(tune_controller)
            self._withdraw_misplaced(tune_controller)
            self._next_look = time.monotonic() + LOOK_SECONDS
        self._waiting = [trial for trial in self._waiting if trial.status == Trial.PENDING]
        return self._waiting[0] if self._waiting else None

    def _kill_stuck(self, tune_controller: Any) -> None:
        """Ray asks for a trial to run in every round of its loop, which makes this the place to look around."""
        live = tune_controller.get_live_trials()
        self._session.starting(trial.config[NUMBER] for trial in live if trial.status == Trial.PENDING)
        stuck = set(self._session.stuck())
        for trial in live if stuck else ():
            if trial.config[NUMBER] in stuck and trial.temporary_state.ray_actor is not None:
                ray.kill(trial.temporary_state.ray_actor)

    def _withdraw_misplaced(self, tune_controller: Any) -> None:
        """A trial that waits for room on nodes that are not those of now is asked for anew: they may all be gone."""
        if self._nodes is None:
            return
        now = self._nodes.ids()
        for trial in list(tune_controller.get_live_trials()):
            if trial.status == Trial.PENDING and trial.config[NODES] != now:
                with _unwritable_study_ends_search(self._session):
                    self._session.withdraw(trial.config[NUMBER])
                tune_controller.stop_trial(trial)
                _expect_no_worker_for(trial, tune_controller)

    def debug_string(self) -> str:
        return "stopping rule: the study's pruner"
