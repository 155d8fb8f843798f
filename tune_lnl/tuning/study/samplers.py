"""What proposes settings: Optuna's samplers, kept from near-duplicates and from where training diverged.

What was tried and left out, replayed as ``benchmarks/replay.py`` does on 300 curves, 30 seeds: giving TPE an estimate
of the final value of every stopped trial, so that it need not rank them behind all that went on, lowers the regret by
0.02 [0.00, 0.06], 0.03 [-0.05, 0.12] and 0.00 points at 10, 20 and 40 full trials' worth of epochs; 6 random trials to
start with instead of 10 by 0.07 [-0.18, 0.34], 0.06 [-0.09, 0.23] and 0.05 [-0.09, 0.19].
"""

from __future__ import annotations

import copy
import heapq
import math
import warnings
from bisect import insort
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
from tune_lnl.training.failures import DIVERGED

FAILURE = "failure"
"""The attribute of a trial that holds the class of its failure."""

LEARN_FROM_COMPLETE = {"gp", "cmaes"}
"""Samplers that ignore stopped trials: with a pruner on they learn from few."""

NEAR = 1e-3
"""Near-duplicates agree on every axis, scaled to [0, 1], within this; on grids and choices exactly."""

REDRAWS = 5
"""How often an unwanted suggestion is drawn again before chance takes over, and again then."""

AVOID_DIVERGED = {"tpe", "gp", "cmaes"}
"""Samplers that learn. The others cover the space, and leave no hole where something diverged."""


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
    """Draws whole points from ``inner`` and replaces those that nobody wants.

    Unwanted are near-duplicates of any other trial and, where the sampler learns, points whose nearest trial diverged:
    Optuna's samplers do not look at failed trials. Start points and trials that wait for another attempt have their
    settings already: nothing is drawn for them.
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
        # The optimum of a Gaussian process is no draw: asked again it would be, slowly, the same.
        self._proposers = [inner] * (1 if name == "gp" else 1 + REDRAWS) + [self._random] * REDRAWS
        self._tried = TriedPoints(self._searched)
        self._ended = EndedTrials()

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return dict(self._searched)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        known = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
        if known.keys() >= self._searched.keys():
            return {}
        trials = study._get_trials(deepcopy=False, use_cache=True)
        seen = cast(optuna.Study, SeenByTpe(study, trials, self._ended)) if self._name == "tpe" else study
        if known:
            return self._draw(self._inner, seen, trial)
        self._tried.update(trials, trial.number)
        for sampler in self._proposers:
            point = self._draw(sampler, seen, trial)
            if not self._unwanted(point):
                break
        return point

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._random.sample_independent(study, trial, param_name, param_distribution)

    def _draw(self, sampler: optuna.samplers.BaseSampler, study: optuna.Study, trial: FrozenTrial) -> dict[str, Any]:
        point = {} if sampler is self._random else sampler.sample_relative(study, trial, dict(self._together))
        for name, range_ in self._searched.items():
            if name not in point:
                point[name] = sampler.sample_independent(study, trial, name, range_)
        return point

    def _unwanted(self, point: Mapping[str, Any]) -> bool:
        return self._tried.has_near(point) or (self._name in AVOID_DIVERGED and self._tried.nearest_diverged(point))


class TriedPoints:
    """The settings of all trials, and what lies near them. Every axis is scaled to [0, 1]; choices are 0 or 1 apart."""

    def __init__(self, searched: Mapping[str, BaseDistribution]) -> None:
        self._searched = searched
        self._choice = np.array([isinstance(range_, CategoricalDistribution) for range_ in searched.values()])
        self._tolerance = np.array([NEAR if _is_continuous(range_) else 1e-9 for range_ in searched.values()])
        self._numbers: list[int] = []
        self._known: set[int] = set()
        self._rows = np.empty((0, len(searched)))
        self._diverged: set[int] = set()
        self._settled = 0
        """So many trials, from the first on, have ended and are known: nothing about them can change."""

    def update(self, trials: Sequence[FrozenTrial], but: int) -> None:
        """Take in what is new; ``but`` is the number of the trial that is being asked for."""
        new = []
        settled = True
        for trial in trials[self._settled :]:
            if trial.number not in self._known and trial.number != but and self._searched.keys() <= trial.params.keys():
                self._known.add(trial.number)
                self._numbers.append(trial.number)
                new.append(self._row(trial.params))
            if has_diverged(trial):
                self._diverged.add(trial.number)
            settled = settled and trial.state.is_finished()
            self._settled += settled
        if new:
            self._rows = np.concatenate([self._rows, np.array(new).reshape(-1, len(self._searched))])

    def has_near(self, point: Mapping[str, Any]) -> bool:
        """Is the point a near-duplicate of one of them?"""
        return bool((self._apart(point) <= self._tolerance).all(axis=1).any())

    def nearest_diverged(self, point: Mapping[str, Any]) -> bool:
        """Did the one that lies nearest (Euclidean) diverge?"""
        if not self._diverged:
            return False
        nearest = int(np.square(self._apart(point)).sum(axis=1).argmin())
        return self._numbers[nearest] in self._diverged

    def _apart(self, point: Mapping[str, Any]) -> np.ndarray:
        """(N, axes) distances."""
        apart: np.ndarray = np.abs(self._rows - np.array(self._row(point)))
        apart[:, self._choice] = apart[:, self._choice] > 0
        return apart

    def _row(self, params: Mapping[str, Any]) -> list[float]:
        return [scaled(params[name], range_) for name, range_ in self._searched.items()]


def has_diverged(trial: FrozenTrial) -> bool:
    return trial.state == TrialState.FAIL and trial.user_attrs.get(FAILURE) == DIVERGED


def scaled(value: Any, distribution: BaseDistribution) -> float:
    """Where a value lies in its range, [0, 1], logarithmic where the range is; of choices, the position."""
    if isinstance(distribution, CategoricalDistribution):
        return float(distribution.to_internal_repr(value))
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high = distribution.low, distribution.high
    if distribution.log:
        return math.log(value / low) / math.log(high / low)
    return (float(value) - low) / (high - low)


def _is_continuous(distribution: BaseDistribution) -> bool:
    return isinstance(distribution, FloatDistribution) and distribution.step is None


# ---- what TPE sees


MOST_SEEN = 400
"""Trials that TPE builds its densities from; asking takes time in proportion to them, 0.1 s at 1,000."""
MOST_GOOD = 25
"""TPE's own bound on the trials it takes for good."""


