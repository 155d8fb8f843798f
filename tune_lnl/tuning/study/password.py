"""The password of a database that holds studies: from the environment, and handed to nobody."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

PASSWORD = "TUNE_LNL_STORAGE_PASSWORD"
"""The environment variable: a command line is seen by everybody on the machine, and kept in files."""

_hidden: list[str] = []


def storage_password() -> str | None:
    """From the environment; also while it is hidden."""
    return os.environ.get(PASSWORD) or (_hidden[-1] if _hidden else None)


@contextmanager
def password_hidden() -> Iterator[None]:
    """Processes that are started meanwhile do not inherit it: workers run other people's code, and print."""
    password = os.environ.pop(PASSWORD, None)
    if password is None:
        yield
        return
    _hidden.append(password)
    try:
        yield
    finally:
        _hidden.pop()
        os.environ[PASSWORD] = password
