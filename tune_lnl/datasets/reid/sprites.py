"""sprites: a drawn person re-identification dataset in Market-1501's layout and names, for runs without a download.

Identity is what a person wears and how they are built; a camera is a viewpoint, a light, a colour cast and a place.
Many people share the colours of a small wardrobe, so that only pattern, cut, hair, build or bag tells them apart.

Every pixel is the same on every machine: a random stream of its own for each person, camera and image, uniform and
integer draws only, and arithmetic whose result IEEE 754 fixes to the last bit (no sines, powers, sums or products of
matrices).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from tune_lnl.config.datasets import ReidOptions
from tune_lnl.datasets.paths import CACHE_VARIABLE, download_dir
from tune_lnl.datasets.reid.layouts import MARKET_NAMES, OFFICIAL_FOLDERS
from tune_lnl.datasets.reid.sets import ReidDataset
from tune_lnl.errors import InputError

FOLDER = "sprites-v1"
"""Counted up whenever a pixel or a name changes, so that drawings of two versions never mix."""

HEIGHT, WIDTH = 72, 36
NUM_IDENTITIES = 150
TEST_EVERY = 3  # identities 3, 6, ... are the test's, as Market-1501's two halves interleave
TRAIN_IMAGES = (10, 14)  # fewest and most of an identity
GALLERY_IMAGES = (8, 12)  # beside its queries, one for each camera
FEWEST_CAMERAS = 3
NUM_DISTRACTORS = 30
NUM_JUNK = 12
JPEG_QUALITY = 95
MARGIN = 36  # pixels of backdrop that a shot may move over

T = TypeVar("T")
Pixels = NDArray[np.uint8]
Plane = NDArray[np.float64]
Colour = tuple[float, float, float]
View = Literal["front", "back", "left", "right"]

UPPER_COLOURS: tuple[Colour, ...] = (
    (0.92, 0.92, 0.90),
    (0.10, 0.10, 0.12),
    (0.75, 0.14, 0.14),
    (0.16, 0.26, 0.62),
    (0.90, 0.76, 0.20),
    (0.20, 0.50, 0.26),
    (0.52, 0.52, 0.54),
    (0.90, 0.56, 0.66),
)
LOWER_COLOURS: tuple[Colour, ...] = (
    (0.12, 0.12, 0.14),
    (0.22, 0.30, 0.50),
    (0.55, 0.47, 0.36),
    (0.82, 0.82, 0.80),
    (0.36, 0.36, 0.38),
)
SKIN_COLOURS: tuple[Colour, ...] = ((0.95, 0.79, 0.69), (0.82, 0.62, 0.48), (0.58, 0.40, 0.28), (0.38, 0.26, 0.19))
HAIR_COLOURS: tuple[Colour, ...] = ((0.09, 0.07, 0.06), (0.30, 0.19, 0.11), (0.76, 0.60, 0.34), (0.60, 0.60, 0.60))
SHOE_COLOURS: tuple[Colour, ...] = ((0.08, 0.08, 0.08), (0.90, 0.90, 0.90), (0.48, 0.30, 0.18), (0.72, 0.18, 0.16))
BAG_COLOURS: tuple[Colour, ...] = ((0.10, 0.10, 0.10), (0.45, 0.27, 0.14), (0.68, 0.16, 0.18), (0.20, 0.36, 0.44))

PATTERNS = ("plain", "plain", "stripes", "bands", "halves", "logo", "open", "back_print")
HAIR_STYLES = ("short", "short", "long", "bun", "bald", "cap")
LOWER_STYLES = ("trousers", "trousers", "shorts", "skirt")
BAGS = ("none", "none", "shoulder", "backpack", "hand")

# ---- who, where and how --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Person:
    """What stays with an identity in every image. Lengths are shares of a limb, sizes are factors around 1."""

    skin: Colour
    hair: Colour
    hair_style: str
    upper: Colour
    second: Colour
    pattern: str
    sleeve: float
    lower: Colour
    lower_style: str
    shoes: Colour
    bag: str
    bag_colour: Colour
    bag_side: int
    """+1: at the person's left hand, which a front view shows on the right; where the halves' second colour is, too."""
    height: float
    width: float


@dataclass(frozen=True)
class Camera:
    """What stays with a camera in every image."""

    views: tuple[View, ...]
    light: float
    cast: Colour
    haze: float
    slope: float
    """Light gained from the left edge to the right edge."""
    scale: float
    blur: float
    noise: float
    backdrop: str
    wall: Colour
    floor: Colour


CAMERAS: tuple[Camera, ...] = (
    Camera(
        views=("front", "front", "left"),
        light=1.05,
        cast=(1.0, 1.0, 1.0),
        haze=0.0,
        slope=0.1,
        scale=1.0,
        blur=0.1,
        noise=0.03,
        backdrop="hedge",
        wall=(0.30, 0.46, 0.24),
        floor=(0.62, 0.60, 0.55),
    ),
    Camera(
        views=("back", "back", "right"),
        light=0.85,
        cast=(1.18, 0.96, 0.66),
        haze=0.0,
        slope=-0.3,
        scale=0.94,
        blur=0.3,
        noise=0.05,
        backdrop="bricks",
        wall=(0.60, 0.36, 0.28),
        floor=(0.50, 0.46, 0.42),
    ),
    Camera(
        views=("left", "left", "front"),
        light=0.95,
        cast=(0.72, 0.94, 1.25),
        haze=0.15,
        slope=0.2,
        scale=0.90,
        blur=0.2,
        noise=0.04,
        backdrop="glass",
        wall=(0.52, 0.62, 0.70),
        floor=(0.66, 0.68, 0.70),
    ),
    Camera(
        views=("right", "right", "back"),
        light=0.60,
        cast=(0.90, 1.10, 0.86),
        haze=0.0,
        slope=0.4,
        scale=1.06,
        blur=0.5,
        noise=0.07,
        backdrop="tiles",
        wall=(0.66, 0.70, 0.64),
        floor=(0.40, 0.42, 0.40),
    ),
    Camera(
        views=("front", "right", "back"),
        light=1.25,
        cast=(1.06, 1.0, 0.94),
        haze=0.25,
        slope=0.0,
        scale=0.86,
        blur=0.3,
        noise=0.03,
        backdrop="road",
        wall=(0.72, 0.72, 0.72),
        floor=(0.42, 0.42, 0.44),
    ),
    Camera(
        views=("back", "left", "front"),
        light=0.75,
        cast=(1.15, 0.80, 1.05),
        haze=0.05,
        slope=-0.2,
        scale=1.0,
        blur=0.6,
        noise=0.06,
        backdrop="corridor",
        wall=(0.56, 0.50, 0.60),
        floor=(0.36, 0.30, 0.34),
    ),
)


@dataclass(frozen=True)
class Shot:
    """What changes from image to image. Offsets in pixels, strides in -1..1."""

    view: View
    stride: float
    arms: float
    shift: tuple[float, float]
    scale: float
    light: float
    blur: float
    offset: int
    pole: float | None
    """Column of a pole in front of the person."""
    stranger: float | None
    """Column of somebody else walking in front of the person."""


class Dice:
    """Uniform draws of one seeded stream, scaled here: numpy's scaled draws may round differently elsewhere."""

    def __init__(self, *seed: int) -> None:
        self._stream = np.random.RandomState([20, *seed])

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * float(self._stream.random_sample())

    def happens(self, probability: float) -> bool:
        return float(self._stream.random_sample()) < probability

    def below(self, count: int) -> int:
        return int(self._stream.randint(count))

    def one_of(self, choices: tuple[T, ...]) -> T:
        return choices[self.below(len(choices))]

    def shuffled(self, count: int) -> list[int]:
        keys = self._stream.random_sample(count)
        return [int(index) for index in np.argsort(keys, kind="stable")]

    def plane(self, *shape: int) -> Plane:
        return np.asarray(self._stream.random_sample(shape), dtype=np.float64)


