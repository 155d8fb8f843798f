"""Image files of every kind that a folder may hold, readable and not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

ORIENTATION = 0x0112


def write_readable(folder: Path) -> list[Path]:
    """Grey, RGBA, palette, 16 bits, CMYK, turned by EXIF, tiny, tall; sorted by name."""
    stream = np.random.RandomState(0)
    folder.mkdir(parents=True, exist_ok=True)

    def colours(height: int, width: int, channels: int = 3) -> Image.Image:
        return Image.fromarray(stream.randint(0, 256, (height, width, channels)).astype(np.uint8))

    colours(50, 70).convert("L").save(folder / "a_grey.png")
    colours(70, 50, 4).save(folder / "b_rgba.png")
    colours(64, 64).convert("P").save(folder / "c_palette.gif")
    Image.fromarray(stream.randint(0, 65536, (60, 45)).astype(np.uint16)).save(folder / "d_sixteen.png")
    colours(61, 47).convert("CMYK").save(folder / "e_cmyk.jpg")
    turned = Image.Exif()
    turned[ORIENTATION] = 6
    colours(40, 90).save(folder / "f_turned.jpg", exif=turned)
    colours(3, 5).save(folder / "g_tiny.bmp")
    colours(400, 20).save(folder / "h_tall.webp", lossless=True)
    colours(32, 32).save(folder / "i_exact.png")
    return sorted(folder.iterdir())


def write_unreadable(folder: Path) -> list[Path]:
    """Truncated, empty, no image at all, a decompression bomb; sorted by name."""
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.RandomState(1).randint(0, 256, (64, 64, 3)).astype(np.uint8)).save(folder / "whole.jpg")
    whole = folder / "whole.jpg"
    (folder / "a_truncated.jpg").write_bytes(whole.read_bytes()[:700])
    whole.unlink()
    (folder / "b_empty.png").write_bytes(b"")
    (folder / "c_text.jpg").write_text("not an image")
    Image.new("1", (20_000, 10_000)).save(folder / "d_bomb.png")
    return sorted(folder.iterdir())
