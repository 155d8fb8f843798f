"""Files that readers see whole: the old content or the new, never a part."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """A path beside ``path`` to write to, which takes its place when the context ends well; else it is deleted.

    A process that is killed leaves it behind: its name begins with a dot.

    Args:
        path: in a folder that exists.
        durable: wait until the disk has the content, so that it outlives the machine, too.

    Raises:
        OSError: no room, or no permission; ``path`` is as it was.
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