def person(identity: int) -> Person:
    """The person behind an identity number (>= 1); any number gives one."""
    dice = Dice(1, identity)
    upper = dice.below(len(UPPER_COLOURS))
    other = (upper + 1 + dice.below(len(UPPER_COLOURS) - 1)) % len(UPPER_COLOURS)
    return Person(
        skin=dice.one_of(SKIN_COLOURS),
        hair=dice.one_of(HAIR_COLOURS),
        hair_style=dice.one_of(HAIR_STYLES),
        upper=UPPER_COLOURS[upper],
        second=UPPER_COLOURS[other],
        pattern=dice.one_of(PATTERNS),
        sleeve=dice.one_of((0.0, 0.35, 0.35, 1.0, 1.0)),
        lower=dice.one_of(LOWER_COLOURS),
        lower_style=dice.one_of(LOWER_STYLES),
        shoes=dice.one_of(SHOE_COLOURS),
        bag=dice.one_of(BAGS),
        bag_colour=dice.one_of(BAG_COLOURS),
        bag_side=dice.one_of((-1, 1)),
        height=dice.between(0.90, 1.04),
        width=dice.between(0.86, 1.20),
    )


def shot(camera: Camera, dice: Dice, careless: bool = False) -> Shot:
    """One picture's pose, box and accidents. `careless`: a detection box that half misses."""
    reach = 9.0 if careless else 1.8
    return Shot(
        view=dice.one_of(camera.views),
        stride=dice.between(-1.0, 1.0),
        arms=dice.between(-1.0, 1.0),
        shift=(dice.between(-reach, reach), dice.between(-1.4 * reach, 1.4 * reach)),
        scale=camera.scale * dice.between(0.94, 1.06) * (dice.between(0.7, 1.5) if careless else 1.0),
        light=camera.light * dice.between(0.88, 1.12),
        blur=camera.blur * dice.between(0.3, 1.2),
        offset=dice.below(MARGIN),
        pole=dice.between(8.0, 28.0) if dice.happens(0.12) else None,
        stranger=dice.one_of((-11.0, 11.0)) if dice.happens(0.12) else None,
    )


