"""The drawn re-ID dataset: files, identities, cameras, and equal pixels on every machine."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin

from tune_lnl.config.datasets import ReidOptions
from tune_lnl.datasets.reid import sprites
from tune_lnl.datasets.reid.sets import ReidSource
from tune_lnl.datasets.reid.sprites import CAMERAS, Person, Sprites, draw_person, draw_sprites, picture
from tune_lnl.errors import InputError

Pixels = NDArray[np.uint8]
FOLDERS = ("bounding_box_train", "query", "bounding_box_test")
# sha256 over every path and its pixels before JPEG, in drawing order. Another value means another dataset:
# FOLDER then needs the next version number, and Sprites the new mean and standard deviation.
CHECKSUM = "6e03486b724f7f6aee3045de760c08360e9bc2edbce96aef6eebc96091eeed56"


@dataclass(frozen=True)
class Drawn:
    root: Path
    pixels: dict[str, Pixels]


@dataclass(frozen=True)
class Name:
    identity: int
    camera: int


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    """The whole dataset, drawn once, and the pixels that went into its files."""
    root = tmp_path_factory.mktemp("sprites") / "data" / sprites.FOLDER
    pixels: dict[str, Pixels] = {}
    draw_all = sprites.pictures

    def recorded() -> Iterator[tuple[str, Pixels]]:
        for path, image in draw_all():
            assert path not in pixels, "two images of one name"
            pixels[path] = image
            yield path, image

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sprites, "pictures", recorded)
        draw_sprites(root)
    return Drawn(root, pixels)


def names_in(drawn: Drawn, folder: str) -> list[Name]:
    found = []
    for path in sorted((drawn.root / folder).iterdir()):
        match = re.fullmatch(r"(-1|\d{4})_c([1-6])s[1-6]_\d{6}_\d{2}\.jpg", path.name)
        assert match is not None, f"{path.name} is no name of Market-1501's form"
        found.append(Name(int(match[1]), int(match[2])))
    return found


# ---- what is in the folders ----------------------------------------------------------------------------------------


def test_folders_hold_exactly_what_was_drawn(drawn: Drawn) -> None:
    files = {str(path.relative_to(drawn.root)) for path in drawn.root.rglob("*") if path.is_file()}
    assert files == set(drawn.pixels)
    assert {path.name for path in drawn.root.iterdir()} == set(FOLDERS)
    assert 1_500 < len(files) < 2_000


def test_train_and_test_identities_are_disjoint(drawn: Drawn) -> None:
    train, query, gallery = ({name.identity for name in names_in(drawn, folder)} for folder in FOLDERS)
    assert len(train) == 100
    assert len(query) == 50
    assert query < gallery
    assert gallery - query == {0, -1}
    assert not train & gallery


def test_identities_have_about_ten_images_by_three_to_six_cameras(drawn: Drawn) -> None:
    for folder, fewest, most in (("bounding_box_train", 10, 14), ("bounding_box_test", 8, 12)):
        names = [name for name in names_in(drawn, folder) if name.identity > 0]
        assert set(Counter(name.identity for name in names).values()) == set(range(fewest, most + 1))
        cameras = Counter(identity for identity, _ in {(name.identity, name.camera) for name in names})
        assert set(cameras.values()) == {3, 4, 5, 6}
        assert {name.camera for name in names} == set(range(1, 7))


def test_one_query_per_identity_and_camera_with_matches_elsewhere(drawn: Drawn) -> None:
    queries = names_in(drawn, "query")
    gallery = names_in(drawn, "bounding_box_test")
    assert len(set(queries)) == len(queries)
    assert set(queries) == {name for name in gallery if name.identity > 0}
    for query in queries:
        assert any(name.identity == query.identity and name.camera != query.camera for name in gallery)


def test_gallery_holds_distractors_and_junk(drawn: Drawn) -> None:
    names = names_in(drawn, "bounding_box_test")
    for identity, count in ((0, 30), (-1, 12)):
        cameras = [name.camera for name in names if name.identity == identity]
        assert len(cameras) == count
        assert set(cameras) == set(range(1, 7))


def test_files_are_jpegs_close_to_the_drawing(drawn: Drawn) -> None:
    for path in list(drawn.pixels)[::50]:
        with Image.open(drawn.root / path) as image:
            assert isinstance(image, JpegImagePlugin.JpegImageFile)
            assert (image.size, image.mode) == ((36, 72), "RGB")
            assert JpegImagePlugin.get_sampling(image) == 0, "chroma at full resolution"
            decoded = np.asarray(image).astype(float)
        assert np.abs(decoded - drawn.pixels[path]).mean() < 5.0


# ---- deterministic, whole or not at all ----------------------------------------------------------------------------


def test_pixels_are_the_same_on_every_machine(drawn: Drawn) -> None:
    digest = hashlib.sha256()
    for path, pixels in drawn.pixels.items():
        assert pixels.shape == (72, 36, 3)
        assert pixels.dtype == np.uint8
        digest.update(path.encode())
        digest.update(np.ascontiguousarray(pixels).data)
    assert digest.hexdigest() == CHECKSUM


def test_a_picture_does_not_depend_on_what_was_drawn_before() -> None:
    expected = picture(7, 2, 3)
    np.random.seed(0)  # noqa: NPY002 (the global stream must not matter)
    picture(8, 5, 0)
    assert np.array_equal(picture(7, 2, 3), expected)
    assert not np.array_equal(picture(7, 2, 4), expected)


def few_pictures() -> Iterator[tuple[str, Pixels]]:
    for index in range(3):
        yield f"query/{index}.jpg", picture(1, 1, index)


def test_an_interrupted_drawing_leaves_no_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> Iterator[tuple[str, Pixels]]:
        yield "query/left_over.jpg", picture(1, 1, 0)
        raise KeyboardInterrupt

    root = tmp_path / "data" / "sprites-v4"
    monkeypatch.setattr(sprites, "pictures", interrupted)
    with pytest.raises(KeyboardInterrupt):
        draw_sprites(root)
    assert not root.exists()
    monkeypatch.setattr(sprites, "pictures", few_pictures)
    draw_sprites(root)
    assert sorted(path.name for path in (root / "query").iterdir()) == ["0.jpg", "1.jpg", "2.jpg"]
    assert [path.name for path in root.parent.iterdir() if path.is_dir()] == ["sprites-v4"]


def test_a_drawing_that_is_there_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sprites, "pictures", lambda: pytest.fail("drawn again"))
    (tmp_path / "sprites-v4").mkdir()
    draw_sprites(tmp_path / "sprites-v4")
    assert list((tmp_path / "sprites-v4").iterdir()) == []


# ---- identities ----------------------------------------------------------------------------------------------------


def test_nobody_is_a_double_but_most_share_their_colours() -> None:
    people = [Person(identity) for identity in range(1, 151)]
    looks = [{**vars(who), "height": 1.0, "width": 1.0} for who in people]
    assert len({tuple(sorted(look.items())) for look in looks}) == len(people), "two identities differ in size alone"
    dressed_alike = Counter((who.upper, who.lower) for who in people)
    assert sum(count for count in dressed_alike.values() if count > 1) > 100


def someone(**attributes: Any) -> Person:
    """A person in plain clothes whose colours are far apart, with the given attributes."""
    who = Person(1)
    plain = {
        "upper": (0.0, 0.0, 1.0),
        "second": (1.0, 1.0, 0.0),
        "pattern": "plain",
        "sleeve": 1.0,
        "lower": (0.2, 0.2, 0.2),
        "leg": 1.0,
        "bag": "none",
        "bag_colour": (1.0, 0.0, 1.0),
        "height": 1.0,
        "width": 1.0,
    }
    assert vars(who).keys() == plain.keys()
    vars(who).update(plain | attributes)
    return who


def drawing_of(who: Person, view: str) -> NDArray[np.float64]:
    pixels = np.full((72, 36, 3), 0.5)
    draw_person(pixels, who, view, stride=0.0, scale=1.0, centre=18.0, foot=70.0)
    return pixels


def area(pixels: NDArray[np.float64], colour: tuple[float, float, float]) -> int:
    return int((np.abs(pixels - np.asarray(colour)).max(axis=2) < 0.25).sum())


@pytest.mark.parametrize(
    ("pattern", "seen_from"),
    [("plain", ""), ("logo", "F"), ("print", "B"), ("stripes", "FBLR"), ("band", "FBLR")],
)
def test_a_pattern_shows_from_its_own_sides(pattern: str, seen_from: str) -> None:
    who = someone(pattern=pattern)
    assert [view for view in "FBLR" if area(drawing_of(who, view), who.second) > 20] == list(seen_from)


def test_a_shoulder_bag_changes_sides_with_the_view() -> None:
    who = someone(bag="shoulder")
    front, back = drawing_of(who, "F"), drawing_of(who, "B")
    assert area(front[:, 20:], who.bag_colour) > 20 + area(front[:, :16], who.bag_colour)
    assert area(back[:, :16], who.bag_colour) > 20 + area(back[:, 20:], who.bag_colour)
    # Walking to the left shows the left hand; walking to the right, the body hides it.
    assert area(drawing_of(who, "L"), who.bag_colour) > 20
    assert area(drawing_of(who, "R"), who.bag_colour) == 0


def test_a_backpack_is_hidden_from_the_front() -> None:
    who = someone(bag="backpack")
    assert [view for view in "FBLR" if area(drawing_of(who, view), who.bag_colour) > 20] == list("BLR")


def test_build_and_cut_show() -> None:
    def covered(who: Person) -> NDArray[np.bool_]:
        return np.asarray(np.abs(drawing_of(who, "F") - 0.5).max(axis=2) > 0.05)

    plain = someone()
    tall, short = covered(plain), covered(someone(height=0.9))
    assert np.flatnonzero(tall.any(axis=1))[0] < np.flatnonzero(short.any(axis=1))[0]
    assert covered(someone(width=1.2)).sum() > 1.1 * tall.sum()
    skin = area(drawing_of(plain, "F"), sprites.SKIN)
    assert area(drawing_of(someone(leg=0.42), "F"), sprites.SKIN) > skin + 50
    assert area(drawing_of(someone(sleeve=0.35), "F"), sprites.SKIN) > skin + 30


# ---- cameras -------------------------------------------------------------------------------------------------------


def test_colours_alone_tell_the_camera_rather_than_the_person(drawn: Drawn) -> None:
    pixels = np.stack([drawn.pixels[path] for path in sorted(drawn.pixels) if path.startswith(FOLDERS[0])])
    names = names_in(drawn, FOLDERS[0])
    identities = np.array([name.identity for name in names])
    cameras = np.array([name.camera for name in names])
    # The clothes without the place around them: mean colours of the upper and the lower body.
    clothes = np.concatenate(
        [pixels[:, rows, 14:22].mean(axis=(1, 2)) for rows in (slice(20, 36), slice(42, 56))], axis=1
    )
    distances = np.abs(clothes[:, None] - clothes[None]).sum(axis=2)
    np.fill_diagonal(distances, np.inf)
    nearest = distances.argmin(axis=1)
    assert (cameras[nearest] == cameras).mean() > 0.5, "a sixth by chance"
    distances[cameras[:, None] == cameras[None]] = np.inf
    assert (identities[distances.argmin(axis=1)] == identities).mean() < 0.2, "across cameras colours mislead"


def test_cameras_look_different() -> None:
    walls = np.array([np.multiply(light, wall) for _, light, _, _, wall in CAMERAS])
    apart = np.abs(walls[:, None] - walls[None]).max(axis=2)
    assert apart[~np.eye(6, dtype=bool)].min() > 0.04


# ---- the dataset ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def source(drawn: Drawn) -> ReidSource:
    """Read through the cache that `drawn` is in, so that nothing is drawn again."""
    return Sprites().load_source(None, drawn.root.parents[1], ReidOptions(name="sprites"))


def test_splits_are_read_without_junk_and_with_distractors(drawn: Drawn, source: ReidSource) -> None:
    assert (source.junk, source.distractors, source.skipped) == (12, 30, ())
    assert len(source.train.identities) == len(names_in(drawn, "bounding_box_train"))
    assert len(source.query.identities) == len(names_in(drawn, "query"))
    assert len(source.gallery.identities) == len(names_in(drawn, "bounding_box_test")) - 12
    assert source.query.images.shape[1:] == Sprites.image_shape


def test_training_images_are_cropped_from_the_drawing_itself(drawn: Drawn, source: ReidSource) -> None:
    assert source.train_resized.shape[1:] == (72, 36, 3)
    for row in range(0, len(source.train.paths), 100):
        with Image.open(drawn.root / source.train.paths[row]) as image:
            assert np.array_equal(source.train_resized[row], np.asarray(image))


def test_normalisation_is_that_of_the_training_pixels(source: ReidSource) -> None:
    pixels = source.train_resized.reshape(-1, 3) / 255
    # Decoders of JPEG may differ in a last bit.
    np.testing.assert_allclose(Sprites.mean, pixels.mean(axis=0), atol=2e-4)
    np.testing.assert_allclose(Sprites.std, pixels.std(axis=0), atol=2e-4)


def test_the_data_dir_is_not_needed(drawn: Drawn, tmp_path: Path) -> None:
    root = Sprites().root_folder(tmp_path / "absent", drawn.root.parents[1], ReidOptions(name="sprites"))
    assert root == drawn.root
    assert Sprites().is_present(None, tmp_path)


def test_a_cache_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file where the folder should be")
    with pytest.raises(InputError, match=r"sprites is drawn into .*cannot be written(.|\n)*TUNE_LNL_CACHE"):
        Sprites().root_folder(None, tmp_path, ReidOptions(name="sprites"))
