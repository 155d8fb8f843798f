"""Decode image files of any size and colour form to uint8 RGB. Hostile or broken files raise a named error.

An image is rotated by its EXIF orientation, transparency is composited over white, and 16 bits become 8. The image is
then resized as by torchvision's Resize (bilinear with antialiasing, the shorter side to a given length), the first
transform of the released ACT scripts for the web datasets (utils/builder.py, lines 56-95). Those scripts ignore EXIF
orientation and transparency, and read the intact part of truncated files; here such files are errors.

Pillow decodes. torch resizes in Pillow's own memory: this is faster than Pillow's resize, and some pixels differ by one
or two grey levels. ``results/reference/decoders.json`` has the measurements, also of the decoders that are not used.
"""

from __future__ import annotations

import hashlib
import io
import re
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tune_lnl.datasets.base import Images
from tune_lnl.datasets.formats import FORMATS
from tune_lnl.errors import first_line

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

MAX_FILE_BYTES = 2**28
"""Larger files are refused: they are no photographs."""
MAX_ASPECT = 3.0
"""Largest ratio of the sides; longer images lose both ends. A batch is as long as its longest image."""
THUMBNAIL_SIDE = 8
WHITE = (255, 255, 255, 255)


class UnreadableImageError(Exception):
    """A file cannot be used as an image; the message is shown to the user."""


@dataclass(frozen=True)
class WorkingSize:
    """The size of decoded images, in pixels.

    Attributes:
        resize: length of the shorter side.
        crop: side of the network's square input; at most `resize`.
        square: whether only the middle square is kept, so that all images have the same size.
    """

    resize: int
    crop: int
    square: bool


@dataclass(frozen=True)
class Decoded:
    """One image.

    Attributes:
        pixels: uint8 (h, w, 3) at the working size.
        thumbnail: uint8 (8, 8, 3), the whole image averaged.
        width, height: of the upright image, in pixels.
        kind: format and colour form, e.g. "JPEG CMYK".
        content: the first 16 bytes of the sha256 of the file.
    """

    pixels: Images
    thumbnail: Images
    width: int
    height: int
    kind: str
    content: bytes


def decode(path: Path, size: WorkingSize) -> Decoded:
    """Read one file.

    Raises:
        UnreadableImageError: it cannot be used, for any reason.
    """
    try:
        data = _read(path)
        image = _open(data)
        kind = f"{image.format} {image.mode}"
        image = _upright_rgb(image)
        content = hashlib.sha256(data).digest()[:16]
        return Decoded(_resized(image, size), _thumbnail(image), image.width, image.height, kind, content)
    except (MemoryError, UnreadableImageError):
        raise
    except Exception as error:
        # Decoders raise many kinds of errors on hostile bytes: OSError, SyntaxError, zlib.error, the bomb limit, ...
        raise _unreadable(error) from error


def decode_pixels(path: Path, size: WorkingSize) -> Images:
    """Return the pixels of :func:`decode`, of a file that was decoded before.

    Raises:
        UnreadableImageError: it has changed and cannot be used any more.
    """
    try:
        return _resized(_upright_rgb(_open(_read(path))), size)
    except (MemoryError, UnreadableImageError):
        raise
    except Exception as error:
        raise _unreadable(error) from error


def dimensions(path: Path) -> tuple[int, int] | None:
    """Return (width, height) from the file's header, or None where it has no readable header."""
    from PIL import Image

    try:
        with Image.open(path, formats=_decoders()) as image:
            return image.width, image.height
    except (MemoryError, KeyboardInterrupt):
        raise
    except Exception:
        return None


def stored_size(width: int, height: int, size: WorkingSize) -> tuple[int, int]:
    """Return the working size (width, height) of an image of these dimensions."""
    if size.square:
        return size.crop, size.crop
    short, long = min(width, height), max(width, height)
    # Truncated, not rounded, as in torchvision's Resize.
    other = min(int(size.resize * long / short), int(MAX_ASPECT * size.resize))
    return (size.resize, other) if width <= height else (other, size.resize)


def middle(pixels: Images, height: int, width: int) -> Images:
    """Return the middle height x width pixels of (h, w, 3), positioned as by torchvision's CenterCrop."""
    top = round((pixels.shape[0] - height) / 2.0)
    left = round((pixels.shape[1] - width) / 2.0)
    return pixels[top : top + height, left : left + width]


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise UnreadableImageError(f"it is larger than {MAX_FILE_BYTES:,} bytes, too large for an image")
    if not data:
        raise UnreadableImageError("it is empty")
    return data


@cache
def _decoders() -> tuple[str, ...]:
    """Prepare Pillow, and return the formats of FORMATS that it was built with.

    Pillow is made to allocate each image as one block, also above 16 MB, because :func:`_planes` reads a single block.
    Its warnings about odd metadata are not printed: they name no file, and such images are read.
    """
    from PIL import Image

    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
    Image.init()
    core: Any = vars(Image)["core"]  # documented, but not exported
    if hasattr(core, "set_use_block_allocator"):  # Pillow 11.2
        core.set_use_block_allocator(1)
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _open(data: bytes) -> Image.Image:
    from PIL import Image

    image = Image.open(io.BytesIO(data), formats=_decoders())
    pixels = image.width * image.height
    if Image.MAX_IMAGE_PIXELS is not None and pixels > Image.MAX_IMAGE_PIXELS:
        raise UnreadableImageError(
            f"its {pixels:,} pixels are more than Pillow's limit of {Image.MAX_IMAGE_PIXELS:,}, a decompression bomb"
        )
    return image


def _upright_rgb(image: Image.Image) -> Image.Image:
    from PIL import Image, ImageOps

    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I") or image.mode == "F":
        return _eight_bits(image)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, WHITE), layer).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Convert grey levels to 8 bits: 16 bits lose the lower eight; floats are scaled from 0..1 unless one is above."""
    from PIL import Image

    levels = np.asarray(image, dtype=np.float64)
    if not np.isfinite(levels).all():
        raise UnreadableImageError("some of its grey levels are not finite")
    brightest = float(levels.max(initial=0.0))
    if image.mode == "F":
        scale = 255.0 if brightest <= 1.0 else 1.0
    else:
        scale = 1.0 / 256.0 if brightest > 255 or image.mode.startswith("I;16") else 1.0
    grey = np.clip(np.floor(levels * scale), 0, 255).astype(np.uint8)
    return Image.fromarray(grey).convert("RGB")


def _resized(image: Image.Image, size: WorkingSize) -> Images:
    import torch.nn.functional as F

    short, long = min(image.size), max(image.size)
    limit = 1.0 if size.square else MAX_ASPECT
    if long > limit * short:
        # Cropped before resizing, so that a thin strip is never enlarged to a gigantic image.
        kept = max(short, int(limit * short))
        box = ((image.width - kept) // 2, 0) if image.width > image.height else (0, (image.height - kept) // 2)
        size_kept = (kept, image.height) if image.width > image.height else (image.width, kept)
        image = image.crop((*box, box[0] + size_kept[0], box[1] + size_kept[1]))
    target = stored_size(image.width, image.height, size)
    if image.size == target:
        return np.array(image)
    resized = F.interpolate(_planes(image), (target[1], target[0]), mode="bilinear", antialias=True)
    pixels: Images = resized[0, :3].permute(1, 2, 0).contiguous().numpy()
    return pixels


def _planes(image: Image.Image) -> Tensor:
    """Return uint8 (1, C, h, w) of an RGB image, channels last in memory.

    Pillow stores four bytes per pixel. Where its memory can be shared, C is 4 and the last channel is unused: copying
    three channels out costs more than the whole resize.
    """
    import pyarrow
    import torch
    from torch.utils.dlpack import from_dlpack

    if hasattr(image, "__arrow_c_array__"):  # Pillow 11.2
        pixels = from_dlpack(pyarrow.array(image).flatten()).view(image.height, image.width, 4)
    else:
        pixels = torch.from_numpy(np.array(image))
    return pixels.permute(2, 0, 1).unsqueeze(0)


def _thumbnail(image: Image.Image) -> Images:
    from PIL import Image

    return np.asarray(image.resize((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.BOX), dtype=np.uint8)


def _unreadable(error: Exception) -> Exception:
    """Convert a decoder's error. torch raises a RuntimeError when memory runs out: that is no fault of the file."""
    from tune_lnl.torch_compat import is_out_of_memory

    if is_out_of_memory(error):
        return MemoryError(str(error))
    # Pillow's message contains the address of the buffer that the file was read into.
    return UnreadableImageError(re.sub(r" <_io\.BytesIO object[^>]*>", "", first_line(error)))
