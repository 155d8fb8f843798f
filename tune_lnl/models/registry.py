"""The models by name. A model is one file with a function `build(num_classes, image_shape)` and one line here."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Protocol, cast

from torch import nn

from tune_lnl.errors import InputError, nearest
from tune_lnl.models.weights import HasBackbone, load_backbone

MODELS: dict[str, str] = {
    "cnn7": "tune_lnl.models.cnn7:build",
    "cnn7_narrow": "tune_lnl.models.cnn7:build_narrow",
    "cnn_digits": "tune_lnl.models.cnn_digits:build",
    "resnet18": "tune_lnl.models.resnet:build_resnet18",
    "resnet50": "tune_lnl.models.resnet:build_resnet50",
}
"""Name -> "module:function"; a module is imported when its model is built."""


class Builder(Protocol):
    """A function that builds a model from the number of classes and the (height, width, channels) of its images."""

    def __call__(self, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module: ...


def model_names() -> list[str]:
    """Return the names that :func:`build_model` accepts, sorted."""
    return sorted(MODELS)


def build_model(
    name: str, num_classes: int, image_shape: tuple[int, int, int], weights: Path | None = None
) -> nn.Module:
    """Build a new model `name` that maps images float32 (B, C, H, W) to logits (B, num_classes).

    `image_shape` is (H, W, C). The initial weights come from torch's global random state: seed it first; `weights`, a
    file for :func:`tune_lnl.models.weights.load_backbone`, then replaces those of the backbone. In train mode every
    model accepts a batch of one. InputError for an unknown name, fewer than two classes, an unsuitable image size, or
    weights that cannot be used.
    """
    if name not in MODELS:
        raise InputError(f"There is no model {name!r}; {nearest(name, MODELS)}.")
    if num_classes < 2:
        raise InputError(f"A classifier needs at least 2 classes; got {num_classes}.")
    module, function = MODELS[name].split(":")
    network = cast(Builder, getattr(importlib.import_module(module), function))(num_classes, image_shape)
    if weights is not None:
        if not isinstance(getattr(network, "backbone", None), nn.Module):
            raise InputError(
                f"Model {name!r} has no backbone that starts from weights; got {weights}.\n"
                "Use --set model.weights=none, or one that has: resnet18, resnet50."
            )
        load_backbone(cast(HasBackbone, network), weights)
    return network
