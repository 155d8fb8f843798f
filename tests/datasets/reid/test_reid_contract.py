"""The contract of person datasets, whatever their layout."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from reid_trees import HEIGHT, OFFICIAL, write_official

from tune_lnl.config.datasets import ReidOptions
from tune_lnl.config.registry import dataset_names
from tune_lnl.datasets.paths import cache_dir
from tune_lnl.datasets.registry import get_dataset, parse_options
from tune_lnl.datasets.reid.data import ReidData, load_reid
from tune_lnl.datasets.reid.sets import ReidDataset, ReidSource, training_size
from tune_lnl.errors import InputError

PERSON_SETS = [name for name in dataset_names() if get_dataset(name).task == "re-identification"]
of_each = pytest.mark.parametrize("name", PERSON_SETS)
# The sets differ in layout and names; the code behind the source is the same.
of_both_kinds = pytest.mark.parametrize("name", ["market1501", "sprites"])


@dataclass(frozen=True)
class Here:
    """A dataset with its data at hand."""

    dataset: ReidDataset
    data_dir: Path | None

    def options(self, **settings: object) -> ReidOptions:
        options = parse_options({"name": self.dataset.name, "height": HEIGHT, **settings})
        assert isinstance(options, ReidOptions)
        return options

    def source(self, **settings: object) -> ReidSource:
        return self.dataset.load_source(self.data_dir, cache_dir(), self.options(**settings))

    def load(self, fraction: float = 0.4, seed: int = 0, **settings: object) -> ReidData:
        return load_reid(self.options(**settings), self.data_dir, fraction, seed)


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache and data dir for all tests here: packing the drawn set takes a second."""
    return tmp_path_factory.mktemp("persons")


@pytest.fixture
def here(name: str, homes: Path, monkeypatch: pytest.MonkeyPatch) -> Here:
    monkeypatch.setenv("TUNE_LNL_CACHE", str(homes / "cache"))
    dataset = get_dataset(name)
    assert isinstance(dataset, ReidDataset)
    if name not in OFFICIAL:
        assert dataset.is_present(None, cache_dir()), f"{name} is neither built in nor listed in OFFICIAL"
        return Here(dataset, None)
    official = OFFICIAL[name]
    assert dataset.folder is not None
    root = homes / "data" / dataset.folder / official.inner
    if not root.exists():
        write_official(root, official.name)
    return Here(dataset, homes / "data")


@of_each
def test_source_is_as_declared(here: Here) -> None:
    source, (height, width) = here.source(), here.dataset.input_size(here.options())
    assert (height, width) == (HEIGHT, HEIGHT // 2)
    for split in (source.train, source.query, source.gallery):
        assert split.images.dtype == np.uint8
        assert split.images.shape == (len(split.paths), height, width, 3)
        assert split.identities.dtype == split.cameras.dtype == np.int64
        assert len(split.identities) == len(split.cameras) == len(split.paths) == len(set(split.paths))
        assert list(split.paths) == sorted(split.paths)
        assert (split.identities >= 0).all()
        assert (split.cameras >= 1).all()
    assert source.train_resized.shape == (len(source.train.paths), *training_size((height, width)), 3)
    assert set(source.train.identities).isdisjoint({0, *source.query.identities, *source.gallery.identities})
    assert set(source.query.identities) <= set(source.gallery.identities)
    assert len(here.dataset.mean) == len(here.dataset.std) == here.dataset.image_shape[2] == 3


@of_each
def test_loading_again_gives_the_same(here: Here) -> None:
    first, second = here.load(), here.load()
    assert first.fingerprints == second.fingerprints
    assert first.fingerprints.keys() == {"source", "labels", "split"}
    assert np.array_equal(first.given_labels, second.given_labels)


@of_both_kinds
def test_every_label_stands_for_an_identity_that_is_trained_on(here: Here) -> None:
    data = here.load(noise_ratio=0.4)
    assert data.true_labels is not None
    persons = data.source.train.identities
    assert data.given_labels.dtype == np.int64
    assert set(data.given_labels) <= set(range(data.num_classes))
    assert np.array_equal(data.identity_numbers, np.unique(persons[data.train_rows]))
    assert np.array_equal(data.identity_numbers[data.true_labels], persons[data.train_rows])


@of_both_kinds
def test_noise_is_what_was_asked_for(here: Here) -> None:
    clean, noisy = here.load(noise="none"), here.load(noise_ratio=0.4)
    assert clean.measured_noise == 0.0
    per_person = [
        np.mean(noisy.given_labels[noisy.true_labels == label] != label) for label in range(noisy.num_classes)
    ]
    assert np.mean(per_person) == pytest.approx(0.4, abs=0.08)
    assert noisy.requested_noise == 0.4
    assert clean.fingerprints["labels"] != noisy.fingerprints["labels"]
    assert clean.fingerprints["source"] == noisy.fingerprints["source"]
    assert not np.array_equal(noisy.given_labels, here.load(noise_ratio=0.4, noise_seed=2).given_labels)


@of_each
def test_validation_persons_are_apart_and_can_be_matched(here: Here) -> None:
    data = here.load()
    train = data.source.train
    query, gallery = data.validation_query, data.validation_gallery
    assert set(query).isdisjoint(gallery)
    held_out = set(train.identities[query]) | set(train.identities[gallery])
    assert held_out.isdisjoint(train.identities[data.train_rows])
    # One query for each person and camera.
    pairs = list(zip(train.identities[query], train.cameras[query], strict=True))
    assert len(pairs) == len(set(pairs)) > 0
    assert data.disjoint_in == "true"
    other = here.load(seed=1)
    assert other.fingerprints["split"] != data.fingerprints["split"]


@of_both_kinds
def test_validation_does_not_depend_on_the_noise_or_the_subset(here: Here) -> None:
    one, other = here.load(noise_ratio=0.1), here.load(noise_ratio=0.5, noise_seed=3, subset=0.5)
    assert np.array_equal(one.validation_query, other.validation_query)
    assert np.array_equal(one.validation_gallery, other.validation_gallery)


@of_both_kinds
def test_a_subset_has_the_labels_of_the_full_run(here: Here) -> None:
    full, part = here.load(noise_ratio=0.4), here.load(noise_ratio=0.4, subset=0.5)
    assert len(part.train_rows) == pytest.approx(len(full.train_rows) / 2, abs=full.num_classes)
    given = dict(zip(full.train_rows, full.identity_numbers[full.given_labels], strict=True))
    assert [given[row] for row in part.train_rows] == list(part.identity_numbers[part.given_labels])


@of_both_kinds
def test_the_first_classes_are_the_lowest_identities(here: Here) -> None:
    data = here.load(fraction=0.0, classes=3)
    assert list(data.identity_numbers) == sorted(set(here.source().train.identities))[:3]


@of_both_kinds
def test_settings_out_of_range_are_refused(here: Here) -> None:
    for settings in ({"noise": "symmetric"}, {"noise_ratio": 1.0}, {"height": 0}, {"split": "test"}):
        with pytest.raises(InputError):
            here.options(**settings)
