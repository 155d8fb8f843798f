"""The file of held-out predictions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tune_lnl.training.heldout import HeldOutPredictions, heldout_bytes, read_heldout, write_heldout


def test_what_is_written_is_read(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    probabilities = random.dirichlet(np.full(80, 0.1), size=(2, 50)).astype(np.float32)
    index, given = np.arange(50) * 3, random.integers(80, size=50)
    path = tmp_path / "heldout" / "007.npz"
    write_heldout(path, HeldOutPredictions(probabilities, index, given))
    with np.load(path) as file:
        assert {name: (file[name].dtype.name, file[name].shape) for name in file.files} == {
            "probabilities": ("float16", (2, 50, 80)),
            "index": ("int64", (50,)),
            "given": ("int64", (50,)),
        }
    found = read_heldout(path)
    np.testing.assert_allclose(found.probabilities, probabilities, atol=1e-3)
    np.testing.assert_allclose(found.probabilities.sum(axis=2), 1, atol=1e-6)
    np.testing.assert_array_equal(found.index, index)
    np.testing.assert_array_equal(found.given, given)
    assert [file.name for file in path.parent.iterdir()] == ["007.npz"]


@pytest.mark.parametrize(("networks", "images", "classes"), [(1, 1, 2), (2, 377, 8), (2, 5000, 80)])
def test_its_size_is_known_before(tmp_path: Path, networks: int, images: int, classes: int) -> None:
    write_heldout(
        tmp_path / "0.npz",
        HeldOutPredictions(np.ones((networks, images, classes), np.float32), np.arange(images), np.zeros(images)),
    )
    size = (tmp_path / "0.npz").stat().st_size
    assert heldout_bytes(networks, images, classes) - 1024 < size <= heldout_bytes(networks, images, classes)
