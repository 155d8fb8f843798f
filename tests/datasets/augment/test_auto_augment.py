"""The batched policy against its sources: torchvision's tables, Pillow's pixels, and the probabilities of the draws."""

from __future__ import annotations

import ast
import importlib.util
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor
from torchvision.transforms import AutoAugment, AutoAugmentPolicy
from torchvision.transforms.v2 import functional as tv

from tune_lnl.datasets.augment import auto_augment, geometry
from tune_lnl.datasets.augment.auto_augment import CIFAR10_POLICY, MAGNITUDES, NOT_APPLIED, OPERATIONS, SIGNED
from tune_lnl.errors import InputError

GREY = 128
KINDS = list(OPERATIONS)
OFF_BY_ONE = {"ShearY"}


def test_the_policy_is_that_of_the_cited_package() -> None:
    """Its source is read, not imported: it uses names that numpy has removed since."""
    spec = importlib.util.find_spec("randaugment")
    assert spec is not None
    assert spec.origin is not None
    module = ast.parse((Path(spec.origin).parent / "randaugment.py").read_text())
    (policy,) = (node for node in module.body if isinstance(node, ast.ClassDef) and node.name == "CIFAR10Policy")
    calls = [node for node in ast.walk(policy) if isinstance(node, ast.Call) and ast.unparse(node.func) == "SubPolicy"]
    table = [[ast.literal_eval(argument) for argument in call.args[:6]] for call in calls]
    ours = [(kind.lower(), p, level) for pair in CIFAR10_POLICY for kind, p, level in pair]
    theirs = [(kind.lower(), p, level) for row in table for p, kind, level in (row[:3], row[3:])]
    assert len(ours) == len(theirs) == 50
    for own, other in zip(ours, theirs, strict=True):
        assert own[:2] == other[:2]
        assert own[2] in (None, other[2])


def test_policy_has_torchvisions_operations_probabilities_and_levels_but_for_one() -> None:
    published = AutoAugment(AutoAugmentPolicy.CIFAR10)._get_policies(AutoAugmentPolicy.CIFAR10)
    different = [place for place, pair in enumerate(CIFAR10_POLICY, start=1) if pair != published[place - 1]]
    assert (len(published), different) == (25, [17])


def test_magnitudes_are_torchvisions_but_for_the_known_differences() -> None:
    space = AutoAugment(AutoAugmentPolicy.CIFAR10)._augmentation_space(10, (32, 48))
    scale = {"TranslateX": 48, "TranslateY": 32, "Solarize": 255 / 256}
    assert set(MAGNITUDES) == {kind for pair in CIFAR10_POLICY for kind, _, level in pair if level is not None}
    for kind, magnitudes in MAGNITUDES.items():
        ours = [value * scale.get(kind, 1) for value in magnitudes]
        assert ours == pytest.approx(space[kind][0].tolist(), rel=1e-6), kind
        assert (kind in SIGNED) == (space[kind][1] and kind != "Rotate"), kind


def test_operations_are_those_of_the_policy() -> None:
    assert set(OPERATIONS) == {kind for pair in CIFAR10_POLICY for kind, _, _ in pair}


def pillow_affine(*coefficients: float) -> Callable[[Image.Image, Image.Resampling], Image.Image]:
    def transform(image: Image.Image, resample: Image.Resampling) -> Image.Image:
        fill = GREY if image.mode == "L" else (GREY,) * 3
        return image.transform(image.size, Image.Transform.AFFINE, coefficients, resample, fillcolor=fill)

    return transform


def pillow_rotate(image: Image.Image, degrees: float) -> Image.Image:
    turned = image.convert("RGBA").rotate(degrees)
    return Image.composite(turned, Image.new("RGBA", image.size, (GREY,) * 4), turned).convert(image.mode)


NEAREST, BICUBIC = Image.Resampling.NEAREST, Image.Resampling.BICUBIC
PILLOW: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "ShearY": lambda image, m: pillow_affine(1, 0, 0, m, 1, 0)(image, BICUBIC),
    "TranslateX": lambda image, m: pillow_affine(1, 0, m * image.width, 0, 1, 0)(image, NEAREST),
    "TranslateY": lambda image, m: pillow_affine(1, 0, 0, 0, 1, m * image.height)(image, NEAREST),
    "Rotate": pillow_rotate,
    "Color": lambda image, m: ImageEnhance.Color(image).enhance(1 + m),
    "Contrast": lambda image, m: ImageEnhance.Contrast(image).enhance(1 + m),
    "Sharpness": lambda image, m: ImageEnhance.Sharpness(image).enhance(1 + m),
    "Brightness": lambda image, m: ImageEnhance.Brightness(image).enhance(1 + m),
    "Posterize": lambda image, m: ImageOps.posterize(image, int(m)),
    "Solarize": lambda image, m: ImageOps.solarize(image, m),  # type: ignore[arg-type]  # as the published code does
    "AutoContrast": lambda image, m: ImageOps.autocontrast(image),
    "Equalize": lambda image, m: ImageOps.equalize(image),
    "Invert": lambda image, m: ImageOps.invert(image),
}


