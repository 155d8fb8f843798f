"""One trial's settings, typed: everything that decides its numbers.

A trial is described by sections: ``method``, ``dataset``, ``validation``, ``objective`` and ``fixed`` (the method's own
settings). :class:`TrialConfig` holds them typed; :meth:`TrialConfig.flat` gives the same as one flat mapping with
dotted names, which is what views and exports show.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic

from typing_extensions import TypeVar

from tune_lnl.config.base import (
    HeldOut,
    MethodSettings,
    ObjectiveSettings,
    check_keys,
    required_name,
    section_mapping,
    validated,
)
from tune_lnl.config.datasets import DatasetOptions
from tune_lnl.config.registry import dataset_options, settings_type
from tune_lnl.errors import InputError

# Covariant: a config of ACT is a config. The defaults let `TrialConfig` alone stand for a config of any method.
S = TypeVar("S", bound=MethodSettings, default=MethodSettings, covariant=True)
D = TypeVar("D", bound=DatasetOptions, default=DatasetOptions, covariant=True)
V = TypeVar("V", bound=HeldOut, default=HeldOut, covariant=True)

SECTIONS = ("dataset", "validation", "objective", "fixed")
PROVENANCE = "provenance"
"""Section of an exported config that names its origin; training does not read it."""


@dataclass(frozen=True)
class Fold:
    """One fold of a stratified cross-validation of the training set: it is held out, the others are trained on."""

    number: int
    """0-based."""
    folds: int


@dataclass(frozen=True)
class TrialConfig(Generic[S, D, V]):
    """Everything that decides a trial's numbers, but for the data's content.

    The type parameters are those of ``settings``, ``dataset`` and ``validation``. :func:`build_config` validates the
    settings with the class that is registered for the method, so a training class may name the types that it reads.
    """

    method: str
    dataset: D
    validation: V
    objective: ObjectiveSettings
    settings: S
    fold: Fold | None = None
    """Held out instead of the share ``validation.fraction``. It is no setting: the evaluation of labels sets it."""

    def sections(self) -> dict[str, Any]:
        """Return nested plain values, as written to YAML; :func:`build_config` reads them back."""
        return {
            "method": self.method,
            "dataset": self.dataset.model_dump(mode="json"),
            "validation": self.validation.model_dump(mode="json"),
            "objective": self.objective.model_dump(mode="json"),
            "fixed": self.settings.model_dump(mode="json") | self.settings.derived(),
        }

    def flat(self) -> dict[str, Any]:
        """Return one complete mapping in published names: ``dataset.name``, ``validation.fraction``, ``lr``, ..."""
        sections = self.sections()
        flat: dict[str, Any] = {"method": self.method}
        for section in ("dataset", "validation", "objective"):
            flat.update({f"{section}.{key}": value for key, value in sections[section].items()})
        flat.update(sections["fixed"])
        return flat

    def flat_as_before(self) -> dict[str, Any]:
        """Return :meth:`flat` as version 0.1.0 wrote it.

        Settings removed since are at the value that meant "off"; those added since are left out where they are at the
        value of its trainings.
        """
        added = self.settings.added
        kept = {name: value for name, value in self.flat().items() if name not in added or value != added[name]}
        return kept | {name: setting.off for name, setting in self.settings.removed.items()}


def build_config(sections: Mapping[str, Any], source: str) -> TrialConfig:
    """Validate nested sections into a :class:`TrialConfig`.

    Args:
        sections: ``method`` and the four sections, plain values.
        source: file or command named in errors.

    Raises:
        InputError: unknown section, method, dataset or key (with the nearest valid name), or a value out of range.
    """
    check_keys(sections, ("method", *SECTIONS), source, "section")
    method = required_name(sections, "method", source)
    dataset_values = section_mapping(sections, "dataset", source)
    dataset = required_name(dataset_values, "name", f"{source}: dataset")
    options = dataset_options(dataset)
    settings = settings_type(method)
    if options.task != settings.task:
        raise InputError(
            f"{source}: method {method} is for {settings.task}, and dataset {dataset} is for {options.task}; "
            "change one of the two"
        )
    objective = {**default_objective(settings, sections, source), **section_mapping(sections, "objective", source)}
    config = TrialConfig(
        method=method,
        dataset=validated(options, dataset_values, f"{source}: dataset"),
        validation=validated(
            settings.Validation, section_mapping(sections, "validation", source), f"{source}: validation"
        ),
        objective=validated(ObjectiveSettings, objective, f"{source}: objective"),
        settings=validated(settings, section_mapping(sections, "fixed", source), source),
    )
    _check_relations(config, source)
    return config


def default_objective(settings: type[MethodSettings], sections: Mapping[str, Any], source: str) -> dict[str, str]:
    """Return the default metric of the method, or the given one, with its direction."""
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
            f"{source}: objective: {metric} must be {objectives[metric]}imised, got mode {mode!r}; "
            f"set mode: {objectives[metric]}"
        )
    average, epochs = config.objective.average_last, config.settings.epochs
    if average > epochs:
        raise InputError(
            f"{source}: objective.average_last must not exceed epochs, got {average} with epochs {epochs}; "
            f"set objective.average_last to at most {epochs}"
        )
