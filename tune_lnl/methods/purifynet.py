"""PurifyNet: label refining in one network, then instance weights against the remaining noise.

Stage 1 trains with :func:`tune_lnl.methods.core.self_refine_loss`, with :func:`purify_weight` of the epoch as weight
instead of one computed from the loss. At its end every label is replaced by the network's prediction, and stage 2
trains on those labels with :func:`weighted_cross_entropy` and the :func:`instance_weights` of the features: **from
there on the given labels are not used.**

Source: the released code, repository mangye16/ReID-Label-Noise (``PNet/train_pnet.py`` and ``gen_weights_dist`` of
``utils.py``, lines 70-107). It groups the images by their given labels although it trains on the replaced ones; here
the caller passes the ``labels``, and :mod:`tune_lnl.training.purifynet` passes those it trains on.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tune_lnl.methods.standard import cross_entropy

HIGHEST_WEIGHT = 0.5
SAME_DISTANCE = 1e-6
"""Distances whose range is below this share of the largest differ by rounding only."""


def purify_weight(epoch: int, epochs: int = 60) -> float:
    """Return the weight of a network's own labels in stage 1: ``min(exp(-2 (1 - epoch / epochs)²), 0.5)``.

    It grows from exp(-2) = 0.135 and stays at 0.5 from 0.411 ``epochs`` on, beyond ``epochs`` too.

    Args:
        epoch: counted from 0.
        epochs: length of the ramp (released: 60, longer than the stage itself).

    Raises:
        ValueError: ``epoch`` is negative or ``epochs`` not positive.
    """
    if epoch < 0 or epochs <= 0:
        raise ValueError(f"need an epoch from 0 on and a ramp of at least one epoch, got {epoch} and {epochs}")
    rest = max(0.0, 1.0 - epoch / epochs)
    return min(math.exp(-2.0 * rest * rest), HIGHEST_WEIGHT)


def instance_weights(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Return the weight of every image in stage 2, by its distance from the centre of its class.

    The Euclidean distance to the mean feature of the class is scaled to 0..1 between the smallest and the largest of
    that class, then put into the density of Beta(2, 6), ``42 t (1 - t)⁵``. It is largest (2.81) at t = 1/6; the image
    nearest to the mean, which adds nothing new, and the farthest, whose label is probably wrong, get 0.

    A class of one or two images, or of images at equal distances, has no such scale; its images get weight 1. (The
    released code divides rounding errors by each other there, or gives weight 0, which drops the class.)

    Args:
        features: (N, D), finite.
        labels: the labels that define the classes, int64 (N,) in [0, num_classes); classes may be empty.
        num_classes: C.

    Returns:
        float32 (N,), on the device of ``features``, at least 0. Computed on the CPU in float64, since sums on a GPU
        differ from run to run.

    Raises:
        ValueError: shapes that do not fit, or labels out of range.
    """
    if features.ndim != 2 or labels.shape != features.shape[:1]:
        raise ValueError(f"need features (N, D) and labels (N,), got {tuple(features.shape)} and {tuple(labels.shape)}")
    if len(labels) == 0:
        return features.new_empty(0, dtype=torch.float32)
    points, classes = features.detach().cpu().double(), labels.cpu().long()
    if not 0 <= int(classes.min()) <= int(classes.max()) < num_classes:
        raise ValueError(f"labels lie from 0 to {num_classes - 1}, got {int(classes.min())} to {int(classes.max())}")
    sizes = torch.bincount(classes, minlength=num_classes).clamp(min=1)
    sums = points.new_zeros(num_classes, points.shape[1]).index_add_(0, classes, points)
    distances = (points - (sums / sizes.unsqueeze(1))[classes]).norm(dim=1)
    nearest = _per_class(distances, classes, num_classes, "amin")[classes]
    farthest = _per_class(distances, classes, num_classes, "amax")[classes]
    spread = farthest - nearest
    flat = spread <= SAME_DISTANCE * farthest
    place = (distances - nearest) / torch.where(flat, torch.ones_like(spread), spread)
    density = 42.0 * place * (1.0 - place) ** 5
    return torch.where(flat, torch.ones_like(density), density).float().to(features.device)


def weighted_cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Return the batch mean of weight times cross-entropy; not divided by the sum of the weights, as published.

    Args:
        logits: (B, C), B at least 1.
        labels: the labels of stage 2, int64 (B,).
        weights: (B,).

    Returns:
        scalar, in at least float32.

    Raises:
        ValueError: not one weight per label.
    """
    losses = cross_entropy(logits, labels)
    if weights.shape != losses.shape:
        raise ValueError(f"need one weight per sample, got {tuple(weights.shape)} for {tuple(losses.shape)}")
    return (weights.to(losses.dtype) * losses).mean()


def _per_class(values: Tensor, classes: Tensor, num_classes: int, reduce: str) -> Tensor:
    """Return the smallest ("amin") or largest ("amax") value of each class, (C,); 0 for an empty class."""
    return values.new_zeros(num_classes).scatter_reduce_(0, classes, values, reduce, include_self=False)
