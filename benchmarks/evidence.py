"""The origin of figures, as every reference file records it."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

PRIVATE = ("--output", "--json", "--tables", "--keep", "--data-dir", "--work", "--storage", "--earlier")
"""Options that say where files or servers are: no part of how a figure came about."""
LOAD = os.getloadavg()[0]
"""Load of the machine when the script began, before it caused any."""


def evidence(packages: Sequence[str] = ("torch", "numpy"), device: str | None = None) -> dict[str, Any]:
    """Return command, date, device and versions of the running script.

    Args:
        packages: whose versions matter, beside tune_lnl's and Python's.
        device: default the CPU with all its cores.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "command": shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *public(sys.argv[1:])]),
        "date": datetime.now(UTC).date().isoformat(),
        "device": device or f"cpu, {platform.machine()}, {cores} cores",
        "load before": round(LOAD, 2),
        "versions": {name: version(name) for name in ("tune_lnl", *packages)} | {"python": platform.python_version()},
    }


def public(arguments: Sequence[str]) -> list[str]:
    """Return the arguments without those of :data:`PRIVATE`."""
    kept: list[str] = []
    skip = False
    for argument in arguments:
        private = argument.split("=", 1)[0] in PRIVATE
        if not (private or skip):
            kept.append(argument)
        skip = private and "=" not in argument
    return kept


def write_evidence(path: Path, content: Mapping[str, Any]) -> None:
    """Write a reference file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n")
