"""The Optuna study: the only record of what was tried, how each trial went epoch by epoch, and how it ended.

Nothing about the search is kept anywhere else. Ray runs what :meth:`SearchStudy.ask` gives and its reports go through
:meth:`SearchStudy.report`; every view is built from the study.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from tune_lnl.errors import InputError
from tune_lnl.tuning.space.ranges import Choice, Int, LogUniform, Parameter, Uniform
from tune_lnl.tuning.space.space import SearchSpace
from tune_lnl.tuning.study.journal import STUDY_NAME, JournalFile
from tune_lnl.tuning.study.place import StudyPlace
from tune_lnl.tuning.study.pruners import pruner_of
from tune_lnl.tuning.study.samplers import FAILURE as FAILURE
from tune_lnl.tuning.study.samplers import experimental_allowed, make_sampler

ENDED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)

# Names of the attributes a trial carries in the study.
STANDARD_ERROR = "standard_error"
MESSAGE = "failure_message"
ATTEMPTS = "attempts"
STARTED = "started"
FINISHED = "finished"
TAKEN_FROM = "taken_from"
"""``{"run", "number"}`` of a trial that another run has made; it does not count against this run's total."""

# Names of the attributes of the study itself.
SAMPLER_START = "sampler_start"
"""``{"seed", "trials"}`` of the sampler, written anew by every driver before it does anything else: the journal then
tells from which point on which sampler made the suggestions."""
RUN_ID = "run_id"
"""Of the run that began a study in a database, where others might have a run of that name."""
FIRST_TRIALS = "first_trials"
"""How many trials are put into the study before any is suggested: start points, and what another run has made."""


@dataclass(frozen=True)
class Suggestion:
    """A trial to run."""

    number: int
    params: dict[str, Any]
    attempt: int


def distribution(parameter: Parameter) -> BaseDistribution:
    """The Optuna form of a range."""
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
    """The Optuna form of what a space searches."""
    return {name: distribution(parameter) for name, parameter in space.parameters.items()}


