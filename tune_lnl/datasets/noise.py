"""Label noise, drawn exactly as published.

Symbols: C classes in all, K closed ones (labels 0..K-1), C - K open ones; r the closed-set noise ratio; P the (C, C)
transition matrix, P[i, j] = probability that a sample of class i is given label j. Columns of open classes are 0: an
open-set sample is in the training set under a closed label that can only be wrong.

Sources: ACT, released data/noisy_cifar.py (transition matrices; one multinomial draw per sample from RandomState(seed),
in dataset order); CORE, released utils.py, lines 17-40 (identity noise, one random.Random stream);
Xia et al., "Part-dependent Label Noise", NeurIPS 2020, Algorithm 2 (instance-dependent noise).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

FLIP_RATE_SPREAD = 0.1
"""Standard deviation of the flip rates of single samples (Xia et al. 2020)."""
SAMPLES_PER_BLOCK = 4096

NOISE_KINDS = ("symmetric", "asymmetric", "none")


def closed_class_count(num_classes: int, open_ratio: float) -> int:
    """Return K = floor(C * (1 - open_ratio)), the number of closed classes; 1 - 0.2 counts as 0.8."""
    return math.floor(num_classes * (1.0 - open_ratio) + 1e-9)


def transition_matrix(kind: str, num_classes: int, closed_ratio: float, open_ratio: float = 0.0) -> NDArray[np.float64]:
    """Return the noise model: (C, C) float64, rows sum to 1 (ACT, released data/noisy_cifar.py).

    Args:
        kind: "symmetric": P[i, i] = 1 - r, P[i, j] = r / (K - 1) for the other closed labels j;
            "asymmetric": P[i, i] = 1 - r, P[i, (i + 1) mod K] = r;
            "none": closed labels are kept and `closed_ratio` is not used.
            Rows of open classes are uniform over the K closed labels, whatever the kind.
        num_classes: C >= 2, open classes included.
        closed_ratio: r in [0, 1].
        open_ratio: share of open classes in [0, 1); the last C - K classes are open.

    Raises:
        ValueError: unknown kind, a ratio out of range, or K < 2.
    """
    if kind not in NOISE_KINDS:
        raise ValueError(f"noise kind must be one of {', '.join(NOISE_KINDS)}, got {kind!r}")
    _require_ratio("closed_ratio", closed_ratio)
    if not 0.0 <= open_ratio < 1.0:
        raise ValueError(f"open_ratio must be in [0, 1), got {open_ratio!r}")
    closed = closed_class_count(num_classes, open_ratio)
    if closed < 2:
        raise ValueError(f"at least two closed classes are needed, got {closed} of {num_classes}")
    matrix = np.zeros((num_classes, num_classes))
    matrix[closed:, :closed] = 1.0 / closed
    ratio = 0.0 if kind == "none" else closed_ratio
    rows = np.arange(closed)
    if kind == "symmetric":
        matrix[:closed, :closed] = ratio / (closed - 1)
    else:
        matrix[rows, (rows + 1) % closed] = ratio
    matrix[rows, rows] = 1.0 - ratio
    return matrix


def corrupt_labels(labels: ArrayLike, matrix: ArrayLike, seed: int) -> NDArray[np.int64]:
    """Return noisy labels, int64 (N,): for each sample in order, one multinomial draw from its class's row.

    Args:
        labels: (N,) integers in 0..C-1, original classes.
        matrix: (C, C), rows sum to 1.
        seed: of the legacy RandomState stream; 0 is what the released code always uses.

    Raises:
        ValueError: labels that are not integers in 0..C-1, or a matrix that is not a transition matrix.
    """
    rows = np.asarray(matrix, dtype=np.float64)
    _require_transition_matrix(rows)
    clean = _integer_vector("labels", labels)
    if clean.size and (clean.min() < 0 or clean.max() >= len(rows)):
        raise ValueError(f"labels must be in 0..{len(rows) - 1}, got {clean.min()}..{clean.max()}")
    # One call per sample: a multinomial draw takes a varying number of uniforms, so a draw for all samples of a class
    # at once would leave the published stream.
    stream = np.random.RandomState(seed)
    return np.fromiter((stream.multinomial(1, rows[label]).argmax() for label in clean), np.int64, count=len(clean))


def instance_noise(
    features: ArrayLike, labels: ArrayLike, num_classes: int, ratio: float, seed: int
) -> NDArray[np.int64]:
    """Return labels with instance-dependent noise, int64 (N,): features decide the class a sample is flipped to.

    Source: Xia et al. 2020, Algorithm 2. Sample i has a flip rate q_i from a normal distribution around `ratio` with
    standard deviation 0.1, truncated to [0, 1] (which raises the mean of small ratios: 0.05 to 0.10), and keeps its
    label y_i with probability 1 - q_i; class j gets q_i * softmax over j != y_i of (x_i W_y)_j, W_y being an (S, C)
    matrix of standard normal numbers for each class y.

    Two things differ: x_i are the given features, standardised over all samples, where the paper takes all pixels; and
    x_i W_y is divided by sqrt(S), so that it is standard normal and similar samples flip alike without all the
    probability being on one class whatever the number of features.

    Args:
        features: (N, S) numbers, e.g. pixels; converted in blocks, so that a memory map stays one.
        labels: (N,) integers in 0..num_classes - 1.
        num_classes: C >= 2.
        ratio: mean flip rate in [0, 1).
        seed: 0 to 2**32 - 1; each class has a stream of its own.

    Raises:
        ValueError: labels or a ratio out of range, or features of another length.
    """
    _require_ratio("ratio", ratio)
    clean = _integer_vector("labels", labels)
    values = np.asarray(features)
    if values.ndim != 2 or len(values) != len(clean):
        raise ValueError(f"features must be (N, S) with N = {len(clean)}, got shape {values.shape}")
    if num_classes < 2 or (clean.size and not 0 <= clean.min() <= clean.max() < num_classes):
        raise ValueError(f"labels must be in 0..{num_classes - 1}, of at least two classes")
    noisy = clean.copy()
    if ratio == 0 or not clean.size:
        return noisy
    centre, spread = _mean_and_spread(values)
    rates = _flip_rates(len(clean), ratio, np.random.RandomState(seed))
    for label in np.unique(clean):
        stream = np.random.RandomState([seed, int(label)])
        projection = stream.standard_normal((values.shape[1], num_classes)) / math.sqrt(values.shape[1])
        rows = np.flatnonzero(clean == label)
        for start in range(0, len(rows), SAMPLES_PER_BLOCK):
            block = rows[start : start + SAMPLES_PER_BLOCK]
            scores = ((values[block] - centre) / spread) @ projection
            scores[:, label] = -np.inf
            weights = np.exp(scores - scores.max(axis=1, keepdims=True))
            wrong = np.cumsum(weights / weights.sum(axis=1, keepdims=True), axis=1)
            flips, choice = stream.uniform(size=(2, len(block)))
            target = np.minimum((wrong < choice[:, None]).sum(axis=1), num_classes - 1)
            # The rounding of a sum may leave the last class as the target although it is the sample's own.
            target = np.where(target == label, weights.argmax(axis=1), target)
            noisy[block] = np.where(flips < rates[block], target, label)
    return noisy


def _flip_rates(count: int, ratio: float, stream: np.random.RandomState) -> NDArray[np.float64]:
    """Draw rates normally around `ratio`; draw those outside [0, 1] again."""
    rates = stream.normal(ratio, FLIP_RATE_SPREAD, count)
    outside = np.flatnonzero((rates < 0) | (rates > 1))
    while len(outside):
        rates[outside] = stream.normal(ratio, FLIP_RATE_SPREAD, len(outside))
        outside = outside[(rates[outside] < 0) | (rates[outside] > 1)]
    return rates


def _mean_and_spread(values: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and spread of each column, in blocks of rows; a column of one value has spread 1."""
    total, squares = np.zeros(values.shape[1]), np.zeros(values.shape[1])
    for start in range(0, len(values), SAMPLES_PER_BLOCK):
        block = values[start : start + SAMPLES_PER_BLOCK].astype(np.float64)
        total += block.sum(axis=0)
        squares += (block**2).sum(axis=0)
    centre = total / len(values)
    spread = np.sqrt(np.maximum(squares / len(values) - centre**2, 0.0))
    return centre, np.where(spread > 1e-9, spread, 1.0)


