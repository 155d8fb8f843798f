"""The noise of given labels, fitted together with the sharpness of a network's predictions.

There are n samples, C classes and the given labels y_i. Image i is of class k with probability p_i[k], predicted by a
network that was not trained on it. Class k is labelled j with probability T[k, j], independent of the image. So

    P(y_i | image i) = sum_k p_i[k] T[k, y_i]                                                                   (1)

and, given the label, the image is of class k with probability

    r_i[k] = p_i[k] T[k, y_i] / sum_l p_i[l] T[l, y_i].                                                         (2)

T is estimated by expectation maximisation, which alternates (2) and

    T[k, j] = (sum over i with y_i = j of r_i[k] + m[k, j]) / (sum over i of r_i[k] + m)                        (3)

(Dawid & Skene 1979, with the predictions as prior of the classes). m[k, j] stands for PSEUDO_SAMPLES samples per class
with the average labelling of the dataset: rare classes borrow from the others. Networks are overconfident, or
underconfident after training on noisy labels. Therefore p_i is the prediction to the power b, normalised, with the b
that maximises the likelihood (1). A weak network's confusions and those of the labels look the same to this model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

EXPONENTS = tuple(float(b) for b in np.geomspace(0.25, 8.0, 21))
PSEUDO_SAMPLES = 10.0
"""Per class, of the average labelling."""
ROUNDS = 50
TOLERANCE = 1e-6
SMALLEST = 1e-12


@dataclass(frozen=True)
class NoiseModel:
    """The estimated noise of the labels, by (1) to (3).

    Attributes:
        matrix: (C, C), T; rows sum to 1.
        exponent: b.
        log_likelihood: mean of log P(y_i | image i), natural logarithm.
    """

    matrix: NDArray[np.float64]
    exponent: float
    log_likelihood: float


def fit_noise_model(
    probabilities: NDArray[np.float64], given: NDArray[np.int64], exponents: Sequence[float] = EXPONENTS
) -> NoiseModel:
    """Return the exponent among ``exponents``, and the matrix, of the largest likelihood; the first of equals.

    Args:
        probabilities: (n, C), rows sum to 1.
        given: int64 (n,).
    """
    fits = [_fit_matrix(sharpened(probabilities, exponent), given, exponent) for exponent in exponents]
    return max(fits, key=lambda fit: fit.log_likelihood)


def sharpened(probabilities: NDArray[np.float64], exponent: float) -> NDArray[np.float64]:
    """Return probabilities (n, C) to a power, rows normalised again."""
    logs = exponent * np.log(np.maximum(probabilities, SMALLEST))
    powers = np.exp(logs - logs.max(axis=1, keepdims=True))
    return normalised(powers)


def label_posterior(
    probabilities: NDArray[np.float64], given: NDArray[np.int64], matrix: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return r by (2), (n, C); for calibrated predictions and a known T."""
    return normalised(np.maximum(probabilities * matrix[:, given].T, SMALLEST))


def _fit_matrix(probabilities: NDArray[np.float64], given: NDArray[np.int64], exponent: float) -> NoiseModel:
    count, classes = probabilities.shape
    labelled = np.zeros((count, classes))
    labelled[np.arange(count), given] = 1.0
    responsibilities = probabilities
    matrix, before, fit = np.full((classes, classes), 1.0 / classes), -np.inf, -np.inf
    for _ in range(ROUNDS):
        counts = responsibilities.T @ labelled
        matrix = normalised(counts + PSEUDO_SAMPLES * _average(counts))
        fit = float(np.log(np.maximum((probabilities * matrix[:, given].T).sum(axis=1), SMALLEST)).mean())
        if fit - before < TOLERANCE:
            break
        before = fit
        responsibilities = label_posterior(probabilities, given, matrix)
    return NoiseModel(matrix, exponent, fit)


def _average(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the average labelling: one share of right labels for all classes, the wrong ones spread evenly."""
    classes = len(counts)
    right = float(np.trace(counts) / counts.sum())
    average = np.full((classes, classes), (1.0 - right) / (classes - 1))
    np.fill_diagonal(average, right)
    return average


def normalised(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (n, C) with rows that sum to 1."""
    result: NDArray[np.float64] = values / values.sum(axis=1, keepdims=True)
    return result
