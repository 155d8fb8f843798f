from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reid_trees import CAMERAS, HEIGHT, TRAIN, Shot, market_name, some_ranking, train_shots, write_image, write_official

from tune_lnl.config.datasets import ReidOptions
from tune_lnl.datasets.noise import patterned_identity_noise, random_identity_noise
from tune_lnl.datasets.paths import cache_dir
from tune_lnl.datasets.registry import parse_options
from tune_lnl.datasets.reid.data import ReidData, load_reid, matchable_queries
from tune_lnl.datasets.reid.predictions import Predictions, patterned_file, save_predictions, second_identities
from tune_lnl.errors import CorruptDataError, InputError

PEOPLE = [2, 7, 10, 11, 23, 40, 41, 55]
"""Seen by two or three cameras in turn, five times by each: ten or fifteen images."""


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TUNE_LNL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TUNE_LNL_DATA", raising=False)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    write_official(tmp_path / "data" / "market1501", market_name, train_shots(PEOPLE, frames=5))
    return tmp_path / "data"


def load(data_dir: Path, fraction: float = 0.0, seed: int = 0, **settings: object) -> ReidData:
    options = parse_options({"name": "market1501", "height": HEIGHT, **settings})
    assert isinstance(options, ReidOptions)
    return load_reid(options, data_dir, fraction, seed)


def identities(data: ReidData) -> np.ndarray[Any, np.dtype[np.int64]]:
    return data.source.train.identities[data.train_rows]


# ---- validation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("fraction", "expected"), [(0.1, 2), (0.25, 2), (0.5, 4), (0.75, 6)])
def test_validation_people_are_never_trained_on(data_dir: Path, fraction: float, expected: int) -> None:
    data = load(data_dir, fraction)
    people = data.source.train.identities
    held_out = set(people[data.validation_query].tolist()) | set(people[data.validation_gallery].tolist())
    assert len(held_out) == expected
    assert held_out.isdisjoint(identities(data).tolist())
    assert held_out.isdisjoint(data.identity_numbers.tolist())
    assert held_out | set(data.identity_numbers.tolist()) == set(PEOPLE)
    rows = np.concatenate([data.train_rows, data.validation_query, data.validation_gallery])
    assert sorted(rows.tolist()) == list(range(len(people)))
    assert data.num_classes == len(PEOPLE) - expected
    assert data.disjoint_in == "true"


def test_one_query_for_each_person_and_camera(data_dir: Path) -> None:
    data = load(data_dir, 0.5)
    train = data.source.train
    asked = list(zip(train.identities[data.validation_query], train.cameras[data.validation_query], strict=True))
    everyone = np.setdiff1d(PEOPLE, data.identity_numbers)
    expected = {(shot.identity, shot.camera) for shot in train_shots(PEOPLE) if shot.identity in everyone}
    assert len(asked) == len(set(asked)) == len(expected)
    assert set(asked) == expected
    assert len(data.validation_gallery) == 4 * len(asked)
    for rows in (data.validation_query, data.validation_gallery, data.train_rows):
        assert np.all(np.diff(rows) > 0)


def test_someone_whom_one_camera_saw_is_only_in_the_gallery(tmp_path: Path) -> None:
    shots = [*train_shots([2, 7, 10]), *(Shot(40, 2, frame) for frame in range(4))]
    write_official(tmp_path / "data" / "market1501", market_name, shots)
    alone = 0
    for seed in range(8):
        data = load(tmp_path / "data", 0.5, seed)
        people = data.source.train.identities
        assert 40 not in people[data.validation_query]
        alone += int(np.count_nonzero(people[data.validation_gallery] == 40))
    assert alone > 0
    assert alone % 4 == 0, "all images, whenever they are set aside"


def test_a_split_of_its_seed(data_dir: Path) -> None:
    splits = [load(data_dir, 0.5, seed).fingerprints["split"] for seed in (0, 0, 1, 2)]
    assert splits[0] == splits[1]
    assert len(set(splits)) == 3
    assert len({load(data_dir, 0.5, 3, noise_seed=seed).fingerprints["split"] for seed in (1, 2)}) == 1


def test_fraction_zero_trains_on_all(data_dir: Path) -> None:
    data = load(data_dir)
    assert len(data.train_rows) == len(data.source.train.paths)
    assert len(data.validation_query) == len(data.validation_gallery) == 0
    assert data.identity_numbers.tolist() == PEOPLE


@pytest.mark.parametrize(("fraction", "classes"), [(0.1, 3), (0.9, 8), (0.5, 2)])
def test_too_few_people(data_dir: Path, fraction: float, classes: int) -> None:
    with pytest.raises(InputError, match="both need at least two"):
        load(data_dir, fraction, classes=classes)


