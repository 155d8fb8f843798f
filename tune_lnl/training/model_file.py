"""Model files: the content of a ``model.pt``, and reading one that may come from anywhere.

A model file is a dict saved by ``torch.save`` that loads with ``weights_only=True``:

=============== ======================================================================================================
key             content
=============== ======================================================================================================
format          ``"tune_lnl model 1"``
task            ``"classification"`` or ``"re-identification"``
model           name of the network (:mod:`tune_lnl.models.registry`)
weights         its state dict, on the CPU
classes         class names, in the order of the network's outputs
preprocessing   ``image_shape`` (height, width, channels) of the input; ``resize``, the length in pixels of the shorter
                side before the centre crop; ``square``, whether the image is cropped to a square before that;
                ``mean`` and ``std`` per channel, of pixels scaled to [0, 1]
config          the training's config, flat and complete
=============== ======================================================================================================
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tune_lnl.datasets.augment.views import normalise
from tune_lnl.datasets.base import Dataset, ImageRows, TrainingForm
from tune_lnl.datasets.pictures.decoding import WorkingSize
from tune_lnl.datasets.pictures.rows import PictureRows
from tune_lnl.errors import CorruptDataError, InputError, first_line, shown
from tune_lnl.models.registry import build_model
from tune_lnl.models.tensor_file import UNREADABLE, checked_load

FORMAT = "tune_lnl model 1"
NAME = "model.pt"
KINDS = {"task": str, "model": str, "weights": dict, "classes": list, "preprocessing": dict, "config": dict}
LARGEST_SIDE = 4096
"""In pixels; no training here writes a model file with larger images."""


def preprocessing_of(images: ImageRows, form: TrainingForm, dataset: Dataset) -> dict[str, Any]:
    """Return the preprocessing of a training's evaluation, as a model file holds it.

    Images of an array have one size already; image files are then cropped to a square and resized to it.
    """
    height, width = form.image_shape[:2]
    size = images.size if isinstance(images, PictureRows) else WorkingSize(min(height, width), min(height, width), True)
    return {
        "image_shape": list(form.image_shape),
        "resize": size.resize,
        "square": size.square,
        "mean": list(dataset.mean),
        "std": list(dataset.std),
    }


@dataclass(frozen=True)
class ImageClassifier:
    """A classifier from a model file, ready for use.

    Attributes:
        network: in evaluation mode, maps normalised images float32 (B, C, H, W) to logits (B, K).
        name: of the network.
        classes: K names.
        size: to which image files are resized and cropped.
        channels: C, 3 or 1.
        mean, std: per channel, of pixels scaled to [0, 1].
        config: the training's, flat.
    """

    network: nn.Module
    name: str
    classes: tuple[str, ...]
    size: WorkingSize
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    config: Mapping[str, Any]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of the network's input."""
        return self.size.crop, self.size.crop, self.channels

    @torch.inference_mode()
    def logits(self, pixels: Tensor) -> Tensor:
        """Return logits, float32 (B, K), of images uint8 (B, H, W, C) on any device; computed in float32."""
        device = next(self.network.parameters()).device
        images = normalise(pixels.to(device).permute(0, 3, 1, 2), self.mean, self.std)
        found: Tensor = self.network(images.contiguous(memory_format=torch.channels_last))
        return found.float()


def load_classifier(path: Path, device: str = "cpu") -> ImageClassifier:
    """Load the classifier of a model file, or of a folder that ``tune_lnl.train`` wrote.

    Nothing in the file is run: it may hold tensors and plain values; anything else is refused.

    Raises:
        InputError: there is no such file, or it holds no image classifier of tune_lnl.
        CorruptDataError: it is damaged, or its parts do not fit together.
    """
    file = path / NAME if (path / NAME).is_file() else path
    content = _content(file)
    _check_content(file, content)
    size, channels = _working_size(file, content["preprocessing"])
    mean, std = (_numbers(file, content["preprocessing"], key, channels) for key in ("mean", "std"))
    classes = tuple(content["classes"])
    try:
        network = build_model(content["model"], len(classes), (size.crop, size.crop, channels))
    except InputError as error:
        raise InputError(f"{_name(file)} cannot be used here: {error}") from None
    try:
        network.load_state_dict(content["weights"])
    except (RuntimeError, TypeError, AttributeError) as error:
        raise CorruptDataError(f"{_name(file)}: its weights do not fit its network {content['model']}") from error
    network = network.to(device).to(memory_format=torch.channels_last).eval()
    return ImageClassifier(network, content["model"], classes, size, channels, mean, std, content["config"])


