"""Folders in object storage (``s3://bucket/prefix`` or any other URL of pyarrow.fs). An object is whole or absent.

Credentials come from the environment or the machine (for S3: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or
a role of the instance), never from a URL, because a URL is written to run.yaml and printed.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from tune_lnl.errors import SECRET, InputError, first_line
from tune_lnl.files import whole_file

PATIENCE = 30.0
"""Seconds for which a failing call is repeated; shorter than the silence after which a worker counts as stuck."""
ANSWER_SECONDS = 45.0
"""Seconds to wait for the first answer of a storage that may not exist."""
PARALLEL = 16
"""Concurrent transfers."""

SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
FLAT = ("s3", "gcs", "abfs")
"""Storages without folders; in the others a folder is created before a file in it."""
HOPELESS = ("ACCESS_DENIED", "NO_SUCH_BUCKET", "INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH", "UNAUTHENTICATED")
"""Errors that a repetition would not change, as pyarrow spells them."""

T = TypeVar("T")


class StorageError(OSError):
    """A call to object storage failed, and so did its repetitions."""


@dataclass(frozen=True)
class Stored:
    """An object, as a listing gives it."""

    size: int
    changed: int
    """Nanoseconds since 1970."""


def is_url(place: str | Path) -> bool:
    """Return whether a place is a URL, in object storage.

    Raises:
        InputError: a ``Path`` of a URL, which has turned ``s3://`` into ``s3:/``.
    """
    text = str(place)
    if "://" not in text and isinstance(place, Path) and SCHEME.match(text):
        raise InputError(f"a URL is text, not a Path, which cannot hold one: {masked(text)!r}; pass a str")
    return "://" in text


@dataclass(frozen=True)
class ObjectFolder:
    """A folder in object storage, by its URL."""

    url: str

    @classmethod
    def of(cls, url: str) -> ObjectFolder:
        """Return the folder of a URL, without a request to the storage.

        Raises:
            InputError: the URL contains credentials or has no bucket.
        """
        parts = urlsplit(url)
        if "@" in parts.netloc and (parts.scheme not in ("abfs", "abfss") or ":" in parts.netloc.partition("@")[0]):
            raise InputError(f"credentials come from the environment, never from a URL: {masked(url)}")
        for name, _ in parse_qsl(parts.query, keep_blank_values=True):
            if SECRET.search(name):
                raise InputError(f"{name!r} comes from the environment, never from a URL: {masked(url)}")
        if parts.fragment:
            raise InputError(f"a URL of a folder has no '#', got {masked(url)!r}")
        if not parts.netloc and not parts.path.strip("/"):
            raise InputError(f"{masked(url)!r} names no bucket; give SCHEME://BUCKET/PREFIX, such as s3://lab/results")
        return cls(urlunsplit(parts._replace(path=parts.path.rstrip("/"))))

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> ObjectFolder:
        parts = urlsplit(self.url)
        return ObjectFolder(urlunsplit(parts._replace(path=f"{parts.path}/{name}")))

    @property
    def name(self) -> str:
        return PurePosixPath(urlsplit(self.url).path).name

    @property
    def parent(self) -> ObjectFolder:
        parts = urlsplit(self.url)
        return ObjectFolder(urlunsplit(parts._replace(path=parts.path.rsplit("/", 1)[0])))

    # ---- objects, by their key below this folder

    def put(self, key: str, content: bytes, patience: float = PATIENCE) -> None:
        """Write an object; a reader sees the old content or the new, never a part."""
        _trying(lambda: self._write(key, content), f"{self / key} cannot be written", patience)

    def get(self, key: str, patience: float = PATIENCE) -> bytes | None:
        """Return the content of an object; ``None`` where there is none."""

        def read() -> bytes | None:
            try:
                with self._system.open_input_file(f"{self._path}/{key}") as file:
                    return bytes(file.read())
            except FileNotFoundError:
                return None

        return _trying(read, f"{self / key} cannot be read", patience)

    def list(self, under: str = "", patience: float = PATIENCE) -> dict[str, Stored]:
        """Return every object below this folder, or below a folder in it, by key."""
        from pyarrow import fs

        place = f"{self._path}/{under}".rstrip("/")
        selector = fs.FileSelector(place, recursive=True, allow_not_found=True)
        found = _trying(lambda: self._system.get_file_info(selector), f"{self} cannot be listed", patience)
        skipped = len(self._path) + 1
        return {
            info.path[skipped:]: Stored(info.size, info.mtime_ns or 0)
            for info in found
            if info.type == fs.FileType.File and not PurePosixPath(info.path).name.startswith(HALF_WRITTEN)
        }

    def delete(self, key: str, patience: float = PATIENCE) -> None:
        """Delete an object, if it exists."""

        def remove() -> None:
            try:
                self._system.delete_file(f"{self._path}/{key}")
            except FileNotFoundError:
                return

        _trying(remove, f"{self / key} cannot be deleted", patience)

    def _write(self, key: str, content: bytes) -> None:
        path = f"{self._path}/{key}"
        if self._system.type_name in FLAT:
            # In one call: closing an incomplete upload would store it as an object.
            with self._system.open_output_stream(path) as stream:
                stream.write(content)
            return
        folder, _, name = path.rpartition("/")
        beside = f"{folder}/{HALF_WRITTEN}{name}.{secrets.token_hex(4)}"
        self._system.create_dir(folder, recursive=True)
        with self._system.open_output_stream(beside) as stream:
            stream.write(content)
        self._system.move(beside, path)

    # ---- files

    def upload(self, key: str, path: Path, patience: float = PATIENCE) -> None:
        """Write the present content of a file."""
        self.put(key, path.read_bytes(), patience)

    def download(self, keys: Iterable[str], folder: Path, known: dict[str, Stored]) -> None:
        """Download objects to files of the same names below ``folder``; skip unchanged ones (size, time of change)."""

        def bring(key: str) -> None:
            path, stored = folder / key, known[key]
            if path.exists() and (path.stat().st_size, path.stat().st_mtime_ns) == (stored.size, stored.changed):
                return
            content = self.get(key)
            if content is None:
                return  # deleted after the listing
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(path) as beside:
                beside.write_bytes(content)
                os.utime(beside, ns=(stored.changed, stored.changed))

        for_all(keys, bring)

    def check_writable(self) -> None:
        """Write a small object and delete it.

        Raises:
            InputError: one of the two fails, or there is no answer.
        """
        key = f".check-{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"

        def write_and_remove() -> None:
            self.put(key, b"can this be written?\n", 0.0)
            self.delete(key, 0.0)

        with _as_input_error(self):
            _answered(write_and_remove)

    def check_readable(self, under: str = "") -> dict[str, Stored]:
        """Return :meth:`list`, as the first request to a storage.

        Raises:
            InputError: the storage does not answer, or refuses.
        """
        with _as_input_error(self):
            return _answered(lambda: self.list(under, 0.0))

    # ---- the file system behind it

    @property
    def _system(self) -> Any:
        return _opened(self.url)[0]

    @property
    def _path(self) -> str:
        return str(_opened(self.url)[1]).rstrip("/")


def local_file(place: str | Path, cache: Path) -> Path:
    """Return the path of a file given by its path or its URL; a URL is downloaded below ``cache`` first.

    Raises:
        InputError: there is no such object, or the storage does not answer.
    """
    if not is_url(place):
        return Path(place)
    folder = ObjectFolder.of(str(place)).parent
    name = ObjectFolder.of(str(place)).name
    with _as_input_error(folder):
        content = _answered(lambda: folder.get(name, 0.0))
    if content is None:
        raise InputError(f"{masked(str(place))}: there is no such object; check the URL")
    # Keep the name of the folder: it names the run of a best.yaml or a model.pt.
    path = cache / "files" / hashlib.sha256(folder.url.encode()).hexdigest()[:16] / folder.name / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as beside:
        beside.write_bytes(content)
    return path


HALF_WRITTEN = ".writing-"


def for_all(keys: Iterable[str], action: Callable[[str], None]) -> None:
    """Call ``action`` for many objects, some at a time, and raise the first error."""
    with ThreadPoolExecutor(PARALLEL) as pool:
        for done in [pool.submit(action, key) for key in keys]:
            done.result()


@cache
def _opened(url: str) -> tuple[Any, str]:
    """Return pyarrow's file system for a URL, and the path in it."""
    parts = urlsplit(url)
    system, path = _file_system(urlunsplit(parts._replace(path="")) if parts.scheme in ("s3", "gs", "gcs") else url)
    if parts.scheme in ("s3", "gs", "gcs"):
        path = parts.netloc + parts.path
    return system, path


