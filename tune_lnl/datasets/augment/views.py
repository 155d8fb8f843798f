"""Augmentation of whole batches: uint8 images in, uint8 images out, on the images' device.

An augmentation has two halves: :func:`draw` makes the random numbers of a batch, on the CPU, and :func:`apply` computes
the images that they decide. All randomness comes from the given generator: the same state gives the same images, for
any device of the images, any number of threads and any default dtype of torch. No draw depends on pixel values. So the
draws of several batches can be joined and applied to all of their images at once, with the same result: a GPU then
gets a few large kernels instead of hundreds of small ones for every batch.

================  ==========================================================================================
``none``          the images, unchanged
``cifar_weak``    random crop after padding 4 with zeros, horizontal flip with p 0.5
``cifar_strong``  an own crop and flip, then AutoAugment's CIFAR-10 policy
``padded_weak``   random crop after padding an eighth of the side with zeros, horizontal flip with p 0.5
``padded_strong`` an own crop and flip, then AutoAugment's CIFAR-10 policy
``crop_weak``     of images of different sizes: horizontal flip with p 0.5, random crop
``crop_strong``   an own flip and crop, then RandAugment in the form of UDA
``digits_weak``   shift by -1, 0 or 1 pixel along each axis, zeros outside
``digits_strong`` a rotation within 15 degrees, such a shift, and in half of the images a 2x2 square of zeros
================  ==========================================================================================

``cifar_*`` follow the released ACT code (utils/builder.py, lines 56-95), where the weak and the strong view draw
their crop and flip independently; ``crop_*`` follow the same lines for its web datasets, whose images have their
shorter side resized. ``padded_*`` are ``cifar_*`` for a square of any size. ``digits_*`` are this library's own: flips
and large rotations change a digit's class, and at 8x8 pixels stronger augmentation would, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from tune_lnl.datasets.augment.auto_augment import (
    PolicyDraw,
    apply_cifar10_policy,
    draw_cifar10_policy,
)
from tune_lnl.datasets.augment.geometry import rotation_maps, sample_cubic
from tune_lnl.datasets.augment.rand_augment import PairDraw, apply_pairs, draw_pairs
from tune_lnl.errors import InputError, nearest


@dataclass(frozen=True)
class SizedImages:
    """Images of different sizes in one batch.

    Attributes:
        pixels: uint8 (B, C, H, W); image i is in the top left corner, of its own size.
        sizes: int64 (B, 2): its height and width, both at least `crop`; on the CPU.
        crop: side of the square crop.
    """

    pixels: Tensor
    sizes: Tensor
    crop: int


Draws = dict[str, Tensor]
"""The random numbers of an augmentation of B images, on the CPU; the first dimension of each tensor is B."""
DrawFunction = Callable[[int, tuple[int, int], torch.Generator], Draws]
"""(B, (height, width) of the images, generator) -> draws."""


@dataclass(frozen=True)
class Augmentation:
    """An augmentation in two halves.

    Attributes:
        draw: makes the draws.
        apply: (images uint8 (B, C, H, W), draws) -> images; the input is not changed.
    """

    draw: DrawFunction
    apply: Callable[[Tensor, Draws], Tensor]


CIFAR_PADDING = 4
PADDED_SHARE = 8
"""The side over the padding: 4 pixels at 32."""
DIGITS_PADDING = 1
DIGITS_DEGREES = 15.0
DIGITS_HOLE = 2
MIRRORING = ("cifar_", "padded_", "crop_")


def augment(name: str, images: Tensor | SizedImages, generator: torch.Generator) -> Tensor:
    """Apply the augmentation `name` to images uint8 (B, C, H, W), with independent draws for each image.

    Images of different sizes are for ``crop_*`` only, which crop them to one size.

    Returns uint8 (B, C, H, W) on the device of the images; the input is not changed. InputError for an unknown name,
    or for images of the wrong kind; ValueError for another dtype or number of dimensions.
    """
    _check(name, images)
    pixels = images.pixels if isinstance(images, SizedImages) else images
    height, width = pixels.shape[2:]
    return apply(name, images, draw(name, len(pixels), (height, width), generator))


def draw(name: str, count: int, size: tuple[int, int], generator: torch.Generator) -> Draws:
    """Make the draws of the augmentation `name` for `count` images of `size`, (height, width)."""
    return (CROPPING if name in CROPPING else AUGMENTATIONS)[name].draw(count, size, generator)


def joined(draws: Sequence[Draws]) -> Draws:
    """Return the draws of several batches, one after the other, as those of one batch."""
    return {name: torch.cat([each[name] for each in draws]) for name in draws[0]}


def apply(name: str, images: Tensor | SizedImages, draws: Draws) -> Tensor:
    """Return the images that the draws decide; arguments and result as in :func:`augment`."""
    if isinstance(images, SizedImages):
        return CROPPING[name].apply(images, draws)
    return AUGMENTATIONS[name].apply(images, draws)


def _check(name: str, images: Tensor | SizedImages) -> None:
    if name not in augmentation_names():
        raise InputError(f"There is no augmentation {name!r}; {nearest(name, augmentation_names())}.")
    if isinstance(images, SizedImages):
        if name not in CROPPING:
            raise InputError(f"Augmentation {name!r} is for images of one size; {nearest(name, CROPPING)}.")
        return
    if name in CROPPING:
        raise ValueError(f"augmentation {name} needs images with their sizes, got a tensor {tuple(images.shape)}")
    if images.dtype != torch.uint8 or images.ndim != 4:
        raise ValueError(f"images must be uint8 (B, C, H, W), got {images.dtype} {tuple(images.shape)}")


def augmentation_names() -> list[str]:
    """Return the names that :func:`augment` accepts, sorted."""
    return sorted([*AUGMENTATIONS, *CROPPING])


def mirrors(name: str) -> bool:
    """Return whether the augmentation `name` mirrors images: whether mirroring keeps the class."""
    return name.startswith(MIRRORING)


def normalise(images: Tensor, mean: Sequence[float] | Tensor, std: Sequence[float] | Tensor) -> Tensor:
    """Return (images / 255 - mean) / std for each channel: uint8 (B, C, H, W) -> float32, same memory format.

    `mean` and `std` have C entries, for values in [0, 1]; ValueError if they do not fit or a std is not positive.
    Tensors float32 (C,) on the images' device, from :func:`constants`, spare a GPU two waits for their copies.
    """
    channels = images.shape[1]
    if len(mean) != channels or len(std) != channels:
        raise ValueError(f"mean and std need {channels} entries, got {len(mean)} and {len(std)}")
    if isinstance(mean, Tensor) and isinstance(std, Tensor):
        centre, spread = mean, std
    else:
        centre, spread = constants([*mean], [*std], images.device)
    return images.to(torch.float32).div_(255).sub_(centre.view(1, -1, 1, 1)).div_(spread.view(1, -1, 1, 1))


def constants(mean: Sequence[float], std: Sequence[float], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return mean and std of C channels as float32 (C,) on the device; ValueError if a std is not positive."""
    if min(std) <= 0:
        raise ValueError(f"std must be positive, got {list(std)}")
    return (
        torch.tensor(mean, dtype=torch.float32).to(device),
        torch.tensor(std, dtype=torch.float32).to(device),
    )


