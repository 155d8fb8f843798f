"""Verdicts on given labels: which are wrong, and what they should be.

The evidence is predictions by networks that have not seen the labels, and how often training selected each sample as
clean. There are n samples, C classes and the given labels y_i.

**1. Noise model** (:func:`fit_noise_model`). Image i is of class k with probability p_i[k], predicted by a network that
was not trained on it. Class k is labelled j with probability T[k, j], independent of the image. So

    P(y_i | image i) = sum_k p_i[k] T[k, y_i]                                                                   (1)

and, given the label, the image is of class k with probability

    r_i[k] = p_i[k] T[k, y_i] / sum_l p_i[l] T[l, y_i].                                                         (2)

T is estimated by expectation maximisation, which alternates (2) and

    T[k, j] = (sum over i with y_i = j of r_i[k] + m[k, j]) / (sum over i of r_i[k] + m)                        (3)

(Dawid & Skene 1979, with the predictions as prior of the classes). m[k, j] stands for PSEUDO_SAMPLES samples per class
with the average labelling of the dataset: rare classes borrow from the others. Networks are overconfident, or
underconfident after training on noisy labels. Therefore p_i is the prediction to the power b, normalised, with the b
that maximises the likelihood (1).

**2. Selection** (:func:`with_selection`). s_i is how often training selected the sample as clean, as a share of its
chances, over all trainings that contain it. The distributions of s for right and wrong labels, h_right and h_wrong, are
histograms over bins of equal counts; a sample counts as wrong with its probability of being wrong, and each bin gets
one more sample. They reweight the classes:

    r'_i[k] ~ r_i[k] h_right(s_i) for k = y_i,  r_i[k] h_wrong(s_i) for the others.                             (4)

The label is wrong with probability w_i = 1 - r'_i[y_i]. The histograms use r, once: repeated with r', uninformative
networks would confirm themselves. (4) takes p and s as independent given whether the label is right. This holds only
roughly: the order by w is good, its values are overconfident. For a method that selects nothing, r' = r.

**3. Verdict** (:func:`judge_labels`).

- ``keep``: w_i <= 1/2, or there is no prediction by a network that has not seen the label.
- ``relabel``, to the most likely other class, or
- ``open_set``: the image fits no class (:func:`looks_like_none`). Its fit is the largest class probability in the mean
  of all networks. Its p-value is the share of kept images with at most this fit: uniform for images of the closed
  classes, small for others. The share of closed images among the m judged wrong is pi = 2 #{p > 1/2} / m (Storey
  2002). From the smallest p-values on, tenth by tenth, images are open-set while a tenth holds more than twice the
  expected pi m / 10 closed ones, which is a local false discovery rate below 1/2 (Efron 2004).

No threshold uses true labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

Verdict = Literal["keep", "relabel", "open_set"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
KEEP, RELABEL, OPEN_SET = range(3)

EXPONENTS = tuple(float(b) for b in np.geomspace(0.25, 8.0, 21))
PSEUDO_SAMPLES = 10.0
"""Per class, of the average labelling."""
SHARE_BINS = 10
FIT_BINS = 10
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


@dataclass(frozen=True)
class Judgement:
    """One entry per sample, n in all.

    Attributes:
        verdict: int64, place in :data:`VERDICTS`.
        corrected: int64, the given label if kept, else the most likely other class, also for open-set samples.
        confidence: float64, probability r' of the corrected label; NaN where there is no prediction.
        wrong: float64, w; 0 where there is no prediction.
        model: the estimated noise.
    """

    verdict: NDArray[np.int64]
    corrected: NDArray[np.int64]
    confidence: NDArray[np.float64]
    wrong: NDArray[np.float64]
    model: NoiseModel


def judge_labels(
    probabilities: NDArray[np.float32],
    given: NDArray[np.int64],
    selected_share: NDArray[np.float32] | None = None,
    every_network: NDArray[np.float32] | None = None,
) -> Judgement:
    """Return the verdict on every given label.

    Args:
        probabilities: (n, C) of images that the network was not trained on; rows of NaN where there are none.
        given: int64 (n,) in 0..C-1.
        selected_share: (n,) in [0, 1]; None for a method that selects nothing.
        every_network: (n, C), the mean over all networks; None: there is one network.

    Raises:
        ValueError: shapes do not fit, or there is no prediction at all.
    """
    if probabilities.ndim != 2 or given.shape != probabilities.shape[:1]:
        raise ValueError(f"need probabilities (n, C) and labels (n,), got {probabilities.shape} and {given.shape}")
    known: NDArray[np.bool_] = np.logical_not(np.isnan(probabilities).any(axis=1))
    if not known.any():
        raise ValueError("no sample has predictions by a network that has not seen it")
    seen, labels = probabilities[known].astype(np.float64), given[known]
    model = fit_noise_model(seen, labels)
    posterior = label_posterior(sharpened(seen, model.exponent), labels, model.matrix)
    if selected_share is not None:
        posterior = with_selection(posterior, labels, selected_share[known])
    wrong = 1.0 - posterior[np.arange(len(labels)), labels]
    kept = wrong <= 0.5
    corrected = np.where(kept, labels, _likeliest_other(posterior, labels))
    fit = (seen if every_network is None else every_network[known]).max(axis=1)
    verdict = np.where(kept, KEEP, np.where(looks_like_none(fit, kept), OPEN_SET, RELABEL))
    return Judgement(
        verdict=_spread(known, verdict, np.full(len(given), KEEP)),
        corrected=_spread(known, corrected, given),
        confidence=_spread(known, posterior[np.arange(len(labels)), corrected], np.full(len(given), np.nan)),
        wrong=_spread(known, wrong, np.zeros(len(given))),
        model=model,
    )


def judge_in_sample(belief: NDArray[np.float32], given: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return verdicts by one training on all samples, as places in :data:`VERDICTS`, int64 (n,).

    The most likely class of the belief (n, C) replaces the given label, which is kept among equals. Open-set samples
    are found as in :func:`judge_labels`, with the largest entry of the belief as the fit.
    """
    own = belief[np.arange(len(given)), given]
    kept = own >= belief.max(axis=1)
    return np.where(kept, KEEP, np.where(looks_like_none(belief.max(axis=1), kept), OPEN_SET, RELABEL))


