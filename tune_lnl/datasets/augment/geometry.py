"""Geometry on batches of images, with the same pixels as Pillow: inverse maps, and sampling through them.

A map float64 (2, 3) takes the centre of an output pixel (x + 1/2, y + 1/2, 1) to a point (column, row) of the input, in
pixels. All arithmetic is independent for each pixel: a result depends neither on the rest of the batch nor on threads.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

BAND = 2**15
"""Values that cubic interpolation computes at once on a CPU: 4 MB of neighbours."""


def inverse_maps(
    like: Tensor,
    row_from_column: Tensor | float = 0.0,
    column_from_row: Tensor | float = 0.0,
    column_offset: Tensor | float = 0.0,
    row_offset: Tensor | float = 0.0,
) -> Tensor:
    """Return identity maps float64 (b, 2, 3), one for each entry of `like` (b,), with the named entries replaced."""
    maps = torch.zeros(like.shape[0], 2, 3, dtype=torch.float64, device=like.device)
    maps[:, 0, 0] = 1.0
    maps[:, 1, 1] = 1.0
    maps[:, 1, 0] = row_from_column
    maps[:, 0, 1] = column_from_row
    maps[:, 0, 2] = column_offset
    maps[:, 1, 2] = row_offset
    return maps


def rotation_maps(degrees: Tensor, height: int, width: int) -> Tensor:
    """Return inverse maps float64 (b, 2, 3) of a counter-clockwise turn about the centre by `degrees` float64 (b,)."""
    angle = torch.deg2rad(degrees)
    cosine, sine = torch.cos(angle), torch.sin(angle)
    x, y = width / 2, height / 2
    to_column = torch.stack((cosine, -sine, x - x * cosine + y * sine), dim=1)
    to_row = torch.stack((sine, cosine, y - x * sine - y * cosine), dim=1)
    return torch.stack((to_column, to_row), dim=1)


def sample_nearest(images: Tensor, maps: Tensor, fill: int) -> Tensor:
    """Read images uint8 (b, C, H, W) through inverse maps float64 (b, 2, 3), nearest pixel.

    Points outside the input give `fill`. Coordinates are kept to 1/65536 of a pixel, as in Pillow.
    """
    height, width = images.shape[2:]
    fixed = torch.floor(maps * 65536.0 + 0.5).to(torch.int64)
    start = torch.floor((maps[:, :, 2] + maps[:, :, 0] * 0.5 + maps[:, :, 1] * 0.5) * 65536.0 + 0.5).to(torch.int64)
    across = torch.arange(width, device=images.device)
    down = torch.arange(height, device=images.device).view(-1, 1)
    point = (
        start[:, :, None, None] + fixed[:, :, 0, None, None] * across + fixed[:, :, 1, None, None] * down
    ) >> 16  # (b, 2, H, W)
    column, row = point[:, 0], point[:, 1]
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    values = _pixels(images, row.clamp(0, height - 1), column.clamp(0, width - 1))
    return torch.where(inside[:, None], values, fill)


def sample_cubic(images: Tensor, maps: Tensor, fill: int) -> Tensor:
    """Read images as :func:`sample_nearest`, with cubic interpolation over 4x4 pixels (a = -1, as in Pillow).

    Pixels beyond the border repeat it; the result is cut, not rounded, to a whole grey level.
    """
    batch, channels, height, width = images.shape
    # A CPU's cache holds the neighbours of a band of rows; a GPU takes all rows at once.
    rows = height if images.device.type == "cuda" else max(1, BAND // max(1, batch * channels * width))
    bands = [
        _sample_band(images, maps, fill, torch.arange(top, min(top + rows, height), device=images.device))
        for top in range(0, height, rows)
    ]
    return bands[0] if len(bands) == 1 else torch.cat(bands, dim=2)


def _sample_band(images: Tensor, maps: Tensor, fill: int, rows: Tensor) -> Tensor:
    """Return some rows, int64 (h,), of what :func:`sample_cubic` returns: uint8 (b, C, h, W)."""
    batch, channels, height, width = images.shape
    across = torch.arange(width, device=images.device, dtype=torch.float64) + 0.5
    down = rows.to(torch.float64).view(-1, 1) + 0.5
    point = maps[:, :, 0, None, None] * across + maps[:, :, 1, None, None] * down + maps[:, :, 2, None, None]
    x, y = point[:, 0], point[:, 1]
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    corner = torch.floor(point - 0.5)
    part_x, part_y = (point - 0.5 - corner).unsqueeze(2).unbind(1)
    # The four columns and the four rows of every pixel, (b, 4, h, W), and with them its sixteen neighbours.
    steps = torch.arange(-1, 3, device=images.device).view(1, 4, 1, 1)
    column = (corner[:, :1].to(torch.int64) + steps).clamp(0, width - 1)
    row = (corner[:, 1:].to(torch.int64) + steps).clamp(0, height - 1) * width
    index = (row.unsqueeze(2) + column.unsqueeze(1)).view(batch, 1, 16 * len(rows) * width).expand(-1, channels, -1)
    pixels = images.reshape(batch, channels, height * width).gather(2, index).to(torch.float64)
    neighbours = pixels.view(batch, channels, 4, 4, len(rows), width)
    lines = _cubic(neighbours.unbind(3), part_x.unsqueeze(2))
    values = _cubic(lines.unbind(2), part_y).clamp(0, 255).to(torch.uint8)
    return torch.where(inside[:, None], values, fill)


def _pixels(images: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Return images[:, :, row, column] with a row and a column int64 (b, H, W) of each image's own."""
    batch, channels, height, width = images.shape
    index = (row * width + column).view(batch, 1, height * width).expand(-1, channels, -1)
    return images.reshape(batch, channels, height * width).gather(2, index).view_as(images)


def _cubic(values: Sequence[Tensor], part: Tensor) -> Tensor:
    """Return the cubic convolution with a = -1 of four neighbours, at `part` between the second and the third."""
    v0, v1, v2, v3 = values
    return v1 + part * (v2 - v0 + part * (2 * (v0 - v1) + v2 - v3 + part * (v1 - v0 - v2 + v3)))
