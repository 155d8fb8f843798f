"""The password of a database that holds studies: from the environment, and passed on to no other process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

PASSWORD = "TUNE_LNL_STORAGE_PASSWORD"
"""The environment variable. A command line can be read by everybody on the machine, and is kept in files."""

_hidden: str | None = None


def storage_password() -> str | None:
    """Return the password from the environment, also while it is hidden."""
    return os.environ.get(PASSWORD) or _hidden


@contextmanager
def password_hidden() -> Iterator[None]:
    """Keep the variable out of the environment of processes that are started meanwhile.

    Workers run code of other people, which may print its environment.
    """
    global _hidden
    password = os.environ.pop(PASSWORD, None)
    if password is None:
        yield
        return
    _hidden = password
    try:
        yield
    finally:
        _hidden = None
        os.environ[PASSWORD] = password