def draw_crop_and_flip(count: int, size: tuple[int, int], height: int, width: int, generator: torch.Generator) -> Draws:
    """Make the draws of :func:`apply_crop_and_flip` for images of `size`; ValueError where the crop does not fit."""
    if size[0] < height or size[1] < width:
        raise ValueError(f"a crop of {height} x {width} does not fit into {size}")
    return {
        "rows": _draw_below(size[0] - height + 1, count, generator),
        "columns": _draw_below(size[1] - width + 1, count, generator),
        "flipped": _coins(count, generator),
    }


def apply_crop_and_flip(images: Tensor, height: int, width: int, draws: Draws) -> Tensor:
    """Crop height x width pixels at a uniform position, and mirror with p 0.5 (CORE, released train_core.py).

    uint8 (B, C, H, W) -> uint8 (B, C, height, width).
    """
    return _window(images, height, width, draws)


def crop_and_flip(images: Tensor, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Draw, then :func:`apply_crop_and_flip`; ValueError for images smaller than the crop."""
    size = (images.shape[2], images.shape[3])
    return apply_crop_and_flip(images, height, width, draw_crop_and_flip(len(images), size, height, width, generator))


# ---- draws


def _draw_below(limit: int, count: int, generator: torch.Generator) -> Tensor:
    """Draw one whole number from 0 to limit - 1 for each of `count` images."""
    return torch.randint(limit, (count,), generator=generator, device=generator.device).cpu()


def _coins(count: int, generator: torch.Generator) -> Tensor:
    return _draw_below(2, count, generator).bool()


def _uniform(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=generator, device=generator.device, dtype=torch.float64).cpu()


def _offsets(count: int, padding: int, generator: torch.Generator) -> Draws:
    """Draw first row and column of a crop of the original size within the padded image, for each image."""
    return {name: _draw_below(2 * padding + 1, count, generator) for name in ("rows", "columns")}


def _draw_nothing(count: int, size: tuple[int, int], generator: torch.Generator) -> Draws:
    return {}


def _draw_cifar_weak(count: int, size: tuple[int, int], generator: torch.Generator) -> Draws:
    return _offsets(count, CIFAR_PADDING, generator) | {"flipped": _coins(count, generator)}


def _draw_padded_weak(count: int, size: tuple[int, int], generator: torch.Generator) -> Draws:
    return _offsets(count, _share_of(size[0]), generator) | {"flipped": _coins(count, generator)}


def _draw_crop_weak(count: int, size: tuple[int, int], generator: torch.Generator) -> Draws:
    return {"position": _uniform((count, 2), generator), "flipped": _coins(count, generator)}


def _draw_digits_weak(count: int, size: tuple[int, int], generator: torch.Generator) -> Draws:
    return _offsets(count, DIGITS_PADDING, generator)


def _draw_digits_strong(count: int, size: tuple[int, int], generator: torch.Generator) -> Draws:
    return {
        "turn": _uniform((count,), generator),
        **_draw_digits_weak(count, size, generator),
        "top": _draw_below(size[0] - DIGITS_HOLE + 1, count, generator),
        "left": _draw_below(size[1] - DIGITS_HOLE + 1, count, generator),
        "hole": _coins(count, generator),
    }


def _and_policy(weak: DrawFunction, policy: Callable[[int, torch.Generator], PolicyDraw | PairDraw]) -> DrawFunction:
    """Return a function that makes the draws of ``weak``, and then those of a policy."""

    def draw_both(count: int, size: tuple[int, int], generator: torch.Generator) -> Draws:
        found = weak(count, size, generator)
        drawn = policy(count, generator)
        return found | {field.name: getattr(drawn, field.name) for field in fields(drawn)}

    return draw_both


# ---- images


def unchanged(images: Tensor, draws: Draws) -> Tensor:
    """Return the images themselves, without a draw."""
    del draws
    return images


def cifar_weak(images: Tensor, draws: Draws) -> Tensor:
    """Crop at random after padding 4 with zeros, then flip horizontally with p 0.5."""
    return _crop(images, CIFAR_PADDING, draws)


def cifar_strong(images: Tensor, draws: Draws) -> Tensor:
    """Apply :func:`cifar_weak` with independent draws, then AutoAugment's CIFAR-10 policy."""
    return apply_cifar10_policy(cifar_weak(images, draws), PolicyDraw(draws["kinds"], draws["magnitudes"]))


def padded_weak(images: Tensor, draws: Draws) -> Tensor:
    """Crop at random after padding an eighth of the height with zeros, then flip horizontally with p 0.5."""
    return _crop(images, _share_of(images.shape[2]), draws)


def padded_strong(images: Tensor, draws: Draws) -> Tensor:
    """Apply :func:`padded_weak` with independent draws, then AutoAugment's CIFAR-10 policy."""
    return apply_cifar10_policy(padded_weak(images, draws), PolicyDraw(draws["kinds"], draws["magnitudes"]))


def crop_weak(images: SizedImages, draws: Draws) -> Tensor:
    """Crop a square of each image at a uniform position, and mirror with p 0.5: uint8 (B, C, crop, crop)."""
    crop = images.crop
    if int(images.sizes.min()) < crop:
        raise ValueError(f"a crop of {crop} x {crop} does not fit into images of {images.sizes.tolist()}")
    positions = images.sizes - crop + 1
    offsets = torch.minimum(torch.floor(draws["position"] * positions).to(torch.int64), positions - 1)
    where = {"rows": offsets[:, 0], "columns": offsets[:, 1], "flipped": draws["flipped"]}
    return _window(images.pixels, crop, crop, where)


def crop_strong(images: SizedImages, draws: Draws) -> Tensor:
    """Apply :func:`crop_weak` with independent draws, then RandAugment in the form of UDA."""
    return apply_pairs(crop_weak(images, draws), PairDraw(draws["kinds"], draws["magnitudes"], draws["centres"]))


def digits_weak(images: Tensor, draws: Draws) -> Tensor:
    """Shift by -1, 0 or 1 pixel along each axis, zeros outside."""
    return _crop(images, DIGITS_PADDING, draws)


def digits_strong(images: Tensor, draws: Draws) -> Tensor:
    """Rotate uniformly within +-15 degrees, shift as in ``digits_weak``, and with p 0.5 set a 2x2 square to zero."""
    height, width = images.shape[2:]
    maps = rotation_maps((2 * draws["turn"] - 1) * DIGITS_DEGREES, height, width)
    turned = sample_cubic(images, maps.to(images.device, non_blocking=True), fill=0)
    return _with_holes(digits_weak(turned, draws), DIGITS_HOLE, draws)


AUGMENTATIONS: dict[str, Augmentation] = {
    "none": Augmentation(_draw_nothing, unchanged),
    "cifar_weak": Augmentation(_draw_cifar_weak, cifar_weak),
    "cifar_strong": Augmentation(_and_policy(_draw_cifar_weak, draw_cifar10_policy), cifar_strong),
    "padded_weak": Augmentation(_draw_padded_weak, padded_weak),
    "padded_strong": Augmentation(_and_policy(_draw_padded_weak, draw_cifar10_policy), padded_strong),
    "digits_weak": Augmentation(_draw_digits_weak, digits_weak),
    "digits_strong": Augmentation(_draw_digits_strong, digits_strong),
}


@dataclass(frozen=True)
class Cropping:
    """As :class:`Augmentation`, for images of different sizes."""

    draw: DrawFunction
    apply: Callable[[SizedImages, Draws], Tensor]


CROPPING: dict[str, Cropping] = {
    "crop_weak": Cropping(_draw_crop_weak, crop_weak),
    "crop_strong": Cropping(_and_policy(_draw_crop_weak, draw_pairs), crop_strong),
}


def _share_of(height: int) -> int:
    """Return the padding of ``padded_*``."""
    return max(1, height // PADDED_SHARE)


def _crop(images: Tensor, padding: int, draws: Draws) -> Tensor:
    """Pad with zeros, crop to the original size at (rows, columns), and mirror where ``flipped``; all (B,)."""
    height, width = images.shape[2:]
    return _window(F.pad(images.contiguous(), (padding, padding, padding, padding)), height, width, draws)


def _window(images: Tensor, height: int, width: int, draws: Draws) -> Tensor:
    """Return height x width pixels of each image from (rows, columns) on, mirrored where ``flipped``; all (B,)."""
    batch, channels = images.shape[:2]
    across = torch.arange(width)
    if "flipped" in draws:
        across = torch.where(draws["flipped"][:, None], across.flip(0), across)
    across = (across + draws["columns"][:, None]).to(images.device, non_blocking=True)
    down = (torch.arange(height) + draws["rows"][:, None]).to(images.device, non_blocking=True)
    indices = (down[:, :, None] * images.shape[3] + across[:, None, :]).view(batch, 1, height * width)
    flat = images.flatten(2)
    return flat.gather(2, indices.expand(-1, channels, -1)).view(batch, channels, height, width)


def _with_holes(images: Tensor, size: int, draws: Draws) -> Tensor:
    """Set a square of size x size pixels at (top, left) to zero where ``hole``; all (B,)."""
    height, width = images.shape[2:]
    top, left = draws["top"][:, None], draws["left"][:, None]
    down, across = torch.arange(height), torch.arange(width)
    in_rows = (down >= top) & (down < top + size) & draws["hole"][:, None]
    in_columns = (across >= left) & (across < left + size)
    inside = (in_rows[:, :, None] & in_columns[:, None, :])[:, None]
    return images.masked_fill(inside.to(images.device, non_blocking=True), 0)
