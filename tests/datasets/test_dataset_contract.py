"""The contract of datasets of arrays with clean labels; that of image files is in test_picture_contract.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cifar_trees import tiny_cifar, write_layout

from tune_lnl.config.registry import DATASETS, dataset_names
from tune_lnl.datasets.base import ImageDataset, NoisyData, fingerprint_of
from tune_lnl.datasets.images.cifar import Cifar
from tune_lnl.datasets.images.noisy import load_noisy
from tune_lnl.datasets.noise import closed_class_count
from tune_lnl.datasets.paths import cache_dir
from tune_lnl.datasets.registry import get_dataset, parse_options
from tune_lnl.errors import InputError

IMAGE_SETS = [name for name in dataset_names() if isinstance(get_dataset(name), ImageDataset)]
of_each = pytest.mark.parametrize("name", IMAGE_SETS)
# One packed set, one built-in set; both with open classes.
of_both_kinds = pytest.mark.parametrize("name", ["cifar80no", "digits8no"])


class Here:
    """A dataset with its data at hand."""

    def __init__(self, dataset: ImageDataset, data_dir: Path | None) -> None:
        self.dataset = dataset
        self.data_dir = data_dir

    def load(self, **settings: object) -> NoisyData:
        return load_noisy(parse_options({"name": self.dataset.name, **settings}), self.data_dir)


@pytest.fixture
def here(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Here:
    monkeypatch.setenv("TUNE_LNL_CACHE", str(tmp_path / "cache"))
    dataset = get_dataset(name)
    assert isinstance(dataset, ImageDataset)
    if isinstance(dataset, Cifar):
        tiny = tiny_cifar(type(dataset), monkeypatch)
        return Here(dataset, write_layout("parquet", tmp_path / "data" / dataset.folder, tiny, monkeypatch).parent)
    if not dataset.is_present(None, cache_dir()):
        pytest.skip(f"the data of {name} is absent: set TUNE_LNL_DATA")
    return Here(dataset, None)


@of_each
def test_source_is_as_declared(here: Here) -> None:
    source = here.dataset.load_source(here.data_dir, cache_dir())
    for images, labels in ((source.train_images, source.train_labels), (source.test_images, source.test_labels)):
        assert images.dtype == np.uint8
        assert images.shape == (len(labels), *here.dataset.image_shape)
        assert labels.dtype == np.int64
        assert set(np.unique(labels)) == set(range(here.dataset.num_source_classes))
    assert len(source.class_names) == len(set(source.class_names)) == here.dataset.num_source_classes
    assert source.fingerprint == fingerprint_of(
        source.train_images, source.train_labels, source.test_images, source.test_labels
    )
    assert len(here.dataset.mean) == len(here.dataset.std) == here.dataset.image_shape[2]


@of_each
def test_images_of_a_packed_dataset_are_read_only_memory_maps(here: Here) -> None:
    data = here.load()
    if here.dataset.folder is None:
        assert isinstance(data.train_images, np.ndarray)
        assert data.train_images.nbytes < 2**20, "a built-in dataset is small enough to be held by every trial"
    else:
        assert isinstance(data.train_images, np.memmap)
        assert not data.train_images.flags.writeable
        assert isinstance(data.test_images, np.memmap)


@of_each
def test_loads_with_defaults(here: Here) -> None:
    data = here.load()
    closed = closed_class_count(here.dataset.num_source_classes, here.dataset.open_ratio)
    assert data.num_classes == closed
    assert data.rows.dtype == data.given_labels.dtype == data.test_labels.dtype == np.int64
    assert len(data.rows) == len(data.train_images)
    assert set(np.unique(data.given_labels)) == set(range(closed))
    assert data.true_labels is not None
    assert data.open_set is not None
    assert np.array_equal(data.open_set, data.true_labels >= closed)
    assert data.requested_noise is not None
    assert data.measured_noise == pytest.approx(data.requested_noise, abs=0.12)
    assert data.measured_open_share == pytest.approx(here.dataset.open_ratio, abs=0.01)


@of_each
def test_test_set_is_clean_closed_and_never_a_subset(here: Here) -> None:
    data = here.load(subset=0.5)
    source = here.dataset.load_source(here.data_dir, cache_dir())
    assert np.array_equal(data.test_rows, np.flatnonzero(source.test_labels < data.num_classes))
    assert np.array_equal(data.test_labels, source.test_labels[data.test_rows])


@of_both_kinds
def test_same_options_same_fingerprints(here: Here) -> None:
    first, second = here.load(noise_seed=3), here.load(noise_seed=3)
    assert first.fingerprints == second.fingerprints
    assert set(first.fingerprints) == {"source", "labels"}


@of_both_kinds
def test_another_noise_seed_gives_other_labels_on_the_same_source(here: Here) -> None:
    first, second = here.load(noise_seed=0), here.load(noise_seed=1)
    assert first.fingerprints["source"] == second.fingerprints["source"]
    assert first.fingerprints["labels"] != second.fingerprints["labels"]
    assert not np.array_equal(first.given_labels, second.given_labels)


@of_both_kinds
def test_a_subset_has_the_labels_of_the_full_run(here: Here) -> None:
    full, part = here.load(), here.load(subset=0.5)
    assert len(part.rows) == round(0.5 * len(full.rows))
    assert np.all(np.diff(part.rows) > 0)
    position = np.searchsorted(full.rows, part.rows)
    assert np.array_equal(full.rows[position], part.rows)
    assert np.array_equal(full.given_labels[position], part.given_labels)
    assert full.true_labels is not None
    assert part.true_labels is not None
    assert set(np.unique(part.true_labels)) == set(np.unique(full.true_labels))
    assert not np.array_equal(here.load(subset=0.5, subset_seed=1).rows, part.rows)
    assert part.fingerprints["labels"] != full.fingerprints["labels"]


@of_both_kinds
def test_the_smallest_subset_still_has_every_class(here: Here) -> None:
    data = here.load(subset=1e-6)
    assert data.true_labels is not None
    assert np.array_equal(np.sort(data.true_labels), np.arange(here.dataset.num_source_classes))


@of_both_kinds
def test_classes_keeps_the_first_ones(here: Here) -> None:
    data = here.load(classes=5)
    assert data.true_labels is not None
    assert set(np.unique(data.true_labels)) == set(range(5))
    assert data.num_classes == closed_class_count(5, here.dataset.open_ratio)
    assert data.given_labels.max() < data.num_classes
    assert data.test_labels.max() == data.num_classes - 1
    assert len(data.class_names) == 5


@of_both_kinds
def test_clean_baseline(here: Here) -> None:
    for settings in ({"noise": "none"}, {"closed_ratio": 0.0}):
        data = here.load(**settings)
        assert data.measured_noise == 0.0
        assert data.requested_noise == 0.0
        assert data.measured_total_noise == data.measured_open_share


@of_both_kinds
def test_noise_from_a_file_replaces_the_draw(here: Here, tmp_path: Path) -> None:
    source = here.dataset.load_source(here.data_dir, cache_dir())
    closed = here.load().num_classes
    labels = np.random.default_rng(0).integers(0, closed, len(source.train_labels))
    np.save(tmp_path / "labels.npy", labels)
    data = here.load(noise={"file": str(tmp_path / "labels.npy")}, subset=0.5)
    assert np.array_equal(data.given_labels, labels[data.rows])
    assert data.requested_noise is None
    assert data.matrix is None


@of_both_kinds
def test_options_refuse_unknown_keys_and_values_out_of_range(name: str) -> None:
    with pytest.raises(InputError, match=r"unknown key dataset\.subst; did you mean 'subset'"):
        parse_options({"name": name, "subst": 0.5})
    wrong: list[tuple[str, object]] = [
        ("subset", 0.0),
        ("subset", float("nan")),
        ("subset", "0.5"),
        ("classes", 1),
        ("classes", 2.5),
        ("noise", "symetric"),
        ("noise", {"file": "x.npy", "colum": "y"}),
        ("noise", None),
        ("closed_ratio", 1.0),
        ("closed_ratio", -0.1),
        ("noise_seed", -1),
        ("noise_seed", True),
    ]
    for key, value in wrong:
        with pytest.raises(InputError, match=rf"dataset\.{key}: .*got"):
            parse_options({"name": name, key: value})


@of_both_kinds
def test_more_classes_than_there_are(here: Here) -> None:
    with pytest.raises(InputError, match=r"dataset\.classes must be at most"):
        here.load(classes=here.dataset.num_source_classes + 1)


def test_every_option_is_documented() -> None:
    for name in IMAGE_SETS:
        assert all(field.description for field in get_dataset(name).Options.model_fields.values())


def test_listing_a_dataset_does_not_import_torch() -> None:
    modules = sorted({DATASETS[name].implementation.partition(":")[0] for name in IMAGE_SETS if name in DATASETS})
    code = f"import sys, {', '.join(modules)}; raise SystemExit('torch' in sys.modules or 'sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
