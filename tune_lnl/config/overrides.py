"""Changing a config or a search space before it is validated: ``--set`` and ``--epochs``.

Both work on plain nested values. A config has the sections of :mod:`tune_lnl.config.trial`; a search space has
``search`` (ranges) and ``start`` (points) beside them.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from typing import Any, TypeGuard

from pydantic import BaseModel

from tune_lnl.config.base import (
    EPOCHS,
    LR_PLAN,
    SHORTHAND,
    STAGE,
    MethodSettings,
    ObjectiveSettings,
    required_name,
    section_mapping,
    without_removed,
)
from tune_lnl.config.lr_plans import scale_plan
from tune_lnl.config.registry import dataset_options
from tune_lnl.config.yaml import load_yaml
from tune_lnl.errors import InputError, nearest

NESTED = ("dataset", "validation", "objective", "search", "budget", "fixed")


def parse_overrides(items: Iterable[str]) -> dict[str, Any]:
    """Parse the values of ``--set``: ``["tau=0.1", "dataset.subset=0.02"]`` gives ``{"tau": 0.1, ...}``.

    Values are YAML. The last value of a name counts.

    Raises:
        InputError: no ``=``, an empty key, or a value that is not YAML.
    """
    overrides: dict[str, Any] = {}
    for item in items:
        key, separator, value = item.partition("=")
        key = key.strip()
        if not separator or not key:
            raise InputError(f"--set takes KEY=VALUE, got {item!r}; for example --set dataset.subset=0.05")
        overrides[key] = load_yaml(value, f"--set {key}")
    return overrides


def dataset_section(name: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ``dataset`` section that ``--set dataset.KEY=VALUE`` makes for a dataset, not yet validated.

    Raises:
        InputError: a key outside ``dataset``, or ``dataset.name``.
    """
    sections: dict[str, Any] = {"dataset": {"name": name}}
    for key, value in overrides.items():
        section, _, rest = key.partition(".")
        if section != "dataset" or not rest or rest == "name":
            raise InputError(f"--set takes dataset.KEY=VALUE here, got {key}\nfor example --set dataset.subset=0.1")
        _set_nested(sections, "dataset", rest.split("."), value)
    section_values: dict[str, Any] = sections["dataset"]
    return section_values


def setting_names(sections: Mapping[str, Any], settings: type[MethodSettings], source: str) -> list[str]:
    """Every dotted name that ``--set`` may change for this method and dataset."""
    dataset = required_name(section_mapping(sections, "dataset", source), "name", f"{source}: dataset")
    groups: dict[str, type[BaseModel]] = {
        "dataset": dataset_options(dataset),
        "validation": settings.Validation,
        "objective": ObjectiveSettings,
    }
    dotted = [f"{group}.{key}" for group, model in groups.items() for key in model.model_fields]
    return ["method", *dotted, *settings.model_fields, *settings.knobs]


def apply_overrides(
    sections: Mapping[str, Any], overrides: Mapping[str, Any], settings: type[MethodSettings], source: str
) -> dict[str, Any]:
    """A copy of ``sections`` with each override applied, as given.

    A plain setting name (``tau``) becomes fixed and is no longer searched; ``search.tau`` replaces a range;
    ``dataset.subset`` and the like set a key of that section. Fixing a setting that a searched knob decides
    (``lr1``) ends the search over the knob (``lr_asymmetry``). A setting that was fixed and is now searched keeps
    its old value in the start points, so that trial 0 stays what it was.

    Raises:
        InputError: no setting of that name (with the nearest).
    """
    changed = copy.deepcopy(dict(sections))
    for key, value in overrides.items():
        section, _, rest = key.partition(".")
        if key in ("method", "start"):
            changed[key] = value
        elif section in NESTED and rest:
            if section == "search" and rest in {**settings.model_fields, **settings.knobs}:
                _search_instead(changed, settings, rest)
            elif section == "fixed":
                _drop(changed, settings, rest)
            _set_nested(changed, section, rest.split("."), value)
        elif rest and section in settings.model_fields and _is_group(changed, settings, section):
            _set_nested(changed, "fixed", key.split("."), value)
        elif key in settings.model_fields or key in settings.knobs:
            _drop(changed, settings, key)
            _set_nested(changed, "fixed", [key], value)
        elif key in settings.removed:
            without_removed(settings, {key: value}, "--set")
        else:
            searchable = (*settings.model_fields, *settings.knobs)
            names = [*setting_names(sections, settings, source), *(f"search.{name}" for name in searchable)]
            raise InputError(f"--set {key}: no such setting; {nearest(key, names)}")
    return changed