@cache
def _file_system(url: str) -> tuple[Any, str]:
    """Open a file system, once per bucket: opening may ask the network for the region of the bucket."""
    from pyarrow import fs

    first: Exception | None = None
    for wanted in (*_wanted_options(url), ""):
        try:
            return fs.FileSystem.from_uri(f"{url}{'&' if '?' in url else '?'}{wanted}" if wanted else url)  # type: ignore[no-any-return]
        except (ValueError, NotImplementedError) as error:
            first = error
        except OSError as error:
            raise StorageError(f"{url} cannot be opened: {first_line(error)}") from error
    raise InputError(
        f"{url} cannot be opened as object storage: {first_line(first)}\n"
        "give a folder's path, or a URL such as s3://BUCKET/PREFIX or gs://BUCKET/PREFIX"
    )


def _wanted_options(url: str) -> list[str]:
    """Return options that make a storage faster, or give up sooner; an older pyarrow that refuses them does without."""
    scheme = urlsplit(url).scheme
    if scheme == "s3":
        return ["allow_delayed_open=true"]  # one request for a small object instead of three
    if scheme in ("gs", "gcs") and "retry_limit_seconds" not in url:
        return [f"retry_limit_seconds={PATIENCE:g}"]  # default: 15 minutes
    return []


# ---- repeating calls


