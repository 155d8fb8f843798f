"""Classes, noise and subset of a classification dataset, in this order."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tune_lnl.datasets.base import NoisyData
from tune_lnl.datasets.images.cifar import Cifar80NO, Cifar100NC
from tune_lnl.datasets.images.digits import Digits8NO
from tune_lnl.datasets.images.noisy import class_counts, load_noisy
from tune_lnl.datasets.noise import corrupt_labels, transition_matrix
from tune_lnl.datasets.registry import parse_options
from tune_lnl.errors import InputError


def load(**settings: object) -> NoisyData:
    return load_noisy(parse_options({"name": "digits8no", **settings}), data_dir=None)


def test_labels_are_the_published_draw_over_all_kept_samples() -> None:
    data = load(noise="symmetric", closed_ratio=0.3, noise_seed=4, classes=6)
    source = Digits8NO().load_source(None, Path("unused"))
    kept = np.flatnonzero(source.train_labels < 6)
    matrix = transition_matrix("symmetric", 6, 0.3, 0.2)  # floor(6 * 0.8) = 4 closed classes
    assert data.num_classes == 4
    assert np.array_equal(data.rows, kept)
    assert np.array_equal(data.given_labels, corrupt_labels(source.train_labels[kept], matrix, seed=4))
    assert data.matrix is not None
    assert np.array_equal(data.matrix, matrix)


def test_measured_shares_by_hand() -> None:
    data = replace(
        load(),
        given_labels=np.array([0, 1, 1, 0, 1]),
        true_labels=np.array([0, 0, 1, 8, 9]),
        open_set=np.array([False, False, False, True, True]),
    )
    assert data.measured_noise == pytest.approx(1 / 3)
    assert data.measured_total_noise == pytest.approx(3 / 5)
    assert data.measured_open_share == pytest.approx(2 / 5)


def test_unknown_truth_is_not_measured() -> None:
    data = replace(load(), true_labels=None, open_set=None)
    assert (data.measured_noise, data.measured_total_noise, data.measured_open_share) == (None, None, None)


@pytest.mark.parametrize(("classes", "expected"), [(None, (100, 80)), (100, (100, 80)), (10, (10, 8)), (3, (3, 2))])
def test_class_counts(classes: int | None, expected: tuple[int, int]) -> None:
    assert class_counts(Cifar80NO(), classes) == expected


def test_too_few_closed_classes() -> None:
    with pytest.raises(InputError, match="at least two closed classes"):
        class_counts(Cifar80NO(), 2)
    assert class_counts(Cifar100NC(), 2) == (2, 2)


def test_bad_class_counts_are_told_before_data_is_touched(tmp_path: Path) -> None:
    options = parse_options({"name": "cifar80no", "classes": 101})
    with pytest.raises(InputError, match=r"dataset\.classes must be at most 100"):
        load_noisy(options, tmp_path / "absent")


def test_labels_from_a_file_must_be_closed_classes(tmp_path: Path) -> None:
    labels = np.full(1258, 8)
    np.save(tmp_path / "labels.npy", labels)
    with pytest.raises(InputError, match=r"must be in 0\.\.7"):
        load(noise={"file": str(tmp_path / "labels.npy")})


def test_labels_from_a_file_refer_to_the_whole_training_set(tmp_path: Path) -> None:
    np.save(tmp_path / "labels.npy", np.zeros(1257, dtype=np.int64))
    with pytest.raises(InputError, match="one label per training sample: 1,258, got 1,257"):
        load(noise={"file": str(tmp_path / "labels.npy")}, subset=0.5)


def test_the_labels_fingerprint_covers_labels_and_rows() -> None:
    whole, part = load(), load(subset=0.9)
    seeds = {load(noise_seed=seed).fingerprints["labels"] for seed in (0, 1)}
    assert len({whole.fingerprints["labels"], part.fingerprints["labels"], *seeds}) == 3
    assert whole.fingerprints["source"] == part.fingerprints["source"]
