"""The race: which of the few best configs is best on replicates that none of them was chosen on?

One training per config cannot rank good configs: the best of many is partly the luckiest one. So the best few and the
published setting are trained again on fresh seeds and splits, the same for all. After each round those that are clearly
worse drop out, and the trainings that are left go to the others.

The estimate joins three kinds of evidence, all of the objective. Symbols: K configs with means m (K,), N observations:

    prior      m ~ N(mu, S)                        from the trials of the search (:mod:`tune_lnl.tuning.confirm.likely`)
    replicate  y = m[c] + b[r] + e                 of config c under the seeds r
               b[r] ~ N(0, B^2)                    what a split and a seed give to all configs, B = 10 s: hardly known
               e ~ N(0, s^2)                       the luck of one training

Its posterior is Gaussian; the highest posterior mean comes first, but the published setting stays in front of a config
that is not distinguishable from it: all evidence is on given labels, and their noise can reverse what it cannot tell
apart. So a config that led by luck is drawn back to the others, and few replicates do not overrule many trials.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tune_lnl.tuning.plan.plan import RACE_SHARE

MOST_ENTRANTS = 6
CLEARLY_WORSE = 0.05
"""A config drops out when the probability that it is better than the first is below this."""
MOST_NOISE = 4.0
"""Most that the replicates may raise the expected variance of one training, as a factor."""
DRAWS = 20_000

Values = Mapping[int, Mapping[int, float]]
"""Config (trial number) -> replicate (1, 2, ...) -> objective, higher is better; NaN where training diverged."""


@dataclass(frozen=True)
class Prior:
    """What the trials of the search say about the entrants.

    Attributes:
        numbers: (K,) trials, in the order of the arrays.
        mean: (K,) expected objective, higher is better.
        covariance: (K, K).
        noise: variance of one training around its config's mean, s^2.
    """

    numbers: tuple[int, ...]
    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]
    noise: float


@dataclass(frozen=True)
class Standing:
    """The race so far, best first; configs that diverged are left out.

    Attributes:
        numbers: trials.
        best: probability that each is the best of all, (K,).
        behind: mean and standard deviation of the first one's advantage over each, (K, 2); zeros for the first.
    """

    numbers: tuple[int, ...]
    best: tuple[float, ...]
    behind: tuple[tuple[float, float], ...]

    def better(self, place: int) -> float:
        """Return the probability that the config at ``place`` is better than the first."""
        mean, deviation = self.behind[place]
        if place == 0 or deviation == 0.0:
            return 0.0 if mean > 0 else 0.5
        return 0.5 * math.erfc(mean / deviation / math.sqrt(2.0))


def affordable(epochs_of_trials: int, epochs: int) -> int:
    """Return how many full trainings of ``epochs`` the replicates may have.

    >>> affordable(8 * 45, 45)
    2
    """
    return int(RACE_SHARE * epochs_of_trials / epochs)


def entrants(order: Sequence[int], published: int | None, trainings: int) -> list[int]:
    """Return the trials that enter, best first, the published setting among them.

    Args:
        order: complete trials, the likely best first.
        published: the trial at the published setting, if it is complete.
        trainings: affordable ones; half of them, at most, go to the first round.

    >>> entrants([5, 3, 9, 0, 7], 0, 4)
    [5, 0]
    """
    count = min(MOST_ENTRANTS, max(2, trainings // 2), len(order))
    if published is None or published not in order or published in order[:count]:
        return list(order[:count])
    return [*order[: count - 1], published]


def hopeful(prior: Prior, published: int | None) -> list[int]:
    """Return the entrants that may be the best by what the trials say, and the published setting in any case."""
    standing = stand(prior, {})
    return [
        number
        for place, number in enumerate(standing.numbers)
        if number == published or place == 0 or standing.better(place) >= CLEARLY_WORSE
    ]


def next_round(prior: Prior, values: Values, trainings: int, published: int | None = None) -> list[tuple[int, int]]:
    """Return what to train next, (trial, replicate) each; empty when the race is over.

    A round is one replicate of every config that is still in; fewer than two are no race.

    Args:
        values: of all trainings so far.
        trainings: affordable ones in all.
        published: as for :func:`stand`.
    """
    done = max((replicate for own in values.values() for replicate in own), default=0)
    standing = stand(prior, values, published)
    still_in = [
        number
        for place, number in enumerate(standing.numbers)
        # Only those that were trained in the last round: who dropped out does not come back.
        if done == 0 or (done in values.get(number, {}) and (place == 0 or standing.better(place) >= CLEARLY_WORSE))
    ]
    left = trainings - sum(map(len, values.values()))
    if min(len(still_in), left) < 2:
        return []
    return [(number, done + 1) for number in still_in[:left]]


def stand(prior: Prior, values: Values, published: int | None = None) -> Standing:
    """Return the standing by the posterior; ties go to the lower trial number.

    Args:
        published: the trial at the published setting; it comes first unless another is clearly better.
    """
    diverged = {number for number, own in values.items() if not all(map(math.isfinite, own.values()))}
    kept = [place for place, number in enumerate(prior.numbers) if number not in diverged]
    if not kept:
        return Standing((), (), ())
    numbers = [prior.numbers[place] for place in kept]
    mean, covariance = prior.mean[kept], prior.covariance[np.ix_(kept, kept)]
    seen = [(numbers.index(n), r, v) for n, own in values.items() if n in numbers for r, v in own.items()]
    if seen:
        noise = _noise(prior.noise, seen)
        config = np.array([c for c, _, _ in seen])
        replicate = np.array([r for _, r, _ in seen])
        y = np.array([v for _, _, v in seen])
        shared = 100.0 * noise * (replicate[:, None] == replicate[None, :])
        total = covariance[np.ix_(config, config)] + shared + noise * np.eye(len(seen))
        gain = np.linalg.solve(total, covariance[config]).T
        mean = mean + gain @ (y - mean[config])
        covariance = covariance - gain @ covariance[config]
    order = sorted(range(len(numbers)), key=lambda place: (-mean[place], numbers[place]))
    if published in numbers:
        place = numbers.index(published)
        ahead = float(mean[order[0]] - mean[place])
        deviation = math.sqrt(
            max(0.0, float(covariance[place, place] + covariance[order[0], order[0]] - 2 * covariance[place, order[0]]))
        )
        if deviation > 0 and 0.5 * math.erfc(ahead / deviation / math.sqrt(2.0)) >= CLEARLY_WORSE:
            order = [place, *(other for other in order if other != place)]
    mean, covariance = mean[order], covariance[np.ix_(order, order)]
    spread = np.diag(covariance)
    behind = [
        (float(mean[0] - mean[k]), math.sqrt(max(0.0, float(spread[0] + spread[k] - 2 * covariance[0, k]))))
        for k in range(len(order))
    ]
    draws = np.random.default_rng(0).multivariate_normal(mean, covariance, DRAWS, method="eigh")
    best = np.bincount(draws.argmax(axis=1), minlength=len(order)) / DRAWS
    return Standing(tuple(numbers[place] for place in order), tuple(map(float, best)), tuple(behind))


def _noise(prior: float, seen: Sequence[tuple[int, int, float]], weight: int = 4) -> float:
    """Join the expected variance of one training, worth ``weight`` degrees of freedom, with that of the replicates.

    The replicates' own is what is left after a mean per config and a mean per replicate.
    """
    configs, replicates = ({one[axis] for one in seen} for axis in (0, 1))
    freedom = len(seen) - len(configs) - len(replicates) + 1
    if freedom < 1:
        return prior
    design = np.zeros((len(seen), len(configs) + len(replicates)))
    columns = {("c", c): i for i, c in enumerate(configs)} | {
        ("r", r): len(configs) + i for i, r in enumerate(replicates)
    }
    for row, (c, r, _) in enumerate(seen):
        design[row, columns["c", c]] = design[row, columns["r", r]] = 1.0
    y = np.array([v for _, _, v in seen])
    residual = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
    joined = (weight * prior + float(residual @ residual)) / (weight + freedom)
    # A training that collapsed speaks against its config; as noise it would silence all replicates.
    return min(joined, MOST_NOISE * prior)
