"""Summaries of accuracies, by hand."""

from __future__ import annotations

import math

import pytest

from tune_lnl.metrics.classification import mean_and_std, standard_error


def test_mean_and_population_deviation() -> None:
    mean, deviation = mean_and_std([0.2, 0.4, 0.4, 0.4, 0.5, 0.5, 0.7, 0.9])
    assert mean == pytest.approx(0.5)
    assert deviation == pytest.approx(0.2)  # the sample deviation would be 0.2138
    assert mean_and_std([0.7]) == (0.7, 0.0)


def test_mean_and_deviation_of_nothing() -> None:
    with pytest.raises(ValueError, match="no values"):
        mean_and_std([])


def test_nan_is_not_hidden() -> None:
    mean, deviation = mean_and_std([0.5, math.nan])
    assert math.isnan(mean)
    assert math.isnan(deviation)
    assert mean_and_std([0.5, math.inf])[0] == math.inf


def test_standard_error_by_hand() -> None:
    assert standard_error(0.5, 100) == pytest.approx(0.05)
    assert standard_error(0.9, 900) == pytest.approx(0.01)
    assert standard_error(0.0, 7) == standard_error(1.0, 7) == 0.0


@pytest.mark.parametrize(("fraction", "n"), [(-0.1, 10), (50.0, 10), (math.nan, 10), (0.5, 0)])
def test_standard_error_refuses_percent_and_no_samples(fraction: float, n: int) -> None:
    with pytest.raises(ValueError, match=r"fraction|at least 1"):
        standard_error(fraction, n)