class SearchStudy:
    """Asking and telling, wherever the study is kept.

    What is done through :meth:`StudyPlace.lasting` may be done twice: every step of it leaves what it has done alone.
    """

    def __init__(self, study: optuna.Study, space: SearchSpace, place: StudyPlace) -> None:
        self._study = study
        self.place = place
        self._epochs = space.epochs
        self._distributions = distributions(space)
        self._live: dict[int, optuna.Trial] = {}
        self._losses = place.losses
        # Counted once and kept up to date: to go through all trials at every trial's end would cost more and more.
        trials = self.trials
        self._best = best_trial(trials, self.mode)
        self._ended = Counter(
            trial.state for trial in trials if trial.state.is_finished() and TAKEN_FROM not in trial.user_attrs
        )

    @classmethod
    def create(
        cls, place: StudyPlace | Path, space: SearchSpace, seed: int, first: FirstTrials | None = None
    ) -> SearchStudy:
        """A new study.

        Args:
            place: where to keep it; a path is that of a journal file.
            first: gives the trials that stand before any suggestion, waiting or finished; called once. Default: the
                space's start points.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        place = _place(place)
        trials = (first or (lambda: start_points(space.start)))()
        # Another stream than the run had whose trials are taken over: the same draws again would repeat them.
        seed += sum(TAKEN_FROM in trial.user_attrs for trial in trials)
        study = new_study(place.storage(), space, place.name)
        if place.run_id is not None:
            study.set_user_attr(RUN_ID, place.run_id)
        start_sampler(study, space, {"seed": seed, "trials": space.budget.trials})
        with experimental_allowed():
            # Only a label in optuna-dashboard.
            study.set_metric_names([str(space.base["objective"]["metric"])])
        _put_first(study, lambda: trials)
        return cls(study, space, place)

    @classmethod
    def reopen(
        cls, place: StudyPlace | Path, space: SearchSpace, seed: int, first: FirstTrials | None = None
    ) -> SearchStudy:
        """Continue a study whose driver is gone: what was running waits again, under its number and settings.

        The caller holds the run's lock, so nobody else writes. ``place`` and ``first`` are as in :meth:`create`;
        ``first`` is called only where a driver died before all of them were in the study.

        Raises:
            InputError: the study is another run's.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        place = _place(place)
        place.repair()
        if not place.exists():
            return cls.create(place, space, seed, first)
        study = optuna.load_study(study_name=place.name, storage=place.storage(), pruner=pruner_of(space))
        if place.run_id is not None:
            if study.user_attrs.get(RUN_ID, place.run_id) != place.run_id:
                raise InputError(
                    f"study {place.name!r} in the database was begun by a run in another results folder; continue it "
                    "there, or begin this one under another --name"
                )
            study.set_user_attr(RUN_ID, place.run_id)
        # Another stream than the starts before had: the same draws again would repeat their suggestions.
        seed += len(study.get_trials(deepcopy=False))
        start_sampler(study, space, {"seed": seed, "trials": space.budget.trials})
        _put_first(study, first or (lambda: start_points(space.start)))
        reopened = cls(study, space, place)
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            reopened._set_waiting(trial._trial_id)
        return reopened

    @property
    def mode(self) -> str:
        return "max" if self._study.direction == optuna.study.StudyDirection.MAXIMIZE else "min"

    @property
    def trials(self) -> list[FrozenTrial]:
        return self.place.lasting(lambda: self._study.get_trials(deepcopy=False))

    @property
    def best(self) -> FrozenTrial | None:
        """What :func:`best_trial` says."""
        return self._best

    def trial(self, number: int) -> FrozenTrial:
        storage, study_id = self._study._storage, self._study._study_id
        return self.place.lasting(
            lambda: storage.get_trial(storage.get_trial_id_from_study_id_trial_number(study_id, number))
        )

    def count(self, *states: TrialState) -> int:
        """Trials of this run in these states; those taken over from another run are left out."""
        if all(state in ENDED for state in states):
            return sum(self._ended[state] for state in states)
        return sum(trial.state in states and TAKEN_FROM not in trial.user_attrs for trial in self.trials)

    def ask(self) -> Suggestion:
        """The next trial: a waiting one first, else a new suggestion."""
        return self.place.lasting(self._ask)

    def _ask(self) -> Suggestion:
        self._put_back_half_asked()
        with self.place.together():
            trial = self._study.ask(self._distributions)
            attempt = int(trial.user_attrs.get(ATTEMPTS, 0)) + 1
            trial.set_user_attr(ATTEMPTS, attempt)
            if STARTED not in trial.user_attrs:
                trial.set_user_attr(STARTED, time.time())
        self._live[trial.number] = trial
        return Suggestion(trial.number, dict(trial.params), attempt)

    def _put_back_half_asked(self) -> None:
        """Where a connection was lost, a trial may have been made that nobody knows of: it is the next one."""
        if self.place.losses == self._losses:
            return
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if trial.number not in self._live:
                self._set_waiting(trial._trial_id)
        self._losses = self.place.losses

    def restart(self, number: int) -> Suggestion:
        """The same running trial once more, as a further attempt."""
        trial = self._live[number]
        attempt = int(trial.user_attrs[ATTEMPTS]) + 1
        self.place.lasting(lambda: trial.set_user_attr(ATTEMPTS, attempt))
        return Suggestion(number, dict(trial.params), attempt)

    def note(self, number: int, name: str) -> None:
        """Remember something about a running trial, for good."""
        trial = self._live[number]
        self.place.lasting(lambda: trial.set_user_attr(name, True))

    def noted(self, number: int, name: str) -> bool:
        return bool(self._live[number].user_attrs.get(name, False))

    def epochs(self, number: int) -> int:
        """Epochs that a running trial has reported."""
        return len(self._known(number).intermediate_values)

    def report(self, number: int, epoch: int, value: float) -> None:
        """Record the objective so far after ``epoch`` (0-based); a report sent twice is recorded once."""
        if epoch not in self._known(number).intermediate_values:
            self.place.lasting(lambda: self._live[number].report(value, epoch))

    def _known(self, number: int) -> FrozenTrial:
        """A running trial as the study has it."""
        trial_id = self._live[number]._trial_id
        return self.place.lasting(lambda: self._study._storage.get_trial(trial_id))

    def should_prune(self, number: int) -> bool:
        return self.place.lasting(self._live[number].should_prune)

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
        """Put a running trial back: :meth:`ask` will give it again, same number, same settings."""
        trial_id = self._live[number]._trial_id
        self.place.lasting(lambda: self._set_waiting(trial_id))
        del self._live[number]

    def _end(self, number: int, state: TrialState, value: float | None, attributes: Mapping[str, Any]) -> None:
        trial = self._live[number]

        def tell() -> None:
            if self._known(number).state == state:
                return  # it was told, and the connection lost before we heard so
            with self.place.together():
                for name, said in {**attributes, FINISHED: time.time()}.items():
                    trial.set_user_attr(name, said)
                self._study.tell(trial, values=value, state=state)

        self.place.lasting(tell)
        # Last: a trial whose end finds no room on the disk is still to be put back.
        del self._live[number]
        ended = self.trial(number)
        self._ended[ended.state] += 1
        self._best = best_trial([trial for trial in (self._best, ended) if trial is not None], self.mode)

    def _set_waiting(self, trial_id: int) -> None:
        self._study._storage.set_trial_state_values(trial_id, TrialState.WAITING)


