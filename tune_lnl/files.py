"""Writing files so that a reader sees the old content or the new, never a part; and text in CSV files."""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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
    except (OSError, RuntimeError) as error:
        # Asked before the half of a file goes. Libraries raise errors of their own for a write that failed.
        full = not is_disk_full(error) and _has_no_room(beside)
        beside.unlink(missing_ok=True)
        if full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        raise
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


@contextmanager
def given_file(path: Path) -> Iterator[Path]:
    """Give a path to write to for an output that the user has named; its content gets there when the context ends well.

    As :func:`whole_file` where ``path`` is absent or a regular file, and where it is a link to one, which stays. A pipe
    or a device is written to.

    Raises:
        OSError: as :func:`whole_file`; also ``BrokenPipeError``.
    """
    try:
        kind = path.stat().st_mode
    except FileNotFoundError:
        kind = None
    through = path.absolute().parts[1:2] in (("dev",), ("proc",))  # /dev/stdout is a link to what the shell has open
    if kind is None or (stat.S_ISREG(kind) and not through):
        with whole_file(Path(os.path.realpath(path))) as beside:
            yield beside
        return
    with tempfile.TemporaryDirectory(prefix="tune_lnl-output-") as folder:
        whole = Path(folder) / path.name  # formats with an index cannot be written to a pipe directly
        yield whole
        with whole.open("rb") as content, path.open("wb") as target:
            shutil.copyfileobj(content, target)


def replace_given(path: Path, text: str) -> None:
    """Write the text to an output that the user has named; see :func:`given_file`."""
    with given_file(path) as beside:
        beside.write_text(text, encoding="utf-8")


def refuse_output(path: Path) -> str | None:
    """Return why a file that the user has named cannot be written (``"is a folder"``); ``None``: it can, or may."""
    try:
        if path.is_dir():
            return "is a folder"
        target = Path(os.path.realpath(path)) if not path.exists() or path.is_file() else path
        if not target.parent.is_dir():
            return "lies in no existing folder"
        replaced = not path.exists() or path.is_file()
        if replaced and not os.access(target.parent, os.W_OK):
            return "lies in a folder that cannot be written to"
        if len(os.fsencode(path.name)) > LONGEST_NAME:
            return f"has a name of more than {LONGEST_NAME} bytes"
    except OSError as error:
        return f"cannot be used ({error.strerror})"
    except ValueError as error:  # a NUL byte
        return f"cannot be used ({error})"
    return None


LONGEST_NAME = 230
"""Bytes of the name of a file that is written: file systems take 255, and the temporary name beside it is longer."""


def replace_text(path: Path, text: str) -> None:
    """Replace a file's content; a reader sees the old content or the new, never a part."""
    with whole_file(path) as beside:
        beside.write_text(text, encoding="utf-8")


def is_disk_full(error: BaseException) -> bool:
    """Return whether a write failed because the disk, a quota or a limit on file sizes left no room."""
    if not isinstance(error, OSError):
        return False
    return error.errno in FULL or (error.errno is None and _SHORT_WRITE.search(str(error)) is not None)


def _has_no_room(path: Path) -> bool:
    """Return whether the file system of ``path`` is full, or ``path`` has the largest size that a file may have."""
    with suppress(OSError, ImportError):
        import resource  # not on Windows

        room = os.statvfs(path.parent)
        if room.f_bavail * room.f_frsize < FULL_BYTES:
            return True
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
        return limit != resource.RLIM_INFINITY and path.stat().st_size >= limit
    return False


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FULL_BYTES = 4096
"""A file system with less room is full: it has no block left."""
_SHORT_WRITE = re.compile(r"\d+ requested and \d+ written|No space left on device|Disk quota exceeded|File too large")
"""In messages without an error number: of numpy's ``tofile``, and of libraries that format the system's own."""


FORMULA_SIGNS = ("=", "+", "-", "@", "\t", "\r")
"""A spreadsheet runs a cell that begins with one of these as a formula."""


def no_formula(cell: str) -> str:
    """Return the text, with an apostrophe in front where a spreadsheet would run it as a formula."""
    return f"'{cell}" if cell.startswith(FORMULA_SIGNS) else cell


def without_apostrophe(cell: str) -> str:
    """Return the text as it was before :func:`no_formula`."""
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(FORMULA_SIGNS) else cell
