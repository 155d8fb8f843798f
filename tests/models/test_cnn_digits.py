"""The small CNN for digits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from tune_lnl.models.registry import build_model


def test_parameters_are_as_documented() -> None:
    model = build_model("cnn_digits", 10, (8, 8, 1))
    assert sum(parameter.numel() for parameter in model.parameters()) == 15_498


@pytest.mark.parametrize("image_shape", [(8, 8, 1), (10, 9, 3), (32, 32, 3)])
def test_image_sizes_from_eight_pixels(image_shape: tuple[int, int, int]) -> None:
    height, width, channels = image_shape
    assert build_model("cnn_digits", 10, image_shape)(torch.zeros(2, channels, height, width)).shape == (2, 10)


def test_reads_digits_after_a_few_epochs() -> None:
    digits = load_digits()
    images = torch.from_numpy(digits.images.astype(np.float32) / 8 - 1)[:, None]
    labels = torch.from_numpy(digits.target).long()
    torch.manual_seed(0)
    model = build_model("cnn_digits", 10, (8, 8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    for _ in range(5):
        for batch in torch.randperm(1200).view(-1, 60):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    model.eval()
    held_out = (model(images[1200:]).argmax(dim=1) == labels[1200:]).double().mean().item()
    assert held_out > 0.9
