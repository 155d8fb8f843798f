"""A small CNN for 8x8 digits, so that a search runs in seconds on one CPU core. This library's own, not published.

Three 3x3 convolutions (16, pool | 32, 32, pool), each with BatchNorm and ReLU, and a linear head. All normalisation
is over pixels as well as images, so a batch of one in train mode is no special case.
"""

from __future__ import annotations

from torch import Tensor, nn

from tune_lnl.errors import InputError

SMALLEST_SIDE = 8
BLOCKS = ((16,), (32, 32))


def build(num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
    """Build the network for (H, W, C) images of at least 8x8; InputError for smaller ones."""
    height, width, channels = image_shape
    if min(height, width) < SMALLEST_SIDE:
        raise InputError(
            f"Model 'cnn_digits' is for images of at least {SMALLEST_SIDE}x{SMALLEST_SIDE}; got {height}x{width}.\n"
            "Choose a model that suits this dataset."
        )
    return DigitsCNN(num_classes, height, width, channels)


class DigitsCNN(nn.Module):
    """Images (B, channels, height, width) -> logits (B, num_classes); 15,498 parameters for 8x8x1 and ten classes."""

    def __init__(self, num_classes: int, height: int = 8, width: int = 8, channels: int = 1) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for block in BLOCKS:
            for filters in block:
                layers += [nn.Conv2d(channels, filters, 3, padding=1), nn.BatchNorm2d(filters), nn.ReLU(inplace=True)]
                channels = filters
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        shrink = 2 ** len(BLOCKS)
        self.classifier = nn.Linear(channels * (height // shrink) * (width // shrink), num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """(B, channels, height, width) -> (B, num_classes)."""
        logits: Tensor = self.classifier(self.features(images).flatten(1))
        return logits
