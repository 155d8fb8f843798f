"""ResNet-18 and ResNet-50 as classifiers, the networks of ACT's web and food experiments.

Source: released ACT code, models `Resnet18` and `Resnet50` of main_web.py: torchvision's network (He et al. 2016),
global average pooling, and a new linear layer (He-normal weights, zero biases). The released model also computes three
probabilities in a branch that contributes to no loss; it is left out.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from torch import Tensor, nn

from tune_lnl.errors import InputError
from tune_lnl.models.reid import BatchNorm2dForAnyBatch

SMALLEST_SIDE = 32
PARTS = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")


class ResNetClassifier(nn.Module):
    """Images (B, 3, H, W) -> logits (B, num_classes).

    Attributes:
        backbone: images -> feature maps (B, D, h, w); its keys are torchvision's.
        classifier: Linear D -> num_classes.
    """

    backbone: nn.Module
    classifier: nn.Linear

    def __init__(self, backbone: nn.Module, feature_dim: int, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.classifier = nn.Linear(feature_dim, num_classes)
        nn.init.kaiming_normal_(self.classifier.weight)
        nn.init.zeros_(self.classifier.bias)

    def features(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, D), pooled."""
        maps: Tensor = self.backbone(images)
        return maps.mean(dim=(2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, num_classes)."""
        logits: Tensor = self.classifier(self.features(images))
        return logits


def build_resnet18(num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
    """Build ResNet-18: 11.2 million parameters and a head of 512 x num_classes. InputError for unsuitable images."""
    import torchvision.models

    return _build("resnet18", torchvision.models.resnet18, 512, num_classes, image_shape)


def build_resnet50(num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
    """Build ResNet-50: 23.5 million parameters and a head of 2048 x num_classes. InputError for unsuitable images."""
    import torchvision.models

    return _build("resnet50", torchvision.models.resnet50, 2048, num_classes, image_shape)


def _build(
    name: str, whole: Callable[..., nn.Module], feature_dim: int, num_classes: int, image_shape: tuple[int, int, int]
) -> nn.Module:
    height, width, channels = image_shape
    if min(height, width) < SMALLEST_SIDE or channels != 3:
        raise InputError(
            f"Model {name!r} is for colour images of at least {SMALLEST_SIDE}x{SMALLEST_SIDE}; got {height}x{width} "
            f"with {channels} channels.\nChoose a model that suits this dataset."
        )
    # A batch of one image of 32x32 leaves a single value per channel after the last stage.
    network = whole(weights=None, norm_layer=BatchNorm2dForAnyBatch)
    backbone = nn.Sequential(OrderedDict((part, getattr(network, part)) for part in PARTS))
    return ResNetClassifier(backbone, feature_dim, num_classes)
