"""A trial's settings as the argument line of ACT's published script, ``main.py``.

The options are those of the released code, repository shtdusb/ACT at commit 1411130. That script knows the two CIFAR
noise benchmarks; the web and food scripts have the same options but other fixed choices. Settings that it fixes, or
reads and never uses, are reported in words rather than left out silently.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from tune_lnl.methods.schedules import lr_plan, parse_plan

_DATASETS = ("cifar100nc", "cifar80no")
_NOISES = ("symmetric", "asymmetric")
_MODELS = {"cnn7": "CNN", "resnet18": "Resnet18", "resnet50": "Resnet50"}
_OPTIMIZERS = ("sgd", "adam")

_REQUIRED = (
    "dataset.name",
    "lr",
    "lr_decay",
    "weight_decay",
    "optimizer",
    "warmup_epochs",
    "epochs",
    "batch_size",
    "tau",
    "seed",
)

_FIXED: tuple[tuple[str, object, str], ...] = (
    ("momentum", 0.9, "has SGD momentum fixed at 0.9"),
    ("selection_rule", "agree", "selects what both networks agree on; rule rtm is in main_web.py and main_food101n.py"),
    ("label_smoothing", 0.0, "smooths no labels; main_web.py and main_food101n.py do, by 0.35"),
    ("penalty", "code", "computes its confidence penalty on clamped logits, which is penalty code"),
    ("penalty_weight", 1.0, "has the weight of the confidence penalty fixed at 1"),
    ("consistency_weight", 0.2, "has the share of the consistency term fixed at 0.2"),
    ("label_ema", 0.8, "has the label EMA fixed at 0.8"),
    ("selection", True, "has no switch for the selection"),
    ("mining", True, "has no switch for mining"),
    ("reweighting", True, "has no switch for the re-weighting"),
    ("consistency", True, "has no switch for the consistency term"),
    ("latch_mining", False, "decides on mining anew in every batch"),
    ("precision", "fp32", "computes in float32"),
    ("validation.fraction", 0.0, "holds nothing out: it trains on every image and scores the test set every epoch"),
    ("dataset.subset", 1.0, "trains on the whole training set"),
    ("dataset.classes", None, "trains on all classes"),
    ("dataset.noise_seed", 0, "draws its noise with seed 0, whatever its --seed"),
)
"""Setting, the only value that main.py has for it, and what it does."""


def act_arguments(config: Mapping[str, object]) -> tuple[str, list[str]]:
    """Return the arguments to run a trial with the published ``main.py``, and the differences of that run.

    Args:
        config: the flat, complete settings of an ACT trial in published names (``dataset.name``, ``lr``, ``lr1``, ...).

    Returns:
        The arguments after ``python main.py``, quoted for a POSIX shell, and one sentence for each setting that the
        script cannot honour.

    Raises:
        ValueError: a setting that the line needs is missing.
    """
    missing = [key for key in _REQUIRED if key not in config]
    if missing:
        raise ValueError(f"an ACT argument line needs {', '.join(missing)}: pass the complete flat config")
    caveats: list[str] = []
    options = _data_options(config, caveats)
    options |= _model_options(config, caveats)
    options |= _lr_options(config, caveats)
    options |= {
        "--warmup-epochs": config["warmup_epochs"],
        "--epochs": config["epochs"],
        "--batch-size": config["batch_size"],
        "--tau": config["tau"],
        "--seed": config["seed"],
    }
    unread = _unread(config)
    for key, value, does in _FIXED:
        if key not in unread and config.get(key, value) != value:
            caveats.append(f"{key} is {_shown(config[key])}: main.py {does}.")
    return shlex.join(word for option, value in options.items() for word in (option, str(value))), caveats


def _data_options(config: Mapping[str, object], caveats: list[str]) -> dict[str, object]:
    name, noise, ratio = config["dataset.name"], config.get("dataset.noise"), config.get("dataset.closed_ratio")
    options: dict[str, object] = {"--dataset": name}
    if name not in _DATASETS:
        caveats.append(f"dataset.name is {name}: main.py knows {' and '.join(_DATASETS)} only, and stops.")
    if noise not in _NOISES:
        if noise is not None:
            caveats.append(f"dataset.noise is {_shown(noise)}: main.py draws symmetric or asymmetric noise itself.")
        return options
    options["--noise-type"] = noise
    if ratio is not None:
        options["--closeset-ratio"] = ratio
        if ratio == 0:
            caveats.append("dataset.closed_ratio is 0: main.py refuses to run without closed-set noise.")
    return options


def _model_options(config: Mapping[str, object], caveats: list[str]) -> dict[str, object]:
    options: dict[str, object] = {}
    model, optimizer = config.get("model"), config["optimizer"]
    if model is None and config["dataset.name"] in _DATASETS:
        model = "cnn7"  # the default for these datasets, here and in the script
    if isinstance(model, str) and model in _MODELS:
        options["--model"] = _MODELS[model]
    else:
        caveats.append(f"model is {_shown(model)}: main.py has {', '.join(_MODELS.values())} only.")
    if optimizer in _OPTIMIZERS:
        options["--opt"] = optimizer
    else:
        caveats.append(f"optimizer is {_shown(optimizer)}: main.py has {' and '.join(_OPTIMIZERS)} only.")
    options["--weight-decay"] = config["weight_decay"]
    return options


def _lr_options(config: Mapping[str, object], caveats: list[str]) -> dict[str, object]:
    lr = _number(config, "lr")
    lr1 = lr if config.get("tie_lr") or config.get("lr1") is None else _number(config, "lr1")
    warmup_lr = lr if config.get("warmup_lr") is None else _number(config, "warmup_lr")
    if lr1 != lr:
        caveats.append(
            f"lr1 is {lr1!r}: main.py reads --lr1 but never uses it; both networks follow the plan of --lr {lr!r} "
            "and --warmup-lr."
        )
    decay, decay1 = config["lr_decay"], config.get("lr1_decay")
    if decay1 is not None and decay1 != decay:
        caveats.append(f"lr1_decay is {_shown(decay1)}: main.py gives both networks the plan of --lr-decay.")
    warmup_lr1 = config.get("warmup_lr1")
    if warmup_lr1 is not None and warmup_lr1 != warmup_lr:
        caveats.append(f"warmup_lr1 is {_shown(warmup_lr1)}: main.py warms both networks up at --warmup-lr.")
    plan = _published_plan(config, lr, warmup_lr, caveats)
    return {"--lr": lr, "--lr1": lr1, "--warmup-lr": warmup_lr, "--lr-decay": plan}


def _published_plan(config: Mapping[str, object], lr: float, warmup_lr: float, caveats: list[str]) -> str:
    """Return the plan as a string that the script reads: unchanged, or the nearest one to ``{shape, end}``."""
    spec = config["lr_decay"]
    if isinstance(spec, str):
        parse_plan(spec)
        return spec
    if not isinstance(spec, Mapping):
        raise ValueError(f"lr_decay is a plan string or {{shape, end}}, got {spec!r}")
    parse_plan(spec)
    epochs, warmup = int(_number(config, "epochs")), int(_number(config, "warmup_epochs"))
    share = 1.0 if spec["shape"] == "constant" else float(spec["end"])
    end = f"{share * lr:.12g}"
    if share == 1:
        return f"step:{epochs}"  # a step that never comes is the script's only constant plan
    if spec["shape"] == "linear":
        return f"linear:{warmup},{end}"
    plan = f"cosine:{warmup},{end},{epochs}"
    ours, published = (lr_plan(form, lr, epochs, warmup, warmup_lr)[-1] for form in (spec, plan))
    if ours != published:
        caveats.append(
            f"lr_decay is {_shown(spec)}: the published cosine never reaches its end; {plan} is at {published:.6g} "
            f"in the last epoch, not at {ours:.6g}."
        )
    return plan


def _unread(config: Mapping[str, object]) -> set[str]:
    """Return the settings without effect in this config; they need no caveat."""
    unread: set[str] = set()
    if config["optimizer"] != "sgd":
        unread.add("momentum")
    if not config.get("selection", True):
        unread |= {"selection_rule", "mining", "latch_mining", "label_ema"}
    if not config.get("mining", True):
        unread.add("latch_mining")
    if not config.get("consistency", True):
        unread |= {"consistency_weight", "label_ema"}
    if config["warmup_epochs"] == 0:
        unread |= {"penalty", "penalty_weight"}
    if config.get("penalty") == "none":
        unread.add("penalty_weight")
    return unread


def _number(config: Mapping[str, object], key: str) -> float:
    value = config[key]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{key} must be a number, got {value!r}")
    return float(value)


def _shown(value: object) -> str:
    """Return the value as in YAML, on one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_shown(item)}" for key, item in value.items() if item is not None) + "}"
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value)
