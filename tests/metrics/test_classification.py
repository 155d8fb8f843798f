"""Accuracies and their summaries, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from tune_lnl.metrics.classification import accuracy, last_epochs_mean, mean_and_std, standard_error


def test_accuracy_by_hand() -> None:
    logits = torch.tensor([[3.0, 1.0, 2.0], [0.0, 0.5, 0.1], [1.0, 2.0, 3.0], [9.0, 8.0, 7.0]])
    assert accuracy(logits, torch.tensor([0, 1, 0, 2])) == 0.5


@pytest.mark.parametrize(("label", "expected"), [(0, 1.0), (1, 0.0)])
def test_ties_go_to_the_lower_class(label: int, expected: float) -> None:
    assert accuracy(torch.zeros(1, 3), torch.tensor([label])) == expected


def test_accuracy_is_exact_for_large_counts() -> None:
    logits = torch.zeros(50_000, 2, dtype=torch.bfloat16)
    labels = torch.ones(50_000, dtype=torch.int64)
    labels[:33_333] = 0
    assert accuracy(logits, labels) == 33_333 / 50_000


@pytest.mark.parametrize(("rows", "labels"), [((2, 3), (3,)), ((2,), (2,)), ((2, 3), (2, 3)), ((0, 3), (0,))])
def test_accuracy_refuses_what_does_not_fit(rows: tuple[int, ...], labels: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"logits \(B, C\)|empty"):
        accuracy(torch.zeros(rows), torch.zeros(labels, dtype=torch.int64))


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
    assert math.isnan(last_epochs_mean([0.5, math.nan, 0.5], 2))


def test_mean_of_the_last_epochs() -> None:
    values = [9.0, 0.1, 0.2, 0.6]
    assert last_epochs_mean(values, 3) == pytest.approx(0.3)
    assert last_epochs_mean(values, 1) == 0.6
    assert last_epochs_mean([0.1, 0.3], 10) == pytest.approx(0.2)


@pytest.mark.parametrize(("values", "count"), [([0.5], 0), ([0.5], -1), ([], 3)])
def test_mean_of_no_epochs_is_refused(values: list[float], count: int) -> None:
    with pytest.raises(ValueError, match=r"at least 1|no values"):
        last_epochs_mean(values, count)


def test_standard_error_by_hand() -> None:
    assert standard_error(0.5, 100) == pytest.approx(0.05)
    assert standard_error(0.9, 900) == pytest.approx(0.01)
    assert standard_error(0.0, 7) == standard_error(1.0, 7) == 0.0


@pytest.mark.parametrize(("fraction", "n"), [(-0.1, 10), (50.0, 10), (math.nan, 10), (0.5, 0)])
def test_standard_error_refuses_percent_and_no_samples(fraction: float, n: int) -> None:
    with pytest.raises(ValueError, match=r"fraction|at least 1"):
        standard_error(fraction, n)