# ---- shapes --------------------------------------------------------------------------------------------------------


class Figure:
    """A canvas in a person's own frame: x is 0 at the spine, y runs from 0 (top of the head) to 64 (soles)."""

    def __init__(self, pixels: Plane, centre: float, top: float, unit: float, width: float) -> None:
        rows, columns = np.arange(HEIGHT) + 0.5, np.arange(WIDTH) + 0.5
        self._pixels = pixels
        self._pixels_per_unit = unit
        self.x = np.broadcast_to((columns - centre) / (unit * width), (HEIGHT, WIDTH))
        self.y = np.broadcast_to(((rows - top) / unit)[:, None], (HEIGHT, WIDTH))

    def paint(self, distance: Plane, colour: Colour | Plane) -> None:
        """Cover the points at negative distance; an edge is one pixel wide and soft."""
        inside = np.clip(0.5 - distance * self._pixels_per_unit, 0.0, 1.0)
        cover = (inside * inside * (3.0 - 2.0 * inside))[..., None]
        self._pixels += cover * (np.asarray(colour) - self._pixels)

    def ellipse(self, x: float, y: float, across: float, along: float) -> Plane:
        dx, dy = (self.x - x) / across, (self.y - y) / along
        return np.asarray((np.sqrt(dx * dx + dy * dy) - 1.0) * min(across, along))

    def box(self, x: float, y: float, half_width: float | Plane, half_height: float, corner: float = 0.5) -> Plane:
        dx = np.abs(self.x - x) - half_width + corner
        dy = np.abs(self.y - y) - half_height + corner
        outside_x, outside_y = np.maximum(dx, 0.0), np.maximum(dy, 0.0)
        outside = np.sqrt(outside_x * outside_x + outside_y * outside_y)
        return np.asarray(outside + np.minimum(np.maximum(dx, dy), 0.0) - corner)

    def limb(self, start: tuple[float, float], end: tuple[float, float], radius: float) -> tuple[Plane, Plane]:
        """Distance to a capsule, and how far along it each point is (0..1)."""
        ax, ay = end[0] - start[0], end[1] - start[1]
        px, py = self.x - start[0], self.y - start[1]
        along = np.clip((px * ax + py * ay) / (ax * ax + ay * ay), 0.0, 1.0)
        dx, dy = px - along * ax, py - along * ay
        return np.sqrt(dx * dx + dy * dy) - radius, along

    def where(self, inside: NDArray[np.bool_], colour: Colour, otherwise: Colour | Plane) -> Plane:
        return np.where(inside[..., None], np.asarray(colour), np.asarray(otherwise))


