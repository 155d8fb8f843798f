"""UDA's RandAugment against Pillow, and the probabilities of its draws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from tune_lnl.datasets.augment import rand_augment as uda
from tune_lnl.datasets.augment.auto_augment import MAGNITUDES
from tune_lnl.errors import InputError

GREY = 128
DRAWS = 100_000


def some_images(height: int = 32, width: int = 32) -> Tensor:
    return torch.randint(0, 256, (6, 3, height, width), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def to_pillow(image: Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())


def from_pillow(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def test_there_are_fifteen_operations_and_nine_levels() -> None:
    assert len(uda.KINDS) == len(set(uda.KINDS)) == 15
    assert {"ShearX", "Cutout"} < set(uda.KINDS)
    assert uda.LEVELS == (1, 2, 3, 4, 5, 6, 7, 8, 9)


@pytest.mark.parametrize("level", uda.LEVELS)
def test_magnitudes(level: int) -> None:
    assert uda.magnitude_of("ShearX", level) == uda.magnitude_of("ShearY", level) == pytest.approx(0.3 * level / 9)
    assert uda.magnitude_of("Rotate", level) == pytest.approx(30 * level / 9)
    # randaugment 1.0.2: np.round(np.linspace(0, 20, 10)), half of it, rounded down, to each side.
    assert uda.magnitude_of("Cutout", level) == 2 * (round(20 * level / 9) // 2)
    assert uda.magnitude_of("Invert", level) == 0
    assert uda.magnitude_of("Solarize", level) == MAGNITUDES["Solarize"][level]


@pytest.mark.parametrize("magnitude", [0.3, -0.3, 0.1])
@pytest.mark.parametrize("size", [(32, 32), (20, 33)])
def test_shear_x_is_pillows(magnitude: float, size: tuple[int, int]) -> None:
    images = some_images(*size)
    result = uda.TABLE["ShearX"](images, torch.full((len(images),), magnitude, dtype=torch.float64))
    for image, sheared in zip(images, result, strict=True):
        picture = to_pillow(image)
        expected = picture.transform(
            picture.size,
            Image.Transform.AFFINE,
            (1, magnitude, 0, 0, 1, 0),
            Image.Resampling.BICUBIC,
            fillcolor=(GREY,) * 3,
        )
        difference = (sheared.to(torch.int16) - from_pillow(expected).to(torch.int16)).abs()
        assert difference.max() <= 1
        assert (difference > 0).double().mean() < 0.001


@pytest.mark.parametrize("side", [2, 8, 18])
def test_cutout_is_a_square_of_the_packages_colour(side: int) -> None:
    images = some_images(24, 40)
    centres = torch.tensor(
        [[0.5, 0.5], [0.0, 0.0], [0.99, 0.99], [0.3, 0.8], [0.0, 0.99], [0.7, 0.1]], dtype=torch.float64
    )
    result = uda.cutout(images, torch.full((6,), float(side), dtype=torch.float64), centres)
    for image, cut, (row, column) in zip(images, result, centres.tolist(), strict=True):
        picture = to_pillow(image)
        top, left = math.floor(row * 24) - side // 2, math.floor(column * 40) - side // 2
        ImageDraw.Draw(picture).rectangle((left, top, left + side - 1, top + side - 1), fill=(125, 122, 113))
        assert torch.equal(cut, from_pillow(picture))


def test_both_operations_are_drawn_uniformly_and_applied_with_one_half() -> None:
    draw = uda.draw_pairs(DRAWS, torch.Generator().manual_seed(0))
    for place in (0, 1):
        counts = torch.bincount(draw.kinds[:, place], minlength=uda.NOT_APPLIED + 1) / DRAWS
        assert abs(float(counts[uda.NOT_APPLIED]) - 0.5) < 5 * math.sqrt(0.25 / DRAWS)
        share = 0.5 / 15
        assert float((counts[:15] - share).abs().max()) < 5 * math.sqrt(share * (1 - share) / DRAWS)
    applied = draw.kinds < uda.NOT_APPLIED
    assert abs(float(applied.all(dim=1).double().mean()) - 0.25) < 5 * math.sqrt(0.1875 / DRAWS)
    pairs = {tuple(pair) for pair in draw.kinds[applied.all(dim=1)].tolist()}
    assert len(pairs) == 225, "every ordered pair, an operation with itself among them"


def test_levels_and_signs_of_the_drawn_magnitudes() -> None:
    draw = uda.draw_pairs(DRAWS, torch.Generator().manual_seed(1))
    for kind in uda.KINDS:
        values = draw.magnitudes[draw.kinds == uda.KINDS.index(kind)]
        assert set(values.abs().tolist()) == {uda.magnitude_of(kind, level) for level in uda.LEVELS}
        signed = kind.startswith(("Shear", "Translate")) or kind in ("Color", "Contrast", "Sharpness", "Brightness")
        negative = float((values < 0).double().mean())
        assert abs(negative - (0.5 if signed else 0.0)) < 5 * 0.5 / math.sqrt(len(values))


def test_the_policy_applies_what_was_drawn_in_order() -> None:
    images = some_images().repeat(40, 1, 1, 1)
    before = images.clone()
    draw = uda.draw_pairs(len(images), torch.Generator().manual_seed(3))
    result = uda.apply_pairs(images, uda.draw_pairs(len(images), torch.Generator().manual_seed(3)))
    assert torch.equal(images, before)
    in_pairs = 0
    for place, image in enumerate(images):
        expected, kinds = image[None], draw.kinds[place].tolist()
        for step, kind in enumerate(kinds):
            magnitude = draw.magnitudes[place : place + 1, step]
            if kind == uda.KINDS.index("Cutout"):
                expected = uda.cutout(expected, magnitude, draw.centres[place : place + 1, step])
            elif kind != uda.NOT_APPLIED:
                expected = uda.TABLE[uda.KINDS[kind]](expected, magnitude)
        assert torch.equal(result[place], expected[0]), kinds
        in_pairs += uda.NOT_APPLIED not in kinds
    assert in_pairs > 30


def test_other_channel_counts_are_refused() -> None:
    with pytest.raises(InputError, match="1 or 3 channels; got 4"):
        uda.apply_pairs(torch.zeros(2, 4, 32, 32, dtype=torch.uint8), uda.draw_pairs(2, torch.Generator()))
