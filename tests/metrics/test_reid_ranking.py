"""Ranking metrics against a naive implementation, one gallery image at a time, and against hand counts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tune_lnl.errors import InputError
from tune_lnl.metrics.reid import (
    NO_HIT,
    AveragePrecision,
    cosine_distances,
    mean_ap_standard_error,
    rank_each,
    rank_metrics,
    reranked_distances,
)

Array = npt.NDArray[Any]

Sides = tuple[Array, Array, Array, Array]

# ---- the naive implementation


def naive_order(row: Any, person: int, camera: int, persons: Any, cameras: Any) -> list[bool]:
    """Whether each kept gallery image, in ranked order, shows the person."""
    kept = [g for g in range(len(persons)) if not (persons[g] == person and cameras[g] == camera)]
    kept.sort(key=lambda g: (row[g], g))
    return [bool(persons[g] == person) for g in kept]


def naive_simple_ap(hits: list[bool]) -> float:
    found, precisions = 0, []
    for position, hit in enumerate(hits, start=1):
        if hit:
            found += 1
            precisions.append(found / position)
    return sum(precisions) / len(precisions)


def naive_market_ap(hits: list[bool]) -> float:
    """Walks down the list as the official evaluation does, adding a trapezoid wherever the recall grows."""
    area, found, recall_before, precision_before = 0.0, 0, 0.0, 1.0
    for position, hit in enumerate(hits, start=1):
        found += hit
        recall, precision = found / sum(hits), found / position
        area += (recall - recall_before) * (precision_before + precision) / 2
        recall_before, precision_before = recall, precision
    return area


def naive_metrics(distances: Any, sides: Any, max_rank: int, ap: str) -> tuple[list[float], float, int] | None:
    """(CMC, mAP, number of scored queries), or None where no query has a match."""
    query_ids, gallery_ids, query_cameras, gallery_cameras = sides
    aps, first_ranks = [], []
    for q in range(len(query_ids)):
        hits = naive_order(distances[q], query_ids[q], query_cameras[q], gallery_ids, gallery_cameras)
        if any(hits):
            aps.append(naive_simple_ap(hits) if ap == "simple" else naive_market_ap(hits))
            first_ranks.append(hits.index(True) + 1)
    if not aps:
        return None
    cmc = [sum(first <= k for first in first_ranks) / len(aps) for k in range(1, max_rank + 1)]
    return cmc, sum(aps) / len(aps), len(aps)


@st.composite
def rankings(draw: st.DrawFn) -> tuple[Array, Sides]:
    """Few identities and cameras, so that distractors (0), absent people and same-camera-only ones all come up."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    queries, gallery = draw(st.integers(1, 6)), draw(st.integers(1, 25))
    people, cameras = draw(st.integers(1, 5)), draw(st.integers(1, 3))
    shape = (queries, gallery)
    distances: Array
    if draw(st.booleans()):
        distances = rng.integers(0, draw(st.integers(1, 6)), shape).astype(
            draw(st.sampled_from([np.float32, np.int64]))
        )
    else:
        distances = rng.normal(size=shape).astype(draw(st.sampled_from([np.float32, np.float64])))
    sides = (
        rng.integers(1, people + 1, queries),
        rng.integers(0, people + 1, gallery),
        rng.integers(1, cameras + 1, queries),
        rng.integers(1, cameras + 1, gallery),
    )
    return distances, sides


@settings(max_examples=400, deadline=None)
@given(rankings(), st.sampled_from(["simple", "market"]), st.integers(1, 30))
def test_agrees_with_the_naive_metrics(ranking: tuple[Array, Sides], ap: AveragePrecision, max_rank: int) -> None:
    distances, sides = ranking
    expected = naive_metrics(distances, sides, max_rank, ap)
    if expected is None:
        with pytest.raises(InputError, match="no query can be scored"):
            rank_metrics(distances, *sides, max_rank=max_rank, ap=ap)
        return
    cmc, mean_ap = rank_metrics(distances, *sides, max_rank=max_rank, ap=ap)
    assert cmc.shape == (max_rank,)
    np.testing.assert_allclose(cmc, expected[0], rtol=0, atol=1e-12)
    assert mean_ap == pytest.approx(expected[1], abs=1e-12)
    assert rank_each(distances, *sides, ap=ap).valid.sum() == expected[2]