def darker(colour: Colour, factor: float) -> Colour:
    return (colour[0] * factor, colour[1] * factor, colour[2] * factor)


# ---- a person ------------------------------------------------------------------------------------------------------

SHOULDER, WAIST, HIP, SOLE = 11.5, 31.0, 34.0, 62.0


def draw_person(pixels: Plane, who: Person, how: Shot, centre: float, foot: float) -> None:
    """Draw onto float pixels (72, 36, 3) in place: the spine at column `centre`, the soles above row `foot`."""
    unit = how.scale * who.height
    figure = Figure(pixels, centre, foot - 64.0 * unit, unit, who.width)
    aside = how.view in ("left", "right")
    _draw_legs(figure, who, how, aside)
    second_side = _seen_side(who, how)
    near = who.second if who.pattern == "halves" and second_side else who.upper
    if aside:
        far = who.second if who.pattern == "halves" and not second_side else who.upper
        _draw_arm(figure, far, who, _facing(how) * (-1.0 - 5.0 * how.arms), 0.0, 0.75)
    if who.bag == "backpack":
        _draw_backpack(figure, who, how, aside, behind=True)
    _draw_torso(figure, who, how, aside)
    if aside:
        _draw_arm(figure, near, who, _facing(how) * (1.0 + 5.0 * how.arms), 0.0, 1.0)
    else:
        for side in (-1.0, 1.0):
            sleeve = near if side == second_side else who.upper
            _draw_arm(figure, sleeve, who, side * 8.4 + 0.8 * how.arms, side * 6.2, 0.94)
    _draw_head(figure, who, how, aside)
    if who.bag == "backpack":
        _draw_backpack(figure, who, how, aside, behind=False)
    elif who.bag != "none":
        _draw_side_bag(figure, who, how, aside)


def _facing(how: Shot) -> float:
    return -1.0 if how.view == "left" else 1.0


def _seen_side(who: Person, how: Shot) -> float:
    """On which side of the image the person's bag side is: -1 or 1; 0 where the body hides it."""
    if how.view == "front":
        return float(who.bag_side)
    if how.view == "back":
        return float(-who.bag_side)
    near = 1 if how.view == "left" else -1
    return 1.0 if who.bag_side == near else 0.0


def _draw_legs(figure: Figure, who: Person, how: Shot, aside: bool) -> None:
    stride = how.stride * (8.0 if aside else 1.6)
    lifted = 2.5 * abs(how.stride)
    length = {"trousers": 1.0, "shorts": 0.42, "skirt": 0.0}[who.lower_style]
    hip = 1.2 if aside else 3.0
    for side, shade in ((-1.0, 0.8), (1.0, 1.0)):
        foot = (side * (hip + stride), SOLE - 1.6 - (lifted if side * how.stride < 0 else 0.0))
        distance, along = figure.limb((side * hip, HIP), foot, 2.7)
        cloth = darker(who.lower, shade)
        figure.paint(distance, figure.where(along < length, cloth, darker(who.skin, shade)))
        toe = _facing(how) * 1.6 if aside else 0.5 * side
        figure.paint(figure.ellipse(foot[0] + toe, foot[1] + 1.2, 3.4 if aside else 2.7, 1.9), darker(who.shoes, shade))
    if who.lower_style == "skirt":
        flare = (4.6 if aside else 5.6) + (figure.y - HIP) * 0.16
        figure.paint(figure.box(0.0, HIP + 6.0, flare, 8.5), who.lower)
    else:
        figure.paint(figure.box(0.0, HIP, 3.9 if aside else 5.6, 3.4, 1.5), who.lower)


def _draw_torso(figure: Figure, who: Person, how: Shot, aside: bool) -> None:
    middle, half = (SHOULDER + HIP) / 2 - 0.7, (HIP - SHOULDER) / 2 + 1.2
    half_width = (4.6 if aside else 7.3) - (figure.y - SHOULDER) * (0.02 if aside else 0.07)
    figure.paint(figure.limb((0.0, 7.0), (0.0, 12.0), 1.9)[0], darker(who.skin, 0.85))
    figure.paint(figure.box(0.0, middle, half_width, half, 2.8), _cloth(figure, who, how, aside))


