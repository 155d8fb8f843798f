"""Whether a node of a cluster can run the trials of a search: what is asked there, and what the answer means.

Runs on the node itself, as a Ray task. Questions and answers are JSON: nothing of either is unpickled.
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
from typing import TYPE_CHECKING, Any

import torch

from tune_lnl.config.trial import build_config
from tune_lnl.errors import InputError
from tune_lnl.object_storage import ObjectFolder
from tune_lnl.training.loop import Surroundings
from tune_lnl.training.registry import training_type

if TYPE_CHECKING:
    from tune_lnl.tuning.plan.plan import Plan

TOKEN_PREFIX = ".node-check-"
SEEN_WITHIN = 6.0
"""Seconds until a file that one machine wrote must be seen by another: file systems of a network remember listings."""
Answer = Mapping[str, Any]


@dataclass(frozen=True)
class Token:
    """A file that the driver wrote into the run's folder, for the nodes to find."""

    path: Path
    content: str

    def reply(self, node: str) -> Path:
        """What that node writes beside it."""
        return self.path.with_name(f"{self.path.name}-{node}")


@contextmanager
def token_in(folder: Path) -> Iterator[Token]:
    """A token while the context lasts; afterwards the folders are as they were, unless somebody else used them."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    token = Token(folder / f"{TOKEN_PREFIX}{secrets.token_hex(4)}", secrets.token_hex(16))
    token.path.write_text(token.content, encoding="utf-8")
    try:
        yield token
    finally:
        for path in folder.glob(f"{token.path.name}*"):
            path.unlink(missing_ok=True)
        for path in missing:
            with suppress(OSError):  # not empty
                path.rmdir()


def question(plan: Plan, token: Token, node: str) -> dict[str, Any]:
    """What a node is asked."""
    config = plan.space.any_config()
    return {
        "token": str(token.path),
        "content": token.content,
        "reply": str(token.reply(node)),
        "store": plan.files.url,
        "versions": versions(),
        "cwd": str(Path.cwd()),
        "sections": config.sections(),
        "data_dir": None if plan.data_dir is None else str(plan.data_dir),
    }


def versions() -> dict[str, str]:
    """What has to be the same wherever trials of one search run. Builds of one torch for CPU and CUDA count as one."""
    return {
        "tune_lnl": version("tune_lnl"),
        "the code of tune_lnl": _digest_of_code(),
        "torch": torch.__version__.partition("+")[0],
    }


@cache
def _digest_of_code() -> str:
    """Of this package's sources: two checkouts of one version need not be the same."""
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


# ---- on the node


def look_around(asked: str) -> str:
    """Whether this node has the same programs and sees the same folder.

    Returns:
        JSON: ``reason`` (``None``: nothing is wrong) and ``open``, whether its Ray asks nobody for a token.
    """
    wanted = json.loads(asked)
    reason = _other_versions(wanted["versions"])
    if reason is None:
        reason = _other_folder(wanted) if wanted["store"] is None else storage_refuses(wanted["store"])
    return json.dumps({"reason": reason, "open": not _has_token()})


def prepare_data(asked: str) -> str:
    """Read the data here as trials will, packing it where that was not done yet.

    Returns:
        JSON: ``reason``, or ``fingerprints`` of the data.
    """
    wanted = json.loads(asked)
    change_folder(wanted["cwd"])
    config = build_config(wanted["sections"], "the search")
    data_dir = None if wanted["data_dir"] is None else Path(wanted["data_dir"])
    try:
        found = training_type(config.method).prepare(config, Surroundings(data_dir=data_dir))
    except (InputError, OSError) as error:
        return json.dumps({"reason": f"cannot use the data: {str(error).splitlines()[0]}"})
    return json.dumps({"reason": None, "fingerprints": dict(found)})


def change_folder(path: str) -> None:
    """Relative paths are to mean what they mean to the driver, where this node has its folder."""
    with suppress(OSError):
        os.chdir(path)


def _other_versions(wanted: Mapping[str, str]) -> str | None:
    different = [f"{name} {own}, here {wanted[name]}" for name, own in versions().items() if own != wanted[name]]
    return f"has {'; '.join(different)}: install the same on every node" if different else None


def _other_folder(wanted: Mapping[str, str]) -> str | None:
    path = Path(wanted["token"])
    until = time.monotonic() + SEEN_WITHIN
    while not path.exists():
        if time.monotonic() > until:
            return (
                f"does not see {path.parent}, which this machine writes to: "
                "give a --results-dir on storage that every node has at the same path"
            )
        time.sleep(0.2)
    try:
        if path.read_text(encoding="utf-8") != wanted["content"]:
            return f"sees another {path.parent}: give a --results-dir that is the same storage on every node"
        Path(wanted["reply"]).write_text(wanted["content"], encoding="utf-8")
    except OSError as error:
        return f"cannot use {path.parent} ({error.strerror}): give a --results-dir that every node may write to"
    return None


def storage_refuses(url: str) -> str | None:
    """Why this node cannot write to the object storage of the run, whose credentials are its own."""
    try:
        ObjectFolder(url).check_writable()
    except InputError as error:
        return f"cannot use the object storage: {error}"
    return None


def _has_token() -> bool:
    """Whether the Ray of this node asks for a token; its workers have its environment."""
    return os.environ.get("RAY_AUTH_MODE", "").lower() == "token"


# ---- on the driver


def wrong_reply(token: Token, node: str) -> str | None:
    """What a node that found nothing wrong has written must be seen here, too."""
    until = time.monotonic() + SEEN_WITHIN
    while not token.reply(node).exists():
        if time.monotonic() > until:
            return (
                f"wrote to {token.path.parent}, and this machine does not see it: "
                "give a --results-dir that is the same storage on every node"
            )
        time.sleep(0.2)
    return None


def other_data(here: Mapping[str, str], there: Mapping[str, str]) -> str | None:
    """Trials on different data cannot be compared."""
    different = [name for name in here if here[name] != there.get(name)]
    if not different:
        return None
    return f"has other data ({', '.join(different)} differ): give a --data-dir that is the same on every node"
