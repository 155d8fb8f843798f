"""AutoAugment's CIFAR-10 policy on whole batches of tensors.

Source: Cubuk et al., "AutoAugment: Learning Augmentation Strategies from Data", CVPR 2019, the 25 CIFAR-10
sub-policies of Table 7, as applied to PIL images by ``CIFAR10Policy`` of the ``randaugment`` 1.0.2 package, the strong
view of the released ACT code. That class is the widely copied PIL version of the policy; its magnitudes, interpolation
and fill were read from public copies of it. Every operation here gives the same pixels as Pillow (the cubic shear
within one grey level).

For each image one sub-policy is drawn uniformly; each of its two operations is applied with its own probability, in
order.

Where that package differs from the paper's table or from ``torchvision.transforms.AutoAugment``, it is followed:

=====================  =======================================  ======================================
operation              here, as in the package                  torchvision
=====================  =======================================  ======================================
Rotate                 always positive (counter-clockwise)      random sign
Solarize               thresholds 256 to 0                      thresholds 255 to 0
TranslateX, Y          150/331 of the side, nearest pixel       the same, truncated to whole pixels
ShearY                 cubic interpolation                      nearest pixel
fill outside           grey 128                                 black
operation with p       applied when u < p                       applied when u <= p
sub-policy 17          its second Equalize with p 0.8           with p 0.6, as in Table 7
=====================  =======================================  ======================================

All arithmetic is in integers or in a fixed floating-point width, and is independent for each pixel: a result depends
neither on the rest of the batch nor on the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tune_lnl.datasets.augment.geometry import inverse_maps, rotation_maps, sample_cubic, sample_nearest
from tune_lnl.errors import InputError

Operation = Callable[[Tensor, Tensor], Tensor]
"""Maps images uint8 (b, C, H, W) and a magnitude for each, float64 (b,), to new images of the same shape."""

FILL = 128
"""Grey level of the pixels that a geometric operation fills in from outside the image."""

LEVELS = 10

SubPolicy = tuple[tuple[str, float, int | None], tuple[str, float, int | None]]

CIFAR10_POLICY: tuple[SubPolicy, ...] = (
    (("Invert", 0.1, None), ("Contrast", 0.2, 6)),
    (("Rotate", 0.7, 2), ("TranslateX", 0.3, 9)),
    (("Sharpness", 0.8, 1), ("Sharpness", 0.9, 3)),
    (("ShearY", 0.5, 8), ("TranslateY", 0.7, 9)),
    (("AutoContrast", 0.5, None), ("Equalize", 0.9, None)),
    (("ShearY", 0.2, 7), ("Posterize", 0.3, 7)),
    (("Color", 0.4, 3), ("Brightness", 0.6, 7)),
    (("Sharpness", 0.3, 9), ("Brightness", 0.7, 9)),
    (("Equalize", 0.6, None), ("Equalize", 0.5, None)),
    (("Contrast", 0.6, 7), ("Sharpness", 0.6, 5)),
    (("Color", 0.7, 7), ("TranslateX", 0.5, 8)),
    (("Equalize", 0.3, None), ("AutoContrast", 0.4, None)),
    (("TranslateY", 0.4, 3), ("Sharpness", 0.2, 6)),
    (("Brightness", 0.9, 6), ("Color", 0.2, 8)),
    (("Solarize", 0.5, 2), ("Invert", 0.0, None)),
    (("Equalize", 0.2, None), ("AutoContrast", 0.6, None)),
    (("Equalize", 0.2, None), ("Equalize", 0.8, None)),
    (("Color", 0.9, 9), ("Equalize", 0.6, None)),
    (("AutoContrast", 0.8, None), ("Solarize", 0.2, 8)),
    (("Brightness", 0.1, 3), ("Color", 0.7, 0)),
    (("Solarize", 0.4, 5), ("AutoContrast", 0.9, None)),
    (("TranslateY", 0.9, 9), ("TranslateY", 0.7, 9)),
    (("AutoContrast", 0.9, None), ("Solarize", 0.8, 3)),
    (("Equalize", 0.8, None), ("Invert", 0.1, None)),
    (("TranslateY", 0.7, 9), ("AutoContrast", 0.9, None)),
)
"""(operation, probability, level) twice; level is None where the operation has no magnitude."""


def _even_steps(first: float, last: float) -> tuple[float, ...]:
    return tuple(np.linspace(first, last, LEVELS).tolist())


MAGNITUDES: dict[str, tuple[float, ...]] = {
    "ShearY": _even_steps(0.0, 0.3),  # pixels down for each pixel right
    "TranslateX": _even_steps(0.0, 150 / 331),  # share of the width
    "TranslateY": _even_steps(0.0, 150 / 331),  # share of the height
    "Rotate": _even_steps(0.0, 30.0),  # degrees
    "Color": _even_steps(0.0, 0.9),  # distance of the enhancement factor from 1
    "Contrast": _even_steps(0.0, 0.9),
    "Sharpness": _even_steps(0.0, 0.9),
    "Brightness": _even_steps(0.0, 0.9),
    "Posterize": tuple(np.round(np.linspace(8, 4, LEVELS)).tolist()),  # bits kept
    "Solarize": _even_steps(256.0, 0.0),  # first grey level that is inverted
}
"""Magnitude of each level 0 to 9."""

SIGNED = frozenset({"ShearY", "TranslateX", "TranslateY", "Color", "Contrast", "Sharpness", "Brightness"})
"""Operations whose magnitude is negated half of the time."""


def brightness(images: Tensor, magnitude: Tensor) -> Tensor:
    """Blend with black; factor 1 + magnitude."""
    return _blend(torch.zeros_like(images), images, magnitude)


def color(images: Tensor, magnitude: Tensor) -> Tensor:
    """Blend with the grey image; factor 1 + magnitude. A one-channel image stays as it is."""
    return _blend(_luma(images).to(torch.uint8), images, magnitude)


def contrast(images: Tensor, magnitude: Tensor) -> Tensor:
    """Blend with the mean grey level, rounded; factor 1 + magnitude."""
    grey = _luma(images)
    pixels = grey.shape[2] * grey.shape[3]
    mean = (2 * grey.sum(dim=(1, 2, 3), dtype=torch.int64) + pixels) // (2 * pixels)
    return _blend(mean.to(torch.uint8).view(-1, 1, 1, 1), images, magnitude)


def sharpness(images: Tensor, magnitude: Tensor) -> Tensor:
    """Blend with the smoothed image (3x3, centre 5, others 1; the border stays); factor 1 + magnitude."""
    levels = images.to(torch.int16)
    rows = levels[:, :, :-2] + levels[:, :, 1:-1] + levels[:, :, 2:]
    total = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * levels[:, :, 1:-1, 1:-1]
    smoothed = images.clone()
    # Sum / 13 rounded to the nearest: 13 is odd, so there are no ties.
    smoothed[:, :, 1:-1, 1:-1] = torch.div(2 * total + 13, 26, rounding_mode="floor").to(torch.uint8)
    return _blend(smoothed, images, magnitude)


def posterize(images: Tensor, magnitude: Tensor) -> Tensor:
    """Keep the highest `magnitude` bits of every pixel."""
    dropped = 8 - magnitude.to(torch.int32)
    mask = (256 - (1 << dropped)).to(torch.uint8)
    return images & mask.view(-1, 1, 1, 1)


def solarize(images: Tensor, magnitude: Tensor) -> Tensor:
    """Invert every pixel at or above the threshold `magnitude`."""
    # Grey levels are whole numbers, so the threshold may be rounded up; 256 does not fit in uint8.
    threshold = torch.ceil(magnitude).to(torch.int16).view(-1, 1, 1, 1)
    return torch.where(images.to(torch.int16) < threshold, images, 255 - images)


def invert(images: Tensor, magnitude: Tensor) -> Tensor:
    """Return 255 minus every pixel; the magnitude has no meaning."""
    del magnitude
    return 255 - images


def autocontrast(images: Tensor, magnitude: Tensor) -> Tensor:
    """Stretch each channel to span 0 to 255; a channel of one grey level stays; the magnitude has no meaning."""
    del magnitude
    low = images.amin(dim=(2, 3), keepdim=True).to(torch.float64)
    high = images.amax(dim=(2, 3), keepdim=True).to(torch.float64)
    # One division (255.0 / tensor is a reciprocal and a product in torch), then two roundings and a cut, as Pillow does
    # it: anything shorter is now and then one grey level off.
    scale = torch.full_like(low, 255.0) / (high - low).clamp(min=1.0)
    stretched = (images.to(torch.float64) * scale + (-low * scale)).clamp(0, 255).to(torch.uint8)
    return torch.where(high > low, stretched, images)


def equalize(images: Tensor, magnitude: Tensor) -> Tensor:
    """Flatten the histogram of each channel, in whole numbers; the magnitude has no meaning.

    A channel whose pixels below its highest grey level number fewer than 255 stays as it is: so does every 8x8 image.
    """
    del magnitude
    rows = images.flatten(2).flatten(0, 1).to(torch.int64)  # (b * C, H * W)
    histogram = _histograms(rows)
    highest = rows.amax(dim=1, keepdim=True)
    step = (rows.shape[1] - histogram.gather(1, highest)) // 255
    below = histogram.cumsum(dim=1) - histogram
    table = ((step // 2 + below) // step.clamp(min=1)).clamp(max=255)
    equalized = torch.where(step > 0, table.gather(1, rows), rows)
    return equalized.to(torch.uint8).view_as(images)


def shear_x(images: Tensor, magnitude: Tensor) -> Tensor:
    """Read output pixel (x, y) from (x + magnitude * y, y), cubic interpolation."""
    return sample_cubic(images, inverse_maps(magnitude, column_from_row=magnitude), FILL)


def shear_y(images: Tensor, magnitude: Tensor) -> Tensor:
    """Read output pixel (x, y) from (x, y + magnitude * x), cubic interpolation."""
    return sample_cubic(images, inverse_maps(magnitude, row_from_column=magnitude), FILL)


def translate_x(images: Tensor, magnitude: Tensor) -> Tensor:
    """Read output pixel (x, y) from (x + magnitude * W, y), nearest pixel."""
    return sample_nearest(images, inverse_maps(magnitude, column_offset=magnitude * images.shape[3]), FILL)


def translate_y(images: Tensor, magnitude: Tensor) -> Tensor:
    """Read output pixel (x, y) from (x, y + magnitude * H), nearest pixel."""
    return sample_nearest(images, inverse_maps(magnitude, row_offset=magnitude * images.shape[2]), FILL)


def rotate(images: Tensor, magnitude: Tensor) -> Tensor:
    """Turn counter-clockwise by `magnitude` degrees about the centre, nearest pixel."""
    return sample_nearest(images, rotation_maps(magnitude, images.shape[2], images.shape[3]), FILL)


OPERATIONS: dict[str, Operation] = {
    "ShearY": shear_y,
    "TranslateX": translate_x,
    "TranslateY": translate_y,
    "Rotate": rotate,
    "Color": color,
    "Contrast": contrast,
    "Sharpness": sharpness,
    "Brightness": brightness,
    "Posterize": posterize,
    "Solarize": solarize,
    "AutoContrast": autocontrast,
    "Equalize": equalize,
    "Invert": invert,
}

_KINDS = tuple(OPERATIONS)
NOT_APPLIED = len(_KINDS)
"""The value in :attr:`PolicyDraw.kinds` of an operation that is not applied."""


@dataclass(frozen=True)
class PolicyDraw:
    """The draws for a batch of B images: the two operations of each, in order.

    ``kinds`` int64 (B, 2): index in :data:`OPERATIONS`, or :data:`NOT_APPLIED`; ``magnitudes`` float64 (B, 2): with
    sign. Both on the CPU.
    """

    kinds: Tensor
    magnitudes: Tensor


def draw_cifar10_policy(batch_size: int, generator: torch.Generator) -> PolicyDraw:
    """Draw a sub-policy, its applications and its signs for each of `batch_size` images."""
    device = generator.device
    sub_policy = torch.randint(len(CIFAR10_POLICY), (batch_size,), generator=generator, device=device).cpu()
    coin = torch.rand((batch_size, 2), generator=generator, device=device, dtype=torch.float64).cpu()
    negative = torch.randint(2, (batch_size, 2), generator=generator, device=device).cpu().bool()
    kinds = _POLICY_KINDS[sub_policy]
    magnitudes = _POLICY_MAGNITUDES[sub_policy]
    magnitudes = torch.where(negative & _IS_SIGNED[kinds], -magnitudes, magnitudes)
    kinds = torch.where(coin < _POLICY_PROBABILITIES[sub_policy], kinds, NOT_APPLIED)
    return PolicyDraw(kinds, magnitudes)


def apply_cifar10_policy(images: Tensor, draw: PolicyDraw) -> Tensor:
    """Apply the policy to uint8 images (B, C, H, W), C 1 or 3; return new images. InputError for other channels."""
    if images.shape[1] not in (1, 3):
        raise InputError(
            f"AutoAugment's CIFAR-10 policy is for images of 1 or 3 channels; got {images.shape[1]}.\n"
            "Choose a weak augmentation for these images."
        )
    result = images.clone(memory_format=torch.contiguous_format)
    for step in (0, 1):
        apply_in_place(result, draw.kinds[:, step], draw.magnitudes[:, step], tuple(OPERATIONS.values()))
    return result


def _blend(start: Tensor, end: Tensor, magnitude: Tensor) -> Tensor:
    """Return start + (1 + magnitude) (end - start), in float32, kept within 0 to 255 and cut to a whole grey level."""
    factor = (1.0 + magnitude).to(torch.float32).view(-1, 1, 1, 1)
    origin = start.to(torch.float32)
    return (origin + factor * (end.to(torch.float32) - origin)).clamp(0, 255).to(torch.uint8)


def _luma(images: Tensor) -> Tensor:
    """Return grey levels int32 (b, 1, H, W): ITU-R 601-2 weights in 1/65536, rounded."""
    if images.shape[1] == 1:
        return images.to(torch.int32)
    levels = images.to(torch.int32)
    return (levels[:, 0:1] * 19595 + levels[:, 1:2] * 38470 + levels[:, 2:3] * 7471 + 32768) >> 16


def _histograms(rows: Tensor) -> Tensor:
    """Count each grey level 0 to 255 in each row: int64 (n, L) -> int64 (n, 256)."""
    # Not bincount, which on a GPU reads the largest and the smallest value back.
    return rows.new_zeros(rows.shape[0], 256).scatter_add_(1, rows, torch.ones_like(rows))


def apply_in_place(images: Tensor, kinds: Tensor, magnitudes: Tensor, operations: Sequence[Operation]) -> None:
    """Replace each image uint8 (B, C, H, W) by what the operation of its kind makes of it.

    kinds int64 (B,), an index in `operations`, or beyond its end for an unchanged image; magnitudes float64 (B,). Both
    are on the CPU.
    """
    # Grouping on the CPU and sending the order across once spares a GPU a wait for every kind of operation.
    order = torch.argsort(kinds, stable=True)
    sizes = torch.bincount(kinds, minlength=len(operations)).tolist()
    magnitudes = magnitudes[order].to(images.device, non_blocking=True)
    order = order.to(images.device, non_blocking=True)
    start = 0
    for operation, size in zip(operations, sizes, strict=False):
        if size > 0:
            chosen = order[start : start + size]
            images[chosen] = operation(images[chosen], magnitudes[start : start + size])
        start += size


def _magnitude(kind: str, level: int | None) -> float:
    return 0.0 if level is None else MAGNITUDES[kind][level]


_POLICY_KINDS = torch.tensor([[_KINDS.index(kind) for kind, _, _ in pair] for pair in CIFAR10_POLICY])
_POLICY_PROBABILITIES = torch.tensor([[p for _, p, _ in pair] for pair in CIFAR10_POLICY], dtype=torch.float64)
_POLICY_MAGNITUDES = torch.tensor(
    [[_magnitude(kind, level) for kind, _, level in pair] for pair in CIFAR10_POLICY], dtype=torch.float64
)
_IS_SIGNED = torch.tensor([kind in SIGNED for kind in _KINDS])
