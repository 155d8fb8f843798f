"""Environment variables that Ray reads, set for a while."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


@contextmanager
def environment_restored(*names: str) -> Iterator[Mapping[str, str | None]]:
    """Give the present values of these variables (``None``: not set), and restore them when the context ends."""
    before = {name: os.environ.get(name) for name in names}
    try:
        yield before
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
