"""The verdict on given labels: its formulas by hand, and labels whose noise is known."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tune_lnl.methods.label_verdicts import (
    KEEP,
    OPEN_SET,
    RELABEL,
    fit_noise_model,
    judge_in_sample,
    judge_labels,
    label_posterior,
    looks_like_none,
    sharpened,
    with_selection,
)

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]


def drawn(count: int, classes: int, ratio: float, sharpness: float, seed: int = 0) -> tuple[Floats, Labels, Labels]:
    """Predictions, given and true labels: class k is filed under k + 1 with probability `ratio`.

    The predictions are calibrated by construction: the true class is drawn from them.
    """
    stream = np.random.RandomState(seed)
    logits = sharpness * stream.standard_normal((count, classes))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    true = np.array([stream.multinomial(1, row / row.sum() * (1 - 1e-9)).argmax() for row in probabilities])
    given = np.where(stream.rand(count) < ratio, (true + 1) % classes, true)
    return probabilities, given, true


def pairs(classes: int, ratio: float) -> Floats:
    return (1 - ratio) * np.eye(classes) + ratio * np.roll(np.eye(classes), 1, axis=1)


# ---- formulas


def test_posterior_by_hand() -> None:
    matrix = np.array([[0.7, 0.3], [0.1, 0.9]])
    found = label_posterior(np.array([[0.8, 0.2], [0.8, 0.2]]), np.array([1, 0]), matrix)
    # 0.8 * 0.3 against 0.2 * 0.9; 0.8 * 0.7 against 0.2 * 0.1.
    assert found == pytest.approx(np.array([[24 / 42, 18 / 42], [56 / 58, 2 / 58]]))


def test_sharpened_by_hand() -> None:
    assert sharpened(np.array([[0.6, 0.3, 0.1]]), 2.0) == pytest.approx(np.array([[36, 9, 1]]) / 46)
    assert sharpened(np.array([[1.0, 0.0]]), 0.5) == pytest.approx(np.array([[1.0, 1e-6]]), abs=1e-6)


def test_selection_by_hand() -> None:
    """Two bins: shares of 1 and of 0, two samples in each."""
    given = np.array([0, 1, 0, 1])
    share = np.array([1.0, 1.0, 0.0, 0.0], dtype=np.float32)
    even = np.tile([[0.5, 0.5]], (4, 1))
    assert with_selection(even, given, share) == pytest.approx(even), "nothing tells right from wrong"
    leaning = np.array([[0.9, 0.1], [0.2, 0.8], [0.1, 0.9], [0.8, 0.2]])
    found = with_selection(leaning, given, share)
    # Right: 1.7 in the upper bin, 0.3 in the lower one; wrong: 0.3 and 1.7; one more in each.
    right, wrong = np.array([1.3, 2.7]) / 4, np.array([2.7, 1.3]) / 4
    for sample, place in enumerate((1, 1, 0, 0)):
        own = leaning[sample, given[sample]]
        expected = own * right[place] / (own * right[place] + (1 - own) * wrong[place])
        assert found[sample, given[sample]] == pytest.approx(expected)


def test_open_set_by_hand() -> None:
    kept = np.array([True] * 100 + [False] * 40)
    usual = np.linspace(0.01, 1.0, 100)
    # Ten of the judged ones fit less than any kept one, ten as little as the lowest tenth, twenty like the kept ones.
    judged = np.concatenate([np.full(10, 0.001), np.full(10, 0.095), np.linspace(0.105, 0.995, 20)])
    odd = looks_like_none(np.concatenate([usual, judged]), kept)
    assert odd.tolist() == [False] * 100 + [True] * 20 + [False] * 20


def test_without_open_set_images_none_is_found() -> None:
    stream = np.random.RandomState(0)
    fit, kept = stream.rand(3000), stream.rand(3000) < 0.7
    assert not looks_like_none(fit, kept).any()
    assert not looks_like_none(fit, np.ones(3000, dtype=np.bool_)).any()
    assert not looks_like_none(fit, np.zeros(3000, dtype=np.bool_)).any()


# ---- noise that is known


@pytest.mark.parametrize("ratio", [0.0, 0.2, 0.4])
def test_the_matrix_is_found(ratio: float) -> None:
    probabilities, given, _ = drawn(6000, 5, ratio, 4.0)
    model = fit_noise_model(probabilities, given)
    assert model.matrix.sum(axis=1) == pytest.approx(np.ones(5))
    assert np.abs(model.matrix - pairs(5, ratio)).max() < 0.05


@pytest.mark.parametrize("exponent", [0.5, 2.0])
def test_predictions_of_the_wrong_sharpness_are_put_right(exponent: float) -> None:
    probabilities, given, _ = drawn(6000, 5, 0.3, 4.0)
    model = fit_noise_model(sharpened(probabilities, 1 / exponent), given)
    assert model.exponent == pytest.approx(exponent, rel=0.35)
    assert np.abs(model.matrix - pairs(5, 0.3)).max() < 0.06


def test_verdicts_are_as_good_as_those_of_who_knows_the_noise() -> None:
    probabilities, given, true = drawn(6000, 5, 0.3, 4.0)
    found = judge_labels(probabilities.astype(np.float32), given)
    known = label_posterior(probabilities, given, pairs(5, 0.3))
    best = float(((known[np.arange(6000), given] < 0.5) == (given != true)).mean())
    assert float(((found.verdict != KEEP) == (given != true)).mean()) > best - 0.01
    assert (found.corrected == true).mean() > (given == true).mean() + 0.2
    # What looks wrong with probability w is wrong in a share w of all cases.
    assert found.wrong.mean() == pytest.approx(float((given != true).mean()), abs=0.02)


def test_what_training_selected_helps_where_the_network_cannot_tell() -> None:
    probabilities, given, true = drawn(2000, 5, 0.3, 1.0)
    stream = np.random.RandomState(1)
    share = np.where(given == true, stream.beta(5, 2, 2000), stream.beta(2, 5, 2000)).astype(np.float32)
    right = given == true
    alone = judge_labels(probabilities.astype(np.float32), given)
    helped = judge_labels(probabilities.astype(np.float32), given, share)
    assert ((helped.verdict == KEEP) == right).mean() > ((alone.verdict == KEEP) == right).mean() + 0.05


def test_images_of_no_class_are_open_set() -> None:
    probabilities, given, true = drawn(4000, 5, 0.2, 6.0)
    stream = np.random.RandomState(1)
    none = np.full((600, 5), 0.2) + 0.01 * stream.rand(600, 5)
    everything = np.concatenate([probabilities, none / none.sum(axis=1, keepdims=True)])
    labels = np.concatenate([given, stream.randint(0, 5, 600)])
    right = np.concatenate([given == true, np.zeros(600, dtype=np.bool_)])
    share = np.where(right, stream.beta(8, 2, 4600), stream.beta(2, 8, 4600)).astype(np.float32)
    found = judge_labels(everything.astype(np.float32), labels, share)
    assert (found.verdict[4000:] == OPEN_SET).mean() > 0.8
    assert (found.verdict[:4000] == OPEN_SET).mean() < 0.05


def test_what_cannot_be_judged_is_kept() -> None:
    probabilities, given, _ = drawn(500, 3, 0.3, 4.0)
    probabilities[7] = np.nan
    found = judge_labels(probabilities.astype(np.float32), given, np.full(500, 0.5, dtype=np.float32))
    assert found.verdict[7] == KEEP
    assert found.corrected[7] == given[7]
    assert found.wrong[7] == 0
    assert np.isnan(found.confidence[7])
    assert not np.isnan(np.delete(found.confidence, 7)).any()


def test_verdict_and_corrected_label_go_together() -> None:
    probabilities, given, _ = drawn(2000, 6, 0.4, 1.5)
    found = judge_labels(probabilities.astype(np.float32), given)
    assert ((found.verdict == KEEP) == (found.corrected == given)).all()
    assert ((found.verdict == KEEP) == (found.wrong <= 0.5)).all()
    kept = found.verdict == KEEP
    assert found.confidence[kept] == pytest.approx(1 - found.wrong[kept])


def test_in_sample_by_hand() -> None:
    belief = np.array([[0.6, 0.4], [0.3, 0.7], [0.5, 0.5]], dtype=np.float32)
    assert judge_in_sample(belief, np.array([0, 0, 1])).tolist() == [KEEP, RELABEL, KEEP]


@pytest.mark.parametrize(
    ("probabilities", "said"),
    [(np.ones((2, 3)), r"got \(2, 3\) and \(3,\)"), (np.full((3, 2), np.nan), "no sample has predictions")],
)
def test_bad_input(probabilities: Floats, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        judge_labels(probabilities.astype(np.float32), np.zeros(3, dtype=np.int64))