def _content(file: Path) -> dict[str, Any]:
    if not file.is_file():
        what = "is a folder without one" if file.is_dir() else "does not exist"
        raise InputError(
            f"MODEL is a model file, and {_name(file)} {what}\n"
            f"`train` writes one as {NAME}, a search as checkpoints/NNN-{NAME}"
        )
    try:
        content = checked_load(file, torch.device("cpu"))
    except PermissionError as error:
        raise InputError(f"{_name(file)} cannot be read: {error.strerror}") from None
    except torch.OutOfMemoryError:
        raise
    except pickle.UnpicklingError:
        raise InputError(
            f"{_name(file)} holds more than tensors and plain values; it was not opened, because that could run code"
        ) from None
    except UNREADABLE as error:
        reason = first_line(error)
        raise CorruptDataError(f"{_name(file)} is no model file, or a damaged one: {reason}") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(
            f"{_name(file)} is no model file of tune_lnl: those have format {FORMAT!r}\n"
            f"`train` writes one as {NAME}, a search as checkpoints/NNN-{NAME}"
        )
    return content


def _check_content(file: Path, content: Mapping[str, Any]) -> None:
    wrong = sorted(key for key, kind in KINDS.items() if not isinstance(content.get(key), kind))
    if wrong:
        raise CorruptDataError(f"{_name(file)} is incomplete: it has no usable {', '.join(wrong)}; train it again")
    if content["task"] != "classification":
        raise InputError(
            f"{_name(file)} is for {content['task']}: its network gives features for comparing persons, not classes; "
            "give the model of an image classifier"
        )
    classes = content["classes"]
    if len(classes) < 2 or not all(isinstance(name, str) for name in classes):
        raise CorruptDataError(f"{_name(file)} must name at least two classes, got {len(classes)}")
    weights = content["weights"]
    if not all(isinstance(key, str) and isinstance(value, Tensor) for key, value in weights.items()):
        raise CorruptDataError(f"{_name(file)}: its weights are not all tensors")


def _working_size(file: Path, facts: Mapping[str, Any]) -> tuple[WorkingSize, int]:
    shape, resize, square = facts.get("image_shape"), facts.get("resize"), facts.get("square")
    if shape is None or resize is None or square is None:
        raise InputError(
            f"{_name(file)} does not hold the preprocessing of its network's input; its predictions would be a guess; "
            "train it again"
        )
    sides = [*shape, resize] if isinstance(shape, list) else []
    if len(sides) != 4 or not all(type(side) is int and 1 <= side <= LARGEST_SIDE for side in sides):
        raise CorruptDataError(
            f"{_name(file)}: sides must be whole numbers from 1 to {LARGEST_SIDE:,}, got {shape!r}, "
            f"resized to {resize!r}; train it again"
        )
    height, width, channels = shape
    if height != width or channels not in (1, 3):
        raise InputError(
            f"{_name(file)} must take square images with 1 or 3 channels, got {height} x {width} pixels and "
            f"{channels} channels; predict with a model of this package's image datasets"
        )
    if type(square) is not bool or resize < height:
        raise CorruptDataError(f"{_name(file)}: images resized to {resize} pixels cannot be cropped to {height}")
    return WorkingSize(resize, height, square), channels


def _numbers(file: Path, facts: Mapping[str, Any], key: str, channels: int) -> tuple[float, ...]:
    values = facts.get(key)
    if not isinstance(values, list) or len(values) != channels or not all(type(v) in (int, float) for v in values):
        raise CorruptDataError(f"{_name(file)}: {key} must be {channels} numbers, got {values!r}")
    if not all(math.isfinite(value) for value in values) or (key == "std" and min(values) <= 0):
        raise CorruptDataError(
            f"{_name(file)}: {key} must be finite{' and positive' if key == 'std' else ''}, got {values!r}"
        )
    return tuple(float(value) for value in values)


def _name(file: Path) -> str:
    return shown(str(file))
