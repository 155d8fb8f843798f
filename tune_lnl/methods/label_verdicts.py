"""Verdicts on given labels: which are wrong, what they should be, and whether the evidence supports an answer at all.

The evidence is predictions by networks that have not seen the labels, and how often training selected each sample as
clean. There are n samples, C classes, given labels y_i and predictions p_i; c_i is the class predicted for image i and
s_i its probability. Class k is labelled j with probability T[k, j], independent of the image.

**1. Right labels** (:func:`plateau`). Where a classifier is surest, it is nearly always right, so the share of these
samples whose given label agrees with it is the share tau of right labels (anchor points: Liu & Tao, TPAMI 2016). The
samples are ordered by s_i, and the number of surest ones is the one with the highest lower confidence bound of the
agreement. A weak classifier agrees less than that even where it is surest. So tau is at least the plateau of any
classifier, and the larger of two is used: the network's, and the lower end of a simple classifier's.

**2. Calibration** (:func:`calibrated`). Probabilities of networks that are trained on noisy labels are not calibrated,
and against noisy labels only the agreement can be measured: q_i, the share of samples of similar s_i (isotonic over
bins of BIN samples) and of the same c_i (shrunk by SHRINKAGE samples) whose given label is the predicted class. If the
prediction is right with probability rho_i, then q_i = rho_i tau + (1 - rho_i) m_i, where m_i is the probability that an
image of the other classes is labelled c_i. Hence

    rho_i = (q_i - m_i) / (tau - m_i),    m_i = sum over k other than c_i of p_i[k] T[k, c_i] / (1 - p_i[c_i]).    (1)

The calibrated prediction is rho_i for c_i, and p_i in the same proportions for the other classes.

**3. Noise model** (:func:`fit_confusions`). Rows of T hold tau on the diagonal. The rest is divided as the given
labels of reliable samples, rho_i >= RELIABLE, are, weighted by

    r_i[k] = p_i[k] T[k, y_i] / sum over l of p_i[l] T[l, y_i]                                                     (2)

(expectation maximisation, Dawid & Skene 1979), with PSEUDO_SAMPLES evenly spread samples per class. Unreliable ones are
left out: for them a confusion by the network and a confusion of the labels look the same.

**4. Selection** (:func:`with_selection`). t_i is how often training selected the sample as clean, as a share of its
chances. With histograms of t for right and wrong labels, h_right and h_wrong, weighted with r,

    r'_i[k] ~ r_i[k] h_right(t_i) for k = y_i,  r_i[k] h_wrong(t_i) for the others.                                (3)

p and t are not independent given whether the label is right, so r' is overconfident: it orders the samples, and may
only lower the confidence in a correction, never raise it.

**5. Verdict** (:func:`judge_labels`). The label is called wrong by w_i = 1 - r'_i[y_i].

- ``keep``: w_i <= 1/2, or no network that has not seen the label predicts the image.
- ``open_set``: the image fits no class (:func:`looks_like_none`). Its fit is the largest class probability in the mean
  of all networks. Its p-value is the share of kept images with at most this fit: uniform for images of the closed
  classes, small for others. The share of closed images among the m judged wrong is pi = 2 #{p > 1/2} / m (Storey
  2002). From the smallest p-values on, tenth by tenth, images are open-set while a tenth holds more than twice the
  expected pi m / 10 closed ones, which is a local false discovery rate below 1/2 (Efron 2004).
- ``relabel`` to c_i: rho_i >= RELIABLE, and c_i is right with probability above LEAST_CONFIDENCE.
- ``unsure``: all others. The given label stays.

Where the evidence as a whole does not support corrections (:class:`Support`), every label that the networks disagree
with is ``unsure``, and the confidence in every given label is tau, the estimated share of right ones.

No threshold uses true labels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from tune_lnl.methods.noise_model import SMALLEST, label_posterior, normalised

Verdict = Literal["keep", "relabel", "open_set", "unsure"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
KEEP, RELABEL, OPEN_SET, UNSURE = range(4)

BIN = 40
"""Samples per bin of the agreement curve: a sample's own label is 1/40 of its bin."""
SHRINKAGE = 10.0
MOST_RAISED = 1.2
"""A class may agree this much more than its bins, as a ratio."""
RELIABLE = 0.8
LEAST_CONFIDENCE = 0.7
LEAST_ANCHORS = 20
Z = 1.0
MOST_RIGHT = 0.995
"""At most this share of labels is taken for right, so that a few wrong ones can be found."""
PSEUDO_SAMPLES = 10.0
ROUNDS = 4
LEAST_SKILL, MOST_SKILL_NEEDED, SKILL_AND_RIGHT = 0.5, 0.8, 1.3
"""A network needs this skill; more the more labels it takes for wrong, because a weak network also agrees with few."""
LEAST_EVIDENCE = 5.0
KEPT_OF_RIGHT = 0.2
SHARE_BINS = 10
FIT_BINS = 10


