"""The errors a user can cause, and how they read.

An :class:`InputError` states the rule, the value received and the next step. Doors print it on stderr and exit 2;
it never carries a traceback to the user. Anything else that escapes is a bug.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Something the user gave (a name, a value, a file) cannot be used."""


class CorruptDataError(InputError):
    """A data source exists but is damaged: truncated, half-written, or not what its checksum says."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """A sentence that helps after a failed lookup: the closest valid name, then all of them."""
    names = sorted(valid)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}valid: {', '.join(names)}"


def first_line(error: BaseException | None) -> str:
    """Return the first line of an error's message that is not blank; without a message, its type."""
    lines = (line.strip() for line in str(error or "").splitlines())
    return next((line for line in lines if line), type(error).__name__)


def shown(name: str) -> str:
    """A name for a message, in whatever script: what is not printable, and could steer a terminal, is escaped."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in name)
