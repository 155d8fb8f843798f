"""Augmentation of whole batches: uint8 images in, uint8 images out, on the images' device.

All randomness comes from the given generator: the same state gives the same images, for any device of the images, any
number of threads and any default dtype of torch. No draw depends on pixel values.

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
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tune_lnl.datasets.augment.auto_augment import cifar10_policy, rotation_maps, sample_cubic
from tune_lnl.datasets.augment.rand_augment import rand_augment
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


Augmentation = Callable[[Tensor, torch.Generator], Tensor]

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
    if name not in augmentation_names():
        raise InputError(f"There is no augmentation {name!r}; {nearest(name, augmentation_names())}.")
    if isinstance(images, SizedImages):
        if name not in CROPPING:
            raise InputError(f"Augmentation {name!r} is for images of one size; {nearest(name, CROPPING)}.")
        return CROPPING[name](images, generator)
    if name in CROPPING:
        raise ValueError(f"augmentation {name} needs images with their sizes, got a tensor {tuple(images.shape)}")
    if images.dtype != torch.uint8 or images.ndim != 4:
        raise ValueError(f"images must be uint8 (B, C, H, W), got {images.dtype} {tuple(images.shape)}")
    return AUGMENTATIONS[name](images, generator)


def augmentation_names() -> list[str]:
    """Return the names that :func:`augment` accepts, sorted."""
    return sorted([*AUGMENTATIONS, *CROPPING])


def mirrors(name: str) -> bool:
    """Return whether the augmentation `name` mirrors images: whether mirroring keeps the class."""
    return name.startswith(MIRRORING)


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return (images / 255 - mean) / std for each channel: uint8 (B, C, H, W) -> float32, same memory format.

    `mean` and `std` have C entries, for values in [0, 1]; ValueError if they do not fit or a std is not positive.
    """
    channels = images.shape[1]
    if len(mean) != channels or len(std) != channels:
        raise ValueError(f"mean and std need {channels} entries, got {len(mean)} and {len(std)}")
    if min(std) <= 0:
        raise ValueError(f"std must be positive, got {list(std)}")
    centre = torch.tensor(mean, dtype=torch.float32, device=images.device).view(1, -1, 1, 1)
    spread = torch.tensor(std, dtype=torch.float32, device=images.device).view(1, -1, 1, 1)
    return images.to(torch.float32).div_(255).sub_(centre).div_(spread)


