"""sprites: a drawn person re-identification dataset in Market-1501's layout and file names; needs no download.

An identity is a set of clothes and a build. A camera has viewpoints, a light and a background. Many identities share
the colours of a small wardrobe, so that pattern, cut, build or bag must tell them apart. All of it is rectangles.

The pixels are the same on every machine: each identity, camera and image has its own seeded stream of uniform draws,
and the arithmetic is exact under IEEE 754 (no sines, powers, sums or matrix products).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from tune_lnl.config.datasets import ReidOptions
from tune_lnl.datasets.paths import CACHE_VARIABLE, download_dir
from tune_lnl.datasets.reid.layouts import MARKET_NAMES
from tune_lnl.datasets.reid.sets import ReidDataset
from tune_lnl.errors import InputError
from tune_lnl.files import is_disk_full

FOLDER = "sprites-v4"  # raise the number whenever a pixel or a name changes: drawings of two versions never mix
HEIGHT, WIDTH = 72, 36
NUM_IDENTITIES, TEST_EVERY = 150, 3  # identities 3, 6, ... are for testing, as Market-1501's two halves interleave
OCCLUDED = 0.3  # share of the images in which another person walks in front

T = TypeVar("T")
Plane = NDArray[np.float64]
Colour = tuple[float, float, float]

CLOTHES: tuple[Colour, ...] = ((0.9, 0.9, 0.9), (0.1, 0.1, 0.1), (0.16, 0.26, 0.62), (0.52, 0.52, 0.54))
SKIN, HAIR = (0.82, 0.62, 0.48), (0.3, 0.19, 0.11)
# Views by initial (front, back, left, right), light by colour channel, haze, noise, colour of the background.
CAMERAS: tuple[tuple[str, Colour, float, float, Colour], ...] = (
    ("FFL", (1.05, 1.05, 1.05), 0.00, 0.05, (0.30, 0.46, 0.24)),
    ("BBR", (1.00, 0.82, 0.56), 0.00, 0.08, (0.60, 0.36, 0.28)),
    ("LLF", (0.68, 0.89, 1.19), 0.15, 0.06, (0.52, 0.62, 0.70)),
    ("RRB", (0.54, 0.66, 0.52), 0.00, 0.10, (0.66, 0.70, 0.64)),
    ("FRB", (1.32, 1.25, 1.18), 0.25, 0.05, (0.72, 0.72, 0.72)),
    ("BLF", (0.86, 0.60, 0.79), 0.05, 0.09, (0.56, 0.50, 0.60)),
)


class Dice:
    """Uniform draws of one seeded stream, scaled here: numpy's own scaled draws may round differently elsewhere."""

    def __init__(self, *seed: int) -> None:
        stream = np.random.RandomState([20, *seed])
        self.below, self.plane = stream.randint, stream.random_sample

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * float(self.plane())

    def one_of(self, choices: Sequence[T]) -> T:
        return choices[self.below(len(choices))]


class Person:
    """The attributes of an identity (>= 1), the same in all its images. Sleeve and leg are shares of a limb."""

    def __init__(self, identity: int) -> None:
        dice = Dice(1, identity)
        self.upper, self.second, self.lower = dice.one_of(CLOTHES), dice.one_of(CLOTHES), dice.one_of(CLOTHES)
        self.pattern = dice.one_of(("plain", "stripes", "band", "logo", "print"))
        self.sleeve, self.leg = dice.one_of((0.2, 1.0)), dice.one_of((0.4, 1.0))
        self.bag, self.bag_colour = dice.one_of(("none", "shoulder", "backpack")), dice.one_of(CLOTHES)
        self.height, self.width = dice.between(0.90, 1.04), dice.between(0.86, 1.20)


def draw_person(pixels: Plane, who: Person, view: str, stride: float, scale: float, centre: float, foot: float) -> None:
    """Draw onto float pixels (72, 36, 3) in place: the spine at column `centre`, the soles at row `foot`.

    In the person's own frame x is 0 at the spine, and y runs from 0 (top of the head) to 64 (soles). `stride`: -1..1.
    """
    unit = scale * who.height
    x = ((np.arange(WIDTH) + 0.5 - centre) / (unit * who.width))[None, :]
    y = ((np.arange(HEIGHT) + 0.5 - foot) / unit + 64.0)[:, None]
    aside, ahead = view in "LR", {"L": -1, "R": 1}.get(view, 0)

    def paint(colour: Colour | Plane, across: float, top: float, bottom: float, half: float, lean: float = 0.0) -> None:
        off_x = np.abs(x - across - lean * (y - top)) - half
        off_y = np.abs(y - (top + bottom) / 2) - (bottom - top) / 2
        cover = np.clip(0.5 - np.maximum(off_x, off_y) * unit, 0.0, 1.0)[..., None]  # soft edges, one pixel wide
        np.add(pixels, cover * (np.asarray(colour) - pixels), out=pixels)

    for side in (-1, 1):
        hip, lean = side * (1.2 if aside else 3.0), side * stride * (0.3 if aside else 0.06)
        paint(SKIN, hip, 34, 64, 2.6, lean)
        paint(who.lower, hip, 33, 34 + 28 * who.leg, 2.8, lean)
    second = {
        "stripes": np.floor((y - 11.5) / 3.2) % 2 == 1,
        "band": np.abs(y - 20) < 3.6,
        "logo": (np.maximum(np.abs(x), np.abs(y - 18.5)) < 3.6) & (view == "F"),
        "print": (np.maximum(np.abs(x), np.abs(y - 19.5)) < 4.6) & (view == "B"),
    }.get(who.pattern, y < 0)
    paint(np.where(second[..., None], who.second, who.upper), 0, 10, 35.5, 4.6 if aside else 6.8)
    for side in (0,) if aside else (-1, 1):
        lean = 0.25 * stride if aside else 0.1 * side
        paint(SKIN, 6.6 * side, 13, 34, 1.9, lean)
        paint(0.9 * np.asarray(who.upper), 6.6 * side, 12, 13 + 21 * who.sleeve, 2.0, lean)
    paint(HAIR, 0, 0, 8, 4.0)
    if view != "B":
        paint(SKIN, 1.4 * ahead, 3, 10, 2.6 if aside else 3.2)
    if who.bag == "backpack" and view != "F":
        paint(who.bag_colour, -5.2 * ahead, 12, 28, 3.4 if aside else 5.0)
    elif who.bag == "shoulder" and view != "R":  # at the left hip, which the body hides from the right
        paint(who.bag_colour, {"F": 8.0, "B": -8.0, "L": 0.0}[view], 28, 37, 3.5)


