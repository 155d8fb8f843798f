"""Ranking of person images: CMC, mAP, their standard errors, distances and re-ranking. Fractions in [0, 1] throughout.

The rules are those of Market-1501 (Zheng et al., ICCV 2015), as in the released CORE code (repository
mangye16/ReID-Label-Noise, eval_lib/eval.pyx). For each query, gallery images of the same person from the same camera
are dropped, since they are nearly the same picture. A query without a match among the others is skipped.

- CMC at k: share of queries with a match among the first k kept images.
- AP, "simple": mean over a query's matches of the precision at that match, ``(i + 1) / (r_i + 1)`` for the i-th match
  at rank ``r_i``, both from 0.
- AP, "market" (the dataset's official script): the area under the precision-recall curve by trapezoids; the precision
  at each match is averaged with the one just before it, ``i / r_i``, or 1 where nothing came before.
- mAP: mean of AP over the queries that have a match.

Images at equal distance rank in gallery order. Junk (-1 in Market-1501) is no identity: drop it before ranking.
Keep distractors (identity 0): they match no query and only take up ranks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import scipy.sparse

from tune_lnl.errors import InputError

FloatArray = npt.NDArray[np.floating[Any]]
IntArray = npt.NDArray[np.integer[Any]]
AveragePrecision = Literal["simple", "market"]

NO_HIT = np.iinfo(np.int64).max
"""First hit of a query without a match: after every rank."""
ROWS = 256
"""Rows of a distance matrix in one block."""


@dataclass(frozen=True)
class RankedQueries:
    """The result of each query, in the given order.

    Attributes:
        average_precision: AP in (0, 1], float64 (Q,); NaN for a query without a match.
        first_hit: rank of the first match, counted from 0, int64 (Q,); ``NO_HIT`` (larger than any rank) without one.
        valid: whether the query has a match, bool (Q,).
    """

    average_precision: npt.NDArray[np.float64]
    first_hit: npt.NDArray[np.int64]
    valid: npt.NDArray[np.bool_]


def rank_metrics(
    distances: FloatArray,
    query_ids: IntArray,
    gallery_ids: IntArray,
    query_cameras: IntArray,
    gallery_cameras: IntArray,
    max_rank: int = 10,
    ap: AveragePrecision = "simple",
) -> tuple[npt.NDArray[np.float64], float]:
    """Return CMC and mAP of a ranking.

    Args:
        distances: (Q, G), smaller is closer; any real numbers, infinity included, but not NaN.
        query_ids: identities (Q,).
        gallery_ids: identities (G,).
        query_cameras: (Q,).
        gallery_cameras: (G,).
        max_rank: length of the CMC, at least 1. Beyond the number of gallery images it keeps its last value.
        ap: convention of the average precision, see the docstring of this module.

    Returns:
        CMC at 1..max_rank, float64 (max_rank,), and mAP.

    Raises:
        InputError: no query has a match.
        ValueError: shapes that do not fit, NaN distances, max_rank below 1 or an unknown convention.
    """
    if max_rank < 1:
        raise ValueError(f"max_rank must be at least 1, got {max_rank}")
    ranked = rank_each(distances, query_ids, gallery_ids, query_cameras, gallery_cameras, ap)
    first_hits = ranked.first_hit[ranked.valid]
    cmc = (first_hits[:, None] < np.arange(1, max_rank + 1)).mean(axis=0)
    return cmc, float(ranked.average_precision[ranked.valid].mean())


def rank_each(
    distances: FloatArray,
    query_ids: IntArray,
    gallery_ids: IntArray,
    query_cameras: IntArray,
    gallery_cameras: IntArray,
    ap: AveragePrecision = "simple",
) -> RankedQueries:
    """Return AP and first hit of every query; arguments and errors as for :func:`rank_metrics`.

    The distances are read query by query, without a copy of the whole matrix.
    """
    distances = np.asarray(distances)
    sides = [np.asarray(each) for each in (query_ids, gallery_ids, query_cameras, gallery_cameras)]
    _require_fitting(distances, *sides)
    if ap not in ("simple", "market"):
        raise ValueError(f"ap must be simple or market, got {ap!r}")
    query_ids, gallery_ids, query_cameras, gallery_cameras = sides
    average_precision = np.full(len(query_ids), math.nan)
    first_hit = np.full(len(query_ids), NO_HIT, dtype=np.int64)
    for query, row in enumerate(distances):
        if np.isnan(row).any():
            raise ValueError(f"distances must be numbers; row {query} holds NaN")
        same_person = gallery_ids == query_ids[query]
        kept = ~(same_person & (gallery_cameras == query_cameras[query]))
        ranks = _match_ranks(row[kept], same_person[kept])
        if len(ranks):
            average_precision[query] = _average_precision(ranks, ap)
            first_hit[query] = ranks[0]
    valid = first_hit != NO_HIT
    if not valid.any():
        raise InputError(
            f"no query can be scored: none of the {len(query_ids)} has a gallery image of the same person from another "
            "camera\ncheck that query and gallery hold the same people and that their camera numbers are right"
        )
    return RankedQueries(average_precision, first_hit, valid)


def mean_ap_standard_error(average_precision: FloatArray, query_ids: IntArray) -> float:
    """Return the standard error of the mean over queries, clustered by identity.

    The queries of one person are correlated.

    With n queries of K persons, mean m, and S_k the sum over person k's queries of ``(a - m)``:
    ``sqrt(K / (K - 1) * Σ_k S_k²) / n``, the usual cluster-robust variance of a mean. With one query per person
    it is the ordinary ``s / sqrt(n)``. Any score per query will do: AP, or 0 and 1 for a hit at rank k.

    Args:
        average_precision: scores of the valid queries, (n,), n at least 1.
        query_ids: their identities, (n,).

    Returns:
        at least 0; NaN for a single person.

    Raises:
        ValueError: no queries, shapes that do not fit, or NaN among the scores.
    """
    scores = np.asarray(average_precision, dtype=np.float64)
    if scores.ndim != 1 or scores.shape != np.shape(query_ids) or len(scores) == 0:
        raise ValueError(f"need one identity per score and a score, got {scores.shape} and {np.shape(query_ids)}")
    if np.isnan(scores).any():
        raise ValueError("scores must be numbers; pass the valid queries only")
    persons, person = np.unique(query_ids, return_inverse=True)
    if len(persons) == 1:
        return math.nan
    sums = np.bincount(person, weights=scores - scores.mean())
    return float(math.sqrt(len(persons) / (len(persons) - 1) * float(sums @ sums)) / len(scores))


def cosine_distances(query: FloatArray, gallery: FloatArray) -> npt.NDArray[np.float32]:
    """Return minus the cosine between features, float32 (Q, G) in [-1, 1] up to rounding; smaller is closer.

    The published distance (released eval_utils.py, lines 127-149); without the usual 1 added, which would round away
    differences between dissimilar images. Features are normalised here; a feature of zeros is at 0 from every other.

    Args:
        query: (Q, D), finite.
        gallery: (G, D), finite.

    Raises:
        ValueError: shapes that do not fit, or features that are not finite.
    """
    first, second = _normalised_pair(query, gallery)
    np.negative(first, out=first)
    return np.asarray(first @ second.T, dtype=np.float32)


def reranked_distances(
    query: FloatArray, gallery: FloatArray, k1: int = 20, k2: int = 6, lambda_value: float = 0.3
) -> npt.NDArray[np.float32]:
    """Return distances after k-reciprocal re-ranking (Zhong et al., CVPR 2017), float32 (Q, G) in [0, 1].

    With N(p, k) the image p itself and its k nearest among queries and gallery together:

    - Eq. 3: R(p, k) = {q in N(p, k): p in N(q, k)}.
    - Eq. 5: R*(p) = R(p, k1), and for each of its q also R(q, k1/2) if at least 2/3 of that lies in R(p, k1).
    - Eq. 7: V_p[q] = exp(-d(p, q)) for q in R*(p), else 0.
    - Eq. 11, local query expansion: V_p becomes the mean of V over p and its k2 - 1 nearest.
    - Eq. 10: d_J(p, g) = 1 - Σ min(V_p, V_g) / Σ max(V_p, V_g).
    - Eq. 12: (1 - λ) d_J + λ d.

    As in the authors' code, d is the squared Euclidean distance of the normalised features divided by the largest one
    of p, which brings it to the range of d_J, and k1/2 is rounded, halves to even. Unlike there, the bound of 2/3 is
    included and V is not scaled to sum 1, as the paper has it.

    Neighbours are short lists and V is sparse. So memory, without the result and the normalised features, grows with
    (Q + G) k1 k2 instead of (Q + G)².

    Args:
        query: (Q, D), finite.
        gallery: (G, D), finite.
        k1: number of neighbours, at least 1.
        k2: images averaged by the local query expansion, at least 1; 1 switches it off.
        lambda_value: λ in [0, 1], share of the original distance.

    Raises:
        ValueError: a setting out of its range, shapes that do not fit, or features that are not finite.
    """
    if k1 < 1 or k2 < 1 or not 0 <= lambda_value <= 1:
        raise ValueError(f"need k1 >= 1, k2 >= 1 and lambda in 0..1, got {k1}, {k2} and {lambda_value}")
    first, second = _normalised_pair(query, gallery)
    images = np.concatenate([first, second])
    neighbours, farthest = _nearest(images, max(k1, k2 - 1))
    encoding = _encode(images, neighbours, farthest, k1)
    if k2 > 1:
        expanded = neighbours[:, :k2]
        encoding = _indicator(expanded, np.ones(expanded.shape, dtype=bool)) @ encoding / expanded.shape[1]
    result: npt.NDArray[np.float32] = _squared_distances(first, second)
    result /= farthest[: len(first), None]
    result *= lambda_value
    result += (1 - lambda_value) * _jaccard_distances(encoding[: len(first)], encoding[len(first) :])
    return result


# ---- ranks


def _require_fitting(distances: FloatArray, *sides: IntArray) -> None:
    queries, galleries = sides[0].shape, sides[1].shape
    fits = len(queries) == len(galleries) == 1 and distances.shape == queries + galleries
    if not fits or sides[2].shape != queries or sides[3].shape != galleries:
        raise ValueError(
            "need distances (Q, G), query ids (Q,), gallery ids (G,), query cameras (Q,) and gallery cameras (G,), got "
            f"{distances.shape}, {', '.join(str(side.shape) for side in sides)}"
        )


def _match_ranks(row: FloatArray, matches: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Return the ranks from 0 of the matches in the stable order of ``row``, ascending.

    Sorting the values alone is several times faster than a stable argsort, and suffices if no match ties.
    """
    if not matches.any():
        return np.empty(0, dtype=np.int64)
    ordered, wanted = np.sort(row), np.sort(row[matches])
    ranks = np.searchsorted(ordered, wanted, side="left")
    if np.array_equal(np.searchsorted(ordered, wanted, side="right"), ranks + 1):
        return ranks
    return np.flatnonzero(matches[np.argsort(row, kind="stable")])


