"""The consensus of the other trials: its formula by hand, its guard, and trials whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tune_lnl.methods.consensus import consensus, denoised_scores
from tune_lnl.methods.noise_model import EXPONENTS, fit_noise_model, label_posterior, sharpened

CLASSES = 5


def trials(
    accuracies: list[float], right: float, images: int = 400, seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Trials (T, M, C) whose errors are their own, given labels of which the share ``right`` is, and the truth."""
    random = np.random.default_rng(seed)
    true = random.integers(CLASSES, size=images)
    given = np.where(random.random(images) < right, true, (true + 1) % CLASSES)
    wrong = (true + random.integers(1, CLASSES, size=(len(accuracies), images))) % CLASSES
    predicted = np.where(random.random(wrong.shape) < np.array(accuracies)[:, None], true, wrong)
    return 0.8 * np.eye(CLASSES)[predicted] + 0.2 / CLASSES, given, true


def accuracy(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    shares: NDArray[np.float64] = (probabilities.argmax(2) == labels).mean(axis=1)
    return shares


def test_equal_trials_by_hand() -> None:
    """All weights are then equal, and the others' prediction is the trial's own."""
    one, given, _ = trials([0.9], 0.7)
    scores = consensus(np.repeat(one, 5, axis=0), given).scores
    model = fit_noise_model(one[0], given, EXPONENTS[::4])
    posterior = label_posterior(sharpened(one[0], model.exponent), given, model.matrix)
    np.testing.assert_allclose(scores, (posterior * one[0]).sum(axis=1).mean())


def test_a_trial_does_not_vote_for_itself() -> None:
    """A trial of its own opinion everywhere gains nothing by being sure of it."""
    probabilities, given, _ = trials([0.9] * 5, 0.7)
    random = np.random.default_rng(1)
    lonely = np.eye(CLASSES)[random.integers(CLASSES, size=400)]
    found = consensus(np.concatenate([probabilities, lonely[None]]), given).scores
    assert found[-1] < 0.35
    assert (found[:-1] > 0.6).all()


def test_where_errors_are_independent_it_ranks_better_than_the_labels() -> None:
    better = []
    for seed in range(20):
        probabilities, given, true = trials([0.95, 0.93, 0.91, 0.89, 0.87, 0.85], 0.7, 300, seed)
        found, truth = consensus(probabilities, given), accuracy(probabilities, true)
        assert found.trusted
        np.testing.assert_array_equal(denoised_scores(probabilities, given), found.scores)
        by_consensus, by_labels = (np.corrcoef(truth, s)[0, 1] for s in (found.scores, found.agreement))
        better.append(by_consensus - by_labels)
    assert np.mean(better) > 3 * np.std(better) / np.sqrt(20)


def test_trials_that_file_two_classes_under_others_are_not_trusted() -> None:
    probabilities, given, _ = trials([0.95] * 6, 0.6)
    merged = probabilities.copy()
    merged[:, :, 1] += merged[:, :, 0]
    merged[:, :, 3] += merged[:, :, 2]
    merged[:, :, [0, 2]] = 0
    found = consensus(merged, given)
    assert found.shift > 0.3
    assert not found.trusted
    np.testing.assert_array_equal(denoised_scores(merged, given), accuracy(merged, given))


def test_labels_that_are_mostly_wrong_are_not_trusted() -> None:
    probabilities, given, _ = trials([0.95] * 6, 0.3)
    found = consensus(probabilities, given)
    assert found.right < 0.5
    np.testing.assert_array_equal(denoised_scores(probabilities, given), accuracy(probabilities, given))


def test_trials_that_hardly_know_the_classes_are_not_trusted() -> None:
    probabilities, given, _ = trials([0.35] * 6, 0.9)
    found = consensus(probabilities, given)
    assert found.shift < 0.2
    assert found.explained < 0.35
    np.testing.assert_array_equal(denoised_scores(probabilities, given), accuracy(probabilities, given))


def test_a_consensus_that_the_labels_deny_is_not_trusted() -> None:
    """Nine of ten trials exchange two classes: the shares of the classes tell nothing, the labels do."""
    probabilities, given, true = trials([0.97] * 10, 0.85)
    exchanged = probabilities.copy()
    exchanged[:9] = exchanged[:9][:, :, [1, 0, 2, 3, 4]]
    found = consensus(exchanged, given)
    assert found.shift < 0.2
    assert found.right > 0.5
    assert found.explained > 0.35
    assert found.denied
    assert accuracy(exchanged, true)[found.scores.argmax()] < 0.7
    np.testing.assert_array_equal(denoised_scores(exchanged, given), accuracy(exchanged, given))


def test_few_or_collapsed_trials_give_the_noisy_accuracy() -> None:
    probabilities, given, _ = trials([0.95, 0.9, 0.85], 0.7)
    np.testing.assert_array_equal(denoised_scores(probabilities, given), accuracy(probabilities, given))
    collapsed = np.tile(np.eye(CLASSES)[0], (6, 400, 1))
    np.testing.assert_array_equal(denoised_scores(collapsed, given), np.full(6, (given == 0).mean()))


def test_what_does_not_fit_is_refused() -> None:
    probabilities, given, _ = trials([0.9] * 4, 0.7)
    for bad, labels in ((probabilities[0], given), (probabilities, given[1:]), (probabilities, given + 1)):
        with pytest.raises(ValueError, match=r"need probabilities|given labels"):
            denoised_scores(bad, labels)
