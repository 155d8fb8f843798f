"""The seven-layer CNN of ACT for 32x32 images.

Source: released ACT code, model/SevenCNN.py and model/MLPHeader.py. Six 3x3 convolutions (64, 64, pool | 128, 128,
pool | 196, 16, pool) give 16 x 4 x 4 = 256 features; the head is Linear 256 -> 512, BatchNorm, ReLU, Linear 512 ->
classes.

The side branch of the released model (256 -> 256 -> 128, 98,944 parameters) contributes to no loss and is left out:
699,488 parameters remain at 100 classes. Its unused options (dropout rate, activation) are left out as well.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from tune_lnl.errors import InputError

IMAGE_SIDE = 32
BLOCKS = ((64, 64), (128, 128), (196, 16))
HIDDEN = 512
NARROW_BLOCKS = ((16, 16), (32, 32), (48, 16))
NARROW_HIDDEN = 128


def build(num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
    """Build the network for (32, 32, C) images; InputError for another size."""
    return SevenLayerCNN(num_classes, _channels("cnn7", image_shape))


def build_narrow(num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
    """Build the same network a quarter as wide, for studies on a CPU; not published."""
    return SevenLayerCNN(num_classes, _channels("cnn7_narrow", image_shape), NARROW_BLOCKS, NARROW_HIDDEN)


def _channels(name: str, image_shape: tuple[int, int, int]) -> int:
    height, width, channels = image_shape
    if (height, width) != (IMAGE_SIDE, IMAGE_SIDE):
        raise InputError(
            f"Model {name!r} is for {IMAGE_SIDE}x{IMAGE_SIDE} images; got {height}x{width}.\n"
            "Choose a model that suits this dataset."
        )
    return channels


class BatchNormForAnyBatch(nn.BatchNorm1d):
    """BatchNorm1d that accepts a batch of one in train mode.

    One value per feature has no variance, so such a batch is normalised by the running statistics, as in eval mode, and
    does not change them. A larger batch is handled as by nn.BatchNorm1d.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(B, features) -> (B, features)."""
        if self.training and input.shape[0] == 1:
            return F.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        return super().forward(input)


class SevenLayerCNN(nn.Module):
    """Images (B, channels, 32, 32) -> logits (B, num_classes)."""

    def __init__(
        self,
        num_classes: int,
        channels: int = 3,
        blocks: Sequence[Sequence[int]] = BLOCKS,
        hidden: int = HIDDEN,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for block in blocks:
            for width in block:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        features = channels * (IMAGE_SIDE // 2 ** len(blocks)) ** 2
        self.classifier = nn.Sequential(
            _he_linear(features, hidden),
            BatchNormForAnyBatch(hidden),
            nn.ReLU(inplace=True),
            _he_linear(hidden, num_classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        """(B, channels, 32, 32) -> (B, num_classes)."""
        logits: Tensor = self.classifier(self.features(images).flatten(1))
        return logits


def _he_linear(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.kaiming_normal_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