def _trying(action: Callable[[], T], what: str, patience: float) -> T:
    """Call ``action`` until it succeeds, with growing pauses.

    Args:
        what: the failure in words, for the error message.

    Raises:
        StorageError: it failed for ``patience`` seconds, or for a reason that does not pass.
    """
    until, rest = time.monotonic() + patience, 0.25
    while True:
        try:
            return action()
        except OSError as error:
            hopeless = isinstance(error, PermissionError) or any(word in str(error) for word in HOPELESS)
            if hopeless or time.monotonic() + rest > until:
                raise StorageError(f"{what}: {first_line(error)}") from error
        time.sleep(rest)
        rest = min(2 * rest, 4.0)


def _answered(action: Callable[[], T]) -> T:
    """Return or raise the outcome of ``action``, within a time limit: some storages wait minutes for the network."""
    outcome: list[tuple[T | None, BaseException | None]] = []

    def act() -> None:
        try:
            outcome.append((action(), None))
        except BaseException as error:
            outcome.append((None, error))

    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    thread.join(ANSWER_SECONDS)
    if not outcome:
        raise StorageError(f"no answer within {ANSWER_SECONDS:g} s")
    result, error = outcome[0]
    if error is not None:
        raise error
    return result  # type: ignore[return-value]


@contextmanager
def _as_input_error(folder: ObjectFolder) -> Iterator[None]:
    try:
        yield
    except StorageError as error:
        message = str(error) if folder.url in str(error) else f"{folder}: {error}"
        raise InputError(f"{message}\n{_next_step(str(error))}") from None


def _next_step(message: str) -> str:
    """Return the next step for the message of a storage's error."""
    # Addresses and quoted keys may hold what is looked for: the port 40335 holds 403, a bucket may be called resolved.
    text = re.sub(r"\S+://\S+|(?<= )'[^']*'", "", message)
    if "NO_SUCH_BUCKET" in text:
        return "create the bucket, or give another --results-dir"
    if any(
        word in text
        for word in ("ACCESS_DENIED", "INVALID_ACCESS_KEY", "SIGNATURE", "UNAUTH", "redential", "status 403")
    ):
        return (
            "set credentials with the rights to read, write, list and delete there in the environment (for S3: "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or a role of the machine)"
        )
    if any(word in text for word in ("NETWORK_CONNECTION", "resolve", "no answer", "onnect")):
        return "check the network and the address (?endpoint_override=HOST:PORT for a server of your own)"
    return "check the URL and your rights there, or give another --results-dir"


def masked(url: str) -> str:
    """Return a URL for a message, its possible secrets replaced by ``***``."""
    if "://" not in url:
        return url
    parts = urlsplit(url)
    place = f"***@{parts.netloc.rpartition('@')[2]}" if "@" in parts.netloc else parts.netloc
    query = "&".join(
        f"{name}={'***' if SECRET.search(name) else value}"
        for name, value in parse_qsl(parts.query, keep_blank_values=True)
    )
    return urlunsplit(parts._replace(netloc=place, query=query, fragment="***" if parts.fragment else ""))
