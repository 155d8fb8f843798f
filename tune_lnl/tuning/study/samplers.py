"""Proposing settings: Optuna's samplers, kept from near-duplicates and from where training diverged.

A proposal depends on the seed, the number of its trial and the other trials of the study, and on nothing else: a
search that was interrupted and resumed proposes what an undisturbed one does. The suggestions of related runs come in
addition: between them the draws of a search, and the number of its random ones, are those that it would have without.

Tried and left out, replayed on 300 curves of ACT on the digits, 30 seeds: giving TPE an estimate of the
final value of every stopped trial, so that it need not rank them behind all trials that went on, lowers the regret by
0.02 [0.00, 0.06], 0.03 [-0.05, 0.12] and 0.00 points at 10, 20 and 40 full trials' worth of epochs; 6 random trials to
start with instead of 10 by 0.07 [-0.18, 0.34], 0.06 [-0.09, 0.23] and 0.05 [-0.09, 0.19].
"""

from __future__ import annotations

import copy
import heapq
import math
import warnings
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.study import StudyDirection

from tune_lnl.errors import InputError
from tune_lnl.tuning.study.optuna_compat import given_params
from tune_lnl.tuning.study.related import Advice, RelatedRun, share_of_related
from tune_lnl.tuning.study.trials import FrozenTrial, TrialState, has_diverged

LEARN_FROM_COMPLETE = {"gp", "cmaes"}
"""Samplers that ignore stopped trials: with a pruner on they learn from few."""

NEAR = 1e-3
"""Near-duplicates agree on every axis, scaled to [0, 1], within this; on grids and choices exactly."""

REDRAWS = 5
"""How often the sampler draws again in place of an unwanted point, and how often chance then does."""

AVOID_DIVERGED = {"tpe", "gp", "cmaes"}
"""Samplers that learn. The others cover the space, and leave no hole where something diverged."""


ADVISED = "advised"
"""The study attribute with the numbers of the trials that related runs suggested."""

TRUSTED = 0.5
"""Trust in related runs below which their suggestions take no place of a random trial."""

LEARNT_FROM = (TrialState.COMPLETE, TrialState.PRUNED)
"""States of the trials that count as random ones at the start."""


