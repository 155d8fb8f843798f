"""Choosing between trials by the answers of a person to a few held-out images.

T trials, M held-out images, C closed classes. p_t[i] are the mean class probabilities of trial t for image i, g_t(i)
is the class that it predicts (the largest of them), y_i the given label, and z_i the true class: one of the C, or -1
for an image of none of them. a_t[i] = [g_t(i) = y_i] is the agreement with the given label, c_t[i] = [g_t(i) = z_i]
whether the prediction is right; it is 0 for every trial where z_i = -1.

**1. Which images are shown** (:func:`images_to_judge`, :func:`judging_weights`). An image on which all trials agree
says nothing about which of them is better. Trial t is plausible as the best with weight

    v_t ~ exp(-(d_t / s_t)^2 / (2 h^2)),    h = PLAUSIBLE_ERRORS,                                                 (1)

where d_t is the mean of a_b - a_t over the images, s_t its paired standard error and b the trial of the highest
agreement. h is wide, because the agreement with noisy labels is a weak witness. The trials disagree on image i by

    u_i = sqrt(1 - sum_k (sum over t with g_t(i) = k of v_t)^2),                                                  (2)

the root of the probability that two plausible trials predict different classes, which is the size for which weighting
by the inverse probability has the least variance. Of n images each is drawn with probability

    q_i = min(1, n' (RANDOM_SHARE / M + (1 - RANDOM_SHARE) u_i / sum_j u_j)),                                     (3)

with n' such that the q_i add up to n. So every image has a chance, wherever the trials agree wrongly. The draw is
systematic sampling in a random order (Madow 1949): n images, all different, image i among them with probability
q_i exactly. The weight of an image is w_i = 1 / q_i.

**2. The score** (:func:`judged_scores`). Of the n judged images J and the others

    score_t = (n sum_{i in J} w_i c_t[i] / sum_{i in J} w_i + n_0 / M sum_{i not in J} a_t[i]) / (n + n_0).        (4)

The first sum estimates the true accuracy without bias, up to the ratio's of order 1 / n; the second shrinks it towards
the agreement with the given labels, which counts like n_0 answers. How many that is depends on the labels, and the
answers show it: where they are right, the trials that are right on an image are those that agree with its label. The
slope of agreement on being right, between trials, is

    b = sum_J w_i cov_t(a_t[i], c_t[i]) / ((1 + 1 / n) sum_J w_i var_t(c_t[i])),                                   (5)

with one image of slope 0 more, and s = sqrt((1 - b^2) sum_J (w_i var_t(c_t[i]))^2) / sum_J w_i var_t(c_t[i]) is about
its standard error. A difference of agreement over M images tells as much of true accuracy as M b^2 answers, so

    n_0 = max(PRIOR_ANSWERS, M max(b - s, 0)^2).                                                                    (6)

Measured in docs/choosing_without_the_test_set.md, with what was tried in place of (1) to (6).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

PLAUSIBLE_ERRORS = 2.0
"""h of (1): paired standard errors below the highest agreement at which a trial is still likely enough."""
RANDOM_SHARE = 0.2
"""Share of (3) that is drawn from all images alike."""
PRIOR_ANSWERS = 30.0
"""Least n_0 of (6)."""
NONE_OF_THEM = -1
"""True class of an image that shows none of the closed classes."""


def images_to_judge(probabilities: NDArray[Any], given: NDArray[Any], count: int, seed: int) -> NDArray[np.int64]:
    """Return the held-out images to show to a person, in the order of showing.

    Args:
        probabilities: (T, M, C), mean held-out class probabilities of T trials.
        given: int (M,), given labels in 0..C-1.
        count: n, from 1 to M.
        seed: of the draw.

    Returns:
        int64 (n,), positions among the M images, all different.

    Raises:
        ValueError: shapes or ``count`` do not fit, a label is out of range, or a probability is not finite.
    """
    chances = _chances(*_checked(probabilities, given), count)
    random = np.random.default_rng(seed)
    order = random.permutation(len(chances))
    steps = np.cumsum(chances[order])
    # The sum is n but for rounding: at n exactly the last step is never passed.
    steps *= count / steps[-1]
    drawn = order[np.searchsorted(steps, random.random() + np.arange(count), side="right")]
    return random.permutation(drawn).astype(np.int64)


def judging_weights(probabilities: NDArray[Any], given: NDArray[Any], count: int) -> NDArray[np.float64]:
    """Return the inverse of each image's probability of being drawn by :func:`images_to_judge`, float64 (M,), >= 1.

    Args and raises: as there.
    """
    return 1.0 / _chances(*_checked(probabilities, given), count)


def judged_scores(
    probabilities: NDArray[Any],
    given: NDArray[Any],
    index: NDArray[Any],
    true: NDArray[Any],
    weights: NDArray[Any] | None = None,
) -> NDArray[np.float64]:
    """Return score_t of (4), float64 (T,): higher is better.

    Args:
        probabilities, given: as in :func:`images_to_judge`.
        index: int (n,), positions of the judged images.
        true: int (n,), class of each in 0..C-1, or -1 for none of the classes.
        weights: (n,), those of the draw; (M,) is read at ``index``. ``None``: all 1, for images of a person's own
            choice.

    Raises:
        ValueError: shapes do not fit, an image twice, or a class, position or weight out of range.
    """
    return Answered.of(probabilities, given, index, true, weights).scores()


@dataclass(frozen=True)
class Answered:
    """The trials' predictions beside the answers.

    Attributes:
        right: bool (T, n), c_t of the judged images.
        weights: float64 (n,).
        agrees: bool (T, M - n), a_t of the other images.
        prior: n_0 of (6).
    """

    right: NDArray[np.bool_]
    weights: NDArray[np.float64]
    agrees: NDArray[np.bool_]
    prior: float

    @classmethod
    def of(
        cls,
        probabilities: NDArray[Any],
        given: NDArray[Any],
        index: NDArray[Any],
        true: NDArray[Any],
        weights: NDArray[Any] | None = None,
    ) -> Answered:
        """Compare predictions and answers; arguments and errors are those of :func:`judged_scores`."""
        values, labels = _checked(probabilities, given)
        predicted, classes = values.argmax(axis=2), values.shape[2]
        index, true = np.asarray(index, dtype=np.int64), np.asarray(true, dtype=np.int64)
        count = len(labels)
        if index.ndim != 1 or true.shape != index.shape or not len(index):
            raise ValueError(f"need index (n,) and true (n,), n at least 1; got {index.shape} and {true.shape}")
        if index.min() < 0 or index.max() >= count or len(np.unique(index)) < len(index):
            raise ValueError(f"index has to name different images in 0..{count - 1}")
        if true.min() < NONE_OF_THEM or true.max() >= classes:
            raise ValueError(f"true has to be a class in 0..{classes - 1}, or {NONE_OF_THEM} for none of them")
        chosen = np.ones(len(index)) if weights is None else np.asarray(weights, dtype=np.float64)
        if chosen.shape == labels.shape and chosen.shape != index.shape:
            chosen = chosen[index]
        if chosen.shape != index.shape or not (np.isfinite(chosen).all() and (chosen > 0).all()):
            raise ValueError(
                f"weights have to be positive, one for each of the {len(index)} images; got {chosen.shape}"
            )
        others = np.ones(count, dtype=np.bool_)
        others[index] = False
        right, agrees = predicted[:, index] == true, predicted == labels
        return cls(right, chosen, agrees[:, others], _prior_answers(right, agrees[:, index], chosen, count))

    def scores(self) -> NDArray[np.float64]:
        """Return score_t of (4), float64 (T,)."""
        scores: NDArray[np.float64] = self._scores(self.weights[None], np.ones((1, self.agrees.shape[1])))[0]
        return scores

    def resampled(self, draws: int, seed: int) -> NDArray[np.float64]:
        """Return score_t under random weights of the images (Bayesian bootstrap, Rubin 1981), float64 (draws, T).

        In each draw all trials have the same weights, so that their differences vary as paired ones do.
        """
        random = np.random.default_rng(seed)
        judged = self.weights * random.standard_exponential((draws, self.right.shape[1]))
        return self._scores(judged, random.standard_exponential((draws, self.agrees.shape[1])))

    def _scores(self, judged: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return (4) for weights (D, n) of the judged images and (D, M - n) of the others, float64 (D, T)."""
        answers, images = self.right.shape[1], self.right.shape[1] + self.agrees.shape[1]
        right = (judged @ self.right.T) / judged.sum(axis=1, keepdims=True)
        agreement = (others @ self.agrees.T) / images
        scores: NDArray[np.float64] = (answers * right + self.prior * agreement) / (answers + self.prior)
        return scores


