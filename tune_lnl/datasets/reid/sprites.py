"""sprites: a drawn person re-identification dataset in Market-1501's layout and file names; needs no download.

An identity is a set of clothes and a build. A camera has a viewpoint, a light, a colour cast and a background. Many
identities share the colours of a small wardrobe, so that pattern, cut, build or bag must tell them apart. Everything
is drawn from rectangles.

The pixels are the same on every machine: each identity, camera and image has its own seeded stream of uniform draws,
and the arithmetic is exact under IEEE 754 (no sines, powers, sums or matrix products).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from tune_lnl.config.datasets import ReidOptions
from tune_lnl.datasets.paths import CACHE_VARIABLE, download_dir
from tune_lnl.datasets.reid.layouts import MARKET_NAMES, OFFICIAL_FOLDERS
from tune_lnl.datasets.reid.sets import ReidDataset
from tune_lnl.errors import InputError

FOLDER = "sprites-v3"
"""Raise the number whenever a pixel or a name changes, so that drawings of two versions never mix."""
HEIGHT, WIDTH = 72, 36
NUM_IDENTITIES = 150
TEST_EVERY = 3  # identities 3, 6, ... are for testing, as Market-1501's two halves interleave
TRAIN_IMAGES, GALLERY_IMAGES = (10, 14), (8, 12)  # fewest and most per identity; queries come on top
FEWEST_CAMERAS = 3
NUM_DISTRACTORS, NUM_JUNK = 30, 12
JPEG_QUALITY = 95
MARGIN = 36  # columns by which the background may shift

T = TypeVar("T")
Plane = NDArray[np.float64]
Colour = tuple[float, float, float]

UPPERS: tuple[Colour, ...] = ((0.9, 0.9, 0.9), (0.1, 0.1, 0.1), (0.75, 0.14, 0.14), (0.16, 0.26, 0.62))
UPPERS += ((0.9, 0.76, 0.2), (0.2, 0.5, 0.26), (0.52, 0.52, 0.54), (0.9, 0.56, 0.66))
LOWERS: tuple[Colour, ...] = ((0.1, 0.1, 0.14), (0.22, 0.3, 0.5), (0.55, 0.47, 0.36), (0.8, 0.8, 0.8))
LOWERS += ((0.36, 0.36, 0.4),)
SKINS: tuple[Colour, ...] = ((0.95, 0.79, 0.69), (0.82, 0.62, 0.48), (0.58, 0.4, 0.28), (0.38, 0.26, 0.19))
HAIRS: tuple[Colour, ...] = ((0.09, 0.07, 0.06), (0.3, 0.19, 0.11), (0.76, 0.6, 0.34), (0.6, 0.6, 0.6))
SHOES: tuple[Colour, ...] = ((0.1, 0.1, 0.1), (0.9, 0.9, 0.9), (0.48, 0.3, 0.18), (0.72, 0.18, 0.16))
BAGS: tuple[Colour, ...] = ((0.1, 0.1, 0.1), (0.45, 0.27, 0.14), (0.68, 0.16, 0.18), (0.2, 0.36, 0.44))
PATTERNS = ("plain", "plain", "stripes", "band", "halves", "logo", "open", "print")


class Camera(NamedTuple):
    """The attributes of a camera, the same in all its images. Views by initial: front, back, left, right.

    `light` is per colour channel; `slope`: light gained from left to right; `tile`: the wall pattern, in pixels.
    """

    views: str
    light: Colour
    haze: float
    slope: float
    scale: float
    blur: float
    noise: float
    tile: int
    wall: Colour
    floor: Colour


CAMERAS = (
    Camera("FFL", (1.05, 1.05, 1.05), 0.00, 0.1, 1.00, 0.1, 0.03, 4, (0.30, 0.46, 0.24), (0.62, 0.60, 0.55)),
    Camera("BBR", (1.00, 0.82, 0.56), 0.00, -0.3, 0.94, 0.3, 0.05, 6, (0.60, 0.36, 0.28), (0.50, 0.46, 0.42)),
    Camera("LLF", (0.68, 0.89, 1.19), 0.15, 0.2, 0.90, 0.2, 0.04, 18, (0.52, 0.62, 0.70), (0.66, 0.68, 0.70)),
    Camera("RRB", (0.54, 0.66, 0.52), 0.00, 0.4, 1.06, 0.5, 0.07, 9, (0.66, 0.70, 0.64), (0.40, 0.42, 0.40)),
    Camera("FRB", (1.32, 1.25, 1.18), 0.25, 0.0, 0.86, 0.3, 0.03, 36, (0.72, 0.72, 0.72), (0.42, 0.42, 0.44)),
    Camera("BLF", (0.86, 0.60, 0.79), 0.05, -0.2, 1.00, 0.6, 0.06, 12, (0.56, 0.50, 0.60), (0.36, 0.30, 0.34)),
)


class Dice:
    """Uniform draws of one seeded stream, scaled here: numpy's own scaled draws may round differently elsewhere."""

    def __init__(self, *seed: int) -> None:
        self._stream = np.random.RandomState([20, *seed])

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * float(self._stream.random_sample())

    def below(self, count: int) -> int:
        return int(self._stream.randint(count))

    def one_of(self, choices: Sequence[T]) -> T:
        return choices[self.below(len(choices))]

    def plane(self, *shape: int) -> Plane:
        return np.asarray(self._stream.random_sample(shape), dtype=np.float64)


