"""Who drives a run: one process at a time, on whatever machine.

On one machine a lock of the system says so, which ends with the process. On shared storage such a lock may not reach
other machines, or may not exist; there a file that the driver keeps changing says that it lives.
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
from typing import Any

from filelock import FileLock, Timeout

from tune_lnl.errors import InputError
from tune_lnl.files import replace_text
from tune_lnl.tuning.runs.layout import RunFiles

BEAT_SECONDS = 3.0
"""Between two changes of the file."""
SILENT_AFTER = 15.0
"""Seconds without a change after which the driver on another machine counts as dead. No clocks are compared."""
FRESH = 60.0
"""For a list of runs, which cannot wait: a file this young is a living driver's."""
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def this_machine() -> str:
    """Its name, and which of its starts this is: containers of one machine have names of their own."""
    with suppress(OSError):
        return f"{socket.gethostname()} {BOOT_ID.read_text(encoding='ascii').strip()}"
    return socket.gethostname()


@contextmanager
def only_driver(
    files: RunFiles, run: str, tell: Callable[[str], None], machine: str | None = None, patience: float = 0.3
) -> Iterator[None]:
    """Hold the run for this process; two drivers would write one study.

    Args:
        run: its name.
        tell: is told why it takes a while, where it does.
        machine: stands for :func:`this_machine`.
        patience: seconds that the lock may be another's before that counts.

    Raises:
        InputError: another process drives it.
    """
    files.root.mkdir(parents=True, exist_ok=True)
    machine = machine or this_machine()
    lock, locked = FileLock(files.lock), True
    try:
        # Not at once: who asks whether it is being run holds it for a moment.
        lock.acquire(timeout=patience, poll_interval=0.05)
    except Timeout:
        raise InputError(
            f"run {run!r} is being run by another process; wait for it, stop it, or give another --name"
        ) from None
    except NotImplementedError:
        locked = False  # this file system has none
    try:
        # What the lock protects from needs no second look.
        _look_for_another(files, run, machine if locked else None, tell)
        beat = Heartbeat(files.heartbeat, machine)
        beat.begin()
        try:
            yield
        finally:
            beat.end()
    finally:
        if locked:
            lock.release()


def _look_for_another(files: RunFiles, run: str, machine: str | None, tell: Callable[[str], None]) -> None:
    first = read_beat(files)
    if first is None or first["machine"] == machine:
        return
    host = first["machine"].split()[0]
    tell(f"run {run!r} was driven on {host}; looking for {SILENT_AFTER:.0f} s whether it still is")
    until = time.monotonic() + SILENT_AFTER
    while time.monotonic() < until:
        time.sleep(min(0.5, SILENT_AFTER / 4))
        now = read_beat(files)
        if now is None:
            return
        if now != first:
            raise InputError(
                f"run {run!r} is being run on {host} (process {first['pid']}); wait for it, stop it there, or give "
                "another --name"
            )


def read_beat(files: RunFiles) -> Mapping[str, Any] | None:
    """What the driver wrote last; ``None`` where none is, or the file is not one."""
    try:
        found = json.loads(files.heartbeat.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    whole = isinstance(found, dict) and isinstance(found.get("machine"), str) and found["machine"].strip() != ""
    return found if whole and "pid" in found else None


def is_driven_elsewhere(files: RunFiles) -> bool:
    """Whether a driver on another machine seems to run it; for views."""
    beat = read_beat(files)
    if beat is None or beat["machine"] == this_machine():
        return False
    try:
        return time.time() - files.heartbeat.stat().st_mtime < FRESH
    except OSError:
        return False


class Heartbeat(threading.Thread):
    """Changes the file every few seconds, until its driver ends or is no longer the one that the file names."""

    def __init__(self, path: Path, machine: str, lost: Callable[[], None] | None = None) -> None:
        super().__init__(name="heartbeat", daemon=True)
        self._path = path
        self._machine = machine
        self._key = secrets.token_hex(8)
        self._lost = lost or _leave
        self._over = threading.Event()
        self._count = 0

    def begin(self) -> None:
        with suppress(OSError):  # a full disk ends the search later, in its own words
            self._beat()
        self.start()

    def run(self) -> None:
        while not self._over.wait(BEAT_SECONDS):
            if self._is_another_s():
                self._lost()
                return
            # On a full disk, or a server that is away, the next one may come through.
            with suppress(OSError):
                self._beat()

    def end(self) -> None:
        self._over.set()
        self.join()
        if not self._is_another_s():
            with suppress(OSError):
                self._path.unlink(missing_ok=True)

    def _beat(self) -> None:
        self._count += 1
        content = {"machine": self._machine, "pid": os.getpid(), "key": self._key, "beat": self._count}
        replace_text(self._path, json.dumps(content) + "\n")

    def _is_another_s(self) -> bool:
        try:
            found: str = json.loads(self._path.read_text(encoding="utf-8"))["key"]
        except (OSError, ValueError, KeyError, TypeError):
            return False
        return found != self._key


def _leave() -> None:
    """Two machines took the run over at the same time: one word more of this one would damage the study."""
    print("stopped: another machine drives this run now", file=sys.stderr, flush=True)
    os._exit(1)