@pytest.mark.parametrize("ap", ["simple", "market"])
def test_agrees_with_the_naive_metrics_on_a_large_gallery(ap: AveragePrecision) -> None:
    rng = np.random.default_rng(1)
    distances = rng.normal(size=(40, 900)).astype(np.float32).round(2)  # ties all over
    sides = (rng.integers(1, 31, 40), rng.integers(0, 31, 900), rng.integers(1, 7, 40), rng.integers(1, 7, 900))
    cmc, mean_ap = rank_metrics(distances, *sides, max_rank=50, ap=ap)
    expected = naive_metrics(distances, sides, 50, ap)
    assert expected is not None
    np.testing.assert_allclose(cmc, expected[0], atol=1e-12)
    assert mean_ap == pytest.approx(expected[1], abs=1e-12)


# ---- by hand


def one_query(matches: list[int], distances: list[float] | None = None) -> tuple[Array, Array, Array, Array, Array]:
    """One query (person 1, camera 1); gallery images from camera 2 that match where 1, in ranked order by default."""
    count = len(matches)
    row = np.arange(count, dtype=np.float32) if distances is None else np.array(distances, dtype=np.float32)
    return row[None], np.array([1]), np.array(matches), np.array([1]), np.full(count, 2)


def test_average_precision_by_hand() -> None:
    """Matches at ranks 1 and 4 of 5: precisions 1 and 1/2; just before them 1 (nothing yet) and 1/3."""
    case = one_query([1, 0, 0, 1, 0])
    assert rank_metrics(*case)[1] == pytest.approx((1 + 1 / 2) / 2)
    assert rank_metrics(*case, ap="market")[1] == pytest.approx(((1 + 1) / 2 + (1 / 3 + 1 / 2) / 2) / 2)


def test_a_first_match_that_is_late_by_hand() -> None:
    """One match, at rank 3: precision 1/3, and 0 just before."""
    case = one_query([0, 0, 1])
    assert rank_metrics(*case)[1] == pytest.approx(1 / 3)
    assert rank_metrics(*case, ap="market")[1] == pytest.approx(1 / 6)
    np.testing.assert_array_equal(rank_metrics(*case, max_rank=3)[0], [0, 0, 1])


def test_same_person_from_the_same_camera_is_dropped() -> None:
    distances = np.array([[0.0, 1.0, 2.0, 3.0]])
    ids, cameras = np.array([1, 0, 1, 2]), np.array([1, 1, 2, 1])
    cmc, mean_ap = rank_metrics(distances, np.array([1]), ids, np.array([1]), cameras, max_rank=2)
    # The image at distance 0 is gone; a distractor comes first, then the match.
    np.testing.assert_array_equal(cmc, [0, 1])
    assert mean_ap == pytest.approx(1 / 2)


def test_ties_rank_in_gallery_order() -> None:
    assert rank_metrics(*one_query([1, 0, 0], [5, 5, 5]))[1] == pytest.approx(1)
    assert rank_metrics(*one_query([0, 0, 1], [5, 5, 5]))[1] == pytest.approx(1 / 3)
    assert rank_metrics(*one_query([0, 1, 0, 1], [5, 5, 5, 1]))[1] == pytest.approx((1 + 2 / 3) / 2)


def test_infinitely_far_images_rank_last_in_gallery_order() -> None:
    assert rank_metrics(*one_query([1, 0, 1, 0], [math.inf, 1, math.inf, 2]))[1] == pytest.approx((1 / 3 + 2 / 4) / 2)
    assert rank_metrics(*one_query([0, 1], [1, -math.inf]))[1] == 1


def test_a_gallery_shorter_than_the_cmc() -> None:
    cmc, _ = rank_metrics(*one_query([0, 1]), max_rank=5)
    np.testing.assert_array_equal(cmc, [0, 1, 1, 1, 1])


def test_every_query_by_itself() -> None:
    distances = np.array([[0.0, 1.0, 2.0], [2.0, 1.0, 0.0], [0.0, 1.0, 2.0]])
    ids, cameras = np.array([7, 8, 8]), np.array([2, 2, 3])
    ranked = rank_each(distances, np.array([7, 9, 8]), ids, np.array([1, 1, 2]), cameras)
    np.testing.assert_array_equal(ranked.valid, [True, False, True])
    np.testing.assert_array_equal(ranked.first_hit, [0, NO_HIT, 1])
    np.testing.assert_array_equal(ranked.average_precision, [1.0, math.nan, 0.5])
    cmc, mean_ap = rank_metrics(distances, np.array([7, 9, 8]), ids, np.array([1, 1, 2]), cameras, max_rank=2)
    np.testing.assert_array_equal(cmc, [0.5, 1.0])
    assert mean_ap == pytest.approx(0.75)


