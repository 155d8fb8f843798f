"""The image formats that are read, and the endings of their file names."""

from __future__ import annotations

ENDINGS_OF = {
    "AVIF": (".avif", ".avifs"),
    "BMP": (".bmp",),
    "DDS": (".dds",),
    "DIB": (".dib",),
    "GIF": (".gif",),
    "JPEG": (".jfif", ".jpe", ".jpeg", ".jpg", ".mpo"),
    "JPEG2000": (".j2c", ".j2k", ".jp2", ".jpc", ".jpf", ".jpx"),
    "PCX": (".pcx",),
    "PNG": (".apng", ".png"),
    "PPM": (".pbm", ".pfm", ".pgm", ".pnm", ".ppm"),
    "QOI": (".qoi",),
    "SGI": (".bw", ".rgb", ".rgba", ".sgi"),
    "TGA": (".icb", ".tga", ".vda", ".vst"),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
}
"""Pillow's decoders that are used, with the endings that Pillow registers for them. Formats that need another program
or that hold no photographs (EPS, PDF, WMF, icons, scientific containers) are left out: files come from anywhere."""
FORMATS = tuple(ENDINGS_OF)
IMAGE_ENDINGS = tuple(sorted(ending for endings in ENDINGS_OF.values() for ending in endings))
CAMERA_ENDINGS = frozenset([".heic", ".heif", ".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".raf", ".rw2", ".raw"])
"""Images of phones and cameras that Pillow cannot read."""


def is_image_name(name: str) -> bool:
    """Return whether the ending of a file name is that of a format in FORMATS, in any case."""
    return name.lower().endswith(IMAGE_ENDINGS)