def _is_group(sections: dict[str, Any], settings: type[MethodSettings], name: str) -> bool:
    """Whether the setting has keys of its own (``model.weights``); its shorthand is written out then."""
    fixed = sections.get("fixed")
    value = fixed.get(name) if isinstance(fixed, dict) else None
    extra = settings.model_fields[name].json_schema_extra
    key = extra.get(SHORTHAND) if isinstance(extra, dict) else None
    if key is not None and not isinstance(value, dict):
        _set_nested(sections, "fixed", [name], {} if value is None else {str(key): value})
        return True
    return isinstance(value, dict)


def _set_nested(sections: dict[str, Any], section: str, path: list[str], value: Any) -> None:
    target = sections.get(section)
    if not isinstance(target, dict):
        target = sections[section] = {}
    for part in path[:-1]:
        if not isinstance(target.get(part), dict):
            target[part] = {}
        target = target[part]
    target[path[-1]] = value


def _search_instead(sections: dict[str, Any], settings: type[MethodSettings], name: str) -> None:
    """Make room for a range of ``name``: its fixed value moves into the start points, its rivals go."""
    fixed = sections.get("fixed")
    if isinstance(fixed, dict) and name in fixed:
        value = fixed.pop(name)
        for point in _start_points(sections):
            point.setdefault(name, value)
    rivals = {knob for knob, spec in settings.knobs.items() if spec.decides == name}
    if name in settings.knobs:
        rivals.add(settings.knobs[name].decides)
    _forget(sections, rivals)


def _drop(sections: dict[str, Any], settings: type[MethodSettings], name: str) -> None:
    """Forget every value and range of ``name`` and of whatever is decided by it or decides it."""
    related = {name}
    related |= {knob for knob, spec in settings.knobs.items() if spec.decides == name}
    if name in settings.knobs:
        related.add(settings.knobs[name].decides)
    _forget(sections, related)


def _forget(sections: dict[str, Any], names: set[str]) -> None:
    for place in (sections.get("fixed"), sections.get("search"), *_start_points(sections)):
        if isinstance(place, dict):
            for name in names:
                place.pop(name, None)


