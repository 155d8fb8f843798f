"""The Optuna study: the only record of what was tried, how each trial went epoch by epoch, and how it ended.

Nothing about the search is kept anywhere else. Ray runs what :meth:`SearchStudy.ask` gives and its reports go through
:meth:`SearchStudy.report`; every view is built from the study.
"""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from tune_lnl.errors import InputError
from tune_lnl.tuning.parameters import Choice, Int, LogUniform, Parameter, Uniform
from tune_lnl.tuning.pruners import make_pruner
from tune_lnl.tuning.space import SearchSpace

STUDY_FILE = "study.log"
STUDY_NAME = "search"

# Names of the attributes a trial carries in the study.
STANDARD_ERROR = "standard_error"
FAILURE = "failure"
MESSAGE = "failure_message"
ATTEMPTS = "attempts"
STARTED = "started"
FINISHED = "finished"

LEARN_FROM_COMPLETE = {"gp", "cmaes"}
"""Samplers that ignore stopped trials: with a pruner on they learn from few."""


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


@contextmanager
def _experimental_allowed() -> Iterator[None]:
    """Optuna warns on the console about what it calls experimental; a user of this package can do nothing about it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


def make_sampler(name: str, seed: int, trials: int) -> optuna.samplers.BaseSampler:
    """The sampler called ``name`` (tpe, random, qmc, cmaes, gp).

    Raises:
        InputError: it needs a package that is not installed.
    """
    with _experimental_allowed():
        return _make_sampler(name, seed, trials)


def _make_sampler(name: str, seed: int, trials: int) -> optuna.samplers.BaseSampler:
    if name == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    if name == "qmc":
        return optuna.samplers.QMCSampler(seed=seed)
    if name == "gp":
        return optuna.samplers.GPSampler(seed=seed)
    # A quarter of a small budget drawn at random, at most Optuna's own ten: twelve trials should not all be random.
    startup = max(4, min(10, trials // 4))
    if name == "cmaes":
        if find_spec("cmaes") is None:
            raise InputError("--sampler cmaes needs the package cmaes; install tune_lnl[cmaes], or use --sampler tpe")
        return optuna.samplers.CmaEsSampler(seed=seed, n_startup_trials=startup)
    assert name == "tpe"
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup)


class SearchStudy:
    """Asking and telling, over a journal file in the run's folder."""

    def __init__(self, study: optuna.Study, space: SearchSpace) -> None:
        self._study = study
        self._epochs = space.epochs
        self._distributions = {name: distribution(parameter) for name, parameter in space.parameters.items()}
        self._live: dict[int, optuna.Trial] = {}

    @classmethod
    def create(cls, path: Path, space: SearchSpace, seed: int) -> SearchStudy:
        """A new study whose first trials are the space's start points."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(
            study_name=STUDY_NAME,
            storage=_storage(path),
            direction="maximize" if space.base["objective"].get("mode", "max") == "max" else "minimize",
            sampler=make_sampler(space.budget.sampler, seed, space.budget.trials),
            pruner=make_pruner(space.budget.pruner, space.epochs, space.longest_warmup()),
        )
        with _experimental_allowed():
            # Only a label in optuna-dashboard.
            study.set_metric_names([str(space.base["objective"].get("metric", "val_accuracy"))])
        _enqueue_start(study, space)
        return cls(study, space)

    @classmethod
    def reopen(cls, path: Path, space: SearchSpace, seed: int) -> SearchStudy:
        """Continue a study whose driver is gone: what was running waits again, under its number and settings.

        The caller holds the run's lock, so nobody else writes.
        """
        repair_journal(path)
        if path.stat().st_size == 0:
            return cls.create(path, space, seed)
        study = optuna.load_study(
            study_name=STUDY_NAME,
            storage=_storage(path),
            # Another stream than the first start had: the same draws again would repeat its suggestions.
            sampler=make_sampler(space.budget.sampler, seed + _count_trials(path), space.budget.trials),
            pruner=make_pruner(space.budget.pruner, space.epochs, space.longest_warmup()),
        )
        _enqueue_start(study, space)
        reopened = cls(study, space)
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            reopened._set_waiting(trial._trial_id)
        return reopened

    @property
    def mode(self) -> str:
        return "max" if self._study.direction == optuna.study.StudyDirection.MAXIMIZE else "min"

    @property
    def trials(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def count(self, *states: TrialState) -> int:
        return sum(trial.state in states for trial in self.trials)

    def ask(self) -> Suggestion:
        """The next trial: a waiting one first, else a new suggestion."""
        trial = self._study.ask(self._distributions)
        self._live[trial.number] = trial
        attempt = int(trial.user_attrs.get(ATTEMPTS, 0)) + 1
        trial.set_user_attr(ATTEMPTS, attempt)
        if attempt == 1:
            trial.set_user_attr(STARTED, time.time())
        return Suggestion(trial.number, dict(trial.params), attempt)

    def restart(self, number: int) -> Suggestion:
        """The same running trial once more, as a further attempt."""
        trial = self._live[number]
        attempt = int(trial.user_attrs[ATTEMPTS]) + 1
        trial.set_user_attr(ATTEMPTS, attempt)
        return Suggestion(number, dict(trial.params), attempt)

    def note(self, number: int, name: str) -> None:
        """Remember something about a running trial, for good."""
        self._live[number].set_user_attr(name, True)

    def noted(self, number: int, name: str) -> bool:
        return bool(self._live[number].user_attrs.get(name, False))

    def epochs(self, number: int) -> int:
        """Epochs that a running trial has reported."""
        return len(self._study._storage.get_trial(self._live[number]._trial_id).intermediate_values)

    def report(self, number: int, epoch: int, value: float) -> None:
        """Record the objective so far after ``epoch`` (0-based); a report sent twice is recorded once."""
        trial = self._live[number]
        known = self._study._storage.get_trial(trial._trial_id).intermediate_values
        if epoch not in known:
            trial.report(value, epoch)

    def should_prune(self, number: int) -> bool:
        return self._live[number].should_prune()

    def complete(self, number: int, value: float, standard_error: float | None) -> None:
        """End a trial that ran to its full length with a finite value."""
        assert math.isfinite(value)
        self._end(number, TrialState.COMPLETE, value, standard_error)

    def prune(self, number: int, standard_error: float | None) -> None:
        """End a trial that the stopping rule stopped; its value is the last one reported."""
        self._end(number, TrialState.PRUNED, None, standard_error)

    def fail(self, number: int, failure: str, message: str) -> None:
        """End a trial that failed, with the class of the failure and its first useful line."""
        trial = self._live[number]
        trial.set_user_attr(FAILURE, failure)
        trial.set_user_attr(MESSAGE, message)
        self._end(number, TrialState.FAIL, None, None)

    def wait(self, number: int) -> None:
        """Put a running trial back: :meth:`ask` will give it again, same number, same settings."""
        self._set_waiting(self._live.pop(number)._trial_id)

    def _end(self, number: int, state: TrialState, value: float | None, standard_error: float | None) -> None:
        trial = self._live.pop(number)
        if standard_error is not None and math.isfinite(standard_error):
            trial.set_user_attr(STANDARD_ERROR, standard_error)
        trial.set_user_attr(FINISHED, time.time())
        self._study.tell(trial, values=value, state=state)

    def _set_waiting(self, trial_id: int) -> None:
        self._study._storage.set_trial_state_values(trial_id, TrialState.WAITING)


def _enqueue_start(study: optuna.Study, space: SearchSpace) -> None:
    """Put the start points first; a driver that died while doing so left some of them, in order."""
    for point in space.start[len(study.get_trials(deepcopy=False)) :]:
        study.enqueue_trial(dict(point))


def _storage(path: Path) -> optuna.storages.JournalStorage:
    return optuna.storages.JournalStorage(JournalFileBackend(str(path)))


def read_trials(path: Path) -> list[FrozenTrial]:
    """All trials of a study file, by number; reading takes no lock and does not disturb a running search."""
    try:
        study = optuna.load_study(study_name=STUDY_NAME, storage=_storage(path))
    except KeyError:
        # The file is there, its first record is not: the search is just starting, or died doing so.
        return []
    return study.get_trials(deepcopy=False)


def _count_trials(path: Path) -> int:
    return len(read_trials(path))


def repair_journal(path: Path) -> None:
    """Make a journal writable again after its writer died.

    A torn last line reads fine, but the next append would glue onto it and the study would be unreadable for good; a
    lock that a dead process left blocks the first write for half a minute.
    """
    for lock in path.parent.glob(f"{path.name}.lock*"):
        lock.unlink()
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with path.open("r+b") as file:
            file.truncate(whole)
            os.fsync(file.fileno())


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
    first = next(iter(ranked(trials, mode)), None)
    return first if first is not None and first.state == TrialState.COMPLETE else None


def last_value(trial: FrozenTrial) -> float | None:
    """The final value of a COMPLETE trial, the last reported one of any other."""
    if trial.value is not None:
        return float(trial.value)
    values: Mapping[int, float] = trial.intermediate_values
    return values[max(values)] if values else None
