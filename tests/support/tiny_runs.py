"""Short runs on the built-in digits and on a tiny re-ID set, shared by the tests of this room."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

import tiny_persons
import torch
from torch import Tensor, nn

from tune_lnl.config.registry import settings_type
from tune_lnl.config.trial import TrialConfig, build_config
from tune_lnl.models.reid import ReidNetwork
from tune_lnl.training.loop import Report, Surroundings, Training
from tune_lnl.training.registry import start_training

EPOCHS, WARMUP = 4, 2
REQUIRED: dict[str, Any] = {
    "epochs": EPOCHS,
    "lr": 0.05,
    "lr1": 0.1,
    "refine_epochs": EPOCHS - WARMUP,
    "reweight_epochs": EPOCHS - WARMUP,
}
"""A value for every setting that some method wants and has no default for."""
DATASETS: dict[str, dict[str, Any]] = {
    "classification": {"name": "digits8no", "subset": 0.1, "closed_ratio": 0.2},
    "re-identification": {"name": "market1501", "height": 32},
}
"""By what a method is for."""
TIMES = ("seconds", "train_seconds", "images_per_second")


def sections(
    method: str,
    dataset: Mapping[str, Any] | None = None,
    validation: Mapping[str, Any] | None = None,
    objective: Mapping[str, Any] | None = None,
    **fixed: Any,
) -> dict[str, Any]:
    """A config as plain values: about 90 training images, two epochs of warm-up, two more."""
    settings = settings_type(method)
    fields = settings.model_fields
    required = {name: REQUIRED[name] for name, field in fields.items() if field.is_required()}
    if settings.task == "re-identification":
        required["model"] = {"name": "reid_small", "weights": "none"}
    warmup = {"warmup_epochs": WARMUP} if "warmup_epochs" in fields else {}
    for knob in settings.knobs.keys() & fixed.keys():
        required.pop(settings.knobs[knob].decides)
    return {
        "method": method,
        "dataset": {**DATASETS[settings.task], **(dataset or {})},
        "validation": {"fraction": 0.3, **(validation or {})},
        "objective": {"average_last": 2, **(objective or {})},
        "fixed": {**required, **warmup, "batch_size": 32, **fixed},
    }


def tiny(method: str, **changes: Any) -> TrialConfig:
    """The config of :func:`sections`, checked."""
    return build_config(sections(method, **changes), "test")


def start(config: TrialConfig, test_from: int | None = None) -> Training:
    return start_training(config, surroundings(config, test_from))


def surroundings(config: TrialConfig, test_from: int | None = None) -> Surroundings:
    """With the data at hand."""
    return Surroundings(tiny_persons.data_dir() if is_reid(config.method) else None, test_from=test_from)


def is_reid(method: str) -> bool:
    return settings_type(method).task == "re-identification"


def finish(training: Training) -> list[Report]:
    """Run the remaining epochs."""
    reports = []
    while not training.finished:
        reports.append(training.run_epoch())
    return reports


def without_times(reports: list[Report]) -> list[Report]:
    return [{name: value for name, value in report.items() if name not in TIMES} for report in reports]


def weights(training: Training) -> dict[str, Tensor]:
    """Parameters and buffers of each network as one vector, by the suffix of its metrics; a copy."""
    networks: Mapping[str, Mapping[str, Tensor]] = training.state_dict()["networks"]
    return {
        suffix: torch.cat([tensor.detach().double().flatten() for tensor in network.values()])
        for suffix, network in networks.items()
    }


def build_wide_reid(num_classes: int) -> ReidNetwork:
    """Another network for the persons."""
    return ReidNetwork(nn.Conv2d(3, 24, 3, stride=2), 24, num_classes)


def build_wide(num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
    """Another network for the digits."""
    height, width, channels = image_shape
    return nn.Sequential(nn.Flatten(), nn.Linear(height * width * channels, num_classes))


if __name__ == "__main__":
    print(json.dumps({name: without_times(finish(start(tiny(name), test_from=2))) for name in sys.argv[1:]}))
