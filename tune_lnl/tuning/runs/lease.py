"""The lease of a run: one process at a time drives it, on whatever machine.

A lease has three methods, ``acquire`` (an :class:`InputError` where another process holds it), ``release`` and
``is_held``. :class:`FolderLease` is that of a run in a folder. A study in a database has its own, an advisory lock of
the server (:mod:`tune_lnl.tuning.study.database`), which also serves runs in object storage.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock, Timeout

from tune_lnl.errors import InputError
from tune_lnl.files import replace_text
from tune_lnl.tuning.runs.folder import RunFolder
from tune_lnl.tuning.runs.layout import RunFiles

BEAT_SECONDS = 3.0
"""Between two writes of the heartbeat file."""
SILENT_AFTER = 15.0
"""Seconds without a heartbeat after which a driver on another machine counts as dead. No clocks are compared."""
FRESH = 60.0
"""For the list of runs, which cannot wait: a heartbeat file younger than this many seconds is a living driver's."""
LOCK_SECONDS = 0.3
"""To wait for the lock: a command that asks whether the run is driven holds it for a moment."""
ASK_SECONDS = 0.1
"""To wait before the lock counts as a driver's: another command that asks the same holds it for a moment."""
COPY_SECONDS = 10.0
"""As LOCK_SECONDS, for a run in object storage: a command that reads it holds the lock while it downloads."""
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Lease(Protocol):
    """The right to write one run."""

    def acquire(self) -> None:
        """Take the lease.

        Raises:
            InputError: another process holds it.
        """

    def release(self) -> None:
        """Give the lease back."""

    def is_held(self) -> bool:
        """Return whether any process, on whatever machine, is known to hold it now."""


@contextmanager
def holding(*leases: Lease) -> Iterator[None]:
    """Hold these leases, taken in this order."""
    held: list[Lease] = []
    try:
        for lease in leases:
            lease.acquire()
            held.append(lease)
        yield
    finally:
        for lease in reversed(held):
            lease.release()


def this_machine() -> str:
    """Return host name and boot id: containers of one machine have host names of their own."""
    with suppress(OSError):
        return f"{socket.gethostname()} {BOOT_ID.read_text(encoding='ascii').strip()}"
    return socket.gethostname()


class FolderLease:
    """A lock of the file system, released with the process; and a heartbeat file, for machines it does not reach.

    On shared storage a lock may not reach other machines, or may not exist.

    Args:
        run: its name.
        tell: called with a message while waiting.
        machine: replaces :func:`this_machine`.
    """

    def __init__(
        self,
        files: RunFolder,
        run: str,
        tell: Callable[[str], None] = lambda line: None,
        machine: str | None = None,
    ) -> None:
        self._files = files
        self._run = run
        self._tell = tell
        self._machine = machine or this_machine()
        self._lock: FileLock | None = None
        self._heartbeat: Heartbeat | None = None

    def acquire(self) -> None:
        self._files.root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self._files.lock)
        try:
            lock.acquire(timeout=LOCK_SECONDS if self._files.url is None else COPY_SECONDS, poll_interval=0.05)
            self._lock = lock
        except Timeout:
            raise InputError(
                f"run {self._run!r} is being run by another process; wait for it, stop it, or give another --name"
            ) from None
        except NotImplementedError:
            self._lock = None  # this file system has no locks
        try:
            self._check_heartbeat()
            self._heartbeat = Heartbeat(self._files.heartbeat, self._machine)
            self._heartbeat.start()
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        if self._heartbeat is not None:
            self._heartbeat.stop()
        if self._lock is not None:
            self._lock.release()
        self._heartbeat = self._lock = None

    def is_held(self) -> bool:
        locked = _is_locked(self._files.lock)
        if locked:
            return True
        beat = read_beat(self._files)
        if beat is None or (locked is False and beat["machine"] == self._machine):
            return False
        try:
            return time.time() - self._files.heartbeat.stat().st_mtime < FRESH
        except OSError:
            return False

    def _check_heartbeat(self) -> None:
        """Refuse where the file of another machine's driver still changes."""
        first = read_beat(self._files)
        # With the lock held, no other process of this machine is the driver.
        if first is None or (self._lock is not None and first["machine"] == self._machine):
            return
        host = first["machine"].split()[0]
        self._tell(f"run {self._run!r} was driven on {host}; checking for {SILENT_AFTER:.0f} s whether it still is")
        until = time.monotonic() + SILENT_AFTER
        while time.monotonic() < until:
            time.sleep(min(0.5, SILENT_AFTER / 4))
            now = read_beat(self._files)
            if now is None:
                return
            if now != first:
                raise InputError(
                    f"run {self._run!r} is being run on {host} (process {first['pid']}); wait for it, stop it there, "
                    "or give another --name"
                )


def _is_locked(path: Path) -> bool | None:
    """Return whether a process of this machine holds the lock; ``None`` where that cannot be asked."""
    if not path.exists():
        return False
    try:
        with FileLock(path, timeout=ASK_SECONDS).acquire(poll_interval=0.01):
            return False
    except Timeout:
        return True
    except (OSError, NotImplementedError):
        return None  # another user's, or a file system without locks


def read_beat(files: RunFiles) -> Mapping[str, Any] | None:
    """Return the last heartbeat; ``None`` where there is none, or the file is damaged."""
    try:
        found = json.loads(files.heartbeat.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    whole = isinstance(found, dict) and isinstance(found.get("machine"), str) and found["machine"].strip() != ""
    return found if whole and "pid" in found else None


class Heartbeat(threading.Thread):
    """Rewrites the heartbeat file every few seconds, until :meth:`stop` or until another driver has taken over.

    Args:
        on_taken_over: called from this thread when the file names another driver. Default: end the process, because
            two drivers would damage the study.
    """

    def __init__(self, path: Path, machine: str, on_taken_over: Callable[[], None] | None = None) -> None:
        super().__init__(name="heartbeat", daemon=True)
        self._path = path
        self._machine = machine
        self._key = secrets.token_hex(8)
        self._on_taken_over = on_taken_over or _end_process
        self._stopped = threading.Event()
        self._count = 0

    def start(self) -> None:
        with suppress(OSError):  # a full disk ends the search later, with a message
            self._beat()
        super().start()

    def run(self) -> None:
        while not self._stopped.wait(BEAT_SECONDS):
            if self._is_taken_over():
                self._on_taken_over()
                return
            # On a full disk, or while a server is away, the next beat may succeed.
            with suppress(OSError):
                self._beat()

    def stop(self) -> None:
        """End the thread and delete its file."""
        self._stopped.set()
        if self.ident is not None:
            self.join()
        if not self._is_taken_over():
            with suppress(OSError):
                self._path.unlink(missing_ok=True)

    def _beat(self) -> None:
        self._count += 1
        content = {"machine": self._machine, "pid": os.getpid(), "key": self._key, "beat": self._count}
        replace_text(self._path, json.dumps(content) + "\n")

    def _is_taken_over(self) -> bool:
        try:
            found: str = json.loads(self._path.read_text(encoding="utf-8"))["key"]
        except (OSError, ValueError, KeyError, TypeError):
            return False
        return found != self._key


def _end_process() -> None:
    print("stopped: another machine drives this run now", file=sys.stderr, flush=True)
    os._exit(1)