def fit_noise_model(probabilities: NDArray[np.float64], given: NDArray[np.int64]) -> NoiseModel:
    """Return the exponent of :data:`EXPONENTS`, and the matrix, of the largest likelihood; the first of equals.

    Args:
        probabilities: (n, C), rows sum to 1.
        given: int64 (n,).
    """
    fits = [_fit_matrix(sharpened(probabilities, exponent), given, exponent) for exponent in EXPONENTS]
    return max(fits, key=lambda fit: fit.log_likelihood)


def sharpened(probabilities: NDArray[np.float64], exponent: float) -> NDArray[np.float64]:
    """Return probabilities (n, C) to a power, rows normalised again."""
    logs = exponent * np.log(np.maximum(probabilities, SMALLEST))
    powers = np.exp(logs - logs.max(axis=1, keepdims=True))
    return _normalised(powers)


def label_posterior(
    probabilities: NDArray[np.float64], given: NDArray[np.int64], matrix: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return r by (2), (n, C)."""
    return _normalised(np.maximum(probabilities * matrix[:, given].T, SMALLEST))


def with_selection(
    posterior: NDArray[np.float64], given: NDArray[np.int64], selected_share: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Return r' by (4), (n, C)."""
    edges = np.unique(np.quantile(selected_share, np.arange(1, SHARE_BINS) / SHARE_BINS))
    # Equal shares fall into one bin, so there may be fewer bins.
    bins = np.searchsorted(edges, selected_share, side="right")
    own = np.zeros(posterior.shape, dtype=np.bool_)
    own[np.arange(len(given)), given] = True
    wrong = 1.0 - posterior[own]
    right_share = _bin_shares(bins, 1.0 - wrong, len(edges) + 1)
    wrong_share = _bin_shares(bins, wrong, len(edges) + 1)
    return _normalised(posterior * np.where(own, right_share[bins][:, None], wrong_share[bins][:, None]))


def looks_like_none(fit: NDArray[Any], kept: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which of the samples that are not kept fit no class, bool (n,).

    Args:
        fit: (n,), probability of the class that each image fits best.
        kept: (n,).
    """
    judged = np.flatnonzero(~kept)
    if not len(judged) or not kept.any():
        return np.zeros(len(fit), dtype=np.bool_)
    p_values = np.searchsorted(np.sort(fit[kept]), fit[judged], side="right") / int(kept.sum())
    tenths = np.minimum((p_values * FIT_BINS).astype(np.int64), FIT_BINS - 1)
    closed = min(1.0, 2.0 * float((p_values > 0.5).mean()))
    crowded = np.bincount(tenths, minlength=FIT_BINS) > 2.0 * closed * len(judged) / FIT_BINS
    odd = np.zeros(len(fit), dtype=np.bool_)
    odd[judged] = np.logical_and.accumulate(crowded)[tenths]
    return odd


def _fit_matrix(probabilities: NDArray[np.float64], given: NDArray[np.int64], exponent: float) -> NoiseModel:
    count, classes = probabilities.shape
    labelled = np.zeros((count, classes))
    labelled[np.arange(count), given] = 1.0
    responsibilities = probabilities
    matrix, before, fit = np.full((classes, classes), 1.0 / classes), -np.inf, -np.inf
    for _ in range(ROUNDS):
        counts = responsibilities.T @ labelled
        matrix = _normalised(counts + PSEUDO_SAMPLES * _average(counts))
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


def _bin_shares(bins: NDArray[np.int64], weights: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    counts = np.bincount(bins, weights=weights, minlength=count) + 1.0
    shares: NDArray[np.float64] = counts / counts.sum()
    return shares


def _likeliest_other(posterior: NDArray[np.float64], given: NDArray[np.int64]) -> NDArray[np.int64]:
    others = posterior.copy()
    others[np.arange(len(given)), given] = -1.0
    likeliest: NDArray[np.int64] = others.argmax(axis=1)
    return likeliest


def _normalised(values: NDArray[np.float64]) -> NDArray[np.float64]:
    result: NDArray[np.float64] = values / values.sum(axis=1, keepdims=True)
    return result


def _spread(known: NDArray[np.bool_], values: NDArray[Any], elsewhere: NDArray[Any]) -> NDArray[Any]:
    whole = elsewhere.astype(values.dtype)
    whole[known] = values
    return whole
