"""Person re-identification networks: a backbone, a pooled feature for ranking, and a head for training.

Source: released CORE code, repository mangye16/ReID-Label-Noise, model.py lines 28-98. The classifier sees the feature
through a block (Linear to 512, BatchNorm, LeakyReLU 0.1, Dropout 0.5), while ranking uses the feature itself, before
the block. The released network returns different values in train and in eval mode, and squeezes all dimensions, so that
a batch of one fails; here the caller chooses by the method, and a batch of one is accepted.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from tune_lnl.errors import InputError, nearest
from tune_lnl.models.cnn7 import BatchNormForAnyBatch
from tune_lnl.models.weights import load_backbone

HEAD_WIDTH = 512
SMALL_CHANNELS = (24, 48, 96, 128)
SMALL_STRIPES = 4
SMALL_EMBEDDING = 128
SMALL_DROPOUT = 0.2


class ReidNetwork(nn.Module):
    """Images (B, 3, H, W) -> features (B, D) by global average pooling -> head -> logits (B, C).

    In train mode a batch of one is normalised by the running statistics wherever it has a single value per channel (in
    the head, and in the backbone of a very small image), and does not change them.

    Attributes:
        backbone: images -> feature maps (B, D, h, w), initialised by the builder.
        head: Linear D -> ``head_width`` (Kaiming normal, fan-out), BatchNorm (weight N(1, 0.02)), LeakyReLU 0.1,
            Dropout 0.5. All biases start at 0.
        classifier: Linear ``head_width`` -> C, N(0, 0.001).
        feature_dim: D.
    """

    backbone: nn.Module
    head: nn.Sequential
    classifier: nn.Linear

    def __init__(
        self,
        backbone: nn.Module,
        feature_dim: int,
        num_classes: int,
        head_width: int = HEAD_WIDTH,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.feature_dim = feature_dim
        self.backbone = backbone
        linear, norm = nn.Linear(feature_dim, head_width), BatchNormForAnyBatch(head_width)
        self.head = nn.Sequential(linear, norm, nn.LeakyReLU(0.1), nn.Dropout(dropout))
        self.classifier = nn.Linear(head_width, num_classes)
        nn.init.kaiming_normal_(linear.weight, mode="fan_out")
        nn.init.normal_(norm.weight, 1.0, 0.02)
        nn.init.normal_(self.classifier.weight, 0.0, 0.001)
        for layer in (linear, norm, self.classifier):
            nn.init.zeros_(layer.bias)

    def features(self, x: Tensor) -> Tensor:
        """Return the features for ranking, (B, 3, H, W) -> (B, D); pooled, not normalised."""
        maps: Tensor = self.backbone(x)
        return maps.mean(dim=(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, (B, 3, H, W) -> (B, C)."""
        return self.forward_both(x)[0]

    def forward_both(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (B, C) and features (B, D) of one forward pass."""
        features = self.features(x)
        logits: Tensor = self.classifier(self.head(features))
        return logits, features

    def backbone_parameters(self) -> Iterator[nn.Parameter]:
        """Return the parameters that are trained at the learning rate itself."""
        return self.backbone.parameters()

    def head_parameters(self) -> Iterator[nn.Parameter]:
        """Return the parameters of head and classifier, which are trained at a multiple of it."""
        return chain(self.head.parameters(), self.classifier.parameters())


class StripedReidNetwork(ReidNetwork):
    """A network that ranks by the embedding (after the head's BatchNorm) of horizontal stripes of the feature maps.

    The pooled maps of a backbone this small, trained from scratch, represent the camera rather than the clothes: on
    the first version of the drawn persons, without noise, the stripes give 19% test mAP directly and 47% through the
    embedding.
    """

    def __init__(self, backbone: nn.Module, channels: int, num_classes: int) -> None:
        super().__init__(backbone, channels * SMALL_STRIPES, num_classes, SMALL_EMBEDDING, SMALL_DROPOUT)
        self.feature_dim = SMALL_EMBEDDING

    def features(self, x: Tensor) -> Tensor:
        maps: Tensor = self.backbone(x)
        height, width = maps.shape[2:]
        if height % SMALL_STRIPES == 0:  # the same means, by a kernel whose gradient a GPU can repeat
            stripes = F.avg_pool2d(maps, (height // SMALL_STRIPES, width))
        else:
            stripes = F.adaptive_avg_pool2d(maps, (SMALL_STRIPES, 1))
        embedding: Tensor = self.head[1](self.head[0](stripes.flatten(1)))
        return embedding

    def forward_both(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(x)
        logits: Tensor = self.classifier(self.head[3](self.head[2](features)))
        return logits, features


def reid_resnet50(num_classes: int) -> ReidNetwork:
    """Build the published network: torchvision's ResNet-50 without its ``fc``, last stride 2, 2048-d features.

    The backbone's keys are torchvision's. Published at 256x128; any size works.
    """
    import torchvision.models

    whole = torchvision.models.resnet50(weights=None, norm_layer=BatchNorm2dForAnyBatch)
    parts = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
    backbone = nn.Sequential(OrderedDict((name, getattr(whole, name)) for name in parts))
    return ReidNetwork(backbone, 2048, num_classes)


def reid_small(num_classes: int) -> ReidNetwork:
    """Build a small network for CPU work and images of about 64x32 or 48x24; this library's own, not published.

    Four 3x3 convolutions of 24, 48, 96 and 128 channels, the first of stride 2, a 2x2 pooling after the second and the
    third; 128-d features, 0.23 million parameters, 13 million multiply-adds per image at 64x32. Convolutions are
    initialised Kaiming-normal (fan-out).
    """
    layers: list[nn.Module] = []
    channels = 3
    for position, width in enumerate(SMALL_CHANNELS):
        layers += [_conv(channels, width, 3, stride=2 if position == 0 else 1), BatchNorm2dForAnyBatch(width)]
        layers.append(nn.ReLU(inplace=True))
        if position in (1, 2):
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
        channels = width
    return StripedReidNetwork(nn.Sequential(*layers), channels, num_classes)


REID_MODELS: dict[str, Callable[[int], ReidNetwork]] = {
    "reid_resnet50": reid_resnet50,
    "reid_small": reid_small,
}
"""Name -> function that builds the network from the number of identities."""


def build_reid_model(name: str, num_classes: int, weights: Path | None) -> ReidNetwork:
    """Build a new network ``name``, initialised from torch's global random state: seed it first.

    Args:
        name: a key of :data:`REID_MODELS`.
        num_classes: number of training identities, at least 2.
        weights: a file for :func:`tune_lnl.models.weights.load_backbone`, or None for a random backbone.

    Raises:
        InputError: unknown name, fewer than two classes, or weights that cannot be used.
    """
    if name not in REID_MODELS:
        raise InputError(f"There is no re-ID model {name!r}; {nearest(name, REID_MODELS)}.")
    if num_classes < 2:
        raise InputError(f"A re-ID network is trained on at least 2 identities; got {num_classes}.")
    network = REID_MODELS[name](num_classes)
    if weights is not None:
        load_backbone(network, weights)
    return network


class BatchNorm2dForAnyBatch(nn.BatchNorm2d):
    """BatchNorm2d that accepts one value per channel in train mode: it then uses the running statistics, unchanged."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, channels, h, w) -> the same shape."""
        if self.training and input.numel() == input.shape[1]:
            return F.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        return super().forward(input)


def _conv(inputs: int, outputs: int, side: int, stride: int = 1) -> nn.Conv2d:
    layer = nn.Conv2d(inputs, outputs, side, stride, padding=side // 2, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer
