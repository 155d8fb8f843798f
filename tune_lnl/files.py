"""Writing files so that a reader sees the old content or the new, never a part; and text in CSV files."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """Give a temporary path to write to; it replaces ``path`` when the context ends well, else it is deleted.

    A killed process leaves the temporary file behind; its name begins with a dot.

    Args:
        path: in a folder that exists.
        durable: wait until the content is on the disk, so that it survives a power failure.

    Raises:
        OSError: no room, or no permission; ``path`` is unchanged.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield beside
        if durable:
            with beside.open("rb") as file:
                os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def replace_text(path: Path, text: str) -> None:
    """Replace a file's content; a reader sees the old content or the new, never a part."""
    with whole_file(path) as beside:
        beside.write_text(text, encoding="utf-8")


def is_disk_full(error: BaseException) -> bool:
    """Return whether a write failed because the disk, a quota or a limit on file sizes left no room."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


FORMULA_SIGNS = ("=", "+", "-", "@", "\t", "\r")
"""A spreadsheet runs a cell that begins with one of these as a formula."""


def no_formula(cell: str) -> str:
    """Return the text, with an apostrophe in front where a spreadsheet would run it as a formula."""
    return f"'{cell}" if cell.startswith(FORMULA_SIGNS) else cell
