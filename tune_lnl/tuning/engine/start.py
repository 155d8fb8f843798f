"""Starting Ray or joining one: what Ray prints is kept from the console, and what it raises becomes one error.

``ray.init`` has no time limit of its own and raises bare exceptions of many kinds. On a busy machine its fixed limits
for single steps are too short, so that a start which would succeed a minute later fails.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import psutil
import ray

from tune_lnl.errors import InputError, first_line
from tune_lnl.tuning.engine.environment import environment_restored
from tune_lnl.tuning.engine.ray_compat import read_environment_again, start_local

logger = logging.getLogger(__name__)

ATTEMPTS = 3
PAUSE_SECONDS = 3.0
"""Before the second attempt; doubled before the third."""
START_SECONDS = 600.0
"""Limit of a start with all its attempts; a time budget that ends earlier ends it earlier."""
LEAVE_SECONDS = 10.0
"""After that limit, for Ray to notice it; it cannot be interrupted everywhere."""
GONE_SECONDS = 300.0
"""Without a process that Ray had started before. Ray notices it within the limits of its steps, and is started again;
this is for a start that does not."""
STEP_SECONDS = {
    "RAY_raylet_start_wait_time_s": 60,
    "RAY_worker_register_timeout_seconds": 120,
    "RAY_gcs_server_request_timeout_seconds": 60,
}
"""Ray's limits of single steps at the first attempt; doubled at each further one. Those that the user has set stay."""
NO_ROOM_BYTES = 1 << 20
"""Ray writes more than that before it runs."""
VITAL = ("gcs_server", "raylet")
"""Ray's processes without which a driver waits forever."""


class RayStartError(RuntimeError):
    """Ray did not start. The message gives the reason and the load of the machine."""


class StartCutError(RayStartError):
    """The time budget ended while Ray was starting."""


class _LimitReached(BaseException):
    """Not an ``Exception``: Ray catches those and tries on."""


def start_ray(folder: Path, log: Path, tell: Callable[[str], None], **options: Any) -> Any:
    """Start a Ray of this process alone; return Ray's context.

    Args:
        folder: for Ray's temporary files; each attempt has a folder of its own in it.
        log: receives what Ray prints.
        tell: prints a line before a further attempt.
        **options: of ``ray.init``.

    Raises:
        RayStartError: no attempt succeeded.
    """

    def start(attempt: int) -> Any:
        own = folder if attempt == 0 else folder.with_name(f"{folder.name[:2]}{attempt}")
        try:
            with log.open("ab") as printed, stderr_to(printed.fileno()):
                return start_local(own, **options)
        except BaseException as error:
            full = shutil.disk_usage(folder.parent).free < NO_ROOM_BYTES
            _end_attempt(own)
            if full and isinstance(error, Exception):
                raise RayStartError(
                    f"Ray did not start: the disk of {folder.parent.parent}, where its temporary files lie, is full; "
                    "make room there or set TMPDIR to another short folder"
                ) from error
            raise

    try:
        return _attempted(start, "Ray did not start", tell)
    except RayStartError as error:
        raise RayStartError(f"{error}; details in {log}") from error.__cause__


def _attempted(start: Callable[[int], Any], failure: str, tell: Callable[[str], None]) -> Any:
    """Return what ``start`` gives for 0, or for 1 or 2 after errors, with longer limits of Ray's steps each time.

    Raises:
        InputError, RayStartError: from ``start``; no further attempt would change it.
        RayStartError: with the reason, for everything else that Ray raised in the last attempt.
    """
    with environment_restored(*STEP_SECONDS) as given:
        for attempt in range(ATTEMPTS):
            for name, seconds in STEP_SECONDS.items():
                os.environ[name] = given[name] or str(seconds << attempt)
            read_environment_again()
            try:
                return start(attempt)
            except (InputError, RayStartError):
                raise
            except Exception as error:  # Ray has no common type for them
                logger.exception("%s (attempt %d of %d)", failure, attempt + 1, ATTEMPTS)
                reason = f"{failure}: {first_line(error)} ({machine_load()})"
                if attempt + 1 == ATTEMPTS:
                    raise RayStartError(reason) from error
                tell(f"  {reason}; trying again")
                time.sleep(PAUSE_SECONDS * 2**attempt)
    raise AssertionError("the last attempt returns or raises")


