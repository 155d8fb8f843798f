"""Check whether a node of a cluster can run the jobs of a search: the questions, and the meaning of the answers.

Runs on the node itself, as a Ray task. Questions and answers are JSON: neither side unpickles anything.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from tune_lnl.config.trial import build_config
from tune_lnl.errors import InputError
from tune_lnl.object_storage import ObjectFolder
from tune_lnl.training.loop import Surroundings
from tune_lnl.training.registry import training_type
from tune_lnl.tuning.plan.plan import Plan

MARKER_PREFIX = ".node-check-"
SEEN_WITHIN = 6.0
"""Seconds until one machine must see a file that another wrote: network file systems cache listings."""
Answer = Mapping[str, Any]


@dataclass(frozen=True)
class MarkerFile:
    """A file that the driver wrote into the run's folder, for the nodes to find."""

    path: Path
    content: str

    def reply(self, node: str) -> Path:
        """Return the path of the file that the node writes next to it."""
        return self.path.with_name(f"{self.path.name}-{node}")


@dataclass(frozen=True)
class NodeQuestion:
    """A question to a node."""

    marker: str
    """Path of the marker file."""
    content: str
    """Expected in it, and written to ``reply``."""
    reply: str
    store: str | None
    """URL of the run in object storage, which is then checked instead of the folder."""
    versions: Mapping[str, str]
    cwd: str
    sections: Mapping[str, Any]
    """A config of the search."""
    data_dir: str | None


@contextmanager
def marker_in(folder: Path) -> Iterator[MarkerFile]:
    """Give a marker file; when the context ends, the folders are as before unless something else was written there."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    marker = MarkerFile(folder / f"{MARKER_PREFIX}{secrets.token_hex(4)}", secrets.token_hex(16))
    marker.path.write_text(marker.content, encoding="utf-8")
    try:
        yield marker
    finally:
        for path in folder.glob(f"{marker.path.name}*"):
            path.unlink(missing_ok=True)
        for path in missing:
            with suppress(OSError):  # not empty
                path.rmdir()


def question(plan: Plan, marker: MarkerFile, node: str) -> NodeQuestion:
    """Return the question for a node."""
    config = plan.space.any_config()
    return NodeQuestion(
        marker=str(marker.path),
        content=marker.content,
        reply=str(marker.reply(node)),
        store=plan.files.url,
        versions=versions(),
        cwd=str(Path.cwd()),
        sections=config.sections(),
        data_dir=None if plan.data_dir is None else str(plan.data_dir),
    )


def versions() -> dict[str, str]:
    """Return what must be equal on all nodes of a search. Builds of one torch for CPU and CUDA count as equal."""
    return {
        "tune_lnl": version("tune_lnl"),
        "the code of tune_lnl": _digest_of_code(),
        "torch": torch.__version__.partition("+")[0],
    }


@cache
def _digest_of_code() -> str:
    """Digest this package's sources: two checkouts of one version may differ."""
    root = Path(__file__).parents[2]
    assert (root / "search.py").exists()
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


# ---- on the node


def look_around(asked: str) -> str:
    """Check that this node has the same programs and sees the same folder.

    Returns:
        JSON: ``reason`` (``None``: no fault) and ``open``, whether Ray on this node asks for no token.
    """
    wanted = NodeQuestion(**json.loads(asked))
    there = wanted.versions
    different = [f"{name} {own}, here {there[name]}" for name, own in versions().items() if own != there[name]]
    if different:
        reason: str | None = f"has {'; '.join(different)}: install the same on every node"
    elif wanted.store is None:
        reason = _other_folder(wanted)
    else:
        reason = storage_refuses(wanted.store)
    return json.dumps({"reason": reason, "open": os.environ.get("RAY_AUTH_MODE", "").lower() != "token"})


def prepare_data(asked: str) -> str:
    """Read the data here as jobs will, packing it if that was not done yet.

    Returns:
        JSON: ``reason``, or ``fingerprints`` of the data.
    """
    wanted = NodeQuestion(**json.loads(asked))
    change_folder(wanted.cwd)
    config = build_config(dict(wanted.sections), "the search")
    data_dir = None if wanted.data_dir is None else Path(wanted.data_dir)
    try:
        found = training_type(config.method).prepare(config, Surroundings(data_dir=data_dir))
    except (InputError, OSError) as error:
        return json.dumps({"reason": f"cannot use the data: {str(error).splitlines()[0]}"})
    return json.dumps({"reason": None, "fingerprints": dict(found)})


def change_folder(path: str) -> None:
    """Run where the driver runs, if this node has that folder: relative paths then mean the same."""
    with suppress(OSError):
        os.chdir(path)


def _other_folder(wanted: NodeQuestion) -> str | None:
    """Return why the results folder that this node sees is not the driver's."""
    path = Path(wanted.marker)
    until = time.monotonic() + SEEN_WITHIN
    while not path.exists():
        if time.monotonic() > until:
            return (
                f"does not see {path.parent}, which this machine writes to: "
                "give a --results-dir on storage that every node has at the same path"
            )
        time.sleep(0.2)
    try:
        if path.read_text(encoding="utf-8") != wanted.content:
            return f"sees another {path.parent}: give a --results-dir that is the same storage on every node"
        Path(wanted.reply).write_text(wanted.content, encoding="utf-8")
    except OSError as error:
        return f"cannot use {path.parent} ({error.strerror}): give a --results-dir that every node may write to"
    return None


def storage_refuses(url: str) -> str | None:
    """Return why this node, with its own credentials, cannot write to the object storage of the run."""
    try:
        ObjectFolder(url).check_writable()
    except InputError as error:
        return f"cannot use the object storage: {error}"
    return None


# ---- on the driver


def wrong_reply(marker: MarkerFile, node: str) -> str | None:
    """Return why the file that a node has written does not appear here."""
    until = time.monotonic() + SEEN_WITHIN
    while not marker.reply(node).exists():
        if time.monotonic() > until:
            return (
                f"wrote to {marker.path.parent}, and this machine does not see it: "
                "give a --results-dir that is the same storage on every node"
            )
        time.sleep(0.2)
    return None


def other_data(here: Mapping[str, str], there: Mapping[str, str]) -> str | None:
    """Compare fingerprints; trials on different data cannot be compared."""
    different = [name for name in here if here[name] != there.get(name)]
    if not different:
        return None
    return f"has other data ({', '.join(different)} differ): give a --data-dir that is the same on every node"
