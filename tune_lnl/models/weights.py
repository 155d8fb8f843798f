"""Weights that a network starts from: found, downloaded, checked, loaded.

A choice of weights is "imagenet" (torchvision's first ImageNet-1k weights, IMAGENET1K_V1, which the papers start
from), "none" (random initialisation) or the path of a state dict. A model that has ImageNet weights is one line here.
"""

from __future__ import annotations

import hashlib
import http.client
import pickle
import re
import socket
import struct
import threading
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import torch
from filelock import FileLock
from torch import Tensor, nn

from tune_lnl.errors import CorruptDataError, InputError, first_line, nearest

IMAGENET_WEIGHTS: dict[str, str] = {
    "reid_resnet50": "ResNet50_Weights.IMAGENET1K_V1",
    "resnet18": "ResNet18_Weights.IMAGENET1K_V1",
    "resnet50": "ResNet50_Weights.IMAGENET1K_V1",
}
"""Model -> the name of its weights in torchvision."""

CHOICES = ("imagenet", "none")
SUFFIXES = (".pt", ".pth")
ANSWER_SECONDS = 5.0
"""How long a server may take to answer at all: without a network the user hears of it at once."""
STALL_SECONDS = 30.0
UNREADABLE = (OSError, EOFError, RuntimeError, LookupError, ValueError, struct.error, zlib.error, zipfile.BadZipFile)
"""What reading a damaged file of tensors raises, depending on where the damage is."""
ZIP_START = b"PK"
PICKLE_START = b"\x80\x02"
"""How files of torch.save begin, those of today and those from before PyTorch 1.6."""
LISTED = 3
"""Keys of each kind that a message names."""


class HasBackbone(Protocol):
    """A network with a part that can start from weights."""

    @property
    def backbone(self) -> nn.Module: ...


def weights_fingerprint(weights: Path | None) -> dict[str, str]:
    """``{"weights": SHA-256}`` of a file that a network starts from, read once while it is unchanged; else empty.

    Raises:
        OSError: the file cannot be read.
    """
    return {} if weights is None else {"weights": _digest(weights, weights.stat().st_mtime_ns)}


@lru_cache(maxsize=8)
def _digest(path: Path, _changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def default_weights(model_name: str) -> str:
    """The choice for a user who made none: "imagenet" where the model has such weights, else "none"."""
    return "imagenet" if model_name in IMAGENET_WEIGHTS else "none"


def weights_file(model_name: str, choice: str, cache_dir: Path) -> Path | None:
    """The file that a model starts from, or None for random initialisation.

    Args:
        model_name: e.g. "reid_resnet50".
        choice: "imagenet", "none" or the path of a .pt or .pth file; a relative path starts at the working directory.
        cache_dir: the cache; ImageNet weights are kept in its ``data/weights/``, downloaded there where there is a
            network, and used only if their SHA-256 begins as their published file name says.

    Raises:
        InputError: the model has no ImageNet weights, they are neither there nor to be had, or there is no such file.
        CorruptDataError: the ImageNet weights that are there are damaged.
    """
    if choice == "none":
        return None
    if choice == "imagenet":
        return _imagenet_file(model_name, cache_dir)
    path = Path(choice).expanduser()
    if path.suffix not in SUFFIXES or not path.is_file():
        raise InputError(
            f"model.weights must be imagenet, none or the path of an existing {' or '.join(SUFFIXES)} file; "
            f"got {choice!r}; {nearest(choice, CHOICES)}"
        )
    return path.resolve()


def load_backbone(network: HasBackbone, file: Path) -> None:
    """Copies weights into ``network.backbone``, on its device; head and classifier keep theirs.

    Understood are the state dict of a torchvision classifier (its ``fc`` is left out), that of a whole network of ours
    and the model.pt of a run, whose backbone is taken. Only tensors are unpickled.

    Raises:
        CorruptDataError: the file is damaged.
        InputError: it cannot be opened, holds no state dict, or one of another network (it says what does not fit).
    """
    saved = _backbone_part(_state_dict(file))
    own = network.backbone.state_dict()
    # Batch counters matter to nothing here, and files from before PyTorch 0.4.1 lack them.
    missing = sorted(key for key in own.keys() - saved.keys() if not key.endswith(".num_batches_tracked"))
    extra = sorted(saved.keys() - own.keys())
    reshaped = sorted(
        f"{key} {tuple(saved[key].shape)} for {tuple(own[key].shape)}"
        for key in own.keys() & saved.keys()
        if saved[key].shape != own[key].shape
    )
    faults = {"missing": missing, "unknown": extra, "of another shape": reshaped}
    if any(faults.values()):
        said = "; ".join(f"{len(keys)} {kind}: {_listed(keys)}" for kind, keys in faults.items() if keys)
        raise InputError(
            f"{file} does not hold the weights of this network: {said}\n"
            "choose weights of the same architecture, or --set model.weights=none"
        )
    network.backbone.load_state_dict(saved, strict=False)


# ---- files


def _imagenet_file(model_name: str, cache_dir: Path) -> Path:
    if model_name not in IMAGENET_WEIGHTS:
        raise InputError(
            f"{model_name} has no ImageNet weights ({', '.join(sorted(IMAGENET_WEIGHTS))} have); "
            "use --set model.weights=none for a random start or --set model.weights=PATH for your own"
        )
    url = _published_url(model_name)
    path = cache_dir / "data" / "weights" / url.rpartition("/")[2]
    if not path.is_file():
        failure = _download(url, path)
        if failure is not None:
            raise InputError(
                f"{model_name} starts from ImageNet weights, which are not at {path} and could not be downloaded "
                f"({failure}): put the file there, or use --set model.weights=PATH for weights of your own or "
                "--set model.weights=none for a random start"
            )
    expected = _published_hash(path.name)
    if not _sha256(path).startswith(expected):
        raise CorruptDataError(
            f"{path} is damaged: its SHA-256 does not begin with {expected}\ndelete it and put it there again"
        )
    return path


def _published_url(model_name: str) -> str:
    import torchvision.models

    return str(torchvision.models.get_weight(IMAGENET_WEIGHTS[model_name]).url)


def _published_hash(file_name: str) -> str:
    found = re.search(r"-([0-9a-f]{8,})\.", file_name)
    assert found is not None, "torchvision's file names carry the beginning of their hash"
    return found.group(1)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(url: str, path: Path) -> str | None:
    """None once the file is at ``path``, its hash known to be good; else why it is not."""
    reason = _why_unreachable(url)
    if reason is not None:
        return reason
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name("download.lock")):
            for left_by_a_killed_download in path.parent.glob(f"{path.name}.*.partial"):
                left_by_a_killed_download.unlink()
            if not path.is_file():
                with _stalls_end_after(STALL_SECONDS):
                    torch.hub.download_url_to_file(url, str(path), _published_hash(path.name), progress=False)
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        return str(error)
    return None


