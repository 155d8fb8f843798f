"""Published layouts, read from small trees."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from picture_trees import DISHES, RESOLUTION, write_clothing, write_food, write_image, write_web

from tune_lnl.config.datasets import PictureOptions
from tune_lnl.datasets.base import Images, NoisyData
from tune_lnl.datasets.images.noisy import load_noisy
from tune_lnl.datasets.pictures.clothing import CLASSES
from tune_lnl.datasets.pictures.listing import PictureList
from tune_lnl.datasets.pictures.noisy import PictureDataset
from tune_lnl.datasets.pictures.rows import PictureRows
from tune_lnl.datasets.pictures.web import WebAircraft, WebBird, WebCar, WebImages
from tune_lnl.datasets.registry import get_dataset, parse_options
from tune_lnl.errors import CorruptDataError, InputError


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUNE_LNL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TUNE_LNL_DATA", raising=False)
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


def listed(name: str, data_dir: Path, **settings: Any) -> PictureList:
    dataset = get_dataset(name)
    assert isinstance(dataset, PictureDataset)
    options = parse_options({"name": name, **settings})
    assert isinstance(options, PictureOptions)
    return dataset.list_files(data_dir, data_dir.parent / "cache", options)


def load(name: str, data_dir: Path, **settings: Any) -> NoisyData:
    return load_noisy(parse_options({"name": name, "resolution": RESOLUTION, **settings}), data_dir)


def uncropped(data: NoisyData, count: int) -> list[Images]:
    assert isinstance(data.train_images, PictureRows)
    return data.train_images.uncropped(np.arange(count))


# ---- web


@pytest.mark.parametrize(("dataset", "classes"), [(WebAircraft, 100), (WebBird, 200), (WebCar, 196)])
def test_web_folders(dataset: type[WebImages], classes: int, data_dir: Path) -> None:
    root = write_web(data_dir, dataset)
    for place in (data_dir, root):
        found = listed(dataset.name, place)
        assert (found.training, len(found), found.num_classes) == (2 * classes, 3 * classes, classes)
        assert found.class_names == tuple(f"class_{number:03d}" for number in range(classes))
        assert found.names[0] == "train/class_000/000.jpg"
        assert found.names[found.training] == "val/class_000/000.jpg"
        assert found.labels.tolist() == np.repeat(np.arange(classes), 2).tolist() + list(range(classes))
        assert found.true_labels is None


def test_web_images_are_as_published(data_dir: Path) -> None:
    write_web(data_dir, WebAircraft)
    data = load("web_aircraft", data_dir, resolution=None)
    assert data.form.image_shape == (448, 448, 3)
    assert data.form.default_model == "resnet50"
    assert (data.form.weak_augmentation, data.form.strong_augmentation) == ("crop_weak", "crop_strong")
    # 24 x 30 and 34 x 24: shorter side 448, the longer one in proportion.
    assert [image.shape for image in uncropped(data, 2)] == [(448, 634, 3), (560, 448, 3)]
    assert data.train_images[np.arange(2)].shape == (2, 448, 448, 3)
    assert len(data.test_rows) == 100


def test_another_number_of_classes_is_no_web_dataset(data_dir: Path) -> None:
    root = write_web(data_dir, WebAircraft)
    shutil.rmtree(root / "train" / "class_042")
    with pytest.raises(CorruptDataError, match="must hold 100 class folders, got 99"):
        listed("web_aircraft", data_dir)
    (root / "train" / "other").mkdir()
    with pytest.raises(CorruptDataError, match="1 classes that train lacks, the first is 'class_042'"):
        listed("web_aircraft", data_dir)


def test_a_web_dataset_is_not_taken_for_another(data_dir: Path) -> None:
    root = write_web(data_dir, WebAircraft)
    with pytest.raises(InputError, match=r"web_bird needs Web-Bird: none found in .*\nlooked for train/<class>"):
        listed("web_bird", root)
    assert not get_dataset("web_car").is_present(root, data_dir)
    assert get_dataset("web_aircraft").is_present(data_dir, data_dir)


# ---- food


@pytest.mark.parametrize("layout", ["nested", "flat"])
def test_food_lists(layout: str, data_dir: Path) -> None:
    root = write_food(data_dir, layout)
    for place in (data_dir, root):
        found = listed("food101n", place)
        assert (found.form, found.training, len(found)) == (layout, 202, 303)
        assert found.class_names == tuple(DISHES)
        assert found.labels.tolist() == [*np.repeat(np.arange(101), 2), *range(101)]
        assert [found.path(row).is_file() for row in (0, 302)] == [True, True]
        assert found.verified is not None
        assert np.bincount(found.verified[:202] + 1).tolist() == [162, 10, 30]


def test_food_in_the_folder_of_its_archive(data_dir: Path) -> None:
    root = write_food(data_dir, "flat")
    (root.parent / "food-101n_").mkdir()
    root.rename(root.parent / "food-101n_" / "Food-101N_release")
    (root.parent / "food-101n_").rename(root)
    assert listed("food101n", data_dir).training == 202


def test_food_images_are_as_published(data_dir: Path) -> None:
    write_food(data_dir, "nested")
    data = load("food101n", data_dir, resolution=None)
    assert data.form.image_shape == (224, 224, 3)
    assert min(uncropped(data, 1)[0].shape[:2]) == 256
    assert data.num_classes == 101


def test_food_without_its_test_set(data_dir: Path) -> None:
    root = write_food(data_dir, "nested")
    shutil.rmtree(root / "food-101")
    with pytest.raises(InputError, match="Food-101's test list was not found"):
        listed("food101n", data_dir)


def test_listed_food_that_is_not_there_is_skipped_or_told(data_dir: Path) -> None:
    root = write_food(data_dir, "nested")
    gone = f"images/{DISHES[3]}/001.jpg"
    (root / gone).unlink()
    found = listed("food101n", data_dir)
    assert (found.training, list(found.skipped)) == (201, [gone])
    with pytest.raises(CorruptDataError, match=r"it is listed and cannot be read.*\n.*on_error=skip"):
        listed("food101n", data_dir, on_error="fail")


def test_a_list_that_names_a_file_outside(data_dir: Path) -> None:
    root = write_food(data_dir, "nested")
    write_image(data_dir / "secret.jpg", 0)
    with (root / "meta" / "imagelist.tsv").open("a") as file:
        file.write(f"{DISHES[0]}/../../../secret.jpg\n")
    found = listed("food101n", data_dir)
    ((name, reason),) = found.skipped.items()
    assert name.endswith("secret.jpg")
    assert "outside the folder" in reason
    with pytest.raises(CorruptDataError, match="outside the folder"):
        listed("food101n", data_dir, on_error="fail")


# ---- clothing


@pytest.mark.parametrize("lists", ["", "annotations"])
def test_clothing_lists(lists: str, data_dir: Path) -> None:
    write_clothing(data_dir, lists)
    found = listed("clothing1m", data_dir)
    assert (found.training, len(found)) == (70, 98)
    assert found.class_names == CLASSES
    given = found.labels[:70].reshape(14, 5)
    assert given[:, 0].tolist() == [*range(1, 14), 0]
    assert (given[:, 1:] == np.arange(14)[:, None]).all()
    assert found.labels[70:].tolist() == np.repeat(np.arange(14), 2).tolist()
    assert found.verified is not None
    assert found.verified[:70].reshape(14, 5).tolist() == [[0, 1, -1, -1, -1]] * 14
    assert any("28 images have both labels: 50.00%" in note for note in found.notes)
    assert any("clean_train_key_list.txt: 3 images, not used" in note for note in found.notes)


@pytest.mark.parametrize("line", ["images/0/0,0.jpg 14", "images/0/0,0.jpg", "images/0/0,0.jpg x", " 3"])
def test_clothing_labels_are_checked(line: str, data_dir: Path) -> None:
    root = write_clothing(data_dir)
    with (root / "noisy_label_kv.txt").open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(CorruptDataError, match="a line must be a path and a class number from 0 to 13"):
        listed("clothing1m", data_dir)


def test_clothing_is_loaded(data_dir: Path) -> None:
    write_clothing(data_dir)
    data = load("clothing1m", data_dir)
    assert (data.num_classes, len(data.rows), len(data.test_rows)) == (14, 70, 28)
    assert data.true_labels is None


# ---- links


def test_links_inside_are_followed_and_links_outside_left_out(data_dir: Path) -> None:
    root = write_web(data_dir, WebAircraft)
    folder = root / "train" / "class_000"
    (folder / "inner.jpg").symlink_to(folder / "000.jpg")
    (folder / "loop").symlink_to(root / "train")
    (folder / "nothing.jpg").symlink_to(folder / "absent.jpg")
    found = listed("web_aircraft", data_dir)
    assert "train/class_000/inner.jpg" in list(found.names[:4])
    assert found.training == 201
    assert "train/class_000/nothing.jpg" in found.skipped
    outside = write_image(data_dir / "outside.jpg", 0)
    (folder / "outer.jpg").symlink_to(outside)
    (root / "train" / "class_001x").symlink_to(os.path.relpath(data_dir, root / "train"))
    found = listed("web_aircraft", data_dir)
    assert found.training == 201
    assert found.skipped["train/class_000/outer.jpg"] == "it is a link to a file outside"
    assert found.skipped["train/class_000/loop"] == "it is a link to a folder that holds the link"
    assert found.skipped["train/class_001x"] == "it is a link to a folder outside"