@dataclass(frozen=True)
class LabelNoise:
    """The estimated noise of the labels.

    Attributes:
        matrix: (C, C), T; rows sum to 1.
        right: tau, the share of right labels.
    """

    matrix: NDArray[np.float64]
    right: float


@dataclass(frozen=True)
class Support:
    """Conclusions that the evidence as a whole supports.

    Attributes:
        judged: samples with predictions by networks that have not seen their label.
        agreement: share of them whose given label is predicted.
        right: tau, the estimated share of right labels; a perfect network would agree with that share.
        skill: (agreement - 1/C) / (tau - 1/C): 0 for guessing, 1 for a perfect network.
        withheld: whether corrections are withheld.
        weak_classes: given labels of which next to nothing is kept, so that the networks cannot be said to know the
            class; these labels are ``unsure``.
    """

    judged: int
    agreement: float
    right: float
    skill: float
    withheld: bool
    weak_classes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Judgement:
    """One entry per sample, n in all.

    Attributes:
        verdict: int64, place in :data:`VERDICTS`.
        corrected: int64, another class for ``relabel``, else the given label.
        confidence: float64, probability that the corrected label is right; NaN where there is no prediction.
        wrong: float64, probability that the given label is wrong, selection included: good for ordering, less good as
            a probability; 0 where there is no prediction.
        nearest: int64, the likeliest class other than the given label; the given label where there is no prediction.
        model: the estimated noise.
        support: what the evidence as a whole supports.
    """

    verdict: NDArray[np.int64]
    corrected: NDArray[np.int64]
    confidence: NDArray[np.float64]
    wrong: NDArray[np.float64]
    nearest: NDArray[np.int64]
    model: LabelNoise
    support: Support


def judge_labels(
    probabilities: NDArray[np.float32],
    given: NDArray[np.int64],
    selected_share: NDArray[np.float32] | None = None,
    every_network: NDArray[np.float32] | None = None,
    right: float | None = None,
) -> Judgement:
    """Return the verdict on every given label.

    Args:
        probabilities: (n, C) of images that the network was not trained on; rows of NaN where there are none.
        given: int64 (n,) in 0..C-1.
        selected_share: (n,) in [0, 1]; None for a method that selects nothing.
        every_network: (n, C), the mean over all networks; None: there is one network.
        right: share of right labels by other evidence, such as the lower end of the :func:`plateau` of a simple
            classifier; the larger of it and the network's own share is used.

    Raises:
        ValueError: shapes do not fit, or there is no prediction at all.
    """
    if probabilities.ndim != 2 or given.shape != probabilities.shape[:1]:
        raise ValueError(f"need probabilities (n, C) and labels (n,), got {probabilities.shape} and {given.shape}")
    known: NDArray[np.bool_] = np.logical_not(np.isnan(probabilities).any(axis=1))
    if not known.any():
        raise ValueError("no sample has predictions by a network that has not seen it")
    seen, labels = normalised(np.maximum(probabilities[known].astype(np.float64), SMALLEST)), given[known]
    own, predicted = np.arange(len(labels)), seen.argmax(axis=1)
    tau = min(MOST_RIGHT, max(plateau(seen, labels)[0], 0.0 if right is None else right))
    prediction, reliable, model = fit_confusions(seen, labels, tau)
    posterior = label_posterior(prediction, labels, model.matrix)
    selected = posterior if selected_share is None else with_selection(posterior, labels, selected_share[known])
    kept = selected[own, labels] >= 0.5
    support = _support(seen, labels, tau, kept)
    sure = np.minimum(posterior[own, predicted], selected[own, predicted])
    relabelled = ~kept & (predicted != labels) & reliable & (sure > LEAST_CONFIDENCE)
    fit = (seen if every_network is None else every_network[known]).max(axis=1)
    verdict = np.where(kept, KEEP, np.where(relabelled, RELABEL, UNSURE))
    verdict = np.where(looks_like_none(fit, kept), OPEN_SET, verdict)
    verdict = np.where(~kept & np.isin(labels, support.weak_classes), UNSURE, verdict)
    if support.withheld:
        verdict = np.where(predicted == labels, KEEP, UNSURE)
    corrected = np.where(verdict == RELABEL, predicted, labels)
    confidence = np.where(verdict == RELABEL, sure, posterior[own, labels])
    if support.withheld:
        confidence = np.full(len(labels), tau)
    return Judgement(
        verdict=_spread(known, verdict, np.full(len(given), KEEP)),
        corrected=_spread(known, corrected, given),
        confidence=_spread(known, confidence, np.full(len(given), np.nan)),
        wrong=_spread(known, 1.0 - selected[own, labels], np.zeros(len(given))),
        nearest=_spread(known, _likeliest_other(posterior, labels), given),
        model=model,
        support=support,
    )


