"""Which searched setting matters: permutation importance of a forest, with the spread over re-drawn trials.

Trials are drawn again with replacement; a random forest learns the value from their settings, and is judged on the
trials that were left out. A setting's importance is the rise of the squared error there when its column is shuffled,
as a share of the values' variance. Why not Optuna's fANOVA or PED-ANOVA: both judge a model on the trials it was made
from, where a dozen trials make every setting look important.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tune_lnl.tuning.space.ranges import Choice, Int, LogUniform, Parameter

ENOUGH = 30
"""Trials below which importances are little more than noise."""
FEWEST = 6
"""Below it, left-out trials are too few to judge a forest at all."""
REDRAWS = 40
TREES = 30
SHUFFLES = 4


@dataclass(frozen=True)
class Importance:
    """Shares of the values' variance: median over the re-draws, and from the 10% to the 90% quantile of them.

    About 0 or below: knowing the setting does not help to tell how a trial does.
    """

    name: str
    median: float
    low: float
    high: float


def importances(
    params: Sequence[Mapping[str, Any]], values: Sequence[float], parameters: Mapping[str, Parameter], seed: int = 0
) -> list[Importance]:
    """Importances of the searched settings, largest first; none for fewer than six trials or values all alike.

    Args:
        params: settings of each trial, (N,).
        values: its value, (N,), finite.
        parameters: the searched ranges.
        seed: of re-draws, forests and shuffles.
    """
    y = np.asarray(values, dtype=np.float64)
    if len(y) < FEWEST or float(np.ptp(y)) == 0.0:
        return []
    from sklearn.ensemble import RandomForestRegressor  # slow to import

    names = list(parameters)
    x = np.array([[_column(parameters[name], one[name]) for name in names] for one in params])
    rng = np.random.default_rng(seed)
    shares: list[NDArray[np.float64]] = []
    for redraw in range(REDRAWS):
        drawn = rng.integers(len(y), size=len(y))
        left_out = np.setdiff1d(np.arange(len(y)), drawn)
        if len(left_out) < 2:
            continue
        forest = RandomForestRegressor(TREES, min_samples_leaf=2, random_state=redraw, n_jobs=1)
        forest.fit(x[drawn], y[drawn])
        shares.append(_rises(forest, x[left_out], y[left_out], rng) / float(np.var(y)))
    table = np.array(shares)
    low, median, high = np.quantile(table, (0.1, 0.5, 0.9), axis=0)
    found = [Importance(name, float(median[i]), float(low[i]), float(high[i])) for i, name in enumerate(names)]
    return sorted(found, key=lambda one: -one.median)


def _rises(
    forest: Any, x: NDArray[np.float64], y: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Rise of the mean squared error on (x, y) by shuffling each column, (P,)."""
    columns = x.shape[1]
    # All shuffled copies at once: a forest's predict costs milliseconds however few rows it gets.
    copies = np.tile(x, (columns * SHUFFLES, 1, 1))
    for copy in range(len(copies)):
        copies[copy, :, copy // SHUFFLES] = rng.permutation(x[:, copy // SHUFFLES])
    predicted = forest.predict(np.concatenate([x, copies.reshape(-1, columns)]))
    error = float(np.mean((predicted[: len(y)] - y) ** 2))
    shuffled = predicted[len(y) :].reshape(columns, SHUFFLES, len(y))
    rises: NDArray[np.float64] = np.mean((shuffled - y) ** 2, axis=(1, 2)) - error
    return rises


def _column(parameter: Parameter, value: Any) -> float:
    if isinstance(parameter, Choice):
        places = [i for i, choice in enumerate(parameter.choices) if choice == value and type(choice) is type(value)]
        return float(places[0])
    if isinstance(parameter, LogUniform) or (isinstance(parameter, Int) and parameter.log):
        return math.log(value)
    return float(value)