class SeenByTpe:
    """The study as TPE alone sees it: diverged trials are RUNNING, and bad ones are thinned out where there are many.

    Of a long search TPE sees the good trials, which are the same ones whatever is left out of the others, and an even
    share of the others by number. The stored study is not touched.

    TPE never looks at FAIL, and counts what runs as bad, however few are good: were diverged trials COMPLETE with the
    worst value, TPE's good tenth would be filled up with them where they are many. Measured on eight seeds, of 160
    suggestions after four diverged trials in one half of the lr range 117 fall there with TPE as it is, 45 where only
    those next to a diverged trial are drawn again, 23 with this view too; after 60 diverged trials 120, 24 and 2.

    Args:
        trials: all of the study, by number, as they are while one suggestion is made.
        ended: what is known from earlier suggestions.
    """

    def __init__(self, study: optuna.Study, trials: Sequence[FrozenTrial], ended: EndedTrials) -> None:
        self._study = study
        self._storage = _Deaf()
        self._trials = trials
        self._ended = ended

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def _get_trials(
        self, deepcopy: bool = True, states: Sequence[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        wanted = frozenset(TrialState if states is None else states)
        seen = self._ended.look(wanted).seen(self._trials, self._study.direction)
        return copy.deepcopy(seen) if deepcopy else seen


class EndedTrials:
    """What one study's trials that have ended look like to TPE, kept from suggestion to suggestion.

    Nothing about them changes any more. A suggestion looks one by one only at the trials from the first on that had not
    ended at the suggestion before; the others it copies as a list.
    """

    def __init__(self) -> None:
        self._looks: dict[frozenset[TrialState], _Look] = {}

    def look(self, states: frozenset[TrialState]) -> _Look:
        """At the trials in these states."""
        return self._looks.setdefault(states, _Look(states))


class _Look:
    def __init__(self, states: frozenset[TrialState]) -> None:
        self._states = states
        self._passed = 0
        """So many trials, from the first on, have ended and are known."""
        self._wanted: list[FrozenTrial] = []
        """Those of them in the states looked for, by number."""
        self._good: list[tuple[TpeRank, int]] = []
        """The best of these, best first, with their places; at most :data:`MOST_GOOD`."""

    def seen(self, trials: Sequence[FrozenTrial], direction: StudyDirection) -> list[FrozenTrial]:
        """The trials looked for, by number; of more than :data:`MOST_SEEN` the good ones and others evenly."""
        passed = self._passed
        while passed < len(trials) and trials[passed].state.is_finished():
            passed += 1
        for trial in self._as_seen(trials[self._passed : passed]):
            insort(self._good, (_tpe_rank(trial, direction), len(self._wanted)))
            del self._good[MOST_GOOD:]
            self._wanted.append(trial)
        self._passed = passed
        others = self._as_seen(trials[passed:])
        seen = [*self._wanted, *others]
        if len(seen) <= MOST_SEEN:
            return seen
        ranked = [(_tpe_rank(trial, direction), place) for place, trial in enumerate(others, start=len(self._wanted))]
        good = [place for _, place in heapq.nsmallest(MOST_GOOD, [*self._good, *ranked])]
        rest = np.delete(np.arange(len(seen)), good)
        kept = rest[np.linspace(0, len(rest) - 1, MOST_SEEN - MOST_GOOD).round().astype(int)]
        return [seen[place] for place in sorted([*good, *kept.tolist()])]

    def _as_seen(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        shown = (_as_running(trial) if has_diverged(trial) else trial for trial in trials)
        return [trial for trial in shown if trial.state in self._states]


TpeRank = tuple[int, float, float]


def _tpe_rank(trial: FrozenTrial, direction: StudyDirection) -> TpeRank:
    """TPE's order, best first: COMPLETE by value, PRUNED by last step and then value, all others."""
    sign = 1.0 if direction == StudyDirection.MINIMIZE else -1.0
    if trial.state == TrialState.COMPLETE and trial.value is not None:
        return 0, sign * trial.value, 0.0
    if trial.state == TrialState.PRUNED and trial.intermediate_values:
        step, value = max(trial.intermediate_values.items())
        return 1, float(-step), math.inf if math.isnan(value) else sign * value
    return 2, 0.0, 0.0


class _Deaf:
    """TPE shares its draws with other processes through the storage; here only one process asks."""

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        pass


def _as_running(trial: FrozenTrial) -> FrozenTrial:
    seen = copy.copy(trial)
    seen.state = TrialState.RUNNING
    return seen
