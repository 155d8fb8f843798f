"""Downloads into the cache: one process at a time, verified before the file appears, an early answer offline."""

from __future__ import annotations

import http.client
import shutil
import socket
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

ANSWER_SECONDS = 5.0
"""Time for a server to answer at all: without a network the user hears of it at once."""
STALL_SECONDS = 30.0
"""Time without a byte after which a download has failed."""


def download(url: str, target: Path, fetch: Callable[[Path], object]) -> str | None:
    """Download a file unless it exists. Return None on success, else the reason of the failure.

    Args:
        url: the address, which is probed first.
        target: the file; it appears complete or not at all. Its folder is made.
        fetch: downloads to the path that it is given and verifies the content. Raises OSError or RuntimeError.
    """
    reason = why_unreachable(url)
    if reason is not None:
        return reason
    arriving = target.parent / "arriving"
    timeout = socket.getdefaulttimeout()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.parent / "download.lock"):
            if target.is_file():
                return None
            shutil.rmtree(arriving, ignore_errors=True)  # of a download that was killed
            arriving.mkdir()
            socket.setdefaulttimeout(STALL_SECONDS)  # the downloaders of torch and torchvision set none of their own
            try:
                fetch(arriving / target.name)
                (arriving / target.name).rename(target)
            finally:
                socket.setdefaulttimeout(timeout)
                shutil.rmtree(arriving, ignore_errors=True)
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        return str(error)
    return None


def why_unreachable(url: str) -> str | None:
    """Return None if the server answers, else the reason.

    Asks in a thread with a deadline: a host name lookup has no timeout, and can take minutes without a network.
    """
    answers: list[str | None] = []

    def ask() -> None:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=ANSWER_SECONDS):
                answers.append(None)
        except (OSError, http.client.HTTPException, ValueError) as error:
            answers.append(str(error))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(ANSWER_SECONDS)
    return answers[0] if answers else f"no answer within {ANSWER_SECONDS:.0f} s"