class Person:
    """The attributes of an identity (>= 1), the same in all its images. Sleeve and leg are shares of a limb."""

    def __init__(self, identity: int) -> None:
        dice = Dice(1, identity)
        upper = dice.below(len(UPPERS))
        self.upper, self.second = UPPERS[upper], UPPERS[(upper + 1 + dice.below(len(UPPERS) - 1)) % len(UPPERS)]
        self.pattern = dice.one_of(PATTERNS)
        self.sleeve = dice.one_of((0.0, 0.35, 0.35, 1.0, 1.0))
        self.lower, self.leg = dice.one_of(LOWERS), dice.one_of((1.0, 1.0, 0.42))
        self.skin, self.hair, self.shoes = dice.one_of(SKINS), dice.one_of(HAIRS), dice.one_of(SHOES)
        self.hair_length = dice.one_of((7, 7, 14))
        self.bag, self.bag_colour = dice.one_of(("none", "none", "shoulder", "backpack", "hand")), dice.one_of(BAGS)
        # +1 or -1: the hand that carries the bag and, with pattern "halves", the side of the second colour.
        self.left = dice.one_of((-1, 1))
        self.height, self.width = dice.between(0.90, 1.04), dice.between(0.86, 1.20)


def draw_person(pixels: Plane, who: Person, view: str, stride: float, scale: float, centre: float, foot: float) -> None:
    """Draw onto float pixels (72, 36, 3) in place: the spine at column `centre`, the soles at row `foot`.

    In the person's own frame x is 0 at the spine, and y runs from 0 (top of the head) to 64 (soles). `stride`: -1..1.
    """
    unit = scale * who.height
    x = ((np.arange(WIDTH) + 0.5 - centre) / (unit * who.width))[None, :]
    y = ((np.arange(HEIGHT) + 0.5 - foot) / unit + 64.0)[:, None]
    aside = view in "LR"
    turn = -1 if view == "L" else 1
    # The image side of the person's left hand; 0 where the body hides it.
    left = {"F": who.left, "B": -who.left}.get(view, 1 if who.left == -turn else 0)

    def paint(colour: Colour | Plane, across: float, top: float, bottom: float, half: float, lean: float = 0.0) -> None:
        off_x = np.abs(x - across - lean * (y - top)) - half
        off_y = np.abs(y - (top + bottom) / 2) - (bottom - top) / 2
        cover = np.clip(0.5 - np.maximum(off_x, off_y) * unit, 0.0, 1.0)[..., None]  # soft edges, one pixel wide
        np.add(pixels, cover * (np.asarray(colour) - pixels), out=pixels)

    for side in (-1, 1):
        hip, lean = side * (1.2 if aside else 3.0), side * stride * (0.3 if aside else 0.06)
        paint(who.skin, hip, 34, 61, 2.6, lean)
        paint(who.lower, hip, 33, 34 + 27 * who.leg, 2.8, lean)
        paint(who.shoes, hip + 27 * lean + (1.6 * turn if aside else 0), 60.5, 64, 3.2)
    if who.bag == "backpack" and aside:
        paint(who.bag_colour, -5.2 * turn, 12, 28, 3.4)
    marked = {
        "stripes": np.floor((y - 11.5) / 3.2) % 2 == 1,
        "band": np.abs(y - 20) < 3.6,
        "halves": np.asarray(left != 0) if aside else x * left > 0,
        "logo": (np.maximum(np.abs(x), np.abs(y - 18.5)) < 3.6) & (view == "F"),
        "print": (np.maximum(np.abs(x), np.abs(y - 19.5)) < 4.6) & (view == "B"),
        "open": (np.abs(x - (3.6 * turn if aside else 0)) < 2.4) & (view != "B"),
    }.get(who.pattern, np.asarray(False))
    cloth = np.where(marked[..., None] if marked.ndim else marked, who.second, who.upper)
    paint(cloth, 0, 10, 35.5, 4.6 if aside else 6.8)
    for side in (0,) if aside else (-1, 1):
        lean = 0.25 * stride if aside else 0.1 * side
        sleeve = who.second if who.pattern == "halves" and left and side in (0, left) else who.upper
        paint(who.skin, 6.6 * side, 13, 34, 1.9, lean)
        paint(0.9 * np.asarray(sleeve), 6.6 * side, 12, 13 + 21 * who.sleeve, 2.0, lean)
    paint(who.hair, 0, 0, who.hair_length, 4.0)
    if view != "B":
        paint(who.skin, 1.4 * turn if aside else 0, 3, 10, 2.6 if aside else 3.2)
    if who.bag == "backpack" and not aside:
        for across, half in ((0.0, 5.0),) if view == "B" else ((-4.6, 0.9), (4.6, 0.9)):
            paint(who.bag_colour, across, 12, 28, half)
    elif who.bag in ("shoulder", "hand") and left:
        top = 28 if who.bag == "shoulder" else 36
        paint(who.bag_colour, 0 if aside else 8.0 * left, top, top + 9, 3.5)


