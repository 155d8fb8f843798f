"""Small person datasets in every published layout, for tests."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tune_lnl.datasets.reid.layouts import OFFICIAL_FOLDERS
from tune_lnl.datasets.reid.sets import Cuhk03, DukeMTMC, Market1501, ReidFolders

HEIGHT = 16
"""Height of the network's input in these tests: small, so that packing is fast."""

TRAIN = [2, 7, 10, 11, 23, 40]
TEST = [1, 3, 4]
FRAMES = 3
CAMERAS = (1, 2, 3)


@dataclass(frozen=True)
class Shot:
    identity: int
    camera: int
    frame: int


Name = Callable[[Shot], str]


def market_name(shot: Shot) -> str:
    identity = "-1" if shot.identity == -1 else f"{shot.identity:04d}"
    return f"{identity}_c{shot.camera}s1_{shot.frame:06d}_01.jpg"


def duke_name(shot: Shot) -> str:
    return f"{shot.identity:04d}_c{shot.camera}_f{shot.frame:07d}.jpg"


def cuhk_name(shot: Shot) -> str:
    return f"{shot.identity:04d}_c{shot.camera}_{shot.frame}.png"


def cuhk_old_name(shot: Shot) -> str:
    """Camera 2 * (pair - 1) + view; the person's number within the pair is not the identity."""
    pair, view = (shot.camera + 1) // 2, 2 - shot.camera % 2
    return f"{pair}_{shot.identity + 100:03d}_{view}_{shot.frame:02d}.png"


@dataclass(frozen=True)
class Official:
    """A dataset, its names, and the folder of its archive that holds the official splits."""

    dataset: type[ReidFolders]
    name: Name
    inner: str


OFFICIAL = {
    "market1501": Official(Market1501, market_name, "Market-1501-v15.09.15"),
    "dukemtmc": Official(DukeMTMC, duke_name, "DukeMTMC-reID"),
    "cuhk03": Official(Cuhk03, cuhk_name, "cuhk03-np/detected"),
}


def train_shots(identities: Iterable[int] = TRAIN, frames: int = FRAMES) -> list[Shot]:
    """Return shots of each identity by 2 or 3 cameras in turn, `frames` by each."""
    return [
        Shot(identity, camera, frame)
        for position, identity in enumerate(identities)
        for camera in CAMERAS[: 2 + position % 2]
        for frame in range(frames)
    ]


def query_shots() -> list[Shot]:
    return [Shot(identity, camera, 90) for identity in TEST for camera in CAMERAS]


def gallery_shots() -> list[Shot]:
    return [Shot(identity, camera, frame) for identity in TEST for camera in CAMERAS for frame in range(2)]


def write_image(path: Path, seed: int, size: tuple[int, int] = (12, 24)) -> Path:
    """Random pixels; `size` is (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def write_official(root: Path, name: Name, train: list[Shot] | None = None) -> Path:
    """Write the three splits into `root` and return it."""
    splits = {"train": train_shots() if train is None else train, "query": query_shots(), "gallery": gallery_shots()}
    for split, shots in splits.items():
        for seed, shot in enumerate(shots):
            write_image(root / OFFICIAL_FOLDERS[split] / name(shot), seed)
    return root


def write_reorganised(root: Path, name: Name, training: str = "train", train: list[Shot] | None = None) -> Path:
    """Write the same images with a folder per identity."""
    splits = {training: train_shots() if train is None else train, "query": query_shots(), "gallery": gallery_shots()}
    for split, shots in splits.items():
        for seed, shot in enumerate(shots):
            write_image(root / split / f"{shot.identity:04d}" / name(shot), seed)
    return root


def some_ranking(images: int, people: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Random rankings of ``people`` identities, a row per image."""
    stream = np.random.default_rng(seed)
    return np.stack([stream.permutation(people) for _ in range(images)])