def _cloth(figure: Figure, who: Person, how: Shot, aside: bool) -> Plane | Colour:
    x, y = figure.x, figure.y
    if who.pattern == "stripes":
        return figure.where(np.floor((y - SHOULDER) / 3.2) % 2 == 1, who.second, who.upper)
    if who.pattern == "bands":
        return figure.where(np.abs(y - 20.0) < 3.6, who.second, who.upper)
    if who.pattern == "halves":
        side = _seen_side(who, how)
        if aside:
            return who.second if side else who.upper
        return figure.where(x * side > 0.0, who.second, who.upper)
    if who.pattern == "logo" and how.view == "front":
        return figure.where(figure.ellipse(0.0, 18.5, 3.6, 4.2) < 0.0, who.second, who.upper)
    if who.pattern == "back_print" and how.view == "back":
        return figure.where(figure.box(0.0, 19.5, 4.6, 5.0) < 0.0, who.second, who.upper)
    if who.pattern == "open" and how.view != "back":
        return figure.where(np.abs(x - (_facing(how) * 3.6 if aside else 0.0)) < 2.4, who.second, who.upper)
    return who.upper


def _draw_arm(figure: Figure, sleeve: Colour, who: Person, hand: float, shoulder: float, shade: float) -> None:
    distance, along = figure.limb((shoulder, SHOULDER + 2.2), (hand, 33.5), 1.9)
    figure.paint(distance, figure.where(along < who.sleeve, darker(sleeve, 0.92 * shade), darker(who.skin, shade)))


def _draw_head(figure: Figure, who: Person, how: Shot, aside: bool) -> None:
    back = _facing(how) * -1.2 if aside else 0.0
    if who.hair_style == "long":
        figure.paint(figure.box(back, 7.6, 4.1, 7.2, 3.0), who.hair)
    figure.paint(figure.ellipse(0.0, 5.4, 3.5, 4.6), who.skin)
    if who.hair_style == "bald":
        return
    head = figure.ellipse(0.0, 5.0, 3.8, 5.0)
    hidden = {"front": figure.y - 3.2, "back": figure.y - 8.2}.get(how.view)
    if hidden is None:
        hidden = np.minimum(figure.y - 3.0, np.maximum(_facing(how) * figure.x + 0.4, figure.y - 8.0))
    figure.paint(np.maximum(head, hidden), who.hair)
    if how.view == "back" and who.hair_style == "long":
        figure.paint(figure.box(0.0, 9.0, 4.1, 6.0, 2.0), who.hair)
    if who.hair_style == "bun":
        figure.paint(figure.ellipse(2.6 * back, 0.6, 2.2, 2.1), who.hair)
    if who.hair_style == "cap":
        figure.paint(np.maximum(figure.ellipse(0.0, 4.6, 4.3, 5.2), figure.y - 3.4), who.bag_colour)
        if how.view != "back":
            figure.paint(figure.box(_facing(how) * 3.4 if aside else 0.0, 3.4, 3.4, 0.9), darker(who.bag_colour, 0.7))


def _draw_backpack(figure: Figure, who: Person, how: Shot, aside: bool, behind: bool) -> None:
    if aside and behind:
        figure.paint(figure.box(_facing(how) * -5.2, 20.0, 3.4, 7.8, 2.0), who.bag_colour)
    elif how.view == "back" and not behind:
        figure.paint(figure.box(0.0, 20.5, 5.0, 8.2, 2.0), who.bag_colour)
        figure.paint(figure.box(0.0, 23.5, 3.2, 2.6, 1.0), darker(who.bag_colour, 0.65))
    elif how.view == "front" and not behind:
        for side in (-1.0, 1.0):
            figure.paint(figure.box(side * 4.6, 17.0, 0.9, 5.6), who.bag_colour)


def _draw_side_bag(figure: Figure, who: Person, how: Shot, aside: bool) -> None:
    side = _seen_side(who, how)
    if side == 0.0:
        return
    x = 0.0 if aside else side * 7.8
    if who.bag == "shoulder":
        figure.paint(figure.limb((-0.4 * x, SHOULDER), (x, 29.0), 0.8)[0], darker(who.bag_colour, 0.8))
        figure.paint(figure.box(x, 32.0, 3.6, 4.0, 1.0), who.bag_colour)
    else:
        figure.paint(figure.box(x + 0.6 * side, 40.5, 3.4, 5.2, 0.8), who.bag_colour)
        figure.paint(figure.limb((x, 33.5), (x + 0.6 * side, 36.0), 0.7)[0], darker(who.bag_colour, 0.7))


