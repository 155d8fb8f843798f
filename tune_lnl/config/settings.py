"""One trial's settings: what may be set, its range, its default and its source, and the checks between settings.

A trial is described by sections: ``method``, ``dataset``, ``validation``, ``objective`` and ``fixed`` (the method's own
settings). :class:`TrialConfig` holds them typed; :meth:`TrialConfig.flat` gives the same as one flat mapping with
dotted names, which is what views and exports show.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_serializer, field_validator, model_validator

from tune_lnl.datasets.options import DatasetOptions
from tune_lnl.datasets.registry import get_dataset
from tune_lnl.errors import InputError, nearest
from tune_lnl.methods.schedules import lr_plan, parse_plan, reads_warmup_lr

SECTIONS = ("dataset", "validation", "objective", "fixed")

S = TypeVar("S", bound=BaseModel)

EPOCHS: dict[str, Any] = {"unit": "epochs"}
"""Marks a field that counts epochs, so that ``--epochs N`` scales it."""


STAGE: dict[str, Any] = EPOCHS | {"stage": True}
"""Marks the length of a stage that leaves at least one epoch for the one before it."""

LR_PLAN: dict[str, Any] = {"unit": "lr plan"}
"""Marks a field that holds an lr plan, whose epochs scale as well."""

SHORTHAND = "shorthand"
"""Marks a group of settings that may be written as the value of one of its keys."""


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

    # Strict: `tie_lr: 1` or `lr: "0.01"` is more likely a slip than a wish, and what derives one setting from another
    # (lr1, the scaling of epochs) reads the values as written.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class HeldOut(Settings):
    """The part of the training set that trials are judged on."""

    fraction: float = Field(
        0.1,
        ge=0.0,
        le=0.9,
        description="share of the training set (re-ID: of its persons) held out; 0 only in train",
    )
    seed: int = Field(0, ge=0, lt=2**32, description="seed of the split; the same for every trial of a search")


class ValidationSettings(HeldOut):
    """Of images with one class each."""

    labels: Literal["noisy", "clean"] = Field(
        "noisy",
        description="judge against the given labels (what a user has), or against the true ones "
        "(an oracle, for studies; open-set samples are then left out)",
    )


class ObjectiveSettings(Settings):
    """What the searcher maximises or minimises. Which metrics there are is the method's to say."""

    metric: str = Field("val_accuracy", description="of the reported network, on the held-out split")
    mode: Literal["max", "min"] = Field("max", description="direction")
    average_last: int = Field(
        10,
        ge=1,
        json_schema_extra=EPOCHS,
        description="the objective is the mean of this many last epochs (published: 10)",
    )


class DecayShape(Settings):
    """An lr decay from the end of the warm-up to the last epoch, relative to the network's own lr."""

    shape: Literal["cosine", "linear", "constant"] = Field(description="form of the decay")
    end: float | None = Field(
        None, ge=0.0, le=1.0, description="last lr as a share of the network's own lr; not for constant"
    )


@dataclass(frozen=True)
class Knob:
    """A name that a search may turn, from which settings are derived (``lr_asymmetry`` gives ``lr1``)."""

    decides: str
    description: str
    counts_epochs: bool = False


class MethodSettings(Settings):
    """What every method has: length, randomness, and how it computes."""

    knobs: ClassVar[dict[str, Knob]] = {}
    task: ClassVar[str] = "classification"
    """The kind of dataset it trains on (:attr:`tune_lnl.datasets.base.Dataset.task`)."""
    Validation: ClassVar[type[HeldOut]] = ValidationSettings
    objectives: ClassVar[Mapping[str, Literal["max", "min"]]] = {"val_accuracy": "max", "val_loss": "min"}
    """Metrics a search may be for, with their direction; the first is the default."""
    test_metrics: ClassVar[tuple[str, ...]] = ("test_accuracy",)
    """What ``train`` reports of the test set; the first stands for the run."""

    epochs: int = Field(ge=1, json_schema_extra=EPOCHS, description="length of a full trial, epochs")
    seed: int = Field(0, ge=0, description="training seed: initial weights, data order, augmentation, dropout")
    threads: int = Field(1, ge=1, description="CPU threads of the training; another count gives other last digits")
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        "fp32",
        description="arithmetic of the forward pass (fp32 weights always); fp16 needs a GPU and scales gradients",
    )

    def warmup_length(self) -> int:
        """Epochs before the method's main phase; no trial may be stopped inside them."""
        return 0

    def plans(self) -> dict[str, list[float]]:
        """The learning rate of every epoch, ``epochs`` values, by the name of the setting that leads it.

        Raises:
            ValueError: the published plan does not suit this lr or length.
        """
        return {}

    def dead(self) -> dict[str, str]:
        """Settings that this configuration does not read, with the reason; a search over them is refused."""
        return {}

    def derived(self) -> dict[str, Any]:
        """Knobs worth showing beside the setting they decide; may be given along with it where they agree."""
        return {}


