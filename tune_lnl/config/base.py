"""The settings that all methods share, and the validation of plain values.

A setting has a range, a default, a description and, where it is published, its source.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tune_lnl.errors import InputError, nearest

S = TypeVar("S", bound=BaseModel)

EPOCHS: dict[str, Any] = {"unit": "epochs"}
"""Marks a field that counts epochs, so that ``--epochs N`` scales it."""

STAGE: dict[str, Any] = EPOCHS | {"stage": True}
"""Marks the length of a stage that leaves at least one epoch for the one before it."""

LR_PLAN: dict[str, Any] = {"unit": "lr plan"}
"""Marks a field that holds an lr plan, whose epochs ``--epochs N`` scales."""

SHORTHAND = "shorthand"
"""Marks a group of settings that may be written as the value of one key: ``model: cnn7`` for ``{name: cnn7}``."""


@dataclass(frozen=True)
class RemovedSetting:
    """A setting that earlier versions had."""

    off: Any
    """The value at which it had no effect. Old files hold it, and it is dropped where it is read."""
    last_version: str
    """The last version of tune_lnl that knew the setting."""


class Settings(BaseModel):
    """Base of every group of settings: unknown keys are errors, values never change after validation."""

    removed: ClassVar[Mapping[str, RemovedSetting]] = {}

    # Strict: `tie_lr: 1` or `lr: "0.01"` is more likely a mistake than intended, and the code that derives settings
    # from others (lr1, the scaling of epochs) reads the values as written.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class HeldOut(Settings):
    """The held-out part of the training set, on which trials are scored."""

    fraction: float = Field(
        0.1,
        ge=0.0,
        le=0.9,
        description="share of the training set (re-ID: of its persons) held out; 0 only in train",
    )
    seed: int = Field(0, ge=0, lt=2**32, description="seed of the split; the same for every trial of a search")


class ValidationSettings(HeldOut):
    """The held-out part of a training set of images with one class each."""

    labels: Literal["noisy", "clean"] = Field(
        "noisy",
        description="judge against the given labels (what a user has), or against the true ones "
        "(an oracle, for studies; open-set samples are then left out)",
    )


class ObjectiveSettings(Settings):
    """The metric that a search maximises or minimises. The method decides which metrics exist."""

    metric: str = Field("val_accuracy", description="of the reported network, on the held-out split")
    mode: Literal["max", "min"] = Field("max", description="direction")
    average_last: int = Field(
        10,
        ge=1,
        json_schema_extra=EPOCHS,
        description="the objective is the mean of this many last epochs (published: 10)",
    )


@dataclass(frozen=True)
class Knob:
    """A name that a search may vary and from which a setting is derived (``lr_asymmetry`` gives ``lr1``)."""

    decides: str
    description: str
    counts_epochs: bool = False


Precision = Literal["fp32", "tf32", "bf16", "fp16"]


class MethodSettings(Settings):
    """Settings of every method: length, randomness, arithmetic."""

    knobs: ClassVar[dict[str, Knob]] = {}
    added: ClassVar[Mapping[str, Any]] = {"deterministic": False}
    """Settings that files of version 0.1.0 do not have, at the value of its trainings."""
    task: ClassVar[str] = "classification"
    """The kind of dataset it trains on (:attr:`tune_lnl.datasets.base.Dataset.task`)."""
    Validation: ClassVar[type[HeldOut]] = ValidationSettings
    objectives: ClassVar[Mapping[str, Literal["max", "min"]]] = {"val_accuracy": "max", "val_loss": "min"}
    """Metrics that can be the objective, with their direction; the first is the default."""
    test_metrics: ClassVar[tuple[str, ...]] = ("test_accuracy",)
    """Test metrics that ``train`` reports; the first is the main one."""

    epochs: int = Field(ge=1, json_schema_extra=EPOCHS, description="length of a full trial, epochs")
    seed: int = Field(0, ge=0, description="training seed: initial weights, data order, augmentation, dropout")
    threads: int = Field(1, ge=1, description="CPU threads of the training; another count gives other last digits")
    precision: Precision = Field(
        "fp32",
        description="arithmetic of the forward pass (fp32 weights always); tf32 (products of a GPU with 10 bits of "
        "mantissa) and fp16 need a GPU; fp16 scales gradients",
    )
    deterministic: bool = Field(
        False,
        description="on a GPU: only kernels that give the same digits every time, which are slower; a training on a "
        "CPU repeats in any case",
    )

    def warmup_length(self) -> int:
        """Return the number of epochs before the method's main phase; no trial may be stopped inside them."""
        return 0

    def plans(self) -> dict[str, list[float]]:
        """Return the learning rate of every epoch, ``epochs`` values, by the name of its setting.

        Raises:
            ValueError: the published plan does not suit this lr or length.
        """
        return {}

    def dead(self) -> dict[str, str]:
        """Return the settings that this configuration does not read, with the reason; a search over them is refused."""
        return {}

    def derived(self) -> dict[str, Any]:
        """Return knobs that exports show with the setting they decide. Both may be given if they agree."""
        return {}