def judge_in_sample(belief: NDArray[np.float32], given: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return verdicts by one training on all samples, as places in :data:`VERDICTS`, int64 (n,).

    The most likely class of the belief (n, C) replaces the given label, which is kept among equals. Open-set samples
    are found as in :func:`judge_labels`, with the largest entry of the belief as the fit.
    """
    own = belief[np.arange(len(given)), given]
    kept = own >= belief.max(axis=1)
    return np.where(kept, KEEP, np.where(looks_like_none(belief.max(axis=1), kept), OPEN_SET, RELABEL))


def plateau(probabilities: NDArray[Any], given: NDArray[np.int64]) -> tuple[float, float]:
    """Return the share of given labels that the surest predictions agree with, and its lower end.

    The k surest samples are taken, at least LEAST_ANCHORS, with the k of the highest lower end of an interval of one
    standard error; of equals the smallest. The choice of k raises the share a little, on the careful side: with 95%
    intervals, which choose more samples, 9 of 10 confident corrections were said to be right and 8.5 were.

    Args:
        probabilities: (n, C), n > 0, out of sample.
        given: int64 (n,).
    """
    surest = np.argsort(-probabilities.max(axis=1), kind="stable")
    agrees = (probabilities.argmax(axis=1) == given)[surest]
    count = np.arange(1, len(agrees) + 1)
    share = np.cumsum(agrees) / count
    # Wilson's interval.
    low = share + Z**2 / (2 * count) - Z * np.sqrt(share * (1 - share) / count + Z**2 / (4 * count**2))
    low /= 1 + Z**2 / count
    first = min(LEAST_ANCHORS, len(agrees)) - 1
    best = first + int(low[first:].argmax())
    return float(share[best]), float(low[best])


def fit_confusions(
    probabilities: NDArray[np.float64], given: NDArray[np.int64], right: float
) -> tuple[NDArray[np.float64], NDArray[np.bool_], LabelNoise]:
    """Return calibrated predictions (n, C), which of them are reliable (n,), and the noise model.

    Args:
        probabilities: (n, C), rows sum to 1, out of sample.
        given: int64 (n,).
        right: tau.
    """
    count, classes = probabilities.shape
    labelled = np.zeros((count, classes))
    labelled[np.arange(count), given] = 1.0
    agreement = expected_agreement(probabilities, given)
    aside = 1.0 - np.eye(classes)
    matrix = _with_diagonal(aside, right)
    for _ in range(ROUNDS):
        prediction, reliable = calibrated(probabilities, agreement, matrix, right)
        responsibilities = label_posterior(prediction, given, matrix) * reliable[:, None]
        counts = (responsibilities.T @ labelled) * aside
        matrix = _with_diagonal(counts + PSEUDO_SAMPLES * (1.0 - right) * aside / (classes - 1), right)
    prediction, reliable = calibrated(probabilities, agreement, matrix, right)
    return prediction, reliable, LabelNoise(matrix, right)


def expected_agreement(probabilities: NDArray[np.float64], given: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return q, (n,): the share of similar samples whose given label is the predicted class."""
    # Imported here because it takes half a second.
    from sklearn.isotonic import isotonic_regression

    count, classes = probabilities.shape
    predicted, surety = probabilities.argmax(axis=1), probabilities.max(axis=1)
    agrees = (predicted == given).astype(np.float64)
    bins = max(1, count // BIN)
    place = np.empty(count, dtype=np.int64)
    place[np.argsort(surety, kind="stable")] = np.arange(count) * bins // count
    sizes = np.bincount(place, minlength=bins)
    curve = isotonic_regression(np.bincount(place, agrees, bins) / sizes, sample_weight=sizes.astype(np.float64))
    expected = np.asarray(curve, dtype=np.float64)[place]
    found, hoped = np.bincount(predicted, agrees, classes), np.bincount(predicted, expected, classes)
    of_class = np.minimum((found + SHRINKAGE) / (hoped + SHRINKAGE), MOST_RAISED)
    result: NDArray[np.float64] = np.minimum(expected * of_class[predicted], 1.0)
    return result


def calibrated(
    probabilities: NDArray[np.float64], agreement: NDArray[np.float64], matrix: NDArray[np.float64], right: float
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return predictions (n, C) with rho by (1) for the predicted class, and where rho is at least RELIABLE (n,)."""
    own, predicted = np.arange(len(probabilities)), probabilities.argmax(axis=1)
    others = probabilities + 1e-3
    others[own, predicted] = 0.0
    others = normalised(others)
    leaked = (others * matrix[:, predicted].T).sum(axis=1)
    rho = np.clip((agreement - leaked) / np.maximum(right - leaked, 1e-3), 1e-3, 0.99)
    result = others * (1.0 - rho)[:, None]
    result[own, predicted] = rho
    return result, rho >= RELIABLE


def with_selection(
    posterior: NDArray[np.float64], given: NDArray[np.int64], selected_share: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Return r' by (3), (n, C)."""
    edges = np.unique(np.quantile(selected_share, np.arange(1, SHARE_BINS) / SHARE_BINS))
    # Equal shares fall into one bin, so there may be fewer bins.
    bins = np.searchsorted(edges, selected_share, side="right")
    own = np.zeros(posterior.shape, dtype=np.bool_)
    own[np.arange(len(given)), given] = True
    wrong = 1.0 - posterior[own]
    right_share = _bin_shares(bins, 1.0 - wrong, len(edges) + 1)
    wrong_share = _bin_shares(bins, wrong, len(edges) + 1)
    return normalised(posterior * np.where(own, right_share[bins][:, None], wrong_share[bins][:, None]))


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


def _support(
    probabilities: NDArray[np.float64], given: NDArray[np.int64], right: float, kept: NDArray[np.bool_]
) -> Support:
    count, classes = probabilities.shape
    chance = 1.0 / classes
    agreement = float((probabilities.argmax(axis=1) == given).mean())
    skill = (agreement - chance) / max(right - chance, 1e-3)
    evidence = (agreement - chance) / math.sqrt(chance * (1 - chance) / count)
    sizes, keeping = np.bincount(given, minlength=classes), np.bincount(given, kept, minlength=classes)
    weak = np.flatnonzero((sizes > 0) & (keeping < np.maximum(1.0, KEPT_OF_RIGHT * right * sizes)))
    needed = min(MOST_SKILL_NEEDED, max(LEAST_SKILL, SKILL_AND_RIGHT - right))
    withheld = skill < needed or evidence < LEAST_EVIDENCE or 2 * len(weak) > int((sizes > 0).sum())
    return Support(count, agreement, right, skill, bool(withheld), tuple(int(label) for label in weak))


def _with_diagonal(aside: NDArray[np.float64], right: float) -> NDArray[np.float64]:
    """Return rows that hold `right` on the diagonal and the rest in the proportions of `aside` (0 on the diagonal)."""
    matrix = normalised(aside + SMALLEST * (1.0 - np.eye(len(aside)))) * (1.0 - right)
    np.fill_diagonal(matrix, right)
    return matrix


def _bin_shares(bins: NDArray[np.int64], weights: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    counts = np.bincount(bins, weights=weights, minlength=count) + 1.0
    shares: NDArray[np.float64] = counts / counts.sum()
    return shares


def _likeliest_other(posterior: NDArray[np.float64], given: NDArray[np.int64]) -> NDArray[np.int64]:
    others = posterior.copy()
    others[np.arange(len(given)), given] = -1.0
    likeliest: NDArray[np.int64] = others.argmax(axis=1)
    return likeliest


def _spread(known: NDArray[np.bool_], values: NDArray[Any], elsewhere: NDArray[Any]) -> NDArray[Any]:
    whole = elsewhere.astype(values.dtype)
    whole[known] = values
    return whole
