"""The weights that a network starts from: find, download, check and load them.

A choice of weights is "imagenet" (torchvision's first ImageNet-1k weights, IMAGENET1K_V1, which the papers start
from), "none" (random initialisation) or the path of a state dict. A model with ImageNet weights has one line here.
"""

from __future__ import annotations

import hashlib
import pickle
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from tune_lnl.downloads import download
from tune_lnl.errors import CorruptDataError, InputError, first_line, nearest
from tune_lnl.models.tensor_file import UNREADABLE, checked_load

IMAGENET_WEIGHTS: dict[str, str] = {
    "reid_resnet50": "ResNet50_Weights.IMAGENET1K_V1",
    "resnet18": "ResNet18_Weights.IMAGENET1K_V1",
    "resnet50": "ResNet50_Weights.IMAGENET1K_V1",
}
"""Model -> the name of its weights in torchvision."""

CHOICES = ("imagenet", "none")
SUFFIXES = (".pt", ".pth")
LISTED = 3
"""Keys of each kind that a message names."""


class HasBackbone(Protocol):
    """A network with a part that can start from weights."""

    @property
    def backbone(self) -> nn.Module: ...


def weights_fingerprint(weights: Path | None) -> dict[str, str]:
    """Return ``{"weights": SHA-256}`` of a file that a network starts from, or an empty dict without a file.

    Raises:
        OSError: the file cannot be read.
    """
    return {} if weights is None else {"weights": _sha256(weights, weights.stat().st_mtime_ns)}


@lru_cache(maxsize=8)
def _sha256(path: Path, _changed: int) -> str:
    """Return the hash in hex; read once while the modification time, in nanoseconds, stays."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def default_weights(model_name: str) -> str:
    """Return the default choice: "imagenet" if the model has such weights, else "none"."""
    return "imagenet" if model_name in IMAGENET_WEIGHTS else "none"


def weights_file(model_name: str, choice: str, cache_dir: Path) -> Path | None:
    """Return the file that a model starts from, or None for random initialisation.

    Args:
        model_name: e.g. "reid_resnet50".
        choice: "imagenet", "none" or the path of a .pt or .pth file; a relative path starts at the working directory.
        cache_dir: the cache; ImageNet weights are kept in its ``data/weights/``, downloaded there where there is a
            network, and used only if their SHA-256 begins as their published file name says.

    Raises:
        InputError: the model has no ImageNet weights, they cannot be downloaded, or there is no such file.
        CorruptDataError: the ImageNet weights in the cache are damaged.
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
    """Copy weights into ``network.backbone``, on its device; head and classifier keep theirs.

    The file is the state dict of a torchvision classifier (its ``fc`` is left out), that of a whole network of this
    package, or the model.pt of a run; of the last two the backbone is taken. Only tensors are unpickled.

    Raises:
        CorruptDataError: the file is damaged.
        InputError: it cannot be opened, holds no state dict, or one of another network (the keys are named).
    """
    saved = _state_dict(file)
    whole = any(key.startswith("backbone.") for key in saved)
    saved = {
        key.removeprefix("backbone."): value
        for key, value in saved.items()
        if (key.startswith("backbone.") if whole else not key.startswith("fc."))
    }
    own = network.backbone.state_dict()
    # Batch counters have no effect here, and files from before PyTorch 0.4.1 lack them.
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


def _imagenet_file(model_name: str, cache_dir: Path) -> Path:
    if model_name not in IMAGENET_WEIGHTS:
        raise InputError(
            f"{model_name} has no ImageNet weights ({', '.join(sorted(IMAGENET_WEIGHTS))} have); "
            "use --set model.weights=none for a random start or --set model.weights=PATH for your own"
        )
    url = _published_url(model_name)
    path = cache_dir / "data" / "weights" / url.rpartition("/")[2]
    found = re.search(r"-([0-9a-f]{8,})\.", path.name)
    assert found is not None, "torchvision's file names carry the beginning of their hash"
    expected = found.group(1)
    if not path.is_file():
        # torch.hub.load_state_dict_from_url(check_hash=True) downloads by the same function, but never compares the
        # hash of a file that is there already, and reads the file, which is not needed here.
        failure = download(url, path, lambda to: torch.hub.download_url_to_file(url, str(to), expected, progress=False))
        if failure is not None:
            raise InputError(
                f"{model_name} starts from ImageNet weights, which are not at {path} and could not be downloaded "
                f"({failure}): put the file there, or use --set model.weights=PATH for weights of your own or "
                "--set model.weights=none for a random start"
            )
    if not _sha256(path, path.stat().st_mtime_ns).startswith(expected):
        raise CorruptDataError(
            f"{path} is damaged: its SHA-256 does not begin with {expected}\ndelete it and put it there again"
        )
    return path


def _published_url(model_name: str) -> str:
    import torchvision.models

    return str(torchvision.models.get_weight(IMAGENET_WEIGHTS[model_name]).url)


def _state_dict(file: Path) -> Mapping[str, Tensor]:
    try:
        content = checked_load(file, torch.device("cpu"), allow_old=True)
    except pickle.UnpicklingError:
        # A file of another kind and one that would run code when unpickled both end here.
        raise InputError(
            f"{file} is not a state dict saved by torch.save, or holds more than tensors\n"
            "save the tensors alone, torch.save(network.state_dict(), path), or --set model.weights=none"
        ) from None
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise InputError(f"{file} cannot be read: {error}\ncheck path and permissions") from error
    except torch.OutOfMemoryError:  # a RuntimeError that is no fault of the file
        raise
    except UNREADABLE as error:
        raise CorruptDataError(f"{file} is damaged: {first_line(error)}\ncopy or download it again") from error
    if isinstance(content, dict) and isinstance(content.get("weights"), dict):
        content = content["weights"]
    if not (
        isinstance(content, dict)
        and len(content) > 0
        and all(isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items())
    ):
        raise InputError(
            f"{file} holds no state dict, which maps names of weights to tensors\nsave network.state_dict()"
        )
    return content


def _listed(keys: list[str]) -> str:
    more = f" and {len(keys) - LISTED} more" if len(keys) > LISTED else ""
    return ", ".join(keys[:LISTED]) + more
