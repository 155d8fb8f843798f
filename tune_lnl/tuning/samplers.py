"""What proposes settings: Optuna's samplers, given a comparable view of the study and kept from repeating themselves."""

from __future__ import annotations

import copy
import math
import statistics
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, cast

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from tune_lnl.errors import InputError
from tune_lnl.tuning.failures import DIVERGED

FAILURE = "failure"
"""The attribute of a trial that holds the class of its failure."""

LEARN_FROM_COMPLETE = {"gp", "cmaes"}
"""Samplers that ignore stopped trials: with a pruner on they learn from few."""

NEAR = 1e-3
"""Two settings are near-duplicates when no axis of the search, scaled to [0, 1], parts them by more than this."""

REDRAWS = 5
"""How often a near-duplicate is drawn again before chance takes over, and again then."""


@contextmanager
def experimental_allowed() -> Iterator[None]:
    """Optuna warns on the console about what it calls experimental; a user of this package can do nothing about it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


def make_sampler(
    name: str, seed: int, trials: int, distributions: Mapping[str, BaseDistribution]
) -> optuna.samplers.BaseSampler:
    """The sampler called ``name`` (tpe, random, qmc, cmaes, gp) over these ranges.

    Raises:
        InputError: it needs a package that is not installed.
    """
    with experimental_allowed():
        return WholePointSampler(name, _make_inner(name, seed, trials), seed, distributions)


def startup_trials(trials: int) -> int:
    """A quarter of a small budget drawn at random, at most Optuna's own ten: twelve should not all be random."""
    return max(4, min(10, trials // 4))


def _make_inner(name: str, seed: int, trials: int) -> optuna.samplers.BaseSampler:
    if name == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    if name == "qmc":
        return optuna.samplers.QMCSampler(seed=seed, warn_independent_sampling=False)
    if name == "gp":
        return optuna.samplers.GPSampler(seed=seed)
    startup = startup_trials(trials)
    if name == "cmaes":
        if find_spec("cmaes") is None:
            raise InputError("--sampler cmaes needs the package cmaes; install tune_lnl[cmaes], or use --sampler tpe")
        return optuna.samplers.CmaEsSampler(seed=seed, n_startup_trials=startup, warn_independent_sampling=False)
    assert name == "tpe"
    # Named, because their defaults changed between releases of Optuna.
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup, multivariate=True, constant_liar=True)


class WholePointSampler(optuna.samplers.BaseSampler):
    """Draws whole points from ``inner``, which sees a :class:`ComparableStudy`, and replaces near-duplicates.

    Start points and trials that wait for another attempt have their settings already: nothing is drawn for them.
    """

    def __init__(
        self, name: str, inner: optuna.samplers.BaseSampler, seed: int, distributions: Mapping[str, BaseDistribution]
    ) -> None:
        self._name = name
        self._inner = inner
        # Another stream than the inner sampler's own random start.
        self._random = optuna.samplers.RandomSampler(seed=seed + 1)
        self._searched = {key: range_ for key, range_ in distributions.items() if not range_.single()}
        # These two know no choices; the independent draw below fills them in.
        numeric_only = name in ("qmc", "cmaes")
        self._together = {
            key: range_
            for key, range_ in self._searched.items()
            if not (numeric_only and isinstance(range_, CategoricalDistribution))
        }
        self._rows: dict[int, np.ndarray] = {}

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return dict(self._searched)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        known = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
        if known.keys() >= self._searched.keys():
            return {}
        seen = self._seen_by_inner(study)
        if known:
            return self._draw(self._inner, seen, trial)
        taken = self._taken(study, trial.number)
        for sampler in [self._inner] * (1 + REDRAWS) + [self._random] * REDRAWS:
            point = self._draw(sampler, seen, trial)
            if not near_any(self._row(point), taken):
                break
        return point

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._random.sample_independent(study, trial, param_name, param_distribution)

    def _seen_by_inner(self, study: optuna.Study) -> optuna.Study:
        if self._name == "tpe":
            return cast(optuna.Study, ComparableStudy(study))
        return study

    def _draw(
        self, sampler: optuna.samplers.BaseSampler, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, Any]:
        point = {} if sampler is self._random else sampler.sample_relative(study, trial, dict(self._together))
        for name, range_ in self._searched.items():
            if name not in point:
                point[name] = sampler.sample_independent(study, trial, name, range_)
        return point

    def _taken(self, study: optuna.Study, own_number: int) -> np.ndarray:
        """(N, axes): the settings of every other trial that has them, whatever became of it."""
        for trial in study._get_trials(deepcopy=False, use_cache=True):
            if trial.number not in self._rows and trial.number != own_number:
                if self._searched.keys() <= trial.params.keys():
                    self._rows[trial.number] = self._row(trial.params)
        return np.array(list(self._rows.values())).reshape(-1, len(self._searched))

    def _row(self, params: Mapping[str, Any]) -> np.ndarray:
        return np.array([scaled(params[name], range_) for name, range_ in self._searched.items()])


def scaled(value: Any, distribution: BaseDistribution) -> float:
    """Where ``value`` lies on its axis: [0, 1] of a range, logarithmic where the range is; whole numbers for choices
    and grids, so that two different ones are never near."""
    if isinstance(distribution, FloatDistribution) and distribution.step is None:
        low, high = distribution.low, distribution.high
        if distribution.log:
            return math.log(value / low) / math.log(high / low)
        return (float(value) - low) / (high - low)
    if isinstance(distribution, FloatDistribution | IntDistribution):
        return float(round((value - distribution.low) / (distribution.step or 1)))
    assert isinstance(distribution, CategoricalDistribution)
    return distribution.to_internal_repr(value)


def near_any(row: np.ndarray, taken: np.ndarray) -> bool:
    """Is (axes,) a near-duplicate of any of (N, axes)?"""
    return bool(len(taken)) and bool((np.abs(taken - row).max(axis=1) <= NEAR).any())


# ---- what TPE sees


class ComparableStudy:
    """A study as TPE should see it; the stored one is not touched.

    TPE puts every COMPLETE trial before every PRUNED one, and of those the longer before the better; it never looks at
    FAIL. Here a stopped trial is COMPLETE with an estimate of the value it would have reached
    (:func:`estimated_values`), and a diverged one is RUNNING: TPE counts what runs as bad, however few are good.
    """

    def __init__(self, study: optuna.Study) -> None:
        self._study = study
        self._storage = _Deaf()
        self._trials = comparable_trials(study)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def _get_trials(
        self, deepcopy: bool = True, states: Sequence[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        return [trial for trial in self._trials if states is None or trial.state in states]


class _Deaf:
    """TPE shares its draws with other processes through the storage; here only one process asks."""

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        pass


def comparable_trials(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that say something, in a form in which TPE can compare them."""
    trials = study._get_trials(deepcopy=False, use_cache=True)
    sign = 1.0 if study.direction == StudyDirection.MAXIMIZE else -1.0
    estimates = estimated_values(trials, sign)
    found = []
    for trial in trials:
        if trial.state == TrialState.PRUNED:
            if trial.number in estimates:
                found.append(_seen_as(trial, TrialState.COMPLETE, estimates[trial.number]))
        elif trial.state == TrialState.FAIL:
            if trial.user_attrs.get(FAILURE) == DIVERGED:
                found.append(_seen_as(trial, TrialState.RUNNING, None))
        elif trial.state != TrialState.WAITING:
            found.append(trial)
    return found


def estimated_values(trials: Sequence[FrozenTrial], sign: float) -> dict[int, float]:
    """For each PRUNED trial, by number, the value it would have reached: its last one plus the median gain from that
    epoch on of the trials that ran to their end."""
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    gains: dict[int, float] = {}
    found = {}
    for trial in trials:
        if trial.state != TrialState.PRUNED or not trial.intermediate_values:
            continue
        step = max(trial.intermediate_values)
        if step not in gains:
            gains[step] = _median_gain(complete, step)
        found[trial.number] = trial.intermediate_values[step] + gains[step]
    return found


def _median_gain(complete: Sequence[FrozenTrial], step: int) -> float:
    gains = [
        trial.value - trial.intermediate_values[step]
        for trial in complete
        if trial.value is not None and step in trial.intermediate_values
    ]
    return statistics.median(gains) if gains else 0.0


def _seen_as(trial: FrozenTrial, state: TrialState, value: float | None) -> FrozenTrial:
    seen = copy.copy(trial)
    seen.state = state
    seen.value = value
    return seen