class GradientSettings(MethodSettings):
    """Settings of every method that trains by gradient steps."""

    batch_size: int = Field(128, ge=2, description="images per step")


class ModelChoice(Settings):
    """The network and its initial weights."""

    name: str | None = Field(None, description="network; null takes the dataset's own (CIFAR: cnn7)")
    weights: str | None = Field(
        None,
        description="imagenet, none (random), or the path of a state dict; null: imagenet where there are such weights",
    )


def section_mapping(sections: Mapping[str, Any], name: str, source: str) -> dict[str, Any]:
    """Return a section as a new mapping; a missing or empty one is empty."""
    value = sections.get(name)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InputError(f"{source}: section {name!r} is a mapping of settings, got {value!r}")
    return dict(value)


def required_name(values: Mapping[str, Any], key: str, source: str) -> str:
    value = values.get(key)
    if not isinstance(value, str):
        raise InputError(f"{source}: {key!r} is required and is a name, got {value!r}")
    return value


def check_keys(values: Mapping[str, Any], valid: Iterable[str], source: str, noun: str = "key") -> None:
    """Refuse keys that are not among the valid ones."""
    known = list(valid)
    for key in values:
        if key not in known:
            raise InputError(f"{source}: unknown {noun} {key!r}; {nearest(key, known)}")


def without_removed(model: type[BaseModel], values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Drop the settings that earlier versions had and that are at the value that meant "off".

    Raises:
        InputError: a removed setting has another value; names the last version that knew the setting.
    """
    removed: Mapping[str, RemovedSetting] = getattr(model, "removed", {})
    for name in values.keys() & removed.keys():
        if values[name] != removed[name].off:
            raise InputError(
                f"{source}: {name} no longer exists, got {values[name]!r}; leave it out, or use tune_lnl "
                f"{removed[name].last_version}, the last version that knew it"
            )
    return {name: value for name, value in values.items() if name not in removed}


def validated(model: type[S], values: Mapping[str, Any], source: str) -> S:
    """Return a group of settings from plain values.

    Raises:
        InputError: an unknown key (with the nearest), or a value that breaks a rule; at most three at a time.
    """
    values = without_removed(model, values, source)
    known = [*model.model_fields, *getattr(model, "knobs", {})]
    check_keys(values, known, source)
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        raise InputError("\n".join(_explain(item, source, model) for item in error.errors()[:3])) from None


def _explain(item: Mapping[str, Any], source: str, model: type[BaseModel]) -> str:
    """Write one pydantic error as: place, rule, value received."""
    place = ".".join(str(part) for part in item["loc"])
    where = f"{source}: {place}" if place else source
    message = str(item["msg"]).removeprefix("Value error, ").replace("Input should be", "must be")
    if item["type"] == "missing":
        return f"{where} is required"
    if item["type"] == "value_error":
        return f"{where}: {message}"
    field = model.model_fields.get(place)
    null = " or null" if field is not None and type(None) in get_args(field.annotation) else ""
    return f"{where} {message}{null}, got {item['input']!r}"
