"""Estimate the share of wrong labels of a dataset before any training, in bounded time.

A plain classifier (linear discriminant analysis on colours of a 4x4 grid and histograms of gradient directions)
predicts each image's label out of sample. Its most confident predictions are nearly always right, so among these
samples the share of labels that disagree is the share of wrong labels: they are anchor points (Liu & Tao,
"Classification with Noisy Labels by Importance Reweighting", TPAMI 2016; Patrini et al., CVPR 2017). Confident learning
on the same predictions counts all confusions of such simple features as noise: on ten classes of CIFAR-100 it estimates
38% for clean labels and 59% for 30% noise; anchor points give 0% and 30%.

The estimate assumes that labels of easy images are wrong as often as others. If agreement still rises towards the most
confident samples, these are no anchor points, and the estimate is an upper bound: the interval then begins at 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tune_lnl.datasets.base import ImageRows, Labels

MOST_SAMPLES = 8000
FOLDS = 5
FEWEST_PER_CLASS = FOLDS
FEWEST_ANCHORS = 20
ANCHOR_SHARE = 0.05
SHRINKAGE = 0.2
Z = 1.96
SIDE, CELLS, DIRECTIONS = 32, 4, 8
IMAGES_PER_BLOCK = 64
BRIGHTNESS = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True)
class NoiseEstimate:
    """An estimated share of wrong labels.

    Attributes:
        rate: in [0, 1].
        low, high: 95% interval.
        upper_bound: whether the rate is only an upper bound, and `low` is 0.
        samples: number of sampled images.
        anchors: number of the most confident samples, from which the rate is computed.
        agreement: share of all samples whose given label the classifier predicts, out of sample.
    """

    rate: float
    low: float
    high: float
    upper_bound: bool
    samples: int
    anchors: int
    agreement: float


def estimate_noise(images: ImageRows, rows: Labels, labels: Labels, seed: int = 0) -> NoiseEstimate | None:
    """Estimate the noise of samples `rows` of `images` under `labels`; return None if there are too few images.

    Args: as for :func:`simple_predictions`.
    """
    found = simple_predictions(images, rows, labels, seed)
    return None if found is None else anchor_estimate(*found)


def simple_predictions(
    images: ImageRows, rows: Labels, labels: Labels, seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.int64]] | None:
    """Return a simple classifier's out-of-sample probabilities (m, C) and the given labels (m,) in 0..C-1.

    Args:
        images: uint8 (N, H, W, 1 or 3).
        rows: int64 (n,).
        labels: int64 (n,), given labels.
        seed: chooses samples, MOST_SAMPLES at most, and folds.

    Returns:
        None if there are too few images.
    """
    chosen = _some_of_each(labels, np.random.RandomState(seed))
    names, given = np.unique(labels[chosen], return_inverse=True)
    if len(names) < 2 or 2 * ANCHOR_SHARE * len(given) < FEWEST_ANCHORS:
        return None
    return _out_of_sample(image_features(images, rows[chosen]), given, seed), given


def anchor_estimate(probabilities: NDArray[np.float64], given: NDArray[np.int64]) -> NoiseEstimate:
    """Return the share of disagreement in the most confident 5% of the samples (at least 20), and its Wilson interval.

    Args:
        probabilities: (n, C), out of sample.
        given: (n,) in 0..C-1.
    """
    agrees = probabilities.argmax(axis=1) == given
    surest = np.argsort(-probabilities.max(axis=1), kind="stable")
    count = min(len(given), max(FEWEST_ANCHORS, round(ANCHOR_SHARE * len(given))))
    rate = float((~agrees[surest[:count]]).mean())
    low, high = _wilson(rate, count)
    following = agrees[surest[count : 2 * count]]
    rises = len(following) > 0 and _rises(rate, float((~following).mean()), count, len(following))
    return NoiseEstimate(rate, 0.0 if rises else low, high, rises, len(given), count, float(agrees.mean()))


def _rises(rate: float, next_rate: float, count: int, next_count: int) -> bool:
    """Return whether the next most confident samples disagree significantly more often."""
    pooled = (rate * count + next_rate * next_count) / (count + next_count)
    return next_rate - rate > Z * math.sqrt(pooled * (1.0 - pooled) * (1.0 / count + 1.0 / next_count))


def _wilson(share: float, count: int) -> tuple[float, float]:
    """Return the 95% interval of a share of `count` samples (Wilson 1927)."""
    centre = (share + Z**2 / (2 * count)) / (1 + Z**2 / count)
    half = Z / (1 + Z**2 / count) * math.sqrt(share * (1 - share) / count + Z**2 / (4 * count**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def image_features(images: ImageRows, rows: Labels) -> NDArray[np.float64]:
    """Return (n, 176): mean colours of 4x4 cells, and the gradient strength in each cell in each of 8 directions."""
    blocks = [
        _features(np.asarray(images[rows[start : start + IMAGES_PER_BLOCK]]))
        for start in range(0, len(rows), IMAGES_PER_BLOCK)
    ]
    return np.concatenate(blocks)


def _features(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    from PIL import Image

    if images.shape[-1] == 1:
        images = np.repeat(images, 3, axis=-1)
    small = np.stack(
        [np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BOX)) for image in images]
    ).astype(np.float64)
    down, across = np.gradient(small @ BRIGHTNESS, axis=(1, 2))
    strength = np.hypot(down, across)
    # A gradient and its opposite are the same edge.
    bins = np.floor(np.arctan2(down, across) % np.pi / np.pi * DIRECTIONS).astype(np.int64) % DIRECTIONS
    edges = np.stack([_cells(np.where(bins == direction, strength, 0.0)) for direction in range(DIRECTIONS)], axis=-1)
    edges /= np.sqrt((edges**2).sum(axis=(1, 2, 3), keepdims=True)) + 1.0
    colours = np.stack([_cells(small[..., channel]) for channel in range(small.shape[-1])], axis=-1) / 255.0
    return np.concatenate([edges.reshape(len(images), -1), colours.reshape(len(images), -1)], axis=1)


def _cells(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return means over a 4x4 grid: (n, 32, 32) -> (n, 4, 4)."""
    side = SIDE // CELLS
    means: NDArray[np.float64] = values.reshape(len(values), CELLS, side, CELLS, side).mean(axis=(2, 4))
    return means


def _some_of_each(labels: Labels, stream: np.random.RandomState) -> Labels:
    """Return sorted positions: the same share of each class with enough samples, about MOST_SAMPLES in total."""
    share = min(1.0, MOST_SAMPLES / max(len(labels), 1))
    chosen = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        if len(members) >= FEWEST_PER_CLASS:
            chosen.append(stream.permutation(members)[: max(FEWEST_PER_CLASS, round(share * len(members)))])
    return np.sort(np.concatenate([*chosen, np.empty(0, dtype=np.int64)])).astype(np.int64)


def _out_of_sample(features: NDArray[np.float64], given: NDArray[np.int64], seed: int) -> NDArray[np.float64]:
    """Return cross-validated probabilities, (n, C)."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    # In closed form, so that a hundred classes take as long as two; with shrinkage, because classes may be small.
    classifier = make_pipeline(StandardScaler(), LinearDiscriminantAnalysis(solver="lsqr", shrinkage=SHRINKAGE))
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    found: NDArray[np.float64] = cross_val_predict(classifier, features, given, cv=folds, method="predict_proba")
    return found