class GradientSettings(MethodSettings):
    """What every method that trains by gradient steps has."""

    batch_size: int = Field(128, ge=2, description="images per step")


class ClassifierModel(Settings):
    """Which network, and what it starts from."""

    name: str | None = Field(None, description="network; null takes the dataset's own (CIFAR: cnn7)")
    weights: str | None = Field(
        None,
        description="imagenet, none (random), or the path of a state dict; null: imagenet where there are such weights",
    )


class ClassifierSettings(GradientSettings):
    """What the image classification methods share (published script, argument defaults and paper values)."""

    model: ClassifierModel = Field(
        ClassifierModel(), json_schema_extra={SHORTHAND: "name"}, description="{name, weights}, or the name alone"
    )
    optimizer: Literal["sgd", "adam"] = Field("sgd", description="sgd: Nesterov momentum; adam: betas 0.9, 0.999")
    momentum: float = Field(0.9, ge=0.0, lt=1.0, description="of sgd")
    weight_decay: float = Field(5e-4, ge=0.0, description="L2 penalty in the optimizer")
    lr: float = Field(gt=0.0, description="learning rate per step of the reported network (ACT: RTM)")
    lr_decay: str | DecayShape = Field(
        DecayShape(shape="cosine", end=0.05),
        json_schema_extra=LR_PLAN,
        description="a published plan (cosine:20,5e-4,100), or {shape, end} from warm-up to the last epoch",
    )
    warmup_epochs: int = Field(0, ge=0, json_schema_extra=EPOCHS, description="epochs of plain training at warmup_lr")
    warmup_lr: float | None = Field(None, gt=0.0, description="lr during warm-up; null: each network's own lr")
    label_smoothing: float = Field(0.0, ge=0.0, lt=1.0, description="of every cross-entropy (web scripts: 0.35)")

    @field_validator("model", mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        return {"name": value} if value is None or isinstance(value, str) else value

    @field_serializer("model")
    def _as_short_as_it_can_be(self, model: ClassifierModel) -> str | dict[str, str | None] | None:
        # So that a config of a network without weights reads, and compares, as it always did.
        return model.name if model.weights is None else model.model_dump()

    @field_validator("lr_decay", "lr1_decay", mode="before", check_fields=False)
    @classmethod
    def _plan_is_known(cls, value: Any) -> Any:
        # Before pydantic tries one form after the other and complains about each.
        if value is not None and not isinstance(value, DecayShape):
            parse_plan(value)
        return value

    @model_validator(mode="after")
    def _warmup_fits(self) -> ClassifierSettings:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"warmup_epochs must be below epochs, got {self.warmup_epochs} with epochs {self.epochs}; "
                "shorten the warm-up or lengthen the run"
            )
        self.plans()
        return self

    def warmup_length(self) -> int:
        return self.warmup_epochs

    def plans(self) -> dict[str, list[float]]:
        return {"lr": lr_plan(plan_spec(self.lr_decay), self.lr, self.epochs, self.warmup_epochs, self.warmup_lr)}

    def dead(self) -> dict[str, str]:
        dead: dict[str, str] = {}
        if self.optimizer == "adam":
            dead["momentum"] = "adam does not read it"
        if self.warmup_epochs == 0:
            dead["warmup_lr"] = "there is no warm-up"
        elif not self._reads_warmup_lr():
            dead["warmup_lr"] = f"the plan {self.lr_decay!r} ignores the warm-up"
        return dead

    def dead_delay(self) -> dict[str, str]:
        """``warmup_epochs``, where a method that only delays its lr decay by them does not even do that."""
        if not reads_warmup_lr(plan_spec(self.lr_decay)):
            return {"warmup_epochs": f"the plan {self.lr_decay!r} ignores the warm-up"}
        if self.warmup_lr is None and isinstance(self.lr_decay, DecayShape) and self.lr_decay.shape == "constant":
            return {"warmup_epochs": "warm-up and the rest have the same lr"}
        return {}

    def _reads_warmup_lr(self) -> bool:
        return reads_warmup_lr(plan_spec(self.lr_decay))


def plan_spec(decay: str | DecayShape) -> str | Mapping[str, Any]:
    """The form :func:`tune_lnl.methods.schedules.lr_plan` takes."""
    return decay if isinstance(decay, str) else decay.model_dump(exclude_none=True)


