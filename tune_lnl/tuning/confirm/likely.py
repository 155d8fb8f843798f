"""How good each config is likely to be, from all trials of a search: a Gaussian process over the searched settings.

The objective of one training is its config's mean and luck; the best of many is partly the luckiest. The process learns
from the trials how much of their spread the settings explain (kernel) and how much is luck (noise), and draws each
value back accordingly. It is scikit-learn's (Matern 5/2, one length per setting, maximum likelihood).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tune_lnl.tuning.confirm.race import Prior
from tune_lnl.tuning.space.ranges import Choice, Int, LogUniform, Parameter

LUCK = 0.4
"""Least deviation of one training around its config's mean, as a share of the objective's standard error. Few trials
can be fitted without any: on the recorded digits (asym40, draw 1) replicates deviate by 0.92 from the means of their
config and their split, where the standard error is 2.57."""
CUT = 3.0
"""Values further below the median than this many times the upper half's spread count as that: collapsed trainings."""


def coordinates(parameters: Mapping[str, Parameter], params: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
    """Return settings as points of the unit cube, (T, D); a choice gives an axis per value."""
    columns: list[list[float]] = []
    for name, parameter in parameters.items():
        values = [one[name] for one in params]
        if isinstance(parameter, Choice):
            columns += [[float(value == choice) for value in values] for choice in parameter.choices]
            continue
        log = isinstance(parameter, LogUniform) or (isinstance(parameter, Int) and parameter.log)
        low, high = (math.log(end) if log else float(end) for end in (parameter.low, parameter.high))
        columns.append([((math.log(value) if log else value) - low) / (high - low) for value in values])
    return np.array(columns, dtype=np.float64).transpose()


def without_collapsed(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Lift values far below the others, (T,): how badly a training collapsed says nothing about the good ones."""
    middle, top = np.quantile(values, [0.5, 0.9])
    lifted: NDArray[np.float64] = np.maximum(values, middle - CUT * max(float(top - middle), 1e-9))
    return lifted


class Likely:
    """The process, fitted to the complete trials of a search.

    Args:
        parameters: the searched ranges.
        params: settings of T trials.
        values: (T,) their objectives, higher is better, finite.
        standard_error: typical one of these values; ``None`` where it is not known.
    """

    def __init__(
        self,
        parameters: Mapping[str, Parameter],
        params: Sequence[Mapping[str, Any]],
        values: Sequence[float],
        standard_error: float | None = None,
    ) -> None:
        from sklearn.exceptions import ConvergenceWarning  # slow to import
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

        self._points = coordinates(parameters, params)
        y = without_collapsed(np.asarray(values, dtype=np.float64))
        self._offset, self._scale = float(y.mean()), max(float(y.std()), 1e-9)
        least = max(0.01, (LUCK * (standard_error or 0.0) / self._scale) ** 2)
        kernel = ConstantKernel(1.0, (0.01, 10.0)) * Matern(
            np.full(self._points.shape[1], 0.5), (0.1, 10.0), nu=2.5
        ) + WhiteKernel(max(0.3, least), (least, 2.0 * max(1.0, least)))
        self._process = GaussianProcessRegressor(kernel, n_restarts_optimizer=1, random_state=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a length at its bound: a setting without effect
            self._process.fit(self._points, (y - self._offset) / self._scale)

    @property
    def noise(self) -> float:
        """Variance of one training around its config's mean."""
        return float(self._process.kernel_.k2.noise_level) * self._scale**2

    def means(self) -> NDArray[np.float64]:
        """Return the expected objective of every trial, (T,)."""
        return np.asarray(self._process.predict(self._points)) * self._scale + self._offset

    def prior(self, places: Sequence[int], numbers: Sequence[int]) -> Prior:
        """Return what is known of some of the trials.

        Args:
            places: their positions among those the process was fitted to.
            numbers: their trial numbers.
        """
        points = self._points[list(places)]
        mean, covariance = self._process.predict(points, return_cov=True)
        # scikit-learn adds the noise of a new training to the diagonal of what it returns. It stays: all trials share
        # one split, and what suits a config in that split is as much luck.
        return Prior(
            tuple(numbers),
            np.asarray(mean) * self._scale + self._offset,
            np.asarray(covariance) * self._scale**2,
            self.noise,
        )
