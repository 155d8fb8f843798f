"""Layouts and file names of person datasets, and hostile or damaged files in them."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from reid_trees import (
    FRAMES,
    HEIGHT,
    OFFICIAL,
    TEST,
    TRAIN,
    Shot,
    cuhk_name,
    cuhk_old_name,
    gallery_shots,
    market_name,
    query_shots,
    train_shots,
    write_image,
    write_official,
    write_reorganised,
)

from tune_lnl.config.datasets import Cuhk03Options, ReidOptions
from tune_lnl.datasets.reid.layouts import (
    CUHK03_NP_NAMES,
    CUHK03_OLD_NAMES,
    DUKE_NAMES,
    MARKET_NAMES,
    NameScheme,
)
from tune_lnl.datasets.reid.sets import Cuhk03, Market1501, ReidDataset, ReidSource, source_fingerprint
from tune_lnl.errors import CorruptDataError, InputError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Market-1501's folder inside a data dir."""
    folder = tmp_path / "data" / "market1501"
    folder.mkdir(parents=True)
    return folder


def load(dataset: ReidDataset, root: Path, **settings: Any) -> ReidSource:
    """The source of the dataset whose folder is `root`."""
    options = dataset.Options(name=dataset.name, **{"height": HEIGHT, **settings})
    assert isinstance(options, ReidOptions)
    return dataset.load_source(root.parent, root.parent.parent / "cache", options)


def seen(shots: list[Shot]) -> list[tuple[int, int]]:
    return sorted((shot.identity, shot.camera) for shot in shots)


def read(source: ReidSource, split: str) -> list[tuple[int, int]]:
    people = getattr(source, split)
    return sorted(zip(people.identities.tolist(), people.cameras.tolist(), strict=True))


# ---- names ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scheme", "name", "expected"),
    [
        (MARKET_NAMES, "0002_c1s1_000451_03.jpg", (2, 1)),
        (MARKET_NAMES, "1501_c6s4_001877_12.JPG", (1501, 6)),
        (MARKET_NAMES, "-1_c3s2_015678_04.jpg", (-1, 3)),
        (MARKET_NAMES, "0000_c5s1_000151_01.jpg", (0, 5)),
        (MARKET_NAMES, "-2_c3s2_015678_04.jpg", None),
        (MARKET_NAMES, "0002_c1s1_000451_03.jpg.jpg", None),
        (MARKET_NAMES, "x0002_c1s1_000451_03.jpg", None),
        (MARKET_NAMES, "٠٠٠٢_c1s1_000451_03.jpg", None),
        (MARKET_NAMES, "0002_c1s1_000451_03.jpg\n", None),
        (MARKET_NAMES, "0005_c2_f0046985.jpg", None),
        (DUKE_NAMES, "0005_c2_f0046985.jpg", (5, 2)),
        (DUKE_NAMES, "7139_c8_f0271250.jpg", (7139, 8)),
        (CUHK03_NP_NAMES, "0003_c1_21.png", (3, 1)),
        (CUHK03_OLD_NAMES, "1_012_2_07.png", (None, 2)),
        (CUHK03_OLD_NAMES, "1_012_1_07.png", (None, 1)),
        (CUHK03_OLD_NAMES, "5_001_2_10.png", (None, 10)),
        (CUHK03_OLD_NAMES, "6_001_2_10.png", None),
        (CUHK03_OLD_NAMES, "-1_c1s1_000451_03.jpg", None),
    ],
)
def test_a_name_is_read_whole_or_not_at_all(
    scheme: NameScheme, name: str, expected: tuple[int | None, int] | None
) -> None:
    assert scheme.read(name) == expected


def test_no_name_is_of_two_forms() -> None:
    schemes = (MARKET_NAMES, DUKE_NAMES, CUHK03_NP_NAMES, CUHK03_OLD_NAMES)
    for scheme in schemes:
        assert [other for other in schemes if other.read(scheme.example) is not None] == [scheme]