def _why_unreachable(url: str) -> str | None:
    """None where the server answers, else the reason. A thread, because looking up a host name knows no timeout."""
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


@contextmanager
def _stalls_end_after(seconds: float) -> Iterator[None]:
    """The downloader sets no timeout of its own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


# ---- state dicts


def _state_dict(file: Path) -> Mapping[str, Tensor]:
    try:
        content = _checked_load(file)
    except pickle.UnpicklingError:
        # What is no torch file at all and what would run code when unpickled end here alike.
        raise InputError(f"{file} is not a state dict saved by torch.save, or holds more than tensors") from None
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise InputError(f"{file} cannot be read: {error}") from error
    except torch.OutOfMemoryError:  # a RuntimeError that says nothing against the file
        raise
    except UNREADABLE as error:
        raise CorruptDataError(f"{file} is damaged: {first_line(error)}\ncopy or download it again") from error
    if isinstance(content, dict) and isinstance(content.get("weights"), dict):
        content = content["weights"]
    if not _is_state_dict(content):
        raise InputError(f"{file} holds no state dict, which maps names of weights to tensors")
    weights: Mapping[str, Tensor] = content
    return weights


def _checked_load(file: Path) -> Any:
    with file.open("rb") as opened:
        start = opened.read(2)
    if start and start not in (ZIP_START, PICKLE_START):
        raise pickle.UnpicklingError("neither a zip archive nor a pickle")
    if start == ZIP_START:
        # torch.load does not compare checksums: a flipped bit would just be another weight.
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise zipfile.BadZipFile(f"bad checksum of {damaged}")
    return torch.load(file, map_location="cpu", weights_only=True)


def _is_state_dict(content: object) -> bool:
    return (
        isinstance(content, dict)
        and len(content) > 0
        and all(isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items())
    )


def _backbone_part(saved: Mapping[str, Tensor]) -> dict[str, Tensor]:
    prefix = "backbone."
    if any(key.startswith(prefix) for key in saved):
        return {key.removeprefix(prefix): value for key, value in saved.items() if key.startswith(prefix)}
    return {key: value for key, value in saved.items() if not key.startswith("fc.")}


def _listed(keys: list[str]) -> str:
    more = f" and {len(keys) - LISTED} more" if len(keys) > LISTED else ""
    return ", ".join(keys[:LISTED]) + more
