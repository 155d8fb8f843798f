"""Near-duplicates: a test image that is a training image saved, resized or recoloured again.

Two images are near-duplicates if their perceptual hashes (64 bits from the lowest cosine frequencies of the grey image,
by the package ImageHash) differ in at most HASH_BITS bits and their 8 x 8 thumbnails by at most THUMBNAIL_LEVELS grey
levels on average. The second test keeps apart images of one simple shape in other shades.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tune_lnl.datasets.pictures.rows import Examined

HASH_BITS = 4
THUMBNAIL_LEVELS = 6.0
IMAGES_PER_BLOCK = 256


@dataclass(frozen=True)
class NearDuplicates:
    """Near-duplicates across the two sets.

    Attributes:
        test: int64 (n,): positions in `Examined.rows` of test images that have a near-duplicate in the training set.
        training: int64 (n,): the position of the most similar training image of each.
    """

    test: NDArray[np.int64]
    training: NDArray[np.int64]


def near_duplicates(examined: Examined) -> NearDuplicates:
    """Find the test images that resemble a training image but are not the same file byte by byte."""
    hashes = _hashes(examined)
    thumbnails = np.asarray(examined.thumbnails).reshape(len(hashes), -1).astype(np.int16)
    contents = np.ascontiguousarray(examined.contents).view([("bytes", "V16")]).ravel()
    known = hashes[: examined.training]
    tested, similar = [], []
    for position in range(examined.training, len(hashes)):
        close = np.flatnonzero(np.bitwise_count(known ^ hashes[position]) <= HASH_BITS)
        close = close[contents[close] != contents[position]]
        if not len(close):
            continue
        levels = np.abs(thumbnails[close] - thumbnails[position]).mean(axis=1)
        best = int(np.argmin(levels))
        if levels[best] <= THUMBNAIL_LEVELS:
            tested.append(position)
            similar.append(int(close[best]))
    return NearDuplicates(np.array(tested, dtype=np.int64), np.array(similar, dtype=np.int64))


def _hashes(examined: Examined) -> NDArray[np.uint64]:
    """Return uint64 (n,): the perceptual hash of each image at the working size."""
    import imagehash
    from PIL import Image

    packed = []
    for start in range(0, len(examined.rows), IMAGES_PER_BLOCK):
        rows = np.arange(start, min(start + IMAGES_PER_BLOCK, len(examined.rows)))
        for pixels in examined.pixels.read(rows):
            packed.append(np.packbits(imagehash.phash(Image.fromarray(np.asarray(pixels))).hash.ravel()))
    return np.array(packed, dtype=np.uint8).reshape(-1, 8).view(np.uint64).ravel()
