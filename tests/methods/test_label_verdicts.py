"""The verdict on given labels: its formulas by hand, and labels whose noise is known."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tune_lnl.methods.label_verdicts import (
    KEEP,
    OPEN_SET,
    RELABEL,
    UNSURE,
    calibrated,
    expected_agreement,
    fit_confusions,
    judge_in_sample,
    judge_labels,
    looks_like_none,
    plateau,
    with_selection,
)
from tune_lnl.metrics.label_quality import auroc

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


def test_plateau_by_hand() -> None:
    """The surest 30 agree in 27 of 30 cases, the 70 others in half of them."""
    sure = np.linspace(0.99, 0.51, 100)
    probabilities = np.stack([sure, 1 - sure], axis=1)
    given = np.array([1, 1, 1] + [0] * 27 + [0, 1] * 35)
    assert plateau(probabilities, given)[0] == pytest.approx(28 / 31), "the next one agrees, too"
    assert plateau(probabilities, np.zeros(100, dtype=np.int64)) == pytest.approx((1.0, 100 / 101))
    assert plateau(probabilities[:10], given[:10])[0] == pytest.approx(0.7), "there are no twenty"


def test_calibration_by_hand() -> None:
    """Agreement 0.6 where 0.8 of the labels are right: 0.6 = rho 0.8 + (1 - rho) 0.2 gives rho 2/3."""
    matrix = np.array([[0.8, 0.2], [0.2, 0.8]])
    found, reliable = calibrated(np.array([[0.99, 0.01], [0.3, 0.7]]), np.array([0.6, 0.8]), matrix, 0.8)
    assert found == pytest.approx(np.array([[2 / 3, 1 / 3], [0.01, 0.99]]))
    assert reliable.tolist() == [False, True]


def test_agreement_rises_with_surety_and_is_lower_for_a_class_that_agrees_less() -> None:
    stream = np.random.RandomState(0)
    sure = stream.uniform(0.5, 1.0, 4000)
    predicted = stream.randint(2, size=4000)
    probabilities = np.stack([np.where(predicted == 0, sure, 1 - sure), np.where(predicted == 1, sure, 1 - sure)], 1)
    agrees = stream.rand(4000) < np.where(predicted == 0, 0.8, 0.5) * (sure - 0.2)
    expected = expected_agreement(probabilities, np.where(agrees, predicted, 1 - predicted))
    for label, factor in ((0, 0.8), (1, 0.5)):
        for low in (0.5, 0.7, 0.9):
            part = (predicted == label) & (sure >= low) & (sure < low + 0.1)
            assert expected[part].mean() == pytest.approx(factor * (low - 0.15), abs=0.05)


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
    _, reliable, model = fit_confusions(probabilities, given, plateau(probabilities, given)[0])
    assert model.matrix.sum(axis=1) == pytest.approx(np.ones(5))
    assert np.abs(model.matrix - pairs(5, ratio)).max() < 0.13, "tau is chosen with care, so a little too high"
    assert reliable.mean() > 0.4


@pytest.mark.parametrize("exponent", [0.3, 1.0, 4.0])
def test_confidence_means_what_it_says_whatever_the_networks_sharpness(exponent: float) -> None:
    probabilities, given, true = drawn(6000, 5, 0.3, 4.0)
    powers = probabilities**exponent
    found = judge_labels((powers / powers.sum(axis=1, keepdims=True)).astype(np.float32), given)
    changed = found.verdict == RELABEL
    right = (found.corrected == true)[changed]
    assert changed.sum() > 300
    # The share of right labels is estimated with care, so a little more are right than is said.
    assert -0.03 < right.mean() - found.confidence[changed].mean() < 0.15
    assert right[found.confidence[changed] >= 0.9].mean() > 0.87
    assert (found.corrected == true).mean() > (given == true).mean() + 0.05


def guessing(count: int, classes: int, seed: int) -> Floats:
    """Predictions that have nothing to do with the images, and are sure of themselves."""
    stream = np.random.RandomState(seed)
    powers = np.exp(4.0 * stream.standard_normal((count, classes)))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_corrections_by_networks_that_know_nothing_are_withheld(seed: int) -> None:
    _, given, _ = drawn(600, 10, 0.3, 4.0, seed)
    found = judge_labels(guessing(600, 10, 100 + seed).astype(np.float32), given, right=0.74)
    assert found.support.withheld
    assert found.support.agreement < 0.2
    assert np.array_equal(found.corrected, given)
    assert set(found.verdict.tolist()) <= {KEEP, UNSURE}
    assert (found.verdict == UNSURE).mean() > 0.7
    assert found.confidence == pytest.approx(np.full(600, 0.74)), "as many as are right by other evidence"


@pytest.mark.parametrize("share", [0.5, 0.75])
def test_networks_that_know_half_of_the_images_correct_no_more_than_they_can(share: float) -> None:
    """Sure of every image, right on a share of them: nothing tells which, so nothing is corrected."""
    probabilities, given, true = drawn(3000, 10, 0.3, 8.0)
    stream = np.random.RandomState(1)
    mixed = np.where(stream.rand(3000, 1) < share, probabilities, stream.permutation(probabilities))
    found = judge_labels(mixed.astype(np.float32), given, right=0.7)
    assert (found.corrected == true).mean() >= (given == true).mean() - 0.002


def test_a_class_that_the_networks_do_not_know_is_left_alone() -> None:
    """All images of class 3 look like class 5 to them, with certainty."""
    probabilities, given, true = drawn(3000, 8, 0.2, 6.0)
    probabilities[:, 5] += probabilities[:, 3]
    probabilities[:, 3] = 1e-6
    found = judge_labels((probabilities / probabilities.sum(axis=1, keepdims=True)).astype(np.float32), given)
    assert found.support.weak_classes == (3,)
    assert not found.support.withheld
    assert not np.isin(found.verdict[given == 3], (RELABEL, OPEN_SET)).any()
    assert (found.corrected == true).mean() > (given == true).mean()


def test_what_training_selected_orders_better_and_makes_no_correction_surer() -> None:
    probabilities, given, true = drawn(2000, 5, 0.3, 3.0)
    stream = np.random.RandomState(1)
    share = np.where(given == true, stream.beta(5, 2, 2000), stream.beta(2, 5, 2000)).astype(np.float32)
    alone = judge_labels(probabilities.astype(np.float32), given)
    helped = judge_labels(probabilities.astype(np.float32), given, share)
    wrong = given != true
    before, after = (auroc(found.wrong, wrong) for found in (alone, helped))
    assert before is not None
    assert after is not None
    assert after > before + 0.02
    both = (alone.verdict == RELABEL) & (helped.verdict == RELABEL)
    assert both.any()
    assert (helped.confidence[both] <= alone.confidence[both]).all()


def test_images_of_no_class_are_open_set() -> None:
    probabilities, given, true = drawn(4000, 5, 0.2, 6.0)
    stream = np.random.RandomState(1)
    none = np.full((600, 5), 0.2) + 0.01 * stream.rand(600, 5)
    everything = np.concatenate([probabilities, none / none.sum(axis=1, keepdims=True)])
    labels = np.concatenate([given, stream.randint(0, 5, 600)])
    right = np.concatenate([given == true, np.zeros(600, dtype=np.bool_)])
    share = np.where(right, stream.beta(8, 2, 4600), stream.beta(2, 8, 4600)).astype(np.float32)
    found = judge_labels(everything.astype(np.float32), labels, share)
    assert (found.verdict[4000:] == OPEN_SET).mean() > 0.6
    assert (found.verdict[:4000] == OPEN_SET).mean() < 0.05
    assert np.array_equal(found.corrected[found.verdict == OPEN_SET], labels[found.verdict == OPEN_SET])


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
    probabilities, given, _ = drawn(2000, 6, 0.3, 5.0)
    found = judge_labels(probabilities.astype(np.float32), given)
    assert not found.support.withheld
    assert ((found.verdict == RELABEL) == (found.corrected != given)).all()
    assert (found.confidence[found.verdict == RELABEL] > 0.7).all()
    assert found.confidence[found.verdict == KEEP] == pytest.approx(1 - found.wrong[found.verdict == KEEP])
    assert (found.confidence[found.verdict == UNSURE] < 0.5).all()
    assert (found.nearest != given).all()


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
