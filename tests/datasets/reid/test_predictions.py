from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from reid_trees import some_ranking

from tune_lnl.datasets.reid.predictions import Predictions, load_predictions, save_predictions, second_identities
from tune_lnl.errors import CorruptDataError


def test_second_identities_by_hand() -> None:
    ranking = np.array([[0, 1, 2], [0, 1, 2], [2, 0, 1], [1, 2, 0]])
    predictions = Predictions(ranking, np.array([5, 6, 9]), "")
    people = np.array([5, 6, 6, 9])
    everyone = np.array([5, 6, 9])
    assert second_identities(predictions, people, np.arange(4), everyone).tolist() == [6, 5, 9, 6]
    # Without 6: the first image's runner-up is now 9; the fourth's 5.
    kept = second_identities(predictions, people, np.array([0, 3]), np.array([5, 9]))
    assert kept.tolist() == [9, 5]


def test_predictions_come_back_as_saved(tmp_path: Path) -> None:
    path = tmp_path / "new" / "predictions.npz"
    ranking = some_ranking(7, 3)
    save_predictions(path, ranking, np.array([4, 5, 90]), "abc")
    save_predictions(path, ranking[::-1], np.array([4, 5, 90]), "abd")
    loaded = load_predictions(path)
    assert np.array_equal(loaded.ranking, ranking[::-1])
    assert loaded.ranking.dtype == np.uint16
    assert loaded.identity_numbers.tolist() == [4, 5, 90]
    assert loaded.source_fingerprint == "abd"
    assert list(path.parent.iterdir()) == [path], "no unfinished file is left"


@pytest.mark.parametrize(
    ("ranking", "numbers"),
    [
        ([[0, 0]], [1, 2]),
        ([[0, 2]], [1, 2]),
        ([[0, 1, 2]], [1, 2]),
        ([[0.0, 1.0]], [1, 2]),
        ([0, 1], [1, 2]),
        ([[0, 1]], [2, 1]),
        ([[0, 1]], [2, 2]),
    ],
)
def test_what_is_no_ranking_is_neither_saved_nor_loaded(
    tmp_path: Path, ranking: list[list[int]], numbers: list[int]
) -> None:
    path = tmp_path / "predictions.npz"
    with pytest.raises(ValueError, match="must"):
        save_predictions(path, np.array(ranking), np.array(numbers), "abc")
    assert not path.exists()
    np.savez(path, ranking=np.array(ranking), identity_numbers=np.array(numbers), source_fingerprint=np.array("abc"))
    with pytest.raises(CorruptDataError, match="must"):
        load_predictions(path)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def _flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[300] ^= 1
    path.write_bytes(content)


def _pickle(path: Path) -> None:
    np.savez(path, ranking=np.array([{}, []], dtype=object))


def _lack_an_array(path: Path) -> None:
    np.savez(path, ranking=np.array([[0, 1]]))


@pytest.mark.parametrize("damage", [_cut, _flip_a_bit, _pickle, _lack_an_array])
def test_damaged_predictions(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    path = tmp_path / "predictions.npz"
    save_predictions(path, some_ranking(50, 9), np.arange(9), "abc")
    damage(path)
    with pytest.raises(CorruptDataError, match=r"no complete file of saved predictions"):
        load_predictions(path)
