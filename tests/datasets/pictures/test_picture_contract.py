"""The contract of datasets of image files."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from picture_trees import DISHES, RESOLUTION, write_class_folders, write_clothing, write_food, write_web

from tune_lnl.config.registry import DATASETS, dataset_names
from tune_lnl.datasets.base import NoisyData
from tune_lnl.datasets.images.noisy import load_noisy
from tune_lnl.datasets.paths import cache_dir
from tune_lnl.datasets.pictures.clothing import CLASSES
from tune_lnl.datasets.pictures.noisy import PictureDataset
from tune_lnl.datasets.pictures.rows import PictureRows
from tune_lnl.datasets.pictures.web import WebAircraft, WebBird, WebCar
from tune_lnl.datasets.registry import get_dataset, parse_options
from tune_lnl.errors import InputError

NAMES = [name for name in dataset_names() if isinstance(get_dataset(name), PictureDataset)]
of_each = pytest.mark.parametrize("name", NAMES)
# The sets differ in how they list their files; the code behind the list is the same.
of_both_kinds = pytest.mark.parametrize("name", ["food101n", "folder"])

TREES: dict[str, Callable[[Path], object]] = {
    "web_aircraft": lambda data_dir: write_web(data_dir, WebAircraft),
    "web_bird": lambda data_dir: write_web(data_dir, WebBird),
    "web_car": lambda data_dir: write_web(data_dir, WebCar),
    "food101n": lambda data_dir: write_food(data_dir, "nested"),
    "clothing1m": write_clothing,
    "folder": lambda data_dir: write_own(data_dir),
}
CLASS_COUNTS = {
    "web_aircraft": 100,
    "web_bird": 200,
    "web_car": 196,
    "food101n": len(DISHES),
    "clothing1m": len(CLASSES),
    "folder": 6,
}


def write_own(data_dir: Path) -> None:
    write_class_folders(data_dir / "own", list("abcdef"), 5)
    write_class_folders(data_dir / "own" / "test", list("abcdef"), 2, seed=50)


class Here:
    """A dataset with its data at hand."""

    def __init__(self, name: str, data_dir: Path) -> None:
        self.name = name
        self.data_dir = data_dir

    def load(self, **settings: Any) -> NoisyData:
        own = {"root": str(self.data_dir / "own")} if self.name == "folder" else {}
        return load_noisy(
            parse_options({"name": self.name, "resolution": RESOLUTION, **own, **settings}), self.data_dir
        )


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    @functools.cache
    def tree(name: str) -> Path:
        folder = tmp_path_factory.mktemp(name)
        (folder / "data").mkdir()
        TREES[name](folder / "data")
        return folder

    return tree


@pytest.fixture
def here(name: str, trees: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> Here:
    monkeypatch.setenv("TUNE_LNL_CACHE", str(trees(name) / "cache"))
    monkeypatch.delenv("TUNE_LNL_DATA", raising=False)
    return Here(name, trees(name) / "data")


@of_each
def test_loads_with_defaults(here: Here) -> None:
    data = here.load()
    classes = CLASS_COUNTS[here.name]
    assert data.num_classes == len(data.class_names) == classes
    assert data.rows.dtype == data.given_labels.dtype == data.test_labels.dtype == np.int64
    assert np.array_equal(data.rows, np.arange(len(data.train_images)))
    assert set(np.unique(data.given_labels)) == set(np.unique(data.test_labels)) == set(range(classes))
    assert data.form.image_shape == (RESOLUTION, RESOLUTION, 3)
    assert data.train_names is not None
    assert data.root is not None
    assert (data.root / data.train_names[0]).is_file()


@of_both_kinds
def test_noise_as_it_comes_is_not_known(here: Here) -> None:
    data = here.load()
    assert data.true_labels is None
    assert data.open_set is None
    assert data.matrix is None
    assert data.measured_noise is data.requested_noise is data.measured_total_noise is data.measured_open_share is None


@of_both_kinds
def test_images_are_read_by_row(here: Here) -> None:
    data = here.load()
    for images in (data.train_images, data.test_images):
        assert images.shape == (len(images), *data.form.image_shape)
        some = images[np.array([0, 3])]
        assert (some.dtype, some.shape) == (np.uint8, (2, *data.form.image_shape))
        assert isinstance(images, PictureRows)


@of_both_kinds
def test_same_options_same_fingerprints(here: Here) -> None:
    assert here.load().fingerprints == here.load().fingerprints
    assert set(here.load().fingerprints) == {"source", "labels"}


@of_both_kinds
def test_a_subset_has_the_labels_of_the_full_run(here: Here) -> None:
    full, part = here.load(), here.load(subset=0.5)
    assert len(part.rows) == round(0.5 * len(full.rows))
    assert np.array_equal(full.given_labels[part.rows], part.given_labels)
    assert set(np.unique(part.given_labels)) == set(range(full.num_classes))
    assert part.fingerprints["labels"] != full.fingerprints["labels"]
    assert part.fingerprints["source"] == full.fingerprints["source"]
    assert np.array_equal(part.test_rows, full.test_rows)
    assert not np.array_equal(here.load(subset=0.5, subset_seed=1).rows, part.rows)


@of_both_kinds
def test_classes_keeps_the_first_ones(here: Here) -> None:
    data = here.load(classes=5)
    assert data.num_classes == len(data.class_names) == 5
    assert set(np.unique(data.given_labels)) == set(np.unique(data.test_labels)) == set(range(5))
    with pytest.raises(InputError, match=r"dataset\.classes must be at most"):
        here.load(classes=CLASS_COUNTS[here.name] + 1)


@of_both_kinds
def test_labels_from_a_file_replace_those_that_came(here: Here, tmp_path: Path) -> None:
    full = here.load()
    labels = np.random.default_rng(0).integers(0, full.num_classes, len(full.rows))
    np.save(tmp_path / "labels.npy", labels)
    data = here.load(noise={"file": str(tmp_path / "labels.npy")}, subset=0.5)
    assert np.array_equal(data.given_labels, labels[data.rows])
    np.save(tmp_path / "labels.npy", labels[1:])
    with pytest.raises(InputError, match="must hold one label per readable training image"):
        here.load(noise={"file": str(tmp_path / "labels.npy")})


@of_each
def test_absent_data_is_told(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNE_LNL_CACHE", str(tmp_path / "cache"))
    with pytest.raises(InputError, match=r"needs .*: none found|dataset\.root must be set"):
        load_noisy(parse_options({"name": name}), tmp_path)
    if name != "folder":
        assert not get_dataset(name).is_present(tmp_path, cache_dir())
    assert list(tmp_path.iterdir()) == []


@of_both_kinds
def test_options_refuse_values_out_of_range(name: str) -> None:
    wrong: list[tuple[str, object]] = [
        ("noise", "symetric"),
        ("noise", {"file": "x.npy", "colum": "y"}),
        ("resolution", 8),
        ("on_error", "ignore"),
        ("cache_budget", -1.0),
        ("cache_budget", float("nan")),
    ]
    for key, value in wrong:
        with pytest.raises(InputError, match=rf"dataset\.{key}: .*got"):
            parse_options({"name": name, key: value})


def test_every_option_is_documented() -> None:
    for name in NAMES:
        assert all(field.description for field in get_dataset(name).Options.model_fields.values())


def test_listing_a_dataset_does_not_import_torch() -> None:
    modules = sorted({DATASETS[name].implementation.partition(":")[0] for name in NAMES})
    code = f"import sys, {', '.join(modules)}; raise SystemExit('torch' in sys.modules or 'sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