def random_identity_noise(labels: ArrayLike, ratio: float, seed: int = 1) -> NDArray[np.int64]:
    """Return labels with random identity noise, int64 (N,).

    In each identity, round-half-even(n * ratio) labels become another identity.

    Source: CORE, released utils.py, lines 17-28. One random.Random(seed) stream: identities ascending; their samples
    drawn; then for each of them, in the order drawn, one of the other identities, uniformly.

    Args:
        labels: (N,) integer identities, at least two different ones where any label changes.
        ratio: share of each identity's samples in [0, 1].

    Raises:
        ValueError: a ratio out of range, or nothing to change to.
    """
    clean = _integer_vector("labels", labels)
    identities = [int(identity) for identity in np.unique(clean)]

    def other_identity(sample: int, stream: random.Random) -> int:
        others = [identity for identity in identities if identity != clean[sample]]
        if not others:
            raise ValueError("random identity noise needs at least two identities, got 1")
        return stream.sample(others, 1)[0]

    return _identity_noise(clean, ratio, seed, other_identity)


def patterned_identity_noise(
    labels: ArrayLike, ratio: float, second_labels: ArrayLike, seed: int = 1
) -> NDArray[np.int64]:
    """Return labels with patterned identity noise, int64 (N,).

    The samples are those of :func:`random_identity_noise`; they get their `second_labels`.

    Source: CORE, released utils.py, lines 30-40.

    Args:
        labels: (N,) integer identities.
        ratio: share of each identity's samples in [0, 1].
        second_labels: (N,) the identity that a clean-trained network finds most likely besides the true one.

    Raises:
        ValueError: a ratio out of range, or `second_labels` of another length.
    """
    clean = _integer_vector("labels", labels)
    second = _integer_vector("second_labels", second_labels)
    if len(second) != len(clean):
        raise ValueError(f"second_labels must have one entry per label, got {len(second)} for {len(clean)}")
    return _identity_noise(clean, ratio, seed, lambda sample, stream: int(second[sample]))