def _start_points(sections: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The start points that can be changed; whatever else stands there is refused when the space is checked."""
    start = sections.get("start")
    return [point for point in start if isinstance(point, dict)] if isinstance(start, list) else []


def scale_epochs(
    sections: Mapping[str, Any], epochs: int, settings: type[MethodSettings], source: str
) -> dict[str, Any]:
    """A copy of ``sections`` at another length: every epoch-valued setting, range, start point, ``average_last`` and
    number inside an lr-plan string times ``epochs / old epochs``, rounded half up, at least 1 (0 stays 0).

    A range that collapses to one value becomes a fixed setting.

    Raises:
        InputError: ``epochs`` below 1, or the config has no length of its own.
    """
    if epochs < 1:
        raise InputError(f"--epochs is at least 1, got {epochs}")
    changed = copy.deepcopy(dict(sections))
    fixed = changed["fixed"] = section_mapping(changed, "fixed", source)
    old = fixed.get("epochs")
    if not _is_count(old) or old < 1:
        raise InputError(f"{source}: fixed.epochs is a whole number of at least 1, got {old!r}")
    factor = epochs / old
    counted = _names_with_unit(settings, EPOCHS) | {name for name, knob in settings.knobs.items() if knob.counts_epochs}
    plans = _names_with_unit(settings, LR_PLAN)

    objective = changed["objective"] = section_mapping(changed, "objective", source)
    objective.setdefault("average_last", ObjectiveSettings().average_last)
    _scale_values(objective, {"average_last"}, set(), factor)
    for name, knob in settings.knobs.items():
        # Given along with what it decides, it would be rounded on its own.
        if knob.decides in fixed:
            fixed.pop(name, None)
    _scale_values(fixed, counted, plans, factor)
    fixed["epochs"] = epochs
    for point in _start_points(changed):
        _scale_values(point, counted, plans, factor)
    stages, longest = _names_with_unit(settings, STAGE), max(1, epochs - 1)
    for values in (fixed, *_start_points(changed)):
        _shorten(values, stages & values.keys(), longest)
    _scale_ranges(changed, counted, plans, factor, dict.fromkeys(stages, longest))
    return changed


def _shorten(values: dict[str, Any], names: set[str], longest: int) -> None:
    """Rounding up must not let a stage fill the run."""
    for name in names:
        if _is_count(values[name]):
            values[name] = min(values[name], longest)


def _names_with_unit(settings: type[MethodSettings], unit: dict[str, Any]) -> set[str]:
    """Fields marked with everything in ``unit``."""
    return {
        name
        for name, field in settings.model_fields.items()
        if isinstance(field.json_schema_extra, dict) and unit.items() <= field.json_schema_extra.items()
    }


def _scale_values(values: dict[str, Any], counted: set[str], plans: set[str], factor: float) -> None:
    for key, value in values.items():
        values[key] = _scaled(value, key in counted, key in plans, factor)


def _scaled(value: Any, counts_epochs: bool, is_plan: bool, factor: float) -> Any:
    if counts_epochs and _is_count(value):
        return scale_count(value, factor)
    if counts_epochs and isinstance(value, list):
        return [scale_count(item, factor) if _is_count(item) else item for item in value]
    return scale_plan(value, factor) if is_plan and isinstance(value, str) else value


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def scale_count(count: int, factor: float) -> int:
    """``count * factor`` rounded half up, at least 1; 0 (none at all) stays 0."""
    # Rounding away the last digits first keeps 45 * (70 / 100) a tie, as it is on paper.
    return 0 if count == 0 else max(1, math.floor(round(count * factor, 9) + 0.5))


def _scale_ranges(
    sections: dict[str, Any], counted: set[str], plans: set[str], factor: float, longest: Mapping[str, int]
) -> None:
    search = sections.get("search")
    if not isinstance(search, dict):
        return
    for name in [name for name in search if name in counted | plans]:
        spec = search[name]
        if not isinstance(spec, dict):
            continue
        _scale_range(spec, name in counted, name in plans, factor)
        if name in longest:
            _shorten(spec, {"low", "high"} & spec.keys(), longest[name])
        only = _only_value(spec)
        if only:
            sections["fixed"][name] = only[0]
            del search[name]
            for point in _start_points(sections):
                point.pop(name, None)


def _scale_range(spec: dict[str, Any], counts_epochs: bool, is_plan: bool, factor: float) -> None:
    if isinstance(spec.get("choices"), list):
        scaled = [_scaled(choice, counts_epochs, is_plan, factor) for choice in spec["choices"]]
        spec["choices"] = [choice for at, choice in enumerate(scaled) if choice not in scaled[:at]]
    if not counts_epochs:
        return
    if _is_count(spec.get("step")):
        # A grid that stays whole is kept; any other would leave scaled start points off it, and so would one whose
        # first point was raised to 1.
        step = round(spec["step"] * factor, 9)
        raised = _is_count(spec.get("low")) and 0 < round(spec["low"] * factor, 9) < 0.5
        spec["step"] = int(step) if step >= 1 and step.is_integer() and not raised else 1
    for bound in {"low", "high"} & spec.keys():
        spec[bound] = _scaled(spec[bound], counts_epochs, is_plan, factor)


def _only_value(spec: Mapping[str, Any]) -> list[Any]:
    """The one value a range has collapsed to, as a list; empty where several are left."""
    choices = spec.get("choices")
    if isinstance(choices, list):
        return choices if len(choices) == 1 else []
    low, high = spec.get("low"), spec.get("high")
    return [low] if low is not None and low == high else []