def _prior_answers(
    right: NDArray[np.bool_], agrees: NDArray[np.bool_], weights: NDArray[np.float64], images: int
) -> float:
    """Return n_0 of (6), from c_t and a_t of the judged images, (T, n), and M."""
    spread = weights * right.var(axis=0)
    if not spread.any():  # no judged image tells the trials apart
        return PRIOR_ANSWERS
    common = weights * ((right & agrees).mean(axis=0) - right.mean(axis=0) * agrees.mean(axis=0))
    slope = common.sum() / spread.sum() / (1 + 1 / len(weights))
    error = np.sqrt(max(1 - slope**2, 0.0) * (spread**2).sum()) / spread.sum()
    return float(max(PRIOR_ANSWERS, images * max(slope - error, 0.0) ** 2))


@dataclass(frozen=True)
class Choice:
    """What the answers say about the best trial.

    Attributes:
        scores: float64 (T,), of (4).
        probabilities: float64 (T,), sums to 1: how likely each trial is to have the highest score, over draws of the
            images.
        gains: by number of further answers, the gain in true accuracy, a fraction, that is expected of choosing again
            after them.
    """

    scores: NDArray[np.float64]
    probabilities: NDArray[np.float64]
    gains: dict[int, float]

    @property
    def best(self) -> int:
        """The trial of the highest score, the first of equals."""
        return int(self.scores.argmax())