def _place(place: StudyPlace | Path) -> StudyPlace:
    return JournalFile(place) if isinstance(place, Path) else place


def _finite(standard_error: float | None) -> dict[str, float]:
    return {STANDARD_ERROR: standard_error} if standard_error is not None and math.isfinite(standard_error) else {}


FirstTrials = Callable[[], Sequence[FrozenTrial]]


def new_study(storage: optuna.storages.BaseStorage, space: SearchSpace, name: str = STUDY_NAME) -> optuna.Study:
    """An empty study of this space; its sampler is still to be started."""
    return optuna.create_study(
        study_name=name,
        storage=storage,
        direction="maximize" if space.base["objective"].get("mode", "max") == "max" else "minimize",
        pruner=pruner_of(space),
    )


def start_sampler(study: optuna.Study, space: SearchSpace, start: Mapping[str, int]) -> None:
    """Let the space's sampler begin at ``start`` (``seed``, ``trials``), and write that down."""
    study.set_user_attr(SAMPLER_START, dict(start))
    study.sampler = make_sampler(space.budget.sampler, start["seed"], start["trials"], distributions(space))


def start_points(points: Iterable[Mapping[str, Any]]) -> list[FrozenTrial]:
    """Waiting trials whose settings are given."""
    return [
        optuna.trial.create_trial(state=TrialState.WAITING, system_attrs={"fixed_params": dict(point)})
        for point in points
    ]


def _put_first(study: optuna.Study, first: FirstTrials) -> None:
    """Put the first trials into a study; a driver that died while doing so left some of them, in order."""
    present = len(study.get_trials(deepcopy=False))
    wanted = study.user_attrs.get(FIRST_TRIALS)
    if wanted is not None and present >= wanted:
        return
    trials = first()
    study.set_user_attr(FIRST_TRIALS, len(trials))
    for trial in trials[present:]:
        study.add_trial(trial)


# ---- which trial is best: the one rule


def ranked(trials: Sequence[FrozenTrial], mode: str) -> list[FrozenTrial]:
    """COMPLETE trials, best first (ties: lower number), then PRUNED, FAIL and unfinished ones by number.

    Only full-length trials with a finite value are COMPLETE, so only they can be best.
    """
    sign = -1 if mode == "max" else 1
    order = {TrialState.COMPLETE: 0, TrialState.PRUNED: 1, TrialState.FAIL: 2}

    def key(trial: FrozenTrial) -> tuple[int, float, int]:
        complete = trial.state == TrialState.COMPLETE
        assert not complete or trial.value is not None
        return order.get(trial.state, 3), sign * float(trial.value or 0.0) if complete else 0.0, trial.number

    return sorted(trials, key=key)


def best_trial(trials: Sequence[FrozenTrial], mode: str) -> FrozenTrial | None:
    """The best trial, or ``None`` while none is COMPLETE."""
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    return next(iter(ranked(complete, mode)), None)


def last_value(trial: FrozenTrial) -> float | None:
    """The final value of a COMPLETE trial, the last reported one of any other."""
    if trial.value is not None:
        return float(trial.value)
    values: Mapping[int, float] = trial.intermediate_values
    return values[max(values)] if values else None
