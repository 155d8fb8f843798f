"""``--on-end``: run a command or send a message when a search has ended, however it ended."""

from __future__ import annotations

import json
import os
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any

COMMAND_SECONDS = 300.0
URL_SECONDS = 30.0
PREFIX = "TUNE_LNL_"
STATES = {0: "finished", 1: "failed", 130: "interrupted"}
"""By the exit code of the search."""


def tell_end(target: str, facts: Mapping[str, Any], say: Callable[[str], None]) -> None:
    """Run a command with the facts in its environment, or send them to a URL as JSON.

    A failure is printed, and changes nothing: the search has ended as it has.

    Args:
        target: a shell command, or an address that begins with ``http://`` or ``https://``.
        facts: such as ``run``, ``path``, ``state``; the command finds them as ``TUNE_LNL_RUN`` and so on. ``None``
            becomes an empty text there.
    """
    try:
        if target.startswith(("http://", "https://")):
            _send(target, facts)
        else:
            _run(target, facts)
    except (OSError, ValueError, subprocess.SubprocessError, urllib.error.URLError) as error:
        say(f"  --on-end failed: {type(error).__name__}: {error}; the search itself is not affected")


def _send(url: str, facts: Mapping[str, Any]) -> None:
    content = json.dumps(dict(facts)).encode()
    request = urllib.request.Request(url, content, {"Content-Type": "application/json"}, method="POST")
    with urllib.request.urlopen(request, timeout=URL_SECONDS):
        pass


def _run(command: str, facts: Mapping[str, Any]) -> None:
    own = {f"{PREFIX}{name.upper()}": "" if value is None else str(value) for name, value in facts.items()}
    ended = subprocess.run(
        command,
        shell=True,
        env={**os.environ, **own},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=COMMAND_SECONDS,
        check=False,
    )
    if ended.returncode:
        told = (ended.stderr or ended.stdout).strip().splitlines()
        raise ValueError(f"exit code {ended.returncode}" + (f": {told[-1]}" if told else ""))
