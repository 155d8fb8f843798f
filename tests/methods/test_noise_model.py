"""The noise model of given labels: its formulas by hand, and noise that is known."""

from __future__ import annotations

import numpy as np
import pytest

from tune_lnl.methods.noise_model import fit_noise_model, label_posterior, sharpened


def drawn(count: int, classes: int, ratio: float) -> tuple[np.ndarray, np.ndarray]:
    """Calibrated predictions and given labels: class k is filed under k + 1 with probability `ratio`."""
    stream = np.random.RandomState(0)
    powers = np.exp(4.0 * stream.standard_normal((count, classes)))
    probabilities = powers / powers.sum(axis=1, keepdims=True)
    true = np.array([stream.multinomial(1, row / row.sum() * (1 - 1e-9)).argmax() for row in probabilities])
    return probabilities, np.where(stream.rand(count) < ratio, (true + 1) % classes, true)


def test_posterior_by_hand() -> None:
    matrix = np.array([[0.7, 0.3], [0.1, 0.9]])
    found = label_posterior(np.array([[0.8, 0.2], [0.8, 0.2]]), np.array([1, 0]), matrix)
    # 0.8 * 0.3 against 0.2 * 0.9; 0.8 * 0.7 against 0.2 * 0.1.
    assert found == pytest.approx(np.array([[24 / 42, 18 / 42], [56 / 58, 2 / 58]]))


def test_sharpened_by_hand() -> None:
    assert sharpened(np.array([[0.6, 0.3, 0.1]]), 2.0) == pytest.approx(np.array([[36, 9, 1]]) / 46)
    assert sharpened(np.array([[1.0, 0.0]]), 0.5) == pytest.approx(np.array([[1.0, 1e-6]]), abs=1e-6)


@pytest.mark.parametrize(("ratio", "exponent"), [(0.0, 1.0), (0.4, 1.0), (0.3, 0.5), (0.3, 2.0)])
def test_matrix_and_sharpness_are_found(ratio: float, exponent: float) -> None:
    probabilities, given = drawn(6000, 5, ratio)
    model = fit_noise_model(sharpened(probabilities, 1 / exponent), given)
    expected = (1 - ratio) * np.eye(5) + ratio * np.roll(np.eye(5), 1, axis=1)
    assert model.exponent == pytest.approx(exponent, rel=0.35)
    assert np.abs(model.matrix - expected).max() < 0.06
