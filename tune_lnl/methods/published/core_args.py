"""A trial's settings as the argument line of CORE's published script, ``train_core.py``.

The options are those of the released code, repository mangye16/ReID-Label-Noise at commit 89aa11f. It has few:
schedule, stages and noise seed are written into it. Settings that it fixes are reported in words.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping

_DATASETS = {"market1501": "market", "dukemtmc": "duke", "cuhk03": "cuhk03"}
_NOISES = ("random", "patterned")
_REQUIRED = ("dataset.name", "dataset.noise", "lr", "seed", "batch_size", "epochs", "refine_epochs")

_FIXED: tuple[tuple[str, object, str], ...] = (
    ("epochs", 61, "runs 61 epochs"),
    ("refine_epochs", 40, "co-refines for 40 epochs after 21 of SELF"),
    ("lr_milestones", [20, 50], "lowers its lr by ten at epochs 20 and 50"),
    ("lr_drop", 0.1, "lowers its lr by ten"),
    ("head_lr_multiplier", 10.0, "trains the head at ten times the lr"),
    ("momentum", 0.9, "has Nesterov momentum fixed at 0.9"),
    ("weight_decay", 5e-4, "has the weight decay fixed at 5e-4"),
    ("soft_weight", 1.0, "adds the soft-label term with weight 1"),
    ("selective", "none", "takes every sample for its label term"),
    ("refine_weight_from", "refined", "sets the weight of own labels from the refined loss"),
    ("precision", "fp32", "computes in float32"),
    ("validation.fraction", 0.0, "holds nothing out: it trains on every image and chooses on the test set"),
    ("dataset.subset", 1.0, "trains on the whole training set"),
    ("dataset.classes", None, "trains on all identities"),
    ("dataset.noise_seed", 1, "draws its noise with seed 1, whatever its --seed"),
    ("dataset.height", None, "crops 256 x 128 pixels"),
)
"""Setting, the only value that train_core.py has for it, and what it does."""


def core_arguments(config: Mapping[str, object]) -> tuple[str, list[str]]:
    """Return the arguments to run a trial with the published ``train_core.py``, and the differences of that run.

    Args:
        config: the flat, complete settings of a CORE trial in published names (``dataset.name``, ``lr``, ...).

    Returns:
        The arguments after ``python train_core.py``, quoted for a POSIX shell, and one sentence for each setting that
        the script cannot honour.

    Raises:
        ValueError: a setting that the line needs is missing.
    """
    missing = [key for key in _REQUIRED if key not in config]
    if missing:
        raise ValueError(f"a CORE argument line needs {', '.join(missing)}: pass the complete flat config")
    caveats: list[str] = []
    name, noise, model = str(config["dataset.name"]), config["dataset.noise"], config.get("model")
    options: dict[str, object] = {"--dataset": _DATASETS.get(name, name)}
    if name not in _DATASETS:
        caveats.append(f"dataset.name is {name}: train_core.py knows {', '.join(_DATASETS.values())}, and stops.")
    options |= {"--lr": config["lr"], "--batchsize": config["batch_size"], "--seed": config["seed"]}
    options["--noise_ratio"] = 0.0 if noise == "none" else config.get("dataset.noise_ratio", 0.2)
    words = [word for option, value in options.items() for word in (option, str(value))]
    if noise == "patterned":
        words.append("--pattern")
        caveats.append("dataset.noise is patterned: train_core.py then trains without augmentation.")
    elif noise not in (*_NOISES, "none"):
        caveats.append(f"dataset.noise is {noise}: train_core.py draws random or patterned noise itself.")
    chosen = model.get("name") if isinstance(model, Mapping) else model
    weights = model.get("weights") if isinstance(model, Mapping) else None
    if chosen not in (None, "reid_resnet50") or weights not in (None, "imagenet"):
        caveats.append(f"model is {model}: train_core.py trains a ResNet-50 from ImageNet weights.")
    for key, value, does in _FIXED:
        if key in config and config[key] != value:
            caveats.append(f"{key} is {config[key]}: train_core.py {does}.")
    return shlex.join(words), caveats