def choose(answered: Answered, further: Sequence[int] = (10, 30, 100), draws: int = 1000, seed: int = 0) -> Choice:
    """Choose a trial by (4), with the uncertainty of the choice.

    The errors of the scores are taken from :meth:`Answered.resampled`. For the probabilities they are widened by
    ((n + PRIOR_ANSWERS) / n)^(1/2): the agreement with noisy labels narrows the scores but is weak evidence on which
    is best. On most recorded searches the probabilities are then right or too small. On one with 80% symmetric noise
    they were too large (0.74 stated, 0.53 true, at 60 answers).

    k further answers to the n at hand leave n / (n + k) of the variance, so the scores after them are expected to lie
    around today's with the remaining k / (n + k) of it; the expected gain is the mean of their maximum less today's
    (Raiffa & Schlaifer 1961).

    Args:
        further: numbers k of further answers to judge the worth of.
        draws: of the resampling.
    """
    scores = answered.scores()
    resampled, count = answered.resampled(draws, seed), answered.right.shape[1]
    errors = resampled - resampled.mean(axis=0)
    likely = scores + np.sqrt((count + PRIOR_ANSWERS) / count) * errors
    top = likely >= likely.max(axis=1, keepdims=True) - 1e-12
    probabilities = (top / top.sum(axis=1, keepdims=True)).mean(axis=0)
    gains = {}
    for more in further:
        after = scores + np.sqrt(more / (count + more)) * errors
        gains[more] = float(max(0.0, after.max(axis=1).mean() - scores.max()))
    return Choice(scores, probabilities, gains)


def _checked(probabilities: NDArray[Any], given: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    values, labels = np.asarray(probabilities), np.asarray(given, dtype=np.int64)
    if values.ndim != 3 or 0 in values.shape or labels.shape != values.shape[1:2]:
        raise ValueError(f"need probabilities (T, M, C) and labels (M,), got {values.shape} and {labels.shape}")
    if labels.min() < 0 or labels.max() >= values.shape[2]:
        raise ValueError(f"given labels have to be classes in 0..{values.shape[2] - 1}")
    if not np.isfinite(values).all():
        raise ValueError("probabilities have to be finite; leave out trials that diverged")
    return values, labels


def _chances(probabilities: NDArray[Any], given: NDArray[np.int64], count: int) -> NDArray[np.float64]:
    """Return q_i of (3), float64 (M,)."""
    images, classes = probabilities.shape[1:]
    if not 1 <= count <= images:
        raise ValueError(f"count has to be in 1..{images}, the number of held-out images; got {count}")
    predicted = probabilities.argmax(axis=2)
    agrees = predicted == given
    behind = agrees[agrees.mean(axis=1).argmax()].astype(np.float64) - agrees
    error = np.sqrt(np.maximum(behind.var(axis=1) / images, 1.0 / images**2))
    plausible = np.exp(-((behind.mean(axis=1) / error / PLAUSIBLE_ERRORS) ** 2) / 2)
    votes = np.zeros((images, classes))
    for own, weight in zip(predicted, plausible / plausible.sum(), strict=True):
        votes[np.arange(images), own] += weight
    disagreement = np.sqrt(np.maximum(1.0 - (votes**2).sum(axis=1), 0.0))
    size = np.full(images, 1.0 / images)
    if disagreement.max() > 1e-6:  # below that it is rounding
        size = RANDOM_SHARE * size + (1.0 - RANDOM_SHARE) * disagreement / disagreement.sum()
    chances = np.zeros(images)
    certain = np.zeros(images, dtype=np.bool_)
    while True:
        chances[~certain] = (count - certain.sum()) * size[~certain] / size[~certain].sum()
        above = ~certain & (chances >= 1.0)
        if not above.any():
            return chances
        certain |= above
        chances[certain] = 1.0
        if certain.all():
            return chances
