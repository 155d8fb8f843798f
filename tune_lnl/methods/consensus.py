"""Scoring trials by the consensus of the others: what can be said about true accuracy without any true label.

T trials, M held-out images, C closed classes. p_t[i][k] is the mean probability that trial t gives class k for image i,
y_i the given label, a_t the share of images whose most likely class by p_t is y_i: the noisy accuracy.

**1. Consensus.** Trial s weighs v_s = 1 / (1 + exp(-2 z_s)), with z_s its standardised score: in the first round the
noisy accuracy, in the second the score of the first. The prediction of the other trials is

    E_t[i] = sum over s != t of v_s p_s[i] / sum over s != t of v_s.                                               (1)

Left out, a trial cannot vote for itself.

**2. Score.** The noise matrix N (N[k, j]: share of class k that is labelled j) and the exponent b are fitted to the
given labels and the mean of all trials (:func:`tune_lnl.methods.noise_model.fit_noise_model`). r_i is then the
probability of each class given E_t[i] and y_i, and

    score_t = 1 / M sum_i sum_k r_i[k] p_t[i][k].                                                                  (2)

**3. Guard.** Where the trials err together, the consensus is wrong with them and prefers those that are wrong in the
same way. That shows in two things. A class that most trials file under another one is missing from the consensus: the
distribution of its classes is far from that of the given labels,

    d = 1/2 sum_k |share of k among argmax E - share of k among y| > LARGEST_SHIFT.                                 (3)

Where most labels are wrong, nothing at hand can correct them: the mean of N's diagonal is below one half. And where the
networks are far from knowing the classes, their errors are those of the images, and shared: the consensus then explains
little of the labels. With H the entropy of the labels' classes and L the mean log-likelihood of (N, b),

    e = (H + L) / H < LEAST_EXPLAINED.                                                                             (4)

The labels themselves may deny the consensus. A class whose images by the consensus are mostly labelled as another one,
N[k, j] > N[k, k], is a class that most trials exchange with that one. And let b be the trial of the highest noisy
accuracy, c that of the highest score (2). Then the labels deny c where

    mean over i of (a_b[i] - a_c[i]) > MOST_ERRORS s,                                                              (5)

s its paired standard error: b would hardly agree with so many more labels if c were the better one.

In each of these cases the score is the noisy accuracy a_t, exactly. Likewise for fewer than FEWEST_TRIALS trials.

Measured in docs/choosing_without_the_test_set.md. LARGEST_SHIFT was set on recorded searches whose truth is known, the
conditions on N's rows and (5) on simulated trials that err together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tune_lnl.methods.noise_model import EXPONENTS, NoiseModel, fit_noise_model, label_posterior, sharpened

ROUNDS = 2
LARGEST_SHIFT = 0.2
LEAST_RIGHT = 0.5
LEAST_EXPLAINED = 0.35
MOST_ERRORS = 2.0
FEWEST_TRIALS = 4


def denoised_scores(probabilities: NDArray[Any], given: NDArray[Any]) -> NDArray[np.float64]:
    """Return score_t of (2), or the noisy accuracy where the guard finds that trials err together.

    Args:
        probabilities: (T, M, C), mean held-out class probabilities of T trials; rows sum to 1.
        given: int (M,), given labels in 0..C-1.

    Returns:
        float64 (T,), fractions; higher is better.

    Raises:
        ValueError: shapes do not fit, a label is out of range, or a probability is not finite.
    """
    found = consensus(probabilities, given)
    return found.scores if found.trusted else found.agreement


@dataclass(frozen=True)
class Consensus:
    """The scores by the consensus, and what the guard looks at.

    Attributes:
        agreement: float64 (T,), noisy accuracy a_t.
        scores: float64 (T,), (2); equal to ``agreement`` for fewer than FEWEST_TRIALS trials.
        shift: d of (3).
        right: mean of N's diagonal.
        explained: e of (4).
        denied: what the labels deny: a class by N's rows, or the best trial by (5).
        trusted: what the guard says.
    """

    agreement: NDArray[np.float64]
    scores: NDArray[np.float64]
    shift: float
    right: float
    explained: float
    denied: bool
    trusted: bool


def consensus(probabilities: NDArray[Any], given: NDArray[Any]) -> Consensus:
    """Return the scores of (2) and the guard's evidence; arguments and errors as :func:`denoised_scores`."""
    predicted, labels = np.asarray(probabilities, dtype=np.float64), np.asarray(given, dtype=np.int64)
    if predicted.ndim != 3 or 0 in predicted.shape or labels.shape != predicted.shape[1:2]:
        raise ValueError(f"need probabilities (T, M, C) and labels (M,), got {predicted.shape} and {labels.shape}")
    classes = predicted.shape[2]
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"given labels have to be classes in 0..{classes - 1}")
    agrees = predicted.argmax(axis=2) == labels
    agreement: NDArray[np.float64] = agrees.mean(axis=1)
    if not np.isfinite(predicted).all():
        raise ValueError("probabilities have to be finite; leave out trials that diverged")
    if len(predicted) < FEWEST_TRIALS or classes == 1:
        return Consensus(agreement, agreement, np.nan, np.nan, np.nan, denied=False, trusted=False)
    scores = agreement
    for _ in range(ROUNDS):
        weights = _weights(scores)
        mean = np.tensordot(weights, predicted, 1) / weights.sum()
        model = fit_noise_model(mean, labels, EXPONENTS[::4])  # coarse: the search is most of the time
        scores = np.array(
            [
                _score(own, weight, mean, weights.sum(), labels, model)
                for own, weight in zip(predicted, weights, strict=True)
            ]
        )
    labelled = np.bincount(labels, minlength=classes) / len(labels)
    agreed = np.bincount(mean.argmax(axis=1), minlength=classes) / len(labels)
    shift, right = float(np.abs(agreed - labelled).sum() / 2), float(np.diag(model.matrix).mean())
    entropy = -float(np.log(labelled[labels]).mean())
    explained = 1.0 + model.log_likelihood / entropy if entropy > 0 else 0.0
    exchanged = bool((model.matrix.max(axis=1) > np.diag(model.matrix)).any())
    behind = agrees[agreement.argmax()].astype(np.float64) - agrees[scores.argmax()]
    denied = exchanged or bool(behind.mean() > MOST_ERRORS * behind.std() / np.sqrt(len(labels)))
    trusted = shift <= LARGEST_SHIFT and right >= LEAST_RIGHT and explained >= LEAST_EXPLAINED and not denied
    return Consensus(agreement, scores, shift, right, explained, denied, trusted)


def _weights(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return v of (1); equal scores weigh the same."""
    deviation = scores.std()
    standardised = (scores - scores.mean()) / deviation if deviation > 0 else np.zeros(len(scores))
    weights: NDArray[np.float64] = 1.0 / (1.0 + np.exp(-2.0 * standardised))
    return weights


def _score(
    own: NDArray[np.float64],
    weight: float,
    mean: NDArray[np.float64],
    total: float,
    labels: NDArray[np.int64],
    model: NoiseModel,
) -> float:
    """Return (2) of one trial."""
    others = np.maximum(mean * total - weight * own, 0.0)
    others /= others.sum(axis=1, keepdims=True)
    posterior = label_posterior(sharpened(others, model.exponent), labels, model.matrix)
    return float((posterior * own).sum(axis=1).mean())