def _average_precision(ranks: npt.NDArray[np.int64], ap: AveragePrecision) -> float:
    before = np.arange(len(ranks))
    precision = (before + 1) / (ranks + 1)
    if ap == "market":
        just_before = np.divide(before, ranks, out=np.ones(len(ranks)), where=ranks > 0)
        precision = (just_before + precision) / 2
    return float(precision.mean())


# ---- features


def _normalised_pair(query: FloatArray, gallery: FloatArray) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    if np.ndim(query) != 2 or np.ndim(gallery) != 2 or np.shape(query)[1] != np.shape(gallery)[1]:
        raise ValueError(f"need features (Q, D) and (G, D), got {np.shape(query)} and {np.shape(gallery)}")
    return _normalised(query), _normalised(gallery)


def _normalised(features: FloatArray) -> npt.NDArray[np.float32]:
    """Return a float32 copy with rows of length 1; rows of zeros stay. Lengths in float64 do not overflow."""
    normalised = np.array(features, dtype=np.float32)
    lengths = np.sqrt(np.einsum("nd,nd->n", normalised, normalised, dtype=np.float64))
    if not np.isfinite(lengths).all():
        raise ValueError("features must be finite")
    normalised /= np.where(lengths > 0, lengths, 1.0)[:, None]
    return normalised