def test_no_query_with_a_match_is_an_error() -> None:
    with pytest.raises(InputError, match="none of the 1 has"):
        rank_metrics(*one_query([0, 0]))
    nobody, two = np.empty(0, dtype=np.int64), np.ones(2, dtype=np.int64)
    with pytest.raises(InputError, match="none of the 0 has"):
        rank_each(np.empty((0, 2)), nobody, two, nobody, two)


def test_distances_must_be_numbers() -> None:
    with pytest.raises(ValueError, match="row 0 holds NaN"):
        rank_metrics(*one_query([1, 0], [math.nan, 1]))


def test_misuse_is_refused() -> None:
    case = one_query([1, 0])
    with pytest.raises(ValueError, match="need distances"):
        rank_metrics(case[0].T, *case[1:])
    with pytest.raises(ValueError, match="need distances"):
        rank_metrics(*case[:4], np.array([2]))
    with pytest.raises(ValueError, match="max_rank"):
        rank_metrics(*case, max_rank=0)
    with pytest.raises(ValueError, match="simple or market"):
        rank_metrics(*case, ap="trapezoid")  # type: ignore[arg-type]


# ---- standard errors


def test_standard_error_of_independent_queries_is_the_ordinary_one() -> None:
    scores = np.random.default_rng(0).uniform(size=30)
    expected = scores.std(ddof=1) / math.sqrt(30)
    assert mean_ap_standard_error(scores, np.arange(30)) == pytest.approx(expected)


def test_standard_error_by_hand() -> None:
    """Mean 0.5; sums of deviations: person 4: 0.5 + 0.1, person 2: -0.6; sqrt(2/1 (0.36 + 0.36)) / 3 = 0.4."""
    assert mean_ap_standard_error(np.array([1.0, -0.1, 0.6]), np.array([4, 2, 4])) == pytest.approx(0.4)


def test_repeated_queries_of_a_person_add_no_certainty() -> None:
    scores, people = np.array([0.2, 0.9, 0.4, 0.7]), np.arange(4)
    once = mean_ap_standard_error(scores, people)
    assert mean_ap_standard_error(np.repeat(scores, 5), np.repeat(people, 5)) == pytest.approx(once)


def test_standard_error_that_cannot_be_told() -> None:
    assert math.isnan(mean_ap_standard_error(np.array([0.1, 0.5]), np.array([3, 3])))
    with pytest.raises(ValueError, match="one identity per score"):
        mean_ap_standard_error(np.array([]), np.array([]))
    with pytest.raises(ValueError, match="valid queries only"):
        mean_ap_standard_error(np.array([0.1, math.nan]), np.array([3, 4]))


# ---- distances


def test_cosine_distances_by_hand() -> None:
    query = np.array([[3.0, 4.0], [0.0, 0.0]])
    distances = cosine_distances(query, np.array([[6.0, 8.0], [-3.0, -4.0], [-4.0, 3.0], [1.0, 0.0]]))
    assert distances.dtype == np.float32
    np.testing.assert_allclose(distances, np.array([[-1.0, 1.0, 0.0, -0.6], [0.0, 0.0, 0.0, 0.0]]), atol=1e-7)


def test_cosine_distances_leave_the_features_alone_and_take_large_ones() -> None:
    features = np.array([[1e30, 1e30], [1e-30, 0.0]], dtype=np.float32)
    before = features.copy()
    np.testing.assert_allclose(cosine_distances(features, features), [[-1, -(0.5**0.5)], [-(0.5**0.5), -1]], rtol=1e-6)
    np.testing.assert_array_equal(features, before)


def test_features_must_be_finite_and_fit() -> None:
    with pytest.raises(ValueError, match="finite"):
        cosine_distances(np.array([[math.nan, 1.0]]), np.ones((1, 2)))
    with pytest.raises(ValueError, match="need features"):
        cosine_distances(np.ones((1, 3)), np.ones((1, 2)))


# ---- re-ranking


