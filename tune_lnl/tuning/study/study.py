"""The Optuna study: the only record of what was tried, how each trial went epoch by epoch, and how it ended.

Nothing about the search is kept anywhere else. Ray runs the trials that :meth:`SearchStudy.ask` gives, their reports go
through :meth:`SearchStudy.report`, and every view is built from the study.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from tune_lnl.errors import InputError
from tune_lnl.tuning.space.ranges import Choice, Int, LogUniform, Parameter, Uniform
from tune_lnl.tuning.space.space import SearchSpace
from tune_lnl.tuning.study.journal import JournalFile
from tune_lnl.tuning.study.place import StudyPlace
from tune_lnl.tuning.study.pruners import LEVELS_OF_0_1_0, pruner_of, rungs_of
from tune_lnl.tuning.study.related import RelatedRun
from tune_lnl.tuning.study.samplers import experimental_allowed, make_sampler
from tune_lnl.tuning.study.trials import (
    ATTEMPTS,
    ENDED,
    FAILURE,
    FINISHED,
    FIRST_TRIALS,
    MESSAGE,
    RELATED,
    RUN_ID,
    RUNGS,
    STANDARD_ERROR,
    STARTED,
    FrozenTrial,
    TrialState,
    best_trial,
    is_own,
)

FirstTrials = Callable[[], Sequence[FrozenTrial | Mapping[str, Any]]]
"""Gives the trials that stand before any suggestion: settings to try, or a trial that another run has made."""


@dataclass(frozen=True)
class Suggestion:
    """A trial to run."""

    number: int
    params: dict[str, Any]
    attempt: int


def distribution(parameter: Parameter) -> BaseDistribution:
    """Return the Optuna form of a range."""
    match parameter:
        case Uniform():
            return FloatDistribution(parameter.low, parameter.high, step=parameter.step)
        case LogUniform():
            return FloatDistribution(parameter.low, parameter.high, log=True)
        case Int():
            return IntDistribution(parameter.low, parameter.extremes()[-1], log=parameter.log, step=parameter.step)
        case Choice():
            return CategoricalDistribution(parameter.choices)


def distributions(space: SearchSpace) -> dict[str, BaseDistribution]:
    """Return the Optuna form of the ranges of a space."""
    return {name: distribution(parameter) for name, parameter in space.parameters.items()}


class SearchStudy:
    """Asking and telling, wherever the study is kept."""

    def __init__(
        self, study: optuna.Study, storage: optuna.storages.BaseStorage, space: SearchSpace, place: StudyPlace
    ):
        self._study = study
        self._storage = storage
        self._study_id = storage.get_study_id_from_name(place.name)
        self.place = place
        self._distributions = distributions(space)
        self._published = 0 if space.start else None
        self._live: dict[int, optuna.Trial] = {}
        # Counted once and kept up to date: going through all trials at every trial's end would cost more and more.
        trials = self.trials
        self._best = best_trial(trials, self.mode)
        self._ended = Counter(trial.state for trial in trials if trial.state.is_finished() and is_own(trial))

    @classmethod
    def create(
        cls,
        place: StudyPlace | Path,
        space: SearchSpace,
        seed: int,
        first: FirstTrials | None = None,
        related: Callable[[], Sequence[RelatedRun]] | None = None,
        around: Callable[[optuna.samplers.BaseSampler], optuna.samplers.BaseSampler] = lambda sampler: sampler,
    ) -> SearchStudy:
        """Begin a new study.

        Args:
            place: where to keep it; a path is that of a journal file.
            seed: of the suggestions.
            first: called once; default: the space's start points.
            related: called once; gives the runs whose best points are suggested, as far as they prove related.
            around: returns the sampler to use in place of the space's; a replay moves suggestions to recorded configs.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        place = JournalFile(place) if isinstance(place, Path) else place
        storage = place.storage()
        study = optuna.create_study(
            study_name=place.name,
            storage=storage,
            direction="maximize" if space.mode == "max" else "minimize",
        )
        if place.run_id is not None:
            study.set_user_attr(RUN_ID, place.run_id)
        with experimental_allowed():
            # Only a label in optuna-dashboard.
            study.set_metric_names([str(space.base["objective"]["metric"])])
        _put_first(study, space, first or (lambda: space.start), related)
        study.pruner = pruner_of(space)
        study.sampler = around(_sampler(study, space, seed))
        return cls(study, storage, space, place)

    @classmethod
    def reopen(
        cls,
        place: StudyPlace | Path,
        space: SearchSpace,
        seed: int,
        first: FirstTrials | None = None,
        related: Callable[[], Sequence[RelatedRun]] | None = None,
    ) -> SearchStudy:
        """Continue a study whose driver is gone: running trials wait again, under their numbers and settings.

        The caller holds the run's lock, so nobody else writes. The arguments are those of :meth:`create`; ``first`` is
        called only where a driver died before all first trials were in the study.

        Raises:
            InputError: the study belongs to another run.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        place = JournalFile(place) if isinstance(place, Path) else place
        storage = place.storage()
        if not place.exists():
            return cls.create(place, space, seed, first, related)
        study = optuna.load_study(study_name=place.name, storage=storage)
        if place.run_id is not None:
            if study.user_attrs.get(RUN_ID, place.run_id) != place.run_id:
                raise InputError(
                    f"study {place.name!r} in the database was begun by a run in another results folder; continue it "
                    "there, or begin this one under another --name"
                )
            study.set_user_attr(RUN_ID, place.run_id)
        _put_first(study, space, first or (lambda: space.start), related)
        # A study keeps the rungs that it began with: version 0.1.0 had fewer, and did not write them.
        study.pruner = pruner_of(space, study.user_attrs.get(RUNGS, rungs_of(space, levels=LEVELS_OF_0_1_0)))
        study.sampler = _sampler(study, space, seed)
        reopened = cls(study, storage, space, place)
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            reopened._set_waiting(trial.number)
        return reopened

    @property
    def mode(self) -> str:
        return "max" if self._study.direction == optuna.study.StudyDirection.MAXIMIZE else "min"

    @property
    def trials(self) -> list[FrozenTrial]:
        with self.place.access():
            return self._study.get_trials(deepcopy=False)

    @property
    def best(self) -> FrozenTrial | None:
        """The result of :func:`best_trial`."""
        return self._best

    def trial(self, number: int) -> FrozenTrial:
        with self.place.access():
            return self._storage.get_trial(self._id(number))

    def _id(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)

    def count(self, *states: TrialState) -> int:
        """Count the trials of this run in these states; those taken over from another run are left out."""
        if all(state in ENDED for state in states):
            return sum(self._ended[state] for state in states)
        return sum(trial.state in states and is_own(trial) for trial in self.trials)

    def ask(self) -> Suggestion:
        """Return the next trial: a waiting one first, else a new suggestion."""
        with self.place.access():
            trial = self._study.ask(self._distributions)
            attempt = int(trial.user_attrs.get(ATTEMPTS, 0)) + 1
            trial.set_user_attr(ATTEMPTS, attempt)
            if STARTED not in trial.user_attrs:
                trial.set_user_attr(STARTED, time.time())
        self._live[trial.number] = trial
        return Suggestion(trial.number, dict(trial.params), attempt)

    def restart(self, number: int) -> Suggestion:
        """Return a running trial once more, as a further attempt."""
        trial = self._live[number]
        attempt = int(trial.user_attrs[ATTEMPTS]) + 1
        with self.place.access():
            trial.set_user_attr(ATTEMPTS, attempt)
        return Suggestion(number, dict(trial.params), attempt)

    def note(self, number: int, name: str) -> None:
        """Set a mark on a running trial, for good."""
        with self.place.access():
            self._live[number].set_user_attr(name, True)

    def noted(self, number: int, name: str) -> bool:
        return bool(self._live[number].user_attrs.get(name, False))

    def epochs(self, number: int) -> int:
        """Return the number of epochs that a running trial has reported."""
        return len(self.trial(number).intermediate_values)

    def report(self, number: int, epoch: int, value: float) -> None:
        """Record the objective so far after ``epoch`` (0-based); a report sent twice is recorded once."""
        with self.place.access():
            if epoch not in self.trial(number).intermediate_values:
                self._live[number].report(value, epoch)

    def should_prune(self, number: int) -> bool:
        """Return whether the stopping rule stops a running trial; trial 0 at the published setting runs to its end."""
        if number == self._published:
            return False
        with self.place.access():
            return self._live[number].should_prune()

    def complete(self, number: int, value: float, standard_error: float | None) -> None:
        """End a trial that ran to its full length with a finite value."""
        assert math.isfinite(value)
        self._end(number, TrialState.COMPLETE, value, _finite(standard_error))

    def prune(self, number: int, standard_error: float | None) -> None:
        """End a trial that the stopping rule stopped; its value is the last one reported."""
        self._end(number, TrialState.PRUNED, None, _finite(standard_error))

    def fail(self, number: int, failure: str, message: str) -> None:
        """End a trial that failed, with the class of the failure and its first useful line."""
        self._end(number, TrialState.FAIL, None, {FAILURE: failure, MESSAGE: message})

    def wait(self, number: int) -> None:
        """Put a running trial back: :meth:`ask` gives it again, with its number and settings."""
        with self.place.access():
            self._set_waiting(number)
        del self._live[number]

    def _end(self, number: int, state: TrialState, value: float | None, attributes: Mapping[str, Any]) -> None:
        trial = self._live[number]
        with self.place.access():
            for name, content in {**attributes, FINISHED: time.time()}.items():
                trial.set_user_attr(name, content)
            self._study.tell(trial, values=value, state=state)
        # Last: a trial whose end finds no room on the disk can still be put back.
        del self._live[number]
        ended = self.trial(number)
        self._ended[ended.state] += 1
        self._best = best_trial([trial for trial in (self._best, ended) if trial is not None], self.mode)

    def _set_waiting(self, number: int) -> None:
        self._storage.set_trial_state_values(self._id(number), TrialState.WAITING)


def _sampler(study: optuna.Study, space: SearchSpace, seed: int) -> optuna.samplers.BaseSampler:
    attributes = study.user_attrs
    related = [RelatedRun.from_dict(content) for content in attributes.get(RELATED, ())]
    return make_sampler(
        space.budget.sampler, seed, space.budget.trials, distributions(space), related, attributes[FIRST_TRIALS]
    )


def _finite(standard_error: float | None) -> dict[str, float]:
    return {STANDARD_ERROR: standard_error} if standard_error is not None and math.isfinite(standard_error) else {}


def _put_first(
    study: optuna.Study, space: SearchSpace, first: FirstTrials, related: Callable[[], Sequence[RelatedRun]] | None
) -> None:
    """Put into a study all that stands before any suggestion; a driver that died while doing so left some of it.

    A resumed search needs the related runs, wherever they are by then.
    """
    present = len(study.get_trials(deepcopy=False))
    wanted = study.user_attrs.get(FIRST_TRIALS)
    if wanted is not None and present >= wanted:
        return
    if wanted is None:
        study.set_user_attr(RUNGS, rungs_of(space))
        study.set_user_attr(RELATED, [] if related is None else [run.to_dict() for run in related()])
    trials = first()
    study.set_user_attr(FIRST_TRIALS, len(trials))
    for trial in trials[present:]:
        if isinstance(trial, Mapping):
            study.enqueue_trial(dict(trial))
        else:
            study.add_trial(trial)