def _end_attempt(folder: Path) -> None:
    """End the processes of a start that failed, which Ray leaves running, and delete its files."""
    ray.shutdown()
    mine = psutil.Process().children(recursive=True)
    ended = [process for process in mine if _command_names(process, folder)]
    for process in ended:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(ended, timeout=5.0)
    shutil.rmtree(folder, ignore_errors=True)


def _command_names(process: psutil.Process, folder: Path) -> bool:
    try:
        return any(str(folder) in word for word in process.cmdline())
    except psutil.Error:
        return False


def machine_load() -> str:
    """Return the load of this machine in words, for a message about something that took too long."""
    return f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs"


@contextmanager
def limited_start(seconds_left: float | None, leave: Callable[[int, str], None], resume: str) -> Iterator[None]:
    """Limit the time that starting or joining a Ray takes while the context lasts.

    Only the main thread can be interrupted; elsewhere Ray's own limits hold.

    Args:
        seconds_left: of the time budget; ``None``: there is none.
        leave: ends this process at once, given the exit code and a message. Called where Ray is inside native code
            that cannot be interrupted, or would wait forever for a process of its own that has ended.
        resume: the command that continues the run.

    Raises:
        StartCutError: the time budget ended.
        RayStartError: :data:`START_SECONDS` passed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    is_budget = seconds_left is not None and seconds_left < START_SECONDS
    limit = max(0.001, seconds_left if is_budget and seconds_left is not None else START_SECONDS)
    error: RayStartError = (
        StartCutError("the time budget is used up: Ray was still starting")
        if is_budget
        else RayStartError(f"Ray did not start within {START_SECONDS:.0f} s ({machine_load()})")
    )
    over = threading.Event()

    def reached(number: int, frame: FrameType | None) -> None:
        if not over.is_set():
            raise _LimitReached

    def watch() -> None:
        until = time.monotonic() + limit + LEAVE_SECONDS
        seen: dict[str, float] = {}
        while not over.wait(1.0):
            now = time.monotonic()
            seen |= {process.name(): now for process in vital_children()}
            if now > until:
                leave(0 if is_budget else 1, f"{error}; continue with:\n  {resume}")
            elif any(now - last > GONE_SECONDS for last in seen.values()):
                leave(1, f"stopped: Ray's own processes ended while it was starting; continue with:\n  {resume}")

    before = signal.signal(signal.SIGALRM, reached)
    signal.setitimer(signal.ITIMER_REAL, limit, 1.0)  # again and again: an exception in a destructor is dropped
    threading.Thread(target=watch, name="start", daemon=True).start()
    try:
        yield
    except _LimitReached:
        raise error from None
    finally:
        over.set()
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


def vital_children() -> list[psutil.Process]:
    """Return the processes of :data:`VITAL` that this process has started."""
    found = []
    for child in psutil.Process().children():
        try:
            if child.name() in VITAL and child.status() != psutil.STATUS_ZOMBIE:
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return found


# ---- joining


def join_ray(why_not: Callable[[Exception, str], str | None], tell: Callable[[str], None], **options: Any) -> Any:
    """Join a running Ray; return Ray's context.

    Args:
        why_not: gives the reason for an error that will come again, from it and from what Ray printed meanwhile;
            ``None``: another attempt may succeed, as on a busy machine.
        tell: prints a line before a further attempt.
        **options: of ``ray.init``.

    Raises:
        InputError: with that reason.
        RayStartError: no attempt succeeded.
    """
    loggers = [logging.getLogger(name) for name in ("ray", "ray.tune")]
    levels = [each.level for each in loggers]

    def join(attempt: int) -> Any:
        with tempfile.TemporaryFile() as printed:
            try:
                with stderr_to(printed.fileno()):  # Ray repeats once a second that it cannot connect
                    return ray.init(**options)
            except Exception as error:
                ray.shutdown()
                printed.seek(0)
                reason = why_not(error, printed.read().decode(errors="replace"))
                if reason is None:
                    raise
                raise InputError(f"--address {options['address']}: {reason}") from error

    for each in loggers:
        each.setLevel(logging.ERROR)
    logger.disabled = True  # there is no log of a run yet
    try:
        return _attempted(join, f"the cluster at {options['address']} cannot be joined", tell)
    finally:
        logger.disabled = False
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)


@contextmanager
def stderr_to(target: int) -> Iterator[None]:
    """Redirect this process's standard error, for messages that Ray prints past Python."""
    sys.stderr.flush()
    saved = os.dup(2)
    os.dup2(target, 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(saved, 2)
        os.close(saved)