@dataclass(frozen=True)
class Fold:
    """One fold of a stratified cross-validation of the training set: it is held out, the others are trained on."""

    number: int
    """0-based."""
    folds: int


@dataclass(frozen=True)
class TrialConfig:
    """Everything that decides a trial's numbers (with the data's content)."""

    method: str
    dataset: DatasetOptions
    validation: HeldOut
    objective: ObjectiveSettings
    settings: MethodSettings
    fold: Fold | None = None
    """Held out instead of the share ``validation.fraction``; no setting, made where labels are judged."""

    def sections(self) -> dict[str, Any]:
        """Nested plain values, as written to YAML; reads back through :func:`build_config`."""
        return {
            "method": self.method,
            "dataset": self.dataset.model_dump(mode="json"),
            "validation": self.validation.model_dump(mode="json"),
            "objective": self.objective.model_dump(mode="json"),
            "fixed": self.settings.model_dump(mode="json") | self.settings.derived(),
        }

    def flat(self) -> dict[str, Any]:
        """Flat and complete, in published names: ``dataset.name``, ``validation.fraction``, ``lr``, ``lr1``, ..."""
        sections = self.sections()
        flat: dict[str, Any] = {"method": self.method}
        for section in ("dataset", "validation", "objective"):
            flat.update({f"{section}.{key}": value for key, value in sections[section].items()})
        flat.update(sections["fixed"])
        return flat

    def flat_as_before(self) -> dict[str, Any]:
        """Return :meth:`flat` with the removed settings at the value that meant "off", as earlier versions wrote it."""
        return self.flat() | {name: setting.off for name, setting in self.settings.removed.items()}


def build_config(
    sections: Mapping[str, Any], settings_type: Callable[[str], type[MethodSettings]], source: str
) -> TrialConfig:
    """Validate nested sections into a :class:`TrialConfig`.

    Args:
        sections: ``method`` and the four sections, plain values.
        settings_type: looks a method's settings class up by name.
        source: file or command named in errors.

    Raises:
        InputError: unknown section, method, dataset or key (with the nearest valid name), or a value out of range.
    """
    check_keys(sections, ("method", *SECTIONS), source, "section")
    method = required_name(sections, "method", source)
    dataset_values = section_mapping(sections, "dataset", source)
    dataset = get_dataset(required_name(dataset_values, "name", f"{source}: dataset"))
    settings = settings_type(method)
    if dataset.task != settings.task:
        raise InputError(
            f"{source}: method {method} is for {settings.task}, and dataset {dataset.name} is for {dataset.task}; "
            "change one of the two"
        )
    objective = {**default_objective(settings, sections, source), **section_mapping(sections, "objective", source)}
    config = TrialConfig(
        method=method,
        dataset=validated(dataset.Options, dataset_values, f"{source}: dataset"),
        validation=validated(
            settings.Validation, section_mapping(sections, "validation", source), f"{source}: validation"
        ),
        objective=validated(ObjectiveSettings, objective, f"{source}: objective"),
        settings=validated(settings, section_mapping(sections, "fixed", source), source),
    )
    _check_relations(config, source)
    return config


def default_objective(settings: type[MethodSettings], sections: Mapping[str, Any], source: str) -> dict[str, str]:
    """The method's own metric, or the direction of the one that is given."""
    given = section_mapping(sections, "objective", source).get("metric")
    metric = given if isinstance(given, str) else next(iter(settings.objectives))
    return {"metric": metric, "mode": settings.objectives.get(metric, "max")}


def _check_relations(config: TrialConfig, source: str) -> None:
    metric, mode = config.objective.metric, config.objective.mode
    objectives = config.settings.objectives
    if metric not in objectives:
        raise InputError(
            f"{source}: objective: metric must be one that {config.method} reports, {' or '.join(objectives)}, "
            f"got {metric!r}"
        )
    if mode != objectives[metric]:
        raise InputError(
            f"{source}: objective: {metric} is to be {objectives[metric]}imised, got mode {mode!r}; "
            f"set mode: {objectives[metric]}"
        )
    average, epochs = config.objective.average_last, config.settings.epochs
    if average > epochs:
        raise InputError(
            f"{source}: objective.average_last must not exceed epochs, got {average} with epochs {epochs}; "
            f"set objective.average_last to at most {epochs}"
        )


def section_mapping(sections: Mapping[str, Any], name: str, source: str) -> dict[str, Any]:
    """The section as a mapping; a missing or empty one is empty."""
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
    """Refuse keys that nothing reads."""
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
    """A group of settings from plain values.

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
    """One pydantic complaint as: place, rule, value received."""
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