@pytest.mark.parametrize("fraction", [-0.1, 0.95, float("nan")])
def test_a_fraction_out_of_range(data_dir: Path, fraction: float) -> None:
    with pytest.raises(InputError, match=r"validation\.fraction must be in \[0, 0\.9\]"):
        load(data_dir, fraction)


@pytest.mark.parametrize(
    ("shots", "reason"),
    [
        ([Shot(identity, 1, frame) for identity in TRAIN for frame in range(4)], "is seen by two cameras"),
        ([Shot(identity, camera, 0) for identity in TRAIN for camera in CAMERAS], "has one image per camera"),
    ],
)
def test_no_match_across_cameras(tmp_path: Path, shots: list[Shot], reason: str) -> None:
    write_official(tmp_path / "data" / "market1501", market_name, shots)
    with pytest.raises(InputError, match=reason):
        load(tmp_path / "data", 0.5)
    assert load(tmp_path / "data").num_classes == len(TRAIN), "they can be trained on"


def test_matchable_queries_by_hand() -> None:
    query = np.array([1, 1, 2, 3, 4]), np.array([1, 2, 1, 1, 1])
    gallery = np.array([1, 2, 2, 3, 9]), np.array([1, 1, 2, 1, 2])
    # 1 from camera 1: only its own camera; 1 from camera 2: yes; 2: camera 2; 3: its own only; 4: nobody.
    assert matchable_queries(*query, *gallery) == 2


# ---- noise ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ratio", [0.1, 0.2, 0.25, 0.3, 0.5])
def test_noise_of_each_person_is_round_half_even(data_dir: Path, ratio: float) -> None:
    data = load(data_dir, noise_ratio=ratio)
    assert data.true_labels is not None
    wrong = data.given_labels != data.true_labels
    for label, number in enumerate(data.identity_numbers):
        own = identities(data) == number
        assert np.count_nonzero(wrong & own) == round(np.count_nonzero(own) * ratio)
        assert np.all(data.true_labels[own] == label)
    # By hand: 0.25 of 10 is 2.5, which goes to 2; of 15 it is 3.75, which goes to 4.
    if ratio == 0.25:
        assert [np.count_nonzero(wrong & (identities(data) == number)) for number in (2, 7)] == [2, 4]
    assert data.requested_noise == ratio
    assert data.measured_noise == pytest.approx(float(wrong.mean()))


def test_the_published_draw(data_dir: Path) -> None:
    """Without a validation split: one stream over all identities, seed 1."""
    data = load(data_dir)
    expected = random_identity_noise(data.source.train.identities, 0.2, seed=1)
    assert np.array_equal(data.identity_numbers[data.given_labels], expected)
    other = load(data_dir, noise_seed=2)
    assert not np.array_equal(other.given_labels, data.given_labels)


def test_noise_stays_among_those_who_are_trained_on(data_dir: Path) -> None:
    data = load(data_dir, 0.5, noise_ratio=0.5)
    expected = random_identity_noise(identities(data), 0.5, seed=1)
    assert np.array_equal(data.identity_numbers[data.given_labels], expected)
    assert data.given_labels.min() == 0
    assert data.given_labels.max() == data.num_classes - 1


def test_no_noise(data_dir: Path) -> None:
    data = load(data_dir, noise="none")
    assert (data.requested_noise, data.measured_noise) == (0.0, 0.0)
    assert np.array_equal(data.identity_numbers[data.given_labels], data.source.train.identities)


@pytest.mark.parametrize("layout", ["npy", "csv"])
def test_labels_from_a_file(data_dir: Path, tmp_path: Path, layout: str) -> None:
    people = load(data_dir, noise="none").source.train.identities
    labels = np.where(np.arange(len(people)) % 5 == 0, 2, people)
    file = tmp_path / f"labels.{layout}"
    if layout == "npy":
        np.save(file, labels)
    else:
        file.write_text("identity\n" + "\n".join(str(label) for label in labels))
    data = load(data_dir, noise={"file": str(file)})
    assert np.array_equal(data.identity_numbers[data.given_labels], labels)
    assert data.requested_noise is None
    assert data.measured_noise == pytest.approx(float(np.mean(labels != people)))


def test_a_file_may_name_someone_who_was_set_aside(data_dir: Path, tmp_path: Path) -> None:
    """The label is one more class; the person on the image is still trained on by nobody else's image."""
    clean = load(data_dir, 0.5, noise="none")
    held_out = int(np.setdiff1d(PEOPLE, clean.identity_numbers)[0])
    labels = clean.source.train.identities.copy()
    labels[clean.train_rows[0]] = held_out
    np.save(tmp_path / "labels.npy", labels)
    data = load(data_dir, 0.5, noise={"file": str(tmp_path / "labels.npy")})
    assert data.num_classes == clean.num_classes + 1
    assert data.identity_numbers[data.given_labels[0]] == held_out
    assert data.true_labels is not None
    assert np.array_equal(data.identity_numbers[data.true_labels], identities(data))
    assert held_out not in identities(data)