def naive_reranking(query: Array, gallery: Array, k1: int, k2: int, lambda_value: float) -> Array:
    """The formulas of Zhong et al. with sets and full matrices."""
    x = np.concatenate([query, gallery]).astype(np.float64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    d = ((x[:, None] - x[None]) ** 2).sum(axis=2)
    total = len(x)
    order = [sorted(range(total), key=lambda q: (q != p, d[p, q])) for p in range(total)]
    d /= d.max(axis=1, keepdims=True)

    def near(p: int, k: int) -> list[int]:
        return order[p][: k + 1]

    def reciprocal(p: int, k: int) -> set[int]:
        return {q for q in near(p, k) if p in near(q, k)}

    v = np.zeros((total, total))
    for p in range(total):
        own = reciprocal(p, k1)
        grown = set(own)
        for q in own:
            half = reciprocal(q, int(np.around(k1 / 2)))
            if len(half & own) >= 2 / 3 * len(half) - 1e-9:
                grown |= half
        for q in grown:
            v[p, q] = math.exp(-d[p, q])
    v = np.stack([v[near(p, k2 - 1)].mean(axis=0) for p in range(total)])
    jaccard = np.array([[1 - np.minimum(a, b).sum() / np.maximum(a, b).sum() for b in v] for a in v])
    found = (1 - lambda_value) * jaccard + lambda_value * d
    return np.asarray(found[: len(query), len(query) :])


def people(seed: int, count: int, each: int, dimensions: int = 12) -> Array:
    """Features in loose clusters, so that reciprocal neighbourhoods are of every size."""
    rng = np.random.default_rng(seed)
    centres = np.repeat(rng.normal(size=(count, dimensions)), each, axis=0)
    return np.asarray(centres + 0.6 * rng.normal(size=centres.shape))


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    ("k1", "k2", "lambda_value"), [(20, 6, 0.3), (6, 3, 0.0), (5, 1, 0.5), (3, 8, 0.1), (1, 2, 0.3)]
)
def test_reranking_agrees_with_the_formulas(seed: int, k1: int, k2: int, lambda_value: float) -> None:
    features = people(seed, 12, 6)[np.random.default_rng(seed).permutation(72)]
    query, gallery = features[:15], features[15:]
    found = reranked_distances(query, gallery, k1, k2, lambda_value)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, naive_reranking(query, gallery, k1, k2, lambda_value), atol=2e-6)


def test_reranking_in_several_blocks() -> None:
    features = people(3, 60, 6)  # 360 images
    found = reranked_distances(features[:20], features[20:], 8, 4)
    np.testing.assert_allclose(found, naive_reranking(features[:20], features[20:], 8, 4, 0.3), atol=2e-6)


def test_reranking_of_fewer_images_than_neighbours() -> None:
    features = people(4, 2, 3)
    found = reranked_distances(features[:2], features[2:])
    np.testing.assert_allclose(found, naive_reranking(features[:2], features[2:], 20, 6, 0.3), atol=2e-6)


def test_reranking_with_the_original_distance_alone() -> None:
    features = people(5, 4, 4)
    found = reranked_distances(features[:4], features[4:], lambda_value=1.0)
    np.testing.assert_array_equal(
        np.argsort(found, axis=1), np.argsort(cosine_distances(features[:4], features[4:]), axis=1)
    )


def test_reranking_puts_people_before_lookalikes() -> None:
    """It exists to raise mAP where people form groups."""
    features = people(6, 40, 8)
    ids = np.repeat(np.arange(40), 8)
    cameras = np.tile(np.arange(8), 40)
    is_query = cameras == 0
    sides = (ids[is_query], ids[~is_query], cameras[is_query], cameras[~is_query])
    plain = rank_metrics(cosine_distances(features[is_query], features[~is_query]), *sides)[1]
    better = rank_metrics(reranked_distances(features[is_query], features[~is_query], 10, 4), *sides)[1]
    assert better > plain + 0.02


def test_reranking_of_identical_images() -> None:
    """Each image heads its own list; otherwise one whose copies fill the list would have nothing in it to compare."""
    found = reranked_distances(np.ones((4, 3)), np.ones((4, 3)), 1, 1)
    assert np.isfinite(found).all()


@pytest.mark.parametrize("setting", [{"k1": 0}, {"k2": 0}, {"lambda_value": 1.5}, {"lambda_value": math.nan}])
def test_reranking_refuses_settings_out_of_range(setting: Any) -> None:
    with pytest.raises(ValueError, match="need k1"):
        reranked_distances(np.ones((1, 2)), np.ones((3, 2)), **setting)