@cache
def backdrop(number: int) -> Plane:
    """Return the background of camera `number` (from 1): (72, 72, 3), read-only, wider than an image."""
    camera, dice = CAMERAS[number - 1], Dice(2, number)
    y, x = np.meshgrid(np.arange(HEIGHT), np.arange(WIDTH + MARGIN), indexing="ij")
    patches = dice.plane(HEIGHT // 4, (WIDTH + MARGIN) // 4).repeat(4, axis=0).repeat(4, axis=1)
    shade = 0.75 + 0.25 * patches + 0.2 * dice.plane(*y.shape)
    joints = (x % camera.tile < 2) | (y % camera.tile == 0)
    wall = np.asarray(camera.wall) * np.where(joints, 0.65, 1.0)[..., None]
    scene = np.clip(np.where((y < 50)[..., None], wall, np.asarray(camera.floor)) * shade[..., None], 0.0, 1.0)
    scene.flags.writeable = False
    return scene


def picture(identity: int | None, number: int, index: int, careless: bool = False) -> NDArray[np.uint8]:
    """Draw image `index` of a person, or of nobody, by camera `number` (from 1): uint8 (72, 36, 3), before JPEG.

    `careless`: the box was detected badly and cuts the person off.
    """
    dice, camera = Dice(3, identity or 0, number, index), CAMERAS[number - 1]
    reach = 9.0 if careless else 1.8
    view, stride, offset = dice.one_of(camera.views), dice.between(-1, 1), dice.below(MARGIN)
    scale = camera.scale * dice.between(0.94, 1.06) * (dice.between(0.7, 1.5) if careless else 1.0)
    centre = WIDTH / 2 + dice.between(-reach, reach)
    foot = HEIGHT - 3.0 + 1.4 * dice.between(-reach, reach) - 28.8 * (1.0 - scale)
    seen = backdrop(number)[:, offset : offset + WIDTH].copy()
    if identity is not None:
        draw_person(seen, Person(identity), view, stride, scale, centre, foot)
    accident = dice.between(0.0, 1.0)
    if accident < 0.12:  # somebody else walks in front
        draw_person(seen, Person(2000 + dice.below(1000)), view, -stride, scale, centre + dice.one_of((-11, 11)), foot)
    elif accident < 0.24:  # a pole stands in front
        start = dice.below(WIDTH - 5)
        seen[:, start : start + 5] = 0.6 * np.asarray(camera.floor)
    light = dice.between(0.88, 1.12) * (1.0 + camera.slope * ((np.arange(WIDTH) + 0.5) / WIDTH - 0.5))
    seen = seen * light[None, :, None] * np.asarray(camera.light)
    seen += camera.haze * (0.7 - seen)
    wide = np.pad(seen, ((1, 1), (1, 1), (0, 0)), mode="edge")
    rows = (wide[:-2] + wide[1:-1] + wide[2:]) / 3.0
    seen += camera.blur * dice.between(0.3, 1.2) * ((rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]) / 3.0 - seen)
    seen += 2.0 * camera.noise * (dice.plane(HEIGHT, WIDTH, 3) + dice.plane(HEIGHT, WIDTH, 3) - 1.0)
    return np.asarray(np.floor(np.clip(seen, 0.0, 1.0) * 255.0 + 0.5), dtype=np.uint8)