def crop_and_flip(images: Tensor, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Crop height x width pixels at a uniform position, and mirror with p 0.5 (CORE, released train_core.py).

    uint8 (B, C, H, W), at least as large as the crop, else ValueError -> uint8 (B, C, height, width).
    """
    if images.shape[2] < height or images.shape[3] < width:
        raise ValueError(f"a crop of {height} x {width} does not fit into {tuple(images.shape[2:])}")
    rows = _draw_below(images.shape[2] - height + 1, images, generator)
    columns = _draw_below(images.shape[3] - width + 1, images, generator)
    return _window(images, height, width, rows, columns, _coins(images, generator))


def unchanged(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return the images themselves, without a draw."""
    del generator
    return images


def cifar_weak(images: Tensor, generator: torch.Generator) -> Tensor:
    """Crop at random after padding 4 with zeros, then flip horizontally with p 0.5."""
    rows, columns = _crop_offsets(images, CIFAR_PADDING, generator)
    return _crop(images, CIFAR_PADDING, rows, columns, _coins(images, generator))


def cifar_strong(images: Tensor, generator: torch.Generator) -> Tensor:
    """Apply :func:`cifar_weak` with independent draws, then AutoAugment's CIFAR-10 policy."""
    return cifar10_policy(cifar_weak(images, generator), generator)


def padded_weak(images: Tensor, generator: torch.Generator) -> Tensor:
    """Crop at random after padding an eighth of the height with zeros, then flip horizontally with p 0.5."""
    padding = max(1, images.shape[2] // PADDED_SHARE)
    rows, columns = _crop_offsets(images, padding, generator)
    return _crop(images, padding, rows, columns, _coins(images, generator))


def padded_strong(images: Tensor, generator: torch.Generator) -> Tensor:
    """Apply :func:`padded_weak` with independent draws, then AutoAugment's CIFAR-10 policy."""
    return cifar10_policy(padded_weak(images, generator), generator)


def crop_weak(images: SizedImages, generator: torch.Generator) -> Tensor:
    """Crop a square of each image at a uniform position, and mirror with p 0.5: uint8 (B, C, crop, crop)."""
    crop = images.crop
    if int(images.sizes.min()) < crop:
        raise ValueError(f"a crop of {crop} x {crop} does not fit into images of {images.sizes.tolist()}")
    draws = torch.rand((len(images.sizes), 2), generator=generator, device=generator.device, dtype=torch.float64)
    positions = images.sizes - crop + 1
    offsets = torch.minimum(torch.floor(draws.cpu() * positions).to(torch.int64), positions - 1).to(
        images.pixels.device, non_blocking=True
    )
    flipped = _coins(images.pixels, generator)
    return _window(images.pixels, crop, crop, offsets[:, 0], offsets[:, 1], flipped)


def crop_strong(images: SizedImages, generator: torch.Generator) -> Tensor:
    """Apply :func:`crop_weak` with independent draws, then RandAugment in the form of UDA."""
    return rand_augment(crop_weak(images, generator), generator)


def digits_weak(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shift by -1, 0 or 1 pixel along each axis, zeros outside."""
    rows, columns = _crop_offsets(images, DIGITS_PADDING, generator)
    return _crop(images, DIGITS_PADDING, rows, columns, flipped=torch.zeros_like(rows, dtype=torch.bool))


def digits_strong(images: Tensor, generator: torch.Generator) -> Tensor:
    """Rotate uniformly within +-15 degrees, shift as in ``digits_weak``, and with p 0.5 set a 2x2 square to zero."""
    batch, _, height, width = images.shape
    uniform = torch.rand((batch,), generator=generator, device=generator.device, dtype=torch.float64)
    maps = rotation_maps((2 * uniform - 1) * DIGITS_DEGREES, height, width)
    turned = sample_cubic(images, maps.to(images.device, non_blocking=True), fill=0)
    return _with_holes(digits_weak(turned, generator), DIGITS_HOLE, generator)


AUGMENTATIONS: dict[str, Augmentation] = {
    "none": unchanged,
    "cifar_weak": cifar_weak,
    "cifar_strong": cifar_strong,
    "padded_weak": padded_weak,
    "padded_strong": padded_strong,
    "digits_weak": digits_weak,
    "digits_strong": digits_strong,
}
CROPPING: dict[str, Callable[[SizedImages, torch.Generator], Tensor]] = {
    "crop_weak": crop_weak,
    "crop_strong": crop_strong,
}
"""For images of different sizes."""


def _draw_below(limit: int, images: Tensor, generator: torch.Generator) -> Tensor:
    """Draw one whole number from 0 to limit - 1 for each image, on the images' device."""
    draws = torch.randint(limit, (images.shape[0],), generator=generator, device=generator.device)
    return draws.to(images.device, non_blocking=True)


def _coins(images: Tensor, generator: torch.Generator) -> Tensor:
    return _draw_below(2, images, generator).bool()


def _crop_offsets(images: Tensor, padding: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw first row and column of a crop of the original size within the padded image, for each image."""
    rows = _draw_below(2 * padding + 1, images, generator)
    columns = _draw_below(2 * padding + 1, images, generator)
    return rows, columns


def _crop(images: Tensor, padding: int, rows: Tensor, columns: Tensor, flipped: Tensor) -> Tensor:
    """Pad with zeros, crop to the original size at (rows, columns), and mirror where `flipped`; all (B,)."""
    height, width = images.shape[2:]
    padded = F.pad(images.contiguous(), (padding, padding, padding, padding))
    return _window(padded, height, width, rows, columns, flipped)


def _window(images: Tensor, height: int, width: int, rows: Tensor, columns: Tensor, flipped: Tensor) -> Tensor:
    """Return height x width pixels of each image from (rows, columns) on, mirrored where `flipped`; all (B,)."""
    batch, channels = images.shape[:2]
    across = torch.arange(width, device=images.device)
    across = torch.where(flipped[:, None], across.flip(0), across) + columns[:, None]
    down = torch.arange(height, device=images.device) + rows[:, None]
    indices = (down[:, :, None] * images.shape[3] + across[:, None, :]).view(batch, 1, height * width)
    flat = images.flatten(2)
    return flat.gather(2, indices.expand(-1, channels, -1)).view(batch, channels, height, width)


def _with_holes(images: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """With p 0.5, set a square of size x size pixels at a uniform position inside the image to zero."""
    height, width = images.shape[2:]
    top = _draw_below(height - size + 1, images, generator)[:, None]
    left = _draw_below(width - size + 1, images, generator)[:, None]
    down = torch.arange(height, device=images.device)
    across = torch.arange(width, device=images.device)
    in_rows = (down >= top) & (down < top + size) & _coins(images, generator)[:, None]
    in_columns = (across >= left) & (across < left + size)
    return images.masked_fill((in_rows[:, :, None] & in_columns[:, None, :])[:, None], 0)
