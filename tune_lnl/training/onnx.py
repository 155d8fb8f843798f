"""A classifier as an ONNX file, for programs without torch. Needs the extra ``tune_lnl[onnx]``.

The graph takes decoded images and normalises them itself:

- input ``images``: uint8 (batch, H, W, C), RGB or grey, resized as in the model file's ``preprocessing``;
- output ``logits``: float32 (batch, K).

The file's metadata holds ``classes`` (JSON, K names in the order of the logits), ``resize`` and ``square``.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path

import torch
from torch import Tensor, nn

from tune_lnl.errors import InputError
from tune_lnl.files import given_file
from tune_lnl.training.model_file import ImageClassifier


class _FromPixels(nn.Module):
    """Normalisation and network in one module."""

    mean: Tensor
    std: Tensor

    def __init__(self, classifier: ImageClassifier) -> None:
        super().__init__()
        # A copy: the caller may continue to predict on another device.
        self.network = copy.deepcopy(classifier.network)
        for name in ("mean", "std"):
            values = torch.tensor(getattr(classifier, name)).view(1, -1, 1, 1)
            self.register_buffer(name, values, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.permute(0, 3, 1, 2).float() / 255
        found: Tensor = self.network((pixels - self.mean) / self.std)
        return found


def write_onnx(classifier: ImageClassifier, file: Path) -> None:
    """Write the classifier; the file appears whole or not at all.

    Raises:
        InputError: the extra is not installed.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401  # torch.onnx exports with it
    except ImportError as error:
        raise InputError(f"--onnx needs {error.name}: pip install 'tune_lnl[onnx]'") from None
    module = _FromPixels(classifier).cpu().eval()
    height, width, channels = classifier.image_shape
    example = torch.zeros(2, height, width, channels, dtype=torch.uint8)
    program = torch.onnx.export(
        module,
        (example,),
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes={"images": {0: torch.export.Dim("batch", min=1)}},
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    content = program.model_proto
    facts = {
        "classes": json.dumps(classifier.classes),
        "resize": classifier.size.resize,
        "square": classifier.size.square,
    }
    for key, value in facts.items():
        entry = content.metadata_props.add()
        entry.key, entry.value = key, str(value)
    with given_file(file) as temporary:
        onnx.save(content, temporary)
