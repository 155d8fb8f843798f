"""The errors a user can cause, and their wording.

An :class:`InputError` states the rule, the value received and the next step. Doors print it on stderr, without a
traceback, and exit with 2. Any other exception that reaches a door is a bug.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from urllib.parse import unquote


class InputError(ValueError):
    """An input of the user (a name, a value, a file) cannot be used."""


class LaterVersionError(InputError):
    """A file was written by a later version of tune_lnl."""


class CorruptDataError(InputError):
    """A data source exists but is damaged: truncated, half-written, or with another checksum."""


LISTED = 100
"""Number of valid names that :func:`nearest` lists."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return the hint after a failed lookup: the closest valid name, then all of them."""
    names = sorted(valid)
    close = closest(name, names)
    hint = "" if close is None else f"did you mean {close!r}? "
    more = ", ..." if len(names) > LISTED else ""
    return f"{hint}valid: {', '.join(map(shown, names[:LISTED]))}{more}"


def closest(name: str, valid: Iterable[str]) -> str | None:
    """Return the valid name that is most like this one, whatever its case; ``None`` where none is.

    >>> closest("SERCH", ["search", "train"]), closest("x", ["search", "train"])
    ('search', None)
    """
    by_lower = {each.lower(): each for each in valid}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
    return by_lower[close[0]] if close else None


def first_line(error: BaseException | None) -> str:
    """Return the first line of an error's message that is not blank; without a message, its type."""
    lines = (line.strip() for line in str(error or "").splitlines())
    return next((line for line in lines if line), type(error).__name__)


def shown(name: str) -> str:
    """Return a name for a message; characters that are not printable, and could control a terminal, are escaped.

    Bytes of a file name that are no text are written as in class names: ``\\xe9``.
    """
    return "".join(sign if sign.isprintable() else _escaped(sign) for sign in name)


def _escaped(sign: str) -> str:
    return rf"\x{ord(sign) - 0xDC00:02x}" if "\udc80" <= sign <= "\udcff" else ascii(sign)[1:-1]


SECRET = re.compile(r"key|secret|token|password|credential|signature|^sig$", re.IGNORECASE)
USER_IN_URL = re.compile(r"(?P<scheme>https?:/+|[a-z][a-z0-9+.-]*:/+(?=[^/@\s:]*:))[^/@\s]+@", re.IGNORECASE)
"""A user and password in a URL; in ``https``, also a user alone, which may be a token."""
QUERY = re.compile(r"(?P<name>[?&;][^=&;?#\s'\"]+)=[^&#\s'\"]*")


def without_secrets(text: str) -> str:
    """Return a message with the credentials and signatures of all URLs in it replaced by ``***``.

    A path counts as well: ``Path`` makes ``https:/host`` of ``https://host``.

    >>> without_secrets("no folder https:/me:pw@host/a?X-Amz-Signature=12ab&size=3, got it")
    'no folder https:/***@host/a?X-Amz-Signature=***&size=3, got it'
    """
    text = USER_IN_URL.sub(lambda match: f"{match['scheme']}***@", text)
    return QUERY.sub(
        lambda match: f"{match['name']}=***" if SECRET.search(unquote(match["name"][1:])) else match[0], text
    )


@contextmanager
def damage_refused(path: object) -> Iterator[None]:
    """Turn the errors of reading a file, which may hold anything, into an :class:`InputError` that names it."""
    try:
        yield
    except InputError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise InputError(
            f"{path}: damaged ({type(error).__name__}: {first_line(error)}); put a copy of the file back"
        ) from None
