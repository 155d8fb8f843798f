"""A tiny re-ID set in Market-1501's layout: each person a colour, each camera a brightness."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

TRAIN_PERSONS, TEST_PERSONS, CAMERAS, SHOTS = 10, 4, 3, 3


@functools.cache
def data_dir() -> Path:
    """A data dir that holds it, made once per process and gone with it."""
    root = Path(tempfile.mkdtemp(prefix="tiny-persons-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    colours = np.random.RandomState(0).randint(40, 216, size=(TRAIN_PERSONS + TEST_PERSONS + 1, 2, 3))
    for person in range(1, TRAIN_PERSONS + TEST_PERSONS + 1):
        for camera in range(1, CAMERAS + 1):
            for shot in range(SHOTS):
                folder = "bounding_box_train" if person <= TRAIN_PERSONS else "bounding_box_test"
                if person > TRAIN_PERSONS and shot == 0:
                    folder = "query"
                name = f"{person:04d}_c{camera}s1_{shot:06d}_01.png"
                _write(root / "market1501" / folder / name, colours[person], camera, person * 100 + camera * 10 + shot)
    _write(root / "market1501" / "bounding_box_test" / "-1_c1s1_000001_01.png", colours[0], 1, 1)
    _write(root / "market1501" / "bounding_box_test" / "0000_c2s1_000002_01.png", colours[0], 2, 2)
    return root


def _write(path: Path, colours: np.ndarray, camera: int, seed: int) -> None:
    """Two coloured halves, darker from camera to camera, with noise of the image's own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.repeat(colours, 12, axis=0)[:, None, :].repeat(12, axis=1) * (1.1 - 0.2 * camera)
    noise = np.random.RandomState(seed).normal(0, 25, size=pixels.shape)
    Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8)).save(path)