def to_pillow(image: Tensor) -> Image.Image:
    pixels = image.permute(1, 2, 0).numpy()
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def from_pillow(image: Image.Image) -> Tensor:
    pixels = np.array(image)
    return torch.from_numpy(pixels[:, :, None] if pixels.ndim == 2 else pixels).permute(2, 0, 1)


def many_kinds_of_images(channels: int, height: int = 32, width: int = 32) -> Tensor:
    """Noise, dark noise, few grey levels, a smooth ramp, one grey level, one pixel that differs."""
    generator = torch.Generator().manual_seed(channels)
    noise = torch.randint(0, 256, (3, channels, height, width), generator=generator, dtype=torch.uint8)
    dark = 40 + noise[:2] // 5
    few = noise[:2] // 100 * 90
    ramp = (torch.arange(height).view(-1, 1) * 3 + torch.arange(width) * 4).expand(1, channels, -1, -1)
    flat = torch.full((1, channels, height, width), 77)
    speck = flat.clone()
    speck[:, :, 5, 7] = 78
    return torch.cat((noise, dark, few, ramp.to(torch.uint8), flat.to(torch.uint8), speck.to(torch.uint8)))


def magnitudes_of(kind: str) -> list[float]:
    values = list(MAGNITUDES.get(kind, (0.0,)))
    return values + [-value for value in values if value > 0] if kind in SIGNED else values


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_pixels_are_pillows(kind: str, channels: int) -> None:
    for height, width in ((32, 32), (20, 33), (8, 8)):
        images = many_kinds_of_images(channels, height, width)
        for magnitude in magnitudes_of(kind):
            expected = torch.stack([from_pillow(PILLOW[kind](to_pillow(image), magnitude)) for image in images])
            result = OPERATIONS[kind](images, torch.full((len(images),), magnitude, dtype=torch.float64))
            assert result.dtype == torch.uint8
            if kind in OFF_BY_ONE:
                difference = (result.to(torch.int16) - expected.to(torch.int16)).abs()
                assert difference.max() <= 1
                assert (difference > 0).double().mean() < 0.001
            else:
                assert torch.equal(result, expected), (kind, magnitude, height, width)


@pytest.mark.parametrize("kind", KINDS)
def test_each_image_gets_its_own_magnitude(kind: str) -> None:
    values = torch.tensor(magnitudes_of(kind), dtype=torch.float64)
    images = many_kinds_of_images(3)[:1].expand(len(values), -1, -1, -1)
    together = OPERATIONS[kind](images, values)
    for place in range(len(values)):
        alone = OPERATIONS[kind](images[place : place + 1], values[place : place + 1])
        assert torch.equal(together[place], alone[0])


def test_table_operations_are_torchvisions() -> None:
    images = many_kinds_of_images(3)
    five, middle, nothing = (torch.full((len(images),), value, dtype=torch.float64) for value in (5.0, 100.0, 0.0))
    assert torch.equal(OPERATIONS["Posterize"](images, five), tv.posterize(images, 5))
    assert torch.equal(OPERATIONS["Solarize"](images, middle), tv.solarize(images, 100.0))
    assert torch.equal(OPERATIONS["Invert"](images, nothing), tv.invert(images))
    assert torch.equal(OPERATIONS["Equalize"](images, nothing), tv.equalize(images))
    close = OPERATIONS["AutoContrast"](images, nothing).to(torch.int16) - tv.autocontrast(images).to(torch.int16)
    assert close.abs().max() <= 1