@contextmanager
def experimental_allowed() -> Iterator[None]:
    """Silence Optuna's console warnings about experimental features; a user of this package cannot act on them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


def make_sampler(
    name: str,
    seed: int,
    trials: int,
    distributions: Mapping[str, BaseDistribution],
    related: Sequence[RelatedRun] = (),
    first: int = 0,
) -> optuna.samplers.BaseSampler:
    """Return the sampler called ``name`` (tpe, random, qmc, cmaes, gp) over these ranges.

    Args:
        name: of the sampler.
        seed: of the search.
        trials: number of trials of the search.
        distributions: the ranges.
        related: runs whose best points are suggested as far as their ranking holds in this search.
        first: number of trials that stand in the study before any suggestion.

    Raises:
        InputError: it needs a package that is not installed.
    """
    if name == "cmaes" and find_spec("cmaes") is None:
        raise InputError("--sampler cmaes needs the package cmaes; install tune_lnl[cmaes], or use --sampler tpe")
    return WholePointSampler(name, partial(_optuna_sampler, name, trials), seed, distributions, related, first)


def startup_trials(trials: int) -> int:
    """Return how many trials are drawn at random first: a quarter of a small budget, at most Optuna's own ten."""
    return max(4, min(10, trials // 4))


def _optuna_sampler(name: str, trials: int, seed: int, more_startup: int = 0) -> optuna.samplers.BaseSampler:
    if name == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    with experimental_allowed():
        if name == "qmc":
            return optuna.samplers.QMCSampler(seed=seed, warn_independent_sampling=False)
        if name == "gp":
            return optuna.samplers.GPSampler(seed=seed)
        startup = startup_trials(trials) + more_startup
        if name == "cmaes":
            return optuna.samplers.CmaEsSampler(seed=seed, n_startup_trials=startup, warn_independent_sampling=False)
        assert name == "tpe"
        # Named, because their defaults changed between releases of Optuna.
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup, multivariate=True, constant_liar=True)


class WholePointSampler(optuna.samplers.BaseSampler):
    """Draws whole points from an Optuna sampler and replaces unwanted ones.

    Unwanted are near-duplicates of any other trial and, where the sampler learns, points whose nearest trial diverged:
    Optuna's samplers do not look at failed trials. Start points and trials that wait for another attempt have their
    settings already: nothing is drawn for them.

    Args:
        name: of the sampler.
        make_sampler: makes it from a seed, and from a number of trials more to draw at random before it learns; called
            anew for every trial, with a seed of that trial's own.
        seed: of the search.
        distributions: the ranges of the search.
        related: the related runs.
        first: number of trials that stand in the study before any suggestion.
    """

    def __init__(
        self,
        name: str,
        make_sampler: Callable[[int, int], optuna.samplers.BaseSampler],
        seed: int,
        distributions: Mapping[str, BaseDistribution],
        related: Sequence[RelatedRun] = (),
        first: int = 0,
    ) -> None:
        self._name = name
        self._make_sampler = make_sampler
        self._seed = seed
        self._searched = {key: range_ for key, range_ in distributions.items() if not range_.single()}
        # These two know no choices; the independent draw below fills them in.
        numeric_only = name in ("qmc", "cmaes")
        self._together = {
            key: range_
            for key, range_ in self._searched.items()
            if not (numeric_only and isinstance(range_, CategoricalDistribution))
        }
        self._tried = TriedPoints(self._searched)
        self._related = related
        # Without any start point the first trial is the search's own: there is nothing yet to try a ranking against.
        self._first = max(1, first)
        self._advice: Advice | None = None
        self._advised: list[int] | None = None
        """Numbers of the trials that related runs suggested; kept in the study."""

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return dict(self._searched)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        given = given_params(trial)
        if given.keys() >= self._searched.keys():
            return {}
        trials = study.get_trials(deepcopy=False)
        others = [other for other in trials if other.number != trial.number]
        self._tried.update(others)
        key: tuple[int, ...] = (self._seed, trial.number)
        more_startup = 0
        if self._related and not given:
            given, trusted = self._advice_for(trial.number, others, study)
            advised = [number for number in self._advised_numbers(study) if number < trial.number]
            key = (self._seed, trial.number, 1) if given else (self._seed, trial.number - len(advised))
            if not trusted:
                more_startup = sum(other.number in advised and other.state in LEARNT_FROM for other in others)
        seen = study_for_tpe(others, study.direction) if self._name == "tpe" else study
        seeds = np.random.SeedSequence(key).generate_state(2)
        sampler = self._make_sampler(int(seeds[0]), more_startup)
        chance = optuna.samplers.RandomSampler(seed=int(seeds[1]))
        # The optimum of a Gaussian process is no draw: asked again it would be, slowly, the same.
        draws = [sampler] * (1 if self._name == "gp" else 1 + REDRAWS) + [chance] * REDRAWS
        for drawing in draws:
            point = {} if drawing is chance else drawing.sample_relative(seen, trial, dict(self._together))
            for name, range_ in self._searched.items():
                if name not in point:
                    point[name] = drawing.sample_independent(seen, trial, name, range_)
            point |= {name: value for name, value in given.items() if name in point}
            if not self._unwanted(point):
                break
        return point

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        raise AssertionError("the whole point is drawn together")

    def _advice_for(
        self, number: int, others: Sequence[FrozenTrial], study: optuna.Study
    ) -> tuple[dict[str, Any], bool]:
        """Return a point of a related run, all or some of its settings, and whether one of the runs is trusted.

        The point is empty where the search suggests one itself.
        """
        if self._advice is None:
            self._advice = Advice(self._related, self._tried.position, self._tried.choices, study.direction)
        trust = self._advice.trust(others)
        trusted = bool(trust.max() >= TRUSTED)
        chance = np.random.default_rng((self._seed, number)).random()
        if chance >= share_of_related(number - self._first, trust):
            return {}, trusted
        point = next((dict(point) for point in self._advice.best_points(trust) if not self._unwanted(point)), {})
        if point and number not in self._advised_numbers(study):
            self._advised_numbers(study).append(number)
            study.set_user_attr(ADVISED, self._advised)
        return point, trusted

    def _advised_numbers(self, study: optuna.Study) -> list[int]:
        if self._advised is None:
            self._advised = list(study.user_attrs.get(ADVISED, ()))
        return self._advised

    def _unwanted(self, point: Mapping[str, Any]) -> bool:
        return self._tried.has_near(point) or (self._name in AVOID_DIVERGED and self._tried.nearest_diverged(point))


class TriedPoints:
    """The settings of all other trials. Every axis is scaled to [0, 1]; the distance of two choices is 0 or 1."""

    def __init__(self, searched: Mapping[str, BaseDistribution]) -> None:
        self._searched = searched
        self.choices = np.array([isinstance(range_, CategoricalDistribution) for range_ in searched.values()])
        """(axes,) bool."""
        continuous = [isinstance(each, FloatDistribution) and each.step is None for each in searched.values()]
        self._tolerance = np.where(continuous, NEAR, 1e-9)
        self._numbers: list[int] = []
        self._known: set[int] = set()
        self._rows = np.empty((0, len(searched)))
        self._diverged: set[int] = set()
        self._settled = 0
        """Length of the prefix of trials that are finished and already processed."""

    def update(self, trials: Sequence[FrozenTrial]) -> None:
        """Take in new trials.

        Args:
            trials: of the study by number, those of the call before among them; one unfinished trial may be missing.
        """
        new = []
        for trial in trials[self._settled :]:
            if trial.number not in self._known and self._searched.keys() <= trial.params.keys():
                self._known.add(trial.number)
                self._numbers.append(trial.number)
                new.append(self.position(trial.params))
            if has_diverged(trial):
                self._diverged.add(trial.number)
            self._settled += trial.number == self._settled and trial.state.is_finished()
        if new:
            self._rows = np.concatenate([self._rows, np.array(new).reshape(-1, len(self._searched))])

    def has_near(self, point: Mapping[str, Any]) -> bool:
        """Return whether the point is a near-duplicate of one of them; settings that it lacks do not count."""
        apart = self._apart(point)
        return bool(((apart <= self._tolerance) | np.isnan(apart)).all(axis=1).any())

    def nearest_diverged(self, point: Mapping[str, Any]) -> bool:
        """Return whether the nearest one (Euclidean) diverged."""
        if not self._diverged:
            return False
        nearest = int(np.nansum(np.square(self._apart(point)), axis=1).argmin())
        return self._numbers[nearest] in self._diverged

    def _apart(self, point: Mapping[str, Any]) -> np.ndarray:
        """Return the (N, axes) distances."""
        apart: np.ndarray = np.abs(self._rows - self.position(point))
        choices = apart[:, self.choices]
        apart[:, self.choices] = np.where(np.isnan(choices), choices, choices > 0)
        return apart

    def position(self, params: Mapping[str, Any]) -> np.ndarray:
        """Return the (axes,) position of settings, NaN where one is missing."""
        return np.array(
            [scaled(params[name], range_) if name in params else math.nan for name, range_ in self._searched.items()]
        )


def scaled(value: Any, distribution: BaseDistribution) -> float:
    """Return the position of a value in its range, [0, 1], logarithmic where the range is; of a choice, its index."""
    if isinstance(distribution, CategoricalDistribution):
        return float(distribution.to_internal_repr(value))
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high = distribution.low, distribution.high
    if distribution.log:
        return math.log(value / low) / math.log(high / low)
    return (float(value) - low) / (high - low)


# ---- what TPE sees


MOST_SEEN = 400
"""Trials from which TPE builds its densities; asking takes time in proportion to them, 0.1 s at 1,000."""
MOST_GOOD = 25
"""TPE's own bound on the trials that it takes for good."""


class _ShownTrials(optuna.storages.InMemoryStorage):
    """The storage of a study that holds given trials; asking changes nothing in it."""

    def __init__(self, trials: list[FrozenTrial]) -> None:
        super().__init__()
        self._shown = trials

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        trials = [trial for trial in self._shown if states is None or trial.state in states]
        return copy.deepcopy(trials) if deepcopy else trials

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Drop it: TPE shares its draws with other processes in this way, and here only one process asks."""


def study_for_tpe(trials: Sequence[FrozenTrial], direction: StudyDirection) -> optuna.Study:
    """Return a study in memory that shows TPE the trials of the search in another light.

    Diverged trials are RUNNING: TPE ignores FAIL trials, and treats RUNNING ones as bad. As COMPLETE trials with the
    worst value they would fill TPE's good tenth where most trials diverge. Measured on eight seeds, of 160 suggestions
    after four diverged trials in one half of the lr range 117 fall there with plain TPE, 45 where only suggestions next
    to a diverged trial are drawn again, 23 with this view too; after 60 diverged trials 120, 24 and 2.

    Of more than MOST_SEEN trials TPE sees the good ones, which are the same whatever else is left out, and an even
    share of the others by number.

    Args:
        trials: of the study, by number, without the one that is being asked for.
        direction: of the study.
    """
    shown = []
    for trial in trials:
        if has_diverged(trial):
            running = copy.copy(trial)
            running.state = TrialState.RUNNING
            shown.append(running)
        elif trial.state in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING):
            shown.append(trial)
    if len(shown) > MOST_SEEN:
        good = heapq.nsmallest(MOST_GOOD, range(len(shown)), key=lambda place: _tpe_rank(shown[place], direction))
        rest = np.delete(np.arange(len(shown)), good)
        kept = rest[np.linspace(0, len(rest) - 1, MOST_SEEN - MOST_GOOD).round().astype(int)]
        shown = [shown[place] for place in sorted([*good, *kept.tolist()])]
    return optuna.create_study(storage=_ShownTrials(shown), direction=direction)


def _tpe_rank(trial: FrozenTrial, direction: StudyDirection) -> tuple[int, float, float]:
    """Return the key of TPE's order, best first: COMPLETE by value, PRUNED by last step and then value, all others."""
    sign = 1.0 if direction == StudyDirection.MINIMIZE else -1.0
    if trial.state == TrialState.COMPLETE and trial.value is not None:
        return 0, sign * trial.value, 0.0
    if trial.state == TrialState.PRUNED and trial.intermediate_values:
        step, value = max(trial.intermediate_values.items())
        return 1, float(-step), math.inf if math.isnan(value) else sign * value
    return 2, 0.0, 0.0
