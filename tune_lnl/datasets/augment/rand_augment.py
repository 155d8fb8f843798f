"""RandAugment in the form of UDA, on whole batches of tensors.

For each image an ordered pair of (operation, level) is drawn uniformly, 15 operations times levels 1 to 9, with
repetition; each of the two is applied with p 0.5, in order. It is the strong view of the released ACT scripts for the
web datasets (utils/builder.py, lines 56-95, ``RandAugment()`` of the ``randaugment`` 1.0.2 package), and differs from
torchvision's RandAugment. Source of the form: Xie et al., "Unsupervised Data Augmentation for Consistency
Training", NeurIPS 2020, published policies.py.

Operations, magnitudes, signs, interpolation and fill are those of :mod:`.auto_augment`, which follows the same
package; ShearX is ShearY along the other axis. Cutout is the package's: a square of one colour around a uniform centre,
clipped at the border.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tune_lnl.datasets.augment.auto_augment import (
    MAGNITUDES,
    OPERATIONS,
    SIGNED,
    Operation,
    apply_in_place,
    shear_x,
)
from tune_lnl.errors import InputError

PROBABILITY = 0.5
LEVELS = tuple(range(1, 10))
CUTOUT = "Cutout"
CUTOUT_SIDES = (0, 2, 4, 6, 8, 10, 12, 16, 18, 20)
"""Side in pixels by level: the package rounds 20 / 9 of the level, and goes half of that, rounded down, each way."""
CUTOUT_COLOUR = (125, 122, 113)
CUTOUT_GREY = 122
"""The luma of CUTOUT_COLOUR, for images of one channel, which the package does not take."""

TABLE: dict[str, Operation] = {**OPERATIONS, "ShearX": shear_x}
"""All operations except Cutout, which needs a position as well as a magnitude."""
KINDS = (*TABLE, CUTOUT)
NOT_APPLIED = len(KINDS)
"""The value in :attr:`PairDraw.kinds` of an operation that is not applied."""


def magnitude_of(kind: str, level: int) -> float:
    """Return the magnitude of an operation at a level 1 to 9, without sign; 0 if it has none; for Cutout the side."""
    if kind == CUTOUT:
        return float(CUTOUT_SIDES[level])
    table = MAGNITUDES.get("ShearY" if kind == "ShearX" else kind)
    return 0.0 if table is None else table[level]


_MAGNITUDES = torch.tensor([[magnitude_of(kind, level) for level in LEVELS] for kind in KINDS], dtype=torch.float64)
_IS_SIGNED = torch.tensor([kind in SIGNED or kind == "ShearX" for kind in KINDS])


@dataclass(frozen=True)
class PairDraw:
    """The draws for a batch of B images: the two operations of each, in order.

    ``kinds`` int64 (B, 2): index in :data:`KINDS`, or :data:`NOT_APPLIED`; ``magnitudes`` float64 (B, 2): with sign;
    ``centres`` float64 (B, 2, 2): (row, column) of a Cutout as a share of the sides. All on the CPU.
    """

    kinds: Tensor
    magnitudes: Tensor
    centres: Tensor


def draw_pairs(batch_size: int, generator: torch.Generator) -> PairDraw:
    """Draw operations, levels, coins, signs and centres for each of `batch_size` images."""
    device, shape = generator.device, (batch_size, 2)
    kinds = torch.randint(len(KINDS), shape, generator=generator, device=device).cpu()
    levels = torch.randint(len(LEVELS), shape, generator=generator, device=device).cpu()
    coins = torch.rand(shape, generator=generator, device=device, dtype=torch.float64).cpu()
    negative = torch.randint(2, shape, generator=generator, device=device).cpu().bool()
    centres = torch.rand((*shape, 2), generator=generator, device=device, dtype=torch.float64).cpu()
    magnitudes = _MAGNITUDES[kinds, levels]
    magnitudes = torch.where(negative & _IS_SIGNED[kinds], -magnitudes, magnitudes)
    return PairDraw(torch.where(coins < PROBABILITY, kinds, NOT_APPLIED), magnitudes, centres)


def apply_pairs(images: Tensor, draw: PairDraw) -> Tensor:
    """Apply the policy to uint8 images (B, C, H, W), C 1 or 3; return new images. InputError for other channels."""
    if images.shape[1] not in (1, 3):
        raise InputError(
            f"RandAugment is for images of 1 or 3 channels; got {images.shape[1]}.\n"
            "Choose a weak augmentation for these images."
        )
    result = images.clone(memory_format=torch.contiguous_format)
    for step in (0, 1):
        kinds, magnitudes = draw.kinds[:, step], draw.magnitudes[:, step]
        apply_in_place(result, kinds, magnitudes, tuple(TABLE.values()))
        cut = torch.nonzero(kinds == KINDS.index(CUTOUT)).flatten()
        if len(cut):
            chosen = cut.to(images.device, non_blocking=True)
            result[chosen] = cutout(result[chosen], magnitudes[cut], draw.centres[cut, step])
    return result


def cutout(images: Tensor, side: Tensor, centre: Tensor) -> Tensor:
    """Set a square in each image (b, C, H, W) to the package's colour.

    `side` float64 (b,): even, in pixels. `centre` float64 (b, 2) in [0, 1): the square reaches side / 2 pixels up and
    left of pixel (floor(row * H), floor(column * W)), and side / 2 - 1 pixels down and right.
    """
    height, width = images.shape[2:]
    half = (side / 2).to(torch.int64)[:, None]
    middle = torch.floor(centre * torch.tensor([height, width], dtype=torch.float64)).to(torch.int64)
    down, across = torch.arange(height), torch.arange(width)
    rows = (down >= middle[:, :1] - half) & (down < middle[:, :1] + half)
    columns = (across >= middle[:, 1:] - half) & (across < middle[:, 1:] + half)
    inside = (rows[:, :, None] & columns[:, None, :]).to(images.device, non_blocking=True)
    result = images.clone()
    for channel, level in enumerate(CUTOUT_COLOUR if images.shape[1] == 3 else (CUTOUT_GREY,)):
        result[:, channel].masked_fill_(inside, level)
    return result