def test_frequencies_of_the_draws() -> None:
    draws = 100_000
    draw = auto_augment.draw_cifar10_policy(draws, torch.Generator().manual_seed(0))
    for place in (0, 1):
        expected = dict.fromkeys(KINDS, 0.0)
        for pair in CIFAR10_POLICY:
            kind, probability, _ = pair[place]
            expected[kind] += probability / len(CIFAR10_POLICY)
        counts = torch.bincount(draw.kinds[:, place], minlength=NOT_APPLIED + 1)
        for kind, share in expected.items():
            seen = int(counts[KINDS.index(kind)]) / draws
            assert abs(seen - share) <= 5 * math.sqrt(share * (1 - share) / draws), (place, kind)
        assert int(counts[NOT_APPLIED]) / draws == pytest.approx(1 - sum(expected.values()), abs=0.01)


def test_operations_come_in_the_pairs_of_the_policy_with_independent_coins() -> None:
    draws = 100_000
    draw = auto_augment.draw_cifar10_policy(draws, torch.Generator().manual_seed(1))
    both = (draw.kinds[:, 0] == KINDS.index("Rotate")) & (draw.kinds[:, 1] == KINDS.index("TranslateX"))
    share = 0.7 * 0.3 / 25
    assert abs(both.double().mean().item() - share) <= 5 * math.sqrt(share / draws)
    seen = {(KINDS[a], KINDS[b]) for a, b in draw.kinds.tolist() if NOT_APPLIED not in (a, b)}
    possible = {(a, b) for (a, p, _), (b, q, _) in CIFAR10_POLICY if p * q > 0}
    assert seen == possible


def test_signs_and_sizes_of_the_drawn_magnitudes() -> None:
    draw = auto_augment.draw_cifar10_policy(100_000, torch.Generator().manual_seed(2))
    for place, kind in ((0, "Rotate"), (1, "TranslateX"), (0, "Brightness"), (1, "Solarize")):
        values = draw.magnitudes[draw.kinds[:, place] == KINDS.index(kind), place]
        levels = {pair[place][2] for pair in CIFAR10_POLICY if pair[place][0] == kind and pair[place][1] > 0}
        assert set(values.abs().tolist()) == {MAGNITUDES[kind][level] for level in levels if level is not None}
        negative = (values < 0).double().mean().item()
        if kind in SIGNED:
            assert abs(negative - 0.5) <= 5 * 0.5 / math.sqrt(len(values))
        else:
            assert negative == 0


def test_policy_applies_both_operations_in_order_as_pillow_does() -> None:
    images = many_kinds_of_images(3).repeat(30, 1, 1, 1)
    draw = auto_augment.draw_cifar10_policy(len(images), torch.Generator().manual_seed(3))
    result = auto_augment.apply_cifar10_policy(images, draw)
    in_pairs = 0
    for place, image in enumerate(images):
        kinds = [KINDS[kind] for kind in draw.kinds[place].tolist() if kind != NOT_APPLIED]
        if OFF_BY_ONE & set(kinds):
            continue
        expected = to_pillow(image)
        for kind, magnitude in zip(draw.kinds[place].tolist(), draw.magnitudes[place].tolist(), strict=True):
            if kind != NOT_APPLIED:
                expected = PILLOW[KINDS[kind]](expected, magnitude)
        assert torch.equal(result[place], from_pillow(expected)), kinds
        in_pairs += len(kinds) == 2
    assert in_pairs > 50


def test_policy_leaves_its_input_alone() -> None:
    images = many_kinds_of_images(3).repeat(10, 1, 1, 1)
    before = images.clone()
    draw = auto_augment.draw_cifar10_policy(len(images), torch.Generator().manual_seed(0))
    result = auto_augment.apply_cifar10_policy(images, draw)
    assert torch.equal(images, before)
    assert not torch.equal(result, before)


def test_policy_refuses_other_channel_counts() -> None:
    draw = auto_augment.draw_cifar10_policy(2, torch.Generator())
    with pytest.raises(InputError, match="1 or 3 channels; got 4"):
        auto_augment.apply_cifar10_policy(torch.zeros(2, 4, 32, 32, dtype=torch.uint8), draw)


@pytest.mark.parametrize("degrees", [-15.0, -4.2, 0.0, 7.5, 15.0])
def test_cubic_turn_is_pillows(degrees: float) -> None:
    images = many_kinds_of_images(1, 8, 8)
    maps = geometry.rotation_maps(torch.full((len(images),), degrees, dtype=torch.float64), 8, 8)
    result = geometry.sample_cubic(images, maps, fill=0)
    expected = torch.stack([from_pillow(to_pillow(image).rotate(degrees, BICUBIC)) for image in images])
    difference = (result.to(torch.int16) - expected.to(torch.int16)).abs()
    assert difference.max() <= 1
    assert (difference > 0).double().mean() < 0.01