def _squared_distances(first: npt.NDArray[np.float32], second: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return |a - b|² = 2 - 2 cos of normalised features, (A, B); rounding below 0 is cut off."""
    distances: npt.NDArray[np.float32] = first @ second.T
    distances *= -2.0
    distances += 2.0
    np.maximum(distances, 0.0, out=distances)
    return distances


# ---- re-ranking


def _blocks(count: int) -> Iterator[slice]:
    return (slice(start, min(start + ROWS, count)) for start in range(0, count, ROWS))


def _nearest(images: npt.NDArray[np.float32], count: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return each image with its ``count`` nearest, nearest first (N, count + 1), and its largest distance (N,)."""
    total = len(images)
    length = min(count + 1, total)
    neighbours, farthest = np.empty((total, length), dtype=np.int64), np.empty(total, dtype=np.float32)
    for block in _blocks(total):
        distances = _squared_distances(images[block], images)
        farthest[block] = distances.max(axis=1)
        own = np.arange(block.start, block.stop)
        distances[np.arange(len(own)), own] = -1.0  # before its exact duplicates
        closest = np.sort(np.argpartition(distances, length - 1, axis=1)[:, :length], axis=1)
        order = np.argsort(np.take_along_axis(distances, closest, axis=1), axis=1, kind="stable")
        neighbours[block] = np.take_along_axis(closest, order, axis=1)
    return neighbours, np.where(farthest > 0, farthest, np.float32(1))


def _encode(
    images: npt.NDArray[np.float32], neighbours: npt.NDArray[np.int64], farthest: npt.NDArray[np.float32], k1: int
) -> Any:
    """Return V before the local query expansion, sparse (N, N) float32."""
    reciprocal = _reciprocal(neighbours, k1)
    halves = _reciprocal(neighbours, round(k1 / 2))
    half_sizes = np.asarray(halves.sum(axis=1)).ravel()
    parts = []
    for block in _blocks(len(images)):
        own = reciprocal[block]
        shared = (own @ halves.T).multiply(own).tocsr()
        shared.data = (3 * shared.data >= 2 * half_sizes[shared.indices]).astype(np.float32)
        shared.eliminate_zeros()
        part = (own + shared @ halves).tocsr()
        rows = np.repeat(np.arange(block.start, block.stop), np.diff(part.indptr))
        distances = _pair_distances(images, rows, part.indices) / farthest[rows]
        part.data = np.exp(-distances).astype(np.float32)
        parts.append(part)
    return scipy.sparse.vstack(parts, format="csr")


def _reciprocal(neighbours: npt.NDArray[np.int64], k: int) -> Any:
    """Return R(p, k) of every image p as a sparse indicator matrix (N, N)."""
    near = neighbours[:, : k + 1]
    mutual = np.zeros(near.shape, dtype=bool)
    for block in _blocks(len(near)):
        own = np.arange(block.start, block.stop)[:, None, None]
        mutual[block] = (near[near[block]] == own).any(axis=2)
    return _indicator(near, mutual)


def _indicator(columns: npt.NDArray[np.int64], chosen: npt.NDArray[np.bool_]) -> Any:
    """Return a sparse matrix (N, N) with 1 at the chosen ``columns`` (N, k) of each row."""
    total = len(columns)
    ends = np.concatenate([[0], np.cumsum(chosen.sum(axis=1))])
    ones = np.ones(int(ends[-1]), dtype=np.float32)
    matrix = scipy.sparse.csr_matrix((ones, columns[chosen], ends), shape=(total, total))
    matrix.sort_indices()
    return matrix


def _pair_distances(
    images: npt.NDArray[np.float32], rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64]
) -> npt.NDArray[np.float32]:
    """Return the squared distances of images ``rows[i]`` and ``columns[i]``."""
    cosines = np.empty(len(rows), dtype=np.float32)
    for block in _blocks(len(rows)):
        cosines[block] = np.einsum("nd,nd->n", images[rows[block]], images[columns[block]])
    return np.asarray(np.maximum(2.0 - 2.0 * cosines, 0.0), dtype=np.float32)


def _jaccard_distances(query: Any, gallery: Any) -> npt.NDArray[np.float32]:
    """Return 1 - Σ min / Σ max of every pair of rows, (Q, G). No row is empty, because each image encodes itself."""
    by_column = gallery.tocsc()
    query_sums, gallery_sums = (np.asarray(side.sum(axis=1), dtype=np.float64).ravel() for side in (query, gallery))
    distances = np.empty((query.shape[0], gallery.shape[0]), dtype=np.float32)
    for row in range(query.shape[0]):
        own = slice(query.indptr[row], query.indptr[row + 1])
        shared = by_column[:, query.indices[own]]
        smaller = np.minimum(np.repeat(query.data[own], np.diff(shared.indptr)), shared.data)
        minima = np.bincount(shared.indices, weights=smaller, minlength=gallery.shape[0])
        # max(a, b) = a + b - min(a, b)
        distances[row] = 1.0 - minima / (query_sums[row] + gallery_sums - minima)
    return distances