# ---- a picture -----------------------------------------------------------------------------------------------------


@cache
def backdrop(number: int) -> Plane:
    """The place that camera `number` (from 1) looks at: (72, 72, 3), read-only, wider than a picture."""
    camera, dice = CAMERAS[number - 1], Dice(2, number)
    y, x = np.meshgrid(np.arange(HEIGHT), np.arange(WIDTH + MARGIN), indexing="ij")
    rough = dice.plane(*y.shape)
    patches = dice.plane(HEIGHT // 4, (WIDTH + MARGIN) // 4).repeat(4, axis=0).repeat(4, axis=1)
    shade = 0.92 + 0.16 * rough
    horizon = 46
    if camera.backdrop == "hedge":
        shade = 0.55 + 0.5 * patches + 0.3 * rough
    elif camera.backdrop == "bricks":
        joint = (y % 6 == 0) | ((x + 6 * ((y // 6) % 2)) % 12 == 0)
        shade = np.where(joint, 1.35, 0.85 + 0.3 * patches)
    elif camera.backdrop == "glass":
        shade = np.where(x % 18 < 2, 0.45, 0.9 + 0.3 * patches) * shade
        horizon = 60
    elif camera.backdrop == "tiles":
        shade = np.where((x % 9 == 0) | (y % 9 == 0), 0.7, 1.0) * shade
        horizon = 54
    elif camera.backdrop == "road":
        shade = np.where(np.abs(y - 22) < 2, 0.6, 1.0) * shade
        horizon = 26
    elif camera.backdrop == "corridor":
        shade = np.where(np.abs(x - WIDTH) < 14, 0.6, 1.0) * np.where(y % 24 < 2, 1.3, 1.0) * shade
        horizon = 56
    floor = np.asarray(camera.floor) * (0.9 + 0.1 * rough + 0.1 * patches)[..., None]
    place = np.where((y < horizon)[..., None], np.asarray(camera.wall) * shade[..., None], floor)
    place = np.clip(place, 0.0, 1.0)
    place.flags.writeable = False
    return place


def picture(identity: int | None, number: int, index: int, careless: bool = False) -> Pixels:
    """What camera `number` (from 1) sees of a person, or of nobody: uint8 (72, 36, 3), before JPEG."""
    dice = Dice(3, identity or 0, number, index)
    camera = CAMERAS[number - 1]
    how = shot(camera, dice, careless)
    pixels = backdrop(number)[:, how.offset : how.offset + WIDTH].copy()
    centre, foot = WIDTH / 2 + how.shift[0], HEIGHT - 3.0 + how.shift[1] - 32.0 * (1.0 - how.scale) * 0.9
    if identity is not None:
        draw_person(pixels, person(identity), how, centre, foot)
    if how.stranger is not None:
        draw_person(pixels, person(2000 + dice.below(1000)), how, centre + how.stranger, foot + 2.0)
    if how.pole is not None:
        column = np.arange(WIDTH) + 0.5
        cover = np.clip(2.6 - np.abs(column - how.pole), 0.0, 1.0)[None, :, None]
        pixels += cover * (0.6 * np.asarray(camera.floor) - pixels)
    return _exposed(pixels, camera, how, dice)


def _exposed(pixels: Plane, camera: Camera, how: Shot, dice: Dice) -> Pixels:
    """Light, cast, haze, blur and sensor noise."""
    columns = (np.arange(WIDTH) + 0.5) / WIDTH - 0.5
    light = how.light * (1.0 + camera.slope * columns)
    seen = pixels * light[None, :, None] * np.asarray(camera.cast)
    seen = seen + camera.haze * (0.7 - seen)
    seen = seen + how.blur * (_smoothed(seen) - seen)
    grain = dice.plane(HEIGHT, WIDTH, 3) + dice.plane(HEIGHT, WIDTH, 3) - 1.0
    seen = seen + 2.0 * camera.noise * grain
    return np.asarray(np.floor(np.clip(seen, 0.0, 1.0) * 255.0 + 0.5), dtype=np.uint8)


def _smoothed(pixels: Plane) -> Plane:
    wide = np.pad(pixels, ((1, 1), (1, 1), (0, 0)), mode="edge")
    rows = (wide[:-2] + wide[1:-1] + wide[2:]) / 3.0
    return np.asarray((rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]) / 3.0)


# ---- the dataset ---------------------------------------------------------------------------------------------------


def pictures() -> Iterator[tuple[str, Pixels]]:
    """Every image of the dataset: its path in Market-1501's layout, and its pixels, uint8 (72, 36, 3), before JPEG.

    Names as Market-1501's: identity, camera, sequence, frame, box (`0002_c1s1_000451_03.jpg`). The gallery also holds
    boxes on nobody known (identity 0000, to be ranked as distractors) and junk boxes (identity -1, to be left out).
    """
    for identity in range(1, NUM_IDENTITIES + 1):
        yield from _pictures_of(identity)
    for count, (name, copies) in enumerate((("0000", NUM_DISTRACTORS), ("-1", NUM_JUNK))):
        for index in range(copies):
            number = 1 + index % len(CAMERAS)
            nobody = name == "0000" and index % 7 == 0
            pixels = picture(None if nobody else 1000 + 100 * count + index, number, index, careless=True)
            yield f"bounding_box_test/{_file_name(name, number, 1, 151 + 25 * index, 0)}", pixels


def _pictures_of(identity: int) -> Iterator[tuple[str, Pixels]]:
    dice = Dice(4, identity)
    cameras = dice.shuffled(len(CAMERAS))[: FEWEST_CAMERAS + dice.below(len(CAMERAS) - FEWEST_CAMERAS + 1)]
    tested = identity % TEST_EVERY == 0
    fewest, most = GALLERY_IMAGES if tested else TRAIN_IMAGES
    images = fewest + dice.below(most - fewest + 1)
    sequence, frame = 1 + dice.below(6), 25 * dice.below(3000)
    queries = len(cameras) if tested else 0
    for index in range(queries + images):
        number = 1 + cameras[index % len(cameras)]
        folder = "query" if index < queries else "bounding_box_test" if tested else "bounding_box_train"
        box = 0 if index < queries else 1 + dice.below(5)  # Market-1501's queries are drawn by hand: box 00
        name = _file_name(f"{identity:04d}", number, sequence, frame + 25 * index + 1, box)
        yield f"{folder}/{name}", picture(identity, number, index)


def _file_name(identity: str, camera: int, sequence: int, frame: int, box: int) -> str:
    return f"{identity}_c{camera}s{sequence}_{frame:06d}_{box:02d}.jpg"


def draw_sprites(root: Path) -> None:
    """Draw the dataset into `root` (folders bounding_box_train, query, bounding_box_test), unless it is there already.

    `root` appears whole or not at all: the drawing happens in a sibling folder that is renamed at the end. Processes
    that ask for the same root at the same time wait for the one that draws.

    Raises:
        OSError: the folder cannot be written.
    """
    from PIL import Image

    if root.is_dir():  # before the lock, which a cache that may only be read does not allow
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
    """Drawn people: 100 training identities, 50 for testing, six cameras."""

    name = "sprites"
    folder = None
    description = "drawn people with identity noise among 100 training identities; built in"
    schemes = (MARKET_NAMES,)
    image_shape = (64, 32, 3)
    # Of the training images' pixels, scaled to [0, 1].
    mean = (0.4742, 0.4452, 0.4295)
    std = (0.2105, 0.1956, 0.2461)
    default_model = "reid_small"

    def root_folder(self, data_dir: Path | None, cache_dir: Path, options: ReidOptions) -> Path:
        """The drawing in the cache; made on first use, in a few seconds. `data_dir` is not used: it is built in.

        Raises:
            InputError: the cache cannot be written.
        """
        root = download_dir(FOLDER, cache_dir)
        try:
            draw_sprites(root)
        except OSError as error:
            raise InputError(
                f"{self.name} is drawn into {root}, which cannot be written: {error}\n"
                f"make room or permit it, or set {CACHE_VARIABLE} to another folder"
            ) from error
        return root