def picture(identity: int, number: int, index: int, careless: bool = False) -> NDArray[np.uint8]:
    """Draw image `index` of a person (>= 1) by camera `number` (from 1): uint8 (72, 36, 3), before JPEG.

    `careless`: the box was detected badly and cuts the person off.
    """
    dice = Dice(3, identity, number, index)
    views, light, haze, noise, wall = CAMERAS[number - 1]
    reach, scales = (9.0, (0.7, 1.4)) if careless else (1.8, (0.86, 1.08))
    view, stride, scale = dice.one_of(views), dice.between(-1, 1), dice.between(*scales)
    centre = WIDTH / 2 + dice.between(-reach, reach)
    foot = HEIGHT - 3.0 + 1.4 * dice.between(-reach, reach) - 28.8 * (1.0 - scale)
    patches = Dice(2, number).plane((HEIGHT // 4, WIDTH // 4, 1)).repeat(4, axis=0).repeat(4, axis=1)
    pixels = np.asarray(wall) * (0.6 + 0.6 * patches)
    draw_person(pixels, Person(identity), view, stride, scale, centre, foot)
    if dice.between(0, 1) < OCCLUDED:
        stranger = Person(2000 + dice.below(1000))
        draw_person(pixels, stranger, view, -stride, scale, centre + dice.one_of((-11, 11)), foot)
    pixels *= np.asarray(light) * dice.between(0.7, 1.3)
    pixels += haze * (0.7 - pixels)
    pixels += 2.0 * noise * (dice.plane((HEIGHT, WIDTH, 3)) + dice.plane((HEIGHT, WIDTH, 3)) - 1.0)
    return np.asarray(np.floor(np.clip(pixels, 0.0, 1.0) * 255.0 + 0.5), dtype=np.uint8)


def pictures() -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Yield every image: its path in Market-1501's layout, and its pixels, uint8 (72, 36, 3), before JPEG.

    Names as Market-1501's: identity, camera, sequence, frame, box (`0002_c1s1_000451_03.jpg`). The gallery also holds
    distractors (identity 0000: unknown persons) and junk boxes (identity -1, which evaluation leaves out).
    """
    for identity in range(1, NUM_IDENTITIES + 1):
        dice, tested = Dice(4, identity), identity % TEST_EVERY == 0
        cameras = np.argsort(dice.plane((len(CAMERAS),)), kind="stable")[: 3 + dice.below(len(CAMERAS) - 2)]
        queries = len(cameras) if tested else 0  # one per camera
        for index in range(queries + (8 if tested else 10) + dice.below(5)):
            number = 1 + int(cameras[index % len(cameras)])
            folder = "query" if index < queries else "bounding_box_test" if tested else "bounding_box_train"
            name = f"{identity:04d}_c{number}s1_{25 * index + 1:06d}_{0 if folder == 'query' else 1:02d}.jpg"
            yield f"{folder}/{name}", picture(identity, number, index)
    for label, first, copies in (("0000", 1000, 30), ("-1", 1100, 12)):
        for index in range(copies):
            number = 1 + index % len(CAMERAS)
            path = f"bounding_box_test/{label}_c{number}s1_{25 * index + 151:06d}_00.jpg"
            yield path, picture(first + index, number, index, careless=True)


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
        for path, pixels in pictures():
            (drawing / path).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(drawing / path, quality=95, subsampling=0)
        drawing.rename(root)


class Sprites(ReidDataset):
    """Drawn persons: 100 training identities, 50 for testing, six cameras."""

    name = "sprites"
    folder = None
    description = "drawn persons with identity noise among 100 training identities; built in"
    schemes = (MARKET_NAMES,)
    image_shape = (64, 32, 3)
    # Of the training images' pixels, scaled to [0, 1].
    mean = (0.4681, 0.4529, 0.4465)
    std = (0.2392, 0.2236, 0.2634)
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
            if is_disk_full(error):
                raise
            raise InputError(
                f"{self.name} is drawn into {root}, which cannot be written: {error}\n"
                f"free space or permit writing there, or set {CACHE_VARIABLE} to another folder"
            ) from error
        return root