@pytest.mark.parametrize(("label", "told"), [(3, "of the 8 kept training identities, got 3"), (None, "got 99")])
def test_a_file_of_other_labels(data_dir: Path, tmp_path: Path, label: int | None, told: str) -> None:
    people = load(data_dir).source.train.identities.copy()
    people[4] = people[4] if label is None else label
    np.save(tmp_path / "labels.npy", people[:99] if label is None else people)
    with pytest.raises(InputError, match=told):
        load(data_dir, noise={"file": str(tmp_path / "labels.npy")})


def test_identities_that_are_only_given(data_dir: Path) -> None:
    data = load(data_dir, 0.25, noise="none", identities="given")
    assert data.true_labels is None
    assert (data.requested_noise, data.measured_noise, data.disjoint_in) == (None, None, "given")
    assert np.array_equal(data.identity_numbers[data.given_labels], identities(data))
    for noise in ({}, {"noise": "random"}, {"noise": {"file": "labels.npy"}}):
        with pytest.raises(InputError, match=r"set dataset\.noise=none"):
            load(data_dir, 0.25, identities="given", **noise)


# ---- subset and classes --------------------------------------------------------------------------------------------


def test_the_first_identities(data_dir: Path) -> None:
    data = load(data_dir, classes=4)
    assert data.identity_numbers.tolist() == PEOPLE[:4]
    assert set(identities(data).tolist()) == set(PEOPLE[:4])
    with pytest.raises(InputError, match=r"dataset\.classes must be at most 8"):
        load(data_dir, classes=9)
    # Those who are set aside are taken from the first ones, too.
    split = load(data_dir, 0.5, classes=4)
    people = split.source.train.identities
    held_out = people[split.validation_gallery]
    assert sorted({*identities(split).tolist(), *held_out.tolist()}) == PEOPLE[:4]


def test_a_subset_has_the_labels_of_the_full_run(data_dir: Path) -> None:
    full, part = load(data_dir, 0.25, noise_ratio=0.5), load(data_dir, 0.25, noise_ratio=0.5, subset=0.5)
    where = np.searchsorted(full.train_rows, part.train_rows)
    assert np.array_equal(full.train_rows[where], part.train_rows)
    assert np.array_equal(full.given_labels[where], part.given_labels)
    assert full.true_labels is not None
    assert part.true_labels is not None
    assert np.array_equal(full.true_labels[where], part.true_labels)
    assert len(part.train_rows) == round(len(full.train_rows) * 0.5)
    counts = np.bincount(part.true_labels), np.bincount(full.true_labels)
    assert np.all(np.abs(counts[0] - counts[1] / 2) < 1), "stratified by identity"
    assert np.array_equal(part.validation_query, full.validation_query)
    assert np.array_equal(part.validation_gallery, full.validation_gallery)
    assert part.num_classes == full.num_classes
    other = load(data_dir, 0.25, noise_ratio=0.5, subset=0.5, subset_seed=1)
    assert not np.array_equal(other.train_rows, part.train_rows)


def test_a_tiny_subset_keeps_everyone(data_dir: Path) -> None:
    data = load(data_dir, noise="none", subset=0.01)
    assert np.array_equal(data.given_labels, np.arange(len(PEOPLE)))


# ---- fingerprints --------------------------------------------------------------------------------------------------


def test_fingerprints_are_the_same_on_repeat(data_dir: Path) -> None:
    assert load(data_dir, 0.25).fingerprints == load(data_dir, 0.25).fingerprints


@pytest.mark.parametrize("change", [{"noise_seed": 2}, {"noise_ratio": 0.3}, {"subset": 0.9}, {"classes": 5}])
def test_the_labels_fingerprint_changes_with_the_labels(data_dir: Path, change: dict[str, object]) -> None:
    before, after = load(data_dir).fingerprints, load(data_dir, **change).fingerprints  # type: ignore[arg-type]
    assert before["labels"] != after["labels"]
    assert before["source"] == after["source"]


def test_the_labels_fingerprint_covers_whom_a_label_stands_for(tmp_path: Path) -> None:
    prints = []
    for place, last in (("a", 40), ("b", 44)):
        write_official(tmp_path / place / "market1501", market_name, train_shots([2, 7, last]))
        prints.append(load(tmp_path / place).fingerprints["labels"])
    assert prints[0] != prints[1]


# ---- patterned noise -----------------------------------------------------------------------------------------------


