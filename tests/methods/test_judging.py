from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tune_lnl.methods.judging import PRIOR_ANSWERS, Answered, choose, images_to_judge, judged_scores, judging_weights


def one_hot(predicted: list[list[int]], classes: int = 3) -> NDArray[np.float32]:
    """Predictions (T, M) as probabilities (T, M, C)."""
    probabilities: NDArray[np.float32] = np.eye(classes, dtype=np.float32)[np.array(predicted)]
    return probabilities


def noisy_trials(
    accuracies: list[float], images: int = 300, classes: int = 5, seed: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """Trials of these accuracies, labels of which 60% are right, and the truth, -1 for a tenth of the images."""
    random = np.random.default_rng(seed)
    true = random.integers(classes, size=images)
    given = np.where(random.random(images) < 0.6, true, random.integers(classes, size=images))
    wrong = (true + random.integers(1, classes, size=(len(accuracies), images))) % classes
    right = random.random((len(accuracies), images)) < np.array(accuracies)[:, None]
    predicted = np.where(right, true, wrong)
    none = random.random(images) < 0.1
    return np.eye(classes, dtype=np.float32)[predicted], given, np.where(none, -1, true)


def test_weights_by_hand() -> None:
    # Neither trial agrees with a label, and they disagree on the first image alone: v = (1/2, 1/2), u = (0.7, 0, 0, 0).
    # The sizes are then 0.2 / 4 + 0.8 and 0.2 / 4: of two images the first is certain, of the rest one in three.
    probabilities = one_hot([[1, 1, 1, 1], [2, 1, 1, 1]])
    given = np.zeros(4, dtype=np.int64)
    np.testing.assert_allclose(judging_weights(probabilities, given, 2), [1, 3, 3, 3])
    np.testing.assert_allclose(judging_weights(probabilities, given, 1), [1 / 0.85, 20, 20, 20])
    np.testing.assert_allclose(judging_weights(probabilities, given, 4), 1)


def test_without_disagreement_all_images_are_alike() -> None:
    given = np.array([0, 1, 2, 0, 1])
    for probabilities in (one_hot([[0, 1, 1, 0, 2]]), one_hot([[0, 1, 1, 0, 2]] * 3)):
        np.testing.assert_allclose(judging_weights(probabilities, given, 2), 2.5)


def test_each_image_is_drawn_as_often_as_its_weight_says() -> None:
    probabilities, given, _ = noisy_trials([0.8, 0.75, 0.6, 0.2], images=60)
    count, draws = 12, 3000
    chances = 1 / judging_weights(probabilities, given, count)
    assert chances.sum() == pytest.approx(count)
    assert chances.max() > 3 * chances.min()
    drawn = np.zeros(60)
    for seed in range(draws):
        index = images_to_judge(probabilities, given, count, seed)
        assert index.shape == (count,)
        assert len(set(index.tolist())) == count
        drawn[index] += 1
    errors = np.sqrt(chances * (1 - chances) / draws)
    assert (np.abs(drawn / draws - chances) <= 4.5 * errors + 1e-9).all()


def test_the_draw_is_a_function_of_the_seed() -> None:
    probabilities, given, _ = noisy_trials([0.8, 0.7])
    first, again, other = (images_to_judge(probabilities, given, 30, seed).tolist() for seed in (1, 1, 2))
    assert first == again != other
    assert sorted(images_to_judge(probabilities, given, 300, 0)) == list(range(300))


def test_images_on_which_good_trials_disagree_are_drawn_more_often() -> None:
    probabilities, given, _ = noisy_trials([0.95, 0.9, 0.2])
    predicted = probabilities.argmax(2)
    weights = judging_weights(probabilities, given, 30)
    assert weights[predicted[0] != predicted[1]].mean() < 0.3 * weights[predicted[0] == predicted[1]].mean()


def test_scores_by_hand() -> None:
    probabilities = one_hot([[0, 1, 2, 0], [0, 2, 2, 1]])
    given = np.array([0, 1, 1, 1])
    # Image 1 shows class 2, image 2 none. Trial 0 is right on neither, trial 1 on the first of them, of weight 2 in 3.
    # Of the others trial 0 agrees with the label of image 0, trial 1 with both.
    n_0 = PRIOR_ANSWERS
    scores = judged_scores(probabilities, given, np.array([1, 2]), np.array([2, -1]), np.array([4.0, 2.0]))
    np.testing.assert_allclose(scores, [n_0 / 4 / (2 + n_0), (2 * 2 / 3 + n_0 * 2 / 4) / (2 + n_0)])
    alike = judged_scores(probabilities, given, np.array([1, 2]), np.array([2, -1]))
    np.testing.assert_allclose(alike, [n_0 / 4 / (2 + n_0), (2 / 2 + n_0 * 2 / 4) / (2 + n_0)])


def test_reliable_labels_count_as_many_answers_as_they_are_worth() -> None:
    """Four judged images on which trial 0 alone is right, and alone agrees with the label: b is 0.8, s 0.3."""
    true = np.array([0, 1] * 200)
    wrong = true.copy()
    wrong[:4] = 2
    probabilities = one_hot([true.tolist(), wrong.tolist()])
    n_0 = 400 * (0.8 - 0.3) ** 2
    scores = judged_scores(probabilities, true, np.arange(4), true[:4])
    np.testing.assert_allclose(scores, [(4 + n_0 * 396 / 400) / (4 + n_0), (n_0 * 396 / 400) / (4 + n_0)])
    misled = judged_scores(probabilities, wrong, np.arange(4), true[:4])
    prior = PRIOR_ANSWERS * 396 / 400
    np.testing.assert_allclose(misled, [(4 + prior) / (4 + PRIOR_ANSWERS), prior / (4 + PRIOR_ANSWERS)])


def test_weights_of_all_images_are_read_at_the_judged_ones() -> None:
    probabilities, given, true = noisy_trials([0.8, 0.7])
    index, weights = images_to_judge(probabilities, given, 30, 0), judging_weights(probabilities, given, 30)
    np.testing.assert_array_equal(
        judged_scores(probabilities, given, index, true[index], weights),
        judged_scores(probabilities, given, index, true[index], weights[index]),
    )


def test_with_every_image_judged_the_labels_count_no_more() -> None:
    probabilities, given, true = noisy_trials([0.5, 0.8, 0.7])
    scores = judged_scores(probabilities, given, np.arange(300), true)
    accuracy = (probabilities.argmax(2) == true).mean(axis=1)
    np.testing.assert_allclose(scores / accuracy, scores[0] / accuracy[0])


def test_the_judged_part_of_the_score_has_no_bias() -> None:
    """The weighted sums over the drawn images are on average those over all images, for every trial."""
    probabilities, given, true = noisy_trials([0.85, 0.8, 0.6, 0.2], images=120)
    weights, right = judging_weights(probabilities, given, 20), probabilities.argmax(2) == true
    draws = [images_to_judge(probabilities, given, 20, seed) for seed in range(2000)]
    totals = np.array([(right[:, index] * weights[index]).sum(axis=1) for index in draws])
    error = totals.std(axis=0) / np.sqrt(len(draws))
    assert (np.abs(totals.mean(axis=0) - right.sum(axis=1)) < 4 * error).all()


def test_thirty_answers_choose_better_than_noisy_labels() -> None:
    """Labels that are all wrong in one class reward the trial that learned them; a few answers do not."""
    chosen = []
    for seed in range(40):
        random = np.random.default_rng(seed)
        true = random.integers(5, size=300)
        given = np.where(true == 0, 1, true)
        learned, sound = given.copy(), true.copy()
        for predicted, errors in ((learned, 6), (sound, 60)):
            places = random.choice(300, errors, replace=False)
            predicted[places] = (predicted[places] + 1) % 5
        probabilities = one_hot([learned.tolist(), sound.tolist()], 5)
        assert (learned == given).mean() > (sound == given).mean()
        index = images_to_judge(probabilities, given, 100, seed)
        weights = judging_weights(probabilities, given, 100)[index]
        better = int((sound == true).mean() > (learned == true).mean())
        chosen.append(judged_scores(probabilities, given, index, true[index], weights).argmax() == better)
    assert np.mean(chosen) > 0.6


def test_a_choice_says_how_sure_it_is() -> None:
    probabilities, given, true = noisy_trials([0.9, 0.3, 0.3])
    index = images_to_judge(probabilities, given, 60, 0)
    weights = judging_weights(probabilities, given, 60)[index]
    sure = choose(Answered.of(probabilities, given, index, true[index], weights))
    assert sure.best == 0
    assert sure.probabilities[0] > 0.99
    assert max(sure.gains.values()) < 1e-3
    np.testing.assert_array_equal(sure.scores, judged_scores(probabilities, given, index, true[index], weights))

    twins = np.concatenate([probabilities[:1], probabilities])
    shared = choose(Answered.of(twins, given, index, true[index], weights))
    assert shared.best == 0
    np.testing.assert_allclose(shared.probabilities[:2], 0.5, atol=0.01)

    close, given, true = noisy_trials([0.7, 0.68, 0.66])
    unsure = choose(Answered.of(close, given, index, true[index]), further=(10, 100))
    assert unsure.probabilities.max() < 0.99
    assert unsure.probabilities.sum() == pytest.approx(1)
    assert 0 < unsure.gains[10] < unsure.gains[100]


@pytest.mark.parametrize(
    ("index", "true", "weights", "rule"),
    [
        ([0, 0], [1, 1], None, "different images"),
        ([0, 300], [1, 1], None, "different images"),
        ([-1, 0], [1, 1], None, "different images"),
        ([0, 1], [1], None, "true"),
        ([], [], None, "at least 1"),
        ([0, 1], [1, 5], None, "class in 0..4"),
        ([0, 1], [1, -2], None, "class in 0..4"),
        ([0, 1], [1, 2], [1.0, 0.0], "positive"),
        ([0, 1], [1, 2], [1.0], "weights"),
    ],
)
def test_answers_that_do_not_fit_are_refused(
    index: list[int], true: list[int], weights: list[float] | None, rule: str
) -> None:
    probabilities, given, _ = noisy_trials([0.8, 0.7])
    with pytest.raises(ValueError, match=rule):
        judged_scores(
            probabilities, given, np.array(index), np.array(true), None if weights is None else np.array(weights)
        )


def test_images_that_do_not_fit_are_refused() -> None:
    probabilities, given, _ = noisy_trials([0.8, 0.7])
    for count in (0, 301):
        with pytest.raises(ValueError, match=r"count has to be in 1\.\.300"):
            images_to_judge(probabilities, given, count, 0)
    with pytest.raises(ValueError, match="need probabilities"):
        judging_weights(probabilities[0], given, 3)
    with pytest.raises(ValueError, match="need probabilities"):
        judging_weights(probabilities, given[1:], 3)
    with pytest.raises(ValueError, match=r"0\.\.4"):
        judging_weights(probabilities, given + 1, 3)