# ---- layouts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OFFICIAL)
@pytest.mark.parametrize("inside", [False, True])
def test_official_layouts(name: str, inside: bool, tmp_path: Path) -> None:
    """Splits right in the dataset's folder, or in the folder that the published archive unpacks to."""
    published = OFFICIAL[name]
    root = tmp_path / "data" / published.dataset.folder
    boxes = "detected" if name == "cuhk03" else ""
    write_official(root / (published.inner if inside else boxes), published.name)
    source = load(published.dataset(), root)
    assert read(source, "train") == seen(train_shots())
    assert read(source, "query") == seen(query_shots())
    assert read(source, "gallery") == seen(gallery_shots())
    assert (source.junk, source.skipped, source.distractors) == (0, (), 0)
    assert source.train.images.shape == (len(train_shots()), HEIGHT, HEIGHT // 2, 3)
    assert source.train_resized.shape == (len(train_shots()), 18, 9, 3)
    assert source.gallery.images.shape == (len(gallery_shots()), HEIGHT, HEIGHT // 2, 3)
    assert list(source.train.paths) == sorted(source.train.paths)


@pytest.mark.parametrize("name", OFFICIAL)
@pytest.mark.parametrize(("training", "split"), [("train", "train"), ("training", "train"), ("train_all", "train_all")])
def test_reorganised_layouts(name: str, training: str, split: str, tmp_path: Path) -> None:
    published = OFFICIAL[name]
    root = tmp_path / "data" / published.dataset.folder
    write_reorganised(root, published.name, training)
    source = load(published.dataset(), root, split=split)
    assert read(source, "train") == seen(train_shots())
    assert read(source, "query") == seen(query_shots())
    assert read(source, "gallery") == seen(gallery_shots())
    assert source.train.paths[0].startswith(f"{training}/0002/")


def test_both_layouts_give_the_same_source(tmp_path: Path) -> None:
    official = load(Market1501(), write_official(tmp_path / "a" / "market1501", market_name))
    folders = load(Market1501(), write_reorganised(tmp_path / "b" / "market1501", market_name))
    assert official.fingerprint == folders.fingerprint
    assert np.array_equal(official.train_resized, folders.train_resized)


def test_the_data_dir_may_be_the_unpacked_archive(tmp_path: Path) -> None:
    place = write_official(tmp_path / "Market-1501-v15.09.15", market_name)
    options = ReidOptions(name="market1501", height=HEIGHT)
    assert Market1501().is_present(place, tmp_path / "cache")
    assert len(Market1501().load_source(place, tmp_path / "cache", options).train.paths) == len(train_shots())


def test_what_the_preparing_script_made_is_found(root: Path) -> None:
    write_reorganised(root / "pytorch", market_name, "train")
    write_reorganised(root / "pytorch", market_name, "train_all", train_shots(frames=FRAMES + 1))
    assert len(load(Market1501(), root).train.paths) == len(train_shots())
    assert len(load(Market1501(), root, split="train_all").train.paths) == len(train_shots(frames=FRAMES + 1))


def test_cuhk03_in_its_old_names(tmp_path: Path) -> None:
    """The folder is the identity, pair and view are the camera; the number within the pair is no identity."""
    root = write_reorganised(tmp_path / "data" / "cuhk03-np", cuhk_old_name)
    source = load(Cuhk03(), root)
    assert read(source, "train") == seen(train_shots())
    assert read(source, "gallery") == seen(gallery_shots())


def test_cuhk03_has_two_sets_of_boxes(tmp_path: Path) -> None:
    root = tmp_path / "data" / "cuhk03-np"
    write_official(root / "detected", cuhk_name)
    write_official(root / "labeled", cuhk_name, train_shots(frames=FRAMES + 1))
    assert isinstance(Cuhk03.Options(name="cuhk03"), Cuhk03Options)
    assert len(load(Cuhk03(), root).train.paths) == len(train_shots())
    assert len(load(Cuhk03(), root, boxes="labeled").train.paths) == len(train_shots(frames=FRAMES + 1))


def test_missing_data_says_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(InputError) as told:
        load(Market1501(), tmp_path / "data" / "market1501")
    assert str(tmp_path / "data" / "market1501") in str(told.value)
    for words in ("market1501 needs Market-1501", "bounding_box_train", "--data-dir", "core_sprites"):
        assert words in str(told.value)
    assert not Market1501().is_present(tmp_path / "data", tmp_path / "cache")


def test_half_a_layout_is_this_dataset_only_under_its_own_name(root: Path) -> None:
    write_official(root, market_name)
    (root / "query").rename(root / "query_elsewhere")
    with pytest.raises(CorruptDataError, match="has no folder query"):
        load(Market1501(), root)
    other = root.rename(root.with_name("photos"))
    options = ReidOptions(name="market1501", height=HEIGHT)
    with pytest.raises(InputError, match="none found"):
        Market1501().load_source(other, root.parent / "cache", options)


@pytest.mark.parametrize("split", ["bounding_box_train", "query", "bounding_box_test"])
def test_an_empty_split_is_an_error(root: Path, split: str) -> None:
    write_official(root, market_name)
    for file in (root / split).iterdir():
        file.unlink()
    with pytest.raises(CorruptDataError, match=r"has no image of the .* split\nlooked for 0002_c1s1_000451_03.jpg"):
        load(Market1501(), root)


def test_the_other_training_split_is_named(root: Path) -> None:
    write_reorganised(root, market_name, "train_all")
    with pytest.raises(CorruptDataError, match=r"no folder train or training .*\ntrain_all exists: set dataset.split"):
        load(Market1501(), root)


# ---- junk, distractors, odd names ----------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["official", "re-organised"])
def test_junk_is_dropped_and_distractors_stay(root: Path, layout: str) -> None:
    official = layout == "official"
    (write_official if official else write_reorganised)(root, market_name)
    for identity, camera in ((-1, 1), (-1, 4), (0, 2), (0, 5), (0, 5)):
        shot = Shot(identity, camera, 500 + len(list(root.rglob("*.jpg"))))
        folder = "bounding_box_test" if official else f"gallery/{'-1' if identity == -1 else '0000'}"
        write_image(root / folder / market_name(shot), 0)
    source = load(Market1501(), root)
    assert (source.junk, source.distractors, source.skipped) == (2, 3, ())
    assert read(source, "gallery") == sorted([*seen(gallery_shots()), (0, 2), (0, 5), (0, 5)])


@pytest.mark.parametrize("split", ["bounding_box_train", "query"])
def test_a_distractor_is_no_person_to_train_on_or_to_look_for(root: Path, split: str) -> None:
    write_official(root, market_name)
    odd = write_image(root / split / market_name(Shot(0, 1, 7)), 0)
    with pytest.raises(CorruptDataError, match=rf"{odd.name}: identity 0 is for distractors"):
        load(Market1501(), root)
    assert load(Market1501(), root, on_error="skip").skipped == (f"{split}/{odd.name}",)


def test_an_odd_name_is_named_or_skipped_and_counted(root: Path) -> None:
    write_official(root, market_name)
    odd = write_image(root / "query" / "IMG_0001.jpeg", 0)
    with pytest.raises(CorruptDataError) as told:
        load(Market1501(), root)
    for words in (str(odd), "0002_c1s1_000451_03.jpg", "dataset.on_error=skip"):
        assert words in str(told.value)
    source = load(Market1501(), root, on_error="skip")
    assert source.skipped == ("query/IMG_0001.jpeg",)
    assert read(source, "query") == seen(query_shots())


def test_a_name_of_another_dataset_is_odd(root: Path) -> None:
    """Released code would read junk and strangers with the parser of old CUHK03 names, and get a wrong camera."""
    write_official(root, market_name)
    write_image(root / "bounding_box_test" / "1_012_2_07.png", 0)
    with pytest.raises(CorruptDataError, match=r"1_012_2_07\.png: an image must have a name like 0002_c1s1"):
        load(Market1501(), root)


def test_an_identity_folder_that_disagrees_with_the_name(root: Path) -> None:
    write_reorganised(root, market_name)
    moved = root / "train" / "0007" / market_name(Shot(2, 1, 800))
    write_image(moved, 0)
    with pytest.raises(CorruptDataError, match=rf"{moved.name}: its name has identity 2, its folder 7"):
        load(Market1501(), root)
    assert load(Market1501(), root, on_error="skip").skipped == (f"train/0007/{moved.name}",)


@pytest.mark.parametrize(
    ("path", "rule"),
    [
        ("train/people/0002_c1s1_000001_01.jpg", "must be named by an identity"),
        ("train/0002_c1s1_000001_01.jpg", "must be in a folder named by its identity"),
        ("train/0002/more/0002_c1s1_000001_01.jpg", "there must be no folder here"),
    ],
)
def test_a_misplaced_image(root: Path, path: str, rule: str) -> None:
    write_reorganised(root, market_name)
    write_image(root / path, 0)
    with pytest.raises(CorruptDataError, match=rule):
        load(Market1501(), root)
    assert len(load(Market1501(), root, on_error="skip").skipped) == 1


def test_old_cuhk03_names_need_a_folder_that_says_who(tmp_path: Path) -> None:
    root = tmp_path / "data" / "cuhk03-np"
    write_official(root / "detected", cuhk_old_name)
    with pytest.raises(CorruptDataError, match="contains no identity"):
        load(Cuhk03(), root)


def test_files_that_are_no_images_are_ignored(root: Path) -> None:
    write_official(root, market_name)
    for name in ("Thumbs.db", ".DS_Store", "attributes.mat", "readme.txt", "._0002_c1s1_000001_01.jpg"):
        (root / "query" / name).write_bytes(b"\0")
    for name in ("@eaDir", "__MACOSX", "#recycle", ".ipynb_checkpoints"):
        (root / "query" / name).mkdir()
        (root / "query" / name / "0002_c1s1_000001_00.jpg").write_bytes(b"\0")
    source = load(Market1501(), root)
    assert source.skipped == ()
    assert read(source, "query") == seen(query_shots())


def test_the_order_is_that_of_the_names_whatever_the_disk_says(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_reorganised(root, market_name)
    expected = Market1501().read_names(root.parent, root, ReidOptions(name="market1501"))

    scandir = os.scandir

    @contextmanager
    def shuffled_entries(folder: Path) -> Iterator[Iterator[os.DirEntry[str]]]:
        """What os.scandir gives, in another order."""
        with scandir(folder) as entries:
            found = list(entries)
        random.Random(3).shuffle(found)
        yield iter(found)

    monkeypatch.setattr(os, "scandir", shuffled_entries)
    with shuffled_entries(root / "train") as entries:
        assert [entry.name for entry in entries] != sorted(os.listdir(root / "train"))  # noqa: PTH208
    shuffled = Market1501().read_names(root.parent, root, ReidOptions(name="market1501"))
    assert shuffled == expected
    names = [file.name for file in shuffled.train]
    assert names == sorted(names)
    assert [file.identity for file in shuffled.train] == sorted(shot.identity for shot in train_shots())


# ---- links and pixels ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["file", "split", "archive"])
def test_links_out_of_the_root_are_refused(root: Path, tmp_path: Path, what: str) -> None:
    inner = root / "Market-1501-v15.09.15"
    if what == "archive":
        inner.symlink_to(write_official(tmp_path / "elsewhere", market_name))
    else:
        write_official(inner, market_name)
        target = inner / "query" if what == "split" else inner / "query" / market_name(query_shots()[0])
        target.symlink_to(target.rename(tmp_path / "outside"))
    for on_error in ("fail",) if what == "file" else ("fail", "skip"):
        with pytest.raises(InputError, match="is a link that leaves"):
            load(Market1501(), root, on_error=on_error)


def test_a_linked_image_outside_is_skipped_where_odd_files_are(root: Path, tmp_path: Path) -> None:
    write_official(root, market_name)
    target = root / "query" / market_name(query_shots()[0])
    target.symlink_to(target.rename(tmp_path / "outside"))
    assert load(Market1501(), root, on_error="skip").skipped == (f"query/{target.name}",)


def test_names_of_ones_own_are_read_by_a_pattern(root: Path) -> None:
    write_official(root, lambda shot: f"cam{shot.camera}_p{shot.identity}_{shot.frame}.jpeg")
    with pytest.raises(CorruptDataError, match=r"dataset\.pattern"):
        load(Market1501(), root)
    source = load(Market1501(), root, pattern="cam(?P<camera>[0-9]+)_p(?P<identity>-?[0-9]+)_[0-9]+")
    assert sorted(set(source.train.identities.tolist())) == TRAIN
    with pytest.raises(ValueError, match="must have a group"):
        load(Market1501(), root, pattern="cam[0-9]+")


def test_links_inside_the_root_are_followed(root: Path) -> None:
    write_official(root / "files", market_name)
    for folder in ("bounding_box_train", "query", "bounding_box_test"):
        (root / folder).symlink_to(Path("files") / folder)
    assert read(load(Market1501(), root), "train") == seen(train_shots())


def test_pixels_are_resized_as_published(root: Path) -> None:
    """Bicubic, straight from the decoded image to each size (not the one from the other)."""
    write_official(root, market_name)
    source = load(Market1501(), root)
    for row in (0, 5):
        with Image.open(root / source.train.paths[row]) as image:
            person = image.convert("RGB")
            assert np.array_equal(
                source.train.images[row], np.asarray(person.resize((8, 16), Image.Resampling.BICUBIC))
            )
            assert np.array_equal(
                source.train_resized[row], np.asarray(person.resize((9, 18), Image.Resampling.BICUBIC))
            )


def test_published_sizes(root: Path) -> None:
    shots = train_shots(TRAIN[:2], frames=1)
    write_official(root, market_name, shots)
    source = load(Market1501(), root, height=None)
    assert source.train.images.shape == (len(shots), 256, 128, 3)
    assert source.train_resized.shape == (len(shots), 288, 144, 3)
    assert source.query.images.shape == (len(query_shots()), 256, 128, 3)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("damage", ["truncated", "text", "bomb", "dangling link"])
@pytest.mark.parametrize("split", ["bounding_box_train", "bounding_box_test"])
def test_an_unreadable_image_is_named_or_skipped_and_counted(
    root: Path, damage: str, split: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_official(root, market_name)
    whole = load(Market1501(), root)
    victim = sorted((root / split).iterdir())[4]
    if damage == "truncated":
        os.truncate(victim, victim.stat().st_size // 2)
    elif damage == "text":
        victim.write_text("<html>not found</html>")
    elif damage == "bomb":
        write_image(victim, 0, size=(40, 50))
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40 * 50 - 1)
    else:
        victim.unlink()
        victim.symlink_to("nothing")
    for _ in range(2):
        with pytest.raises(CorruptDataError, match=victim.name):
            load(Market1501(), root)
    source = load(Market1501(), root, on_error="skip")
    assert source.skipped == (f"{split}/{victim.name}",)
    people, before = (source.train, whole.train) if "train" in split else (source.gallery, whole.gallery)
    assert people.paths == tuple(path for path in before.paths if path != f"{split}/{victim.name}")
    kept = np.delete(np.arange(len(before.paths)), 4)
    assert np.array_equal(people.images, before.images[kept])
    assert np.array_equal(people.identities, before.identities[kept])
    assert np.array_equal(people.cameras, before.cameras[kept])
    with pytest.raises(CorruptDataError, match=victim.name):
        load(Market1501(), root)  # what was packed while skipping is no excuse


def test_nothing_readable_is_an_error_even_when_skipping(root: Path) -> None:
    write_official(root, market_name)
    for file in (root / "query").iterdir():
        file.write_bytes(b"")
    with pytest.raises(CorruptDataError, match="no image of the query split can be read"):
        load(Market1501(), root, on_error="skip")


# ---- the packed store ----------------------------------------------------------------------------------------------


def test_packed_once_and_mapped(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_official(root, market_name)
    first = load(Market1501(), root)
    monkeypatch.setattr("tune_lnl.datasets.reid.sets._decode", lambda *_, **__: pytest.fail("it is packed already"))
    again = load(Market1501(), root)
    assert isinstance(again.train.images, np.memmap)
    assert not again.train.images.flags.writeable
    assert again.fingerprint == first.fingerprint == source_fingerprint(again)
    folders = [path.name for path in (root.parent.parent / "cache" / "packed").iterdir() if path.is_dir()]
    assert len(folders) == 1
    assert folders[0].startswith("market1501-")


def test_more_images_than_a_block(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_official(root, market_name)
    whole = load(Market1501(), root)
    monkeypatch.setattr("tune_lnl.datasets.reid.sets.IMAGES_PER_BLOCK", 4)
    monkeypatch.setattr("tune_lnl.datasets.reid.sets.PACKING_VERSION", -1)
    blocks = load(Market1501(), root)
    assert blocks.fingerprint == whole.fingerprint
    assert np.array_equal(blocks.train_resized, whole.train_resized)


def test_a_damaged_store_is_packed_again(root: Path) -> None:
    write_official(root, market_name)
    fingerprint = load(Market1501(), root).fingerprint
    (packed,) = (root.parent.parent / "cache" / "packed").glob("*/gallery.npy")
    os.truncate(packed, packed.stat().st_size - 1)
    source = load(Market1501(), root)
    assert source.fingerprint == fingerprint == source_fingerprint(source)


@pytest.mark.parametrize("change", ["pixel", "query pixel", "identity", "camera", "height"])
def test_the_fingerprint_is_of_pixels_identities_and_cameras(root: Path, tmp_path: Path, change: str) -> None:
    write_official(root, market_name)
    before = load(Market1501(), root).fingerprint
    other = write_official(tmp_path / "again" / "market1501", market_name)
    assert load(Market1501(), other).fingerprint == before
    first = other / "bounding_box_train" / market_name(train_shots()[0])
    if change == "pixel":
        write_image(first, 99)
    elif change == "query pixel":
        write_image(other / "query" / market_name(query_shots()[0]), 99)
    elif change == "identity":
        first.rename(first.with_name(first.name.replace("0002", "0001")))
    elif change == "camera":
        first.rename(first.with_name(first.name.replace("c1s1", "c0s1")))
    after = load(Market1501(), other, height=HEIGHT + 2 if change == "height" else HEIGHT)
    assert after.fingerprint != before


def test_people_of_the_test_may_be_trained_on(root: Path) -> None:
    """Not so in the published sets; a user's own may: it is counted by the check, not refused."""
    write_official(root, market_name, train_shots([*TRAIN, TEST[0]]))
    assert TEST[0] in load(Market1501(), root).train.identities