def _identity_noise(
    clean: NDArray[np.int64], ratio: float, seed: int, new_label: Callable[[int, random.Random], int]
) -> NDArray[np.int64]:
    _require_ratio("ratio", ratio)
    stream = random.Random(seed)
    noisy = clean.copy()
    for identity in np.unique(clean):
        samples: list[int] = np.flatnonzero(clean == identity).tolist()
        for sample in stream.sample(samples, round(len(samples) * ratio)):
            noisy[sample] = new_label(sample, stream)
    return noisy


def _require_ratio(name: str, ratio: float) -> None:
    if not 0.0 <= ratio <= 1.0:
        raise ValueError(f"{name} must be in [0, 1], got {ratio!r}")


def _require_transition_matrix(matrix: NDArray[np.float64]) -> None:
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"a transition matrix is square, got shape {matrix.shape}")
    if not (np.all(matrix >= 0) and np.allclose(matrix.sum(axis=1), 1.0, rtol=0, atol=1e-9)):
        raise ValueError("rows of a transition matrix are probabilities that sum to 1")


def _integer_vector(name: str, values: ArrayLike) -> NDArray[np.int64]:
    vector = np.asarray(values)
    if vector.ndim != 1 or (vector.size and not np.issubdtype(vector.dtype, np.integer)):
        raise ValueError(f"{name} must be a vector of integers, got {vector.dtype} of shape {vector.shape}")
    return vector.astype(np.int64)