@pytest.fixture
def predicted(data_dir: Path) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Predictions in the cache, where they are looked for."""
    source = load(data_dir).source
    ranking = some_ranking(len(source.train.paths), len(PEOPLE))
    path = patterned_file(cache_dir(), "market1501", source.fingerprint)
    save_predictions(path, ranking, np.array(PEOPLE), source.fingerprint)
    return ranking


@pytest.mark.parametrize("fraction", [0.0, 0.5])
def test_patterned_noise(data_dir: Path, predicted: np.ndarray[Any, np.dtype[np.int64]], fraction: float) -> None:
    data = load(data_dir, fraction, noise="patterned", noise_ratio=0.5)
    assert data.true_labels is not None
    wrong = np.flatnonzero(data.given_labels != data.true_labels)
    for number in data.identity_numbers:
        own = identities(data) == number
        assert np.count_nonzero(own[wrong]) == round(np.count_nonzero(own) * 0.5), "never its own identity"
    trained_on = set(data.identity_numbers.tolist())
    for sample in wrong:
        row = data.train_rows[sample]
        ranked = [PEOPLE[position] for position in predicted[row]]
        own_number = int(data.source.train.identities[row])
        expected = next(number for number in ranked if number != own_number and number in trained_on)
        assert data.identity_numbers[data.given_labels[sample]] == expected
    assert data.num_classes == len(trained_on)


def test_patterned_noise_renames_the_published_samples(
    data_dir: Path, predicted: np.ndarray[Any, np.dtype[np.int64]]
) -> None:
    data = load(data_dir, noise="patterned")
    people = data.source.train.identities
    predictions = Predictions(predicted, np.array(PEOPLE), "")
    second = second_identities(predictions, people, np.arange(len(people)), np.array(PEOPLE))
    expected = patterned_identity_noise(people, 0.2, second, seed=1)
    assert np.array_equal(data.identity_numbers[data.given_labels], expected)
    assert data.fingerprints["labels"] != load(data_dir).fingerprints["labels"]


def test_missing_predictions_say_how_to_make_them(data_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"tune_lnl\.data prepare market1501 --patterned") as told:
        load(data_dir, noise="patterned")
    assert str(cache_dir() / "patterned") in str(told.value)
    with pytest.raises(InputError, match=r"no such file: .*elsewhere\.npz"):
        load(data_dir, noise="patterned", patterned_labels=str(tmp_path / "elsewhere.npz"))


def test_predictions_from_elsewhere(data_dir: Path, tmp_path: Path) -> None:
    source = load(data_dir).source
    path = tmp_path / "mine.npz"
    save_predictions(path, some_ranking(len(source.train.paths), len(PEOPLE)), np.array(PEOPLE), source.fingerprint)
    data = load(data_dir, noise="patterned", patterned_labels=str(path))
    assert data.measured_noise == pytest.approx(0.2)


def test_predictions_for_another_source_are_refused(
    data_dir: Path, predicted: np.ndarray[Any, np.dtype[np.int64]]
) -> None:
    path = patterned_file(cache_dir(), "market1501", load(data_dir).source.fingerprint)
    write_image(data_dir / "market1501" / "bounding_box_train" / market_name(train_shots(PEOPLE)[0]), 77)
    with pytest.raises(InputError, match="made for another source"):
        load(data_dir, noise="patterned", patterned_labels=str(path))


@pytest.mark.parametrize(
    ("people", "images"), [(PEOPLE[:-1], None), ([*PEOPLE[:-1], 56], None), (PEOPLE, 4)], ids=["fewer", "others", "cut"]
)
def test_predictions_of_other_people_are_refused(data_dir: Path, people: list[int], images: int | None) -> None:
    source = load(data_dir).source
    path = patterned_file(cache_dir(), "market1501", source.fingerprint)
    ranking = some_ranking(images or len(source.train.paths), len(people))
    save_predictions(path, ranking, np.array(people), source.fingerprint)
    with pytest.raises(CorruptDataError, match="does not rank this source's identities"):
        load(data_dir, noise="patterned")


# ---- options -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("noise", "symmetric"),
        ("noise_ratio", 1.0),
        ("noise_ratio", -0.1),
        ("noise_seed", -1),
        ("height", 15),
        ("height", 63),
        ("split", "test"),
        ("on_error", "ignore"),
        ("identities", "known"),
        ("subset", 0.0),
        ("classes", 1),
        ("closed_ratio", 0.2),
        ("boxes", "detected"),
    ],
)
def test_settings_out_of_range(setting: str, value: object) -> None:
    with pytest.raises(InputError, match=rf"dataset\.{setting}"):
        parse_options({"name": "market1501", setting: value})