def pictures() -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Yield every image: its path in Market-1501's layout, and its pixels, uint8 (72, 36, 3), before JPEG.

    Names as Market-1501's: identity, camera, sequence, frame, box (`0002_c1s1_000451_03.jpg`). The gallery also holds
    distractors (identity 0000: unknown persons, or nobody) and junk boxes (identity -1, which evaluation leaves out).
    """
    for identity in range(1, NUM_IDENTITIES + 1):
        dice, tested = Dice(4, identity), identity % TEST_EVERY == 0
        order = [int(index) for index in np.argsort(dice.plane(len(CAMERAS)), kind="stable")]
        cameras = order[: FEWEST_CAMERAS + dice.below(len(CAMERAS) - FEWEST_CAMERAS + 1)]
        fewest, most = GALLERY_IMAGES if tested else TRAIN_IMAGES
        queries = len(cameras) if tested else 0  # one per camera
        for index in range(queries + fewest + dice.below(most - fewest + 1)):
            number = 1 + cameras[index % len(cameras)]
            folder = "query" if index < queries else "bounding_box_test" if tested else "bounding_box_train"
            name = f"{identity:04d}_c{number}s1_{25 * index + 1:06d}_{0 if folder == 'query' else 1:02d}.jpg"
            yield f"{folder}/{name}", picture(identity, number, index)
    for count, (name, copies) in enumerate((("0000", NUM_DISTRACTORS), ("-1", NUM_JUNK))):
        for index in range(copies):
            number = 1 + index % len(CAMERAS)
            who = None if name == "0000" and index % 7 == 0 else 1000 + 100 * count + index
            path = f"bounding_box_test/{name}_c{number}s1_{25 * index + 151:06d}_00.jpg"
            yield path, picture(who, number, index, careless=True)


def draw_sprites(root: Path) -> None:
    """Draw the dataset into `root` (folders bounding_box_train, query, bounding_box_test), unless it exists already.

    `root` appears complete or not at all: the images go to a sibling folder that is renamed at the end. Processes that
    ask for the same root at the same time wait for the first one.

    Raises:
        OSError: the folder cannot be written.
    """
    from PIL import Image

    if root.is_dir():  # before the lock, because a read-only cache allows no lock
        return
    root.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(root.parent / f"{root.name}.lock"):
        if root.is_dir():
            return
        drawing = root.parent / f"{root.name}.drawing"
        shutil.rmtree(drawing, ignore_errors=True)
        for folder in OFFICIAL_FOLDERS.values():
            (drawing / folder).mkdir(parents=True)
        for path, pixels in pictures():
            Image.fromarray(pixels).save(drawing / path, quality=JPEG_QUALITY, subsampling=0)
        drawing.rename(root)


class Sprites(ReidDataset):
    """Drawn persons: 100 training identities, 50 for testing, six cameras."""

    name = "sprites"
    folder = None
    description = "drawn persons with identity noise among 100 training identities; built in"
    schemes = (MARKET_NAMES,)
    image_shape = (64, 32, 3)
    # Of the training images' pixels, scaled to [0, 1].
    mean = (0.4582, 0.4308, 0.4229)
    std = (0.2212, 0.2094, 0.2550)
    default_model = "reid_small"

    def root_folder(self, data_dir: Path | None, cache_dir: Path, options: ReidOptions) -> Path:
        """Return the drawing's folder in the cache; draw it on first use, in seconds. `data_dir` is not used.

        Raises:
            InputError: the cache cannot be written.
        """
        root = download_dir(FOLDER, cache_dir)
        try:
            draw_sprites(root)
        except OSError as error:
            raise InputError(
                f"{self.name} is drawn into {root}, which cannot be written: {error}\n"
                f"free space or permit writing there, or set {CACHE_VARIABLE} to another folder"
            ) from error
        return root
