"""Changing a config or a search space before it is validated: ``--set`` and ``--epochs``.

Both work on plain nested values. A config has the sections of :mod:`tune_lnl.trainables.settings`; a search space has
``search`` (ranges) and ``start`` (points) beside them.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from tune_lnl.datasets.registry import get_dataset
from tune_lnl.errors import InputError, nearest
from tune_lnl.methods.schedules import scale_plan
from tune_lnl.trainables.settings import (
    EPOCHS,
    LR_PLAN,
    MethodSettings,
    ObjectiveSettings,
    ValidationSettings,
    required_name,
    section_mapping,
)

NESTED = ("dataset", "validation", "objective", "search", "budget", "fixed")


def setting_names(sections: Mapping[str, Any], settings: type[MethodSettings], source: str) -> list[str]:
    """Every dotted name that ``--set`` may change for this method and dataset."""
    dataset = get_dataset(required_name(section_mapping(sections, "dataset", source), "name", f"{source}: dataset"))
    groups: dict[str, type[BaseModel]] = {
        "dataset": dataset.Options,
        "validation": ValidationSettings,
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
        elif key in settings.model_fields or key in settings.knobs:
            _drop(changed, settings, key)
            _set_nested(changed, "fixed", [key], value)
        else:
            names = [*setting_names(sections, settings, source), *(f"search.{name}" for name in settings.model_fields)]
            raise InputError(f"--set {key}: no such setting; {nearest(key, names)}")
    return changed


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
        for point in sections.get("start") or []:
            if isinstance(point, dict):
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
    for place in (sections.get("fixed"), sections.get("search"), *(sections.get("start") or [])):
        if isinstance(place, dict):
            for name in names:
                place.pop(name, None)


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
    if not isinstance(old, int) or old < 1:
        raise InputError(f"{source}: fixed.epochs is a whole number of at least 1, got {old!r}")
    factor = epochs / old
    counted = _names_with_unit(settings, EPOCHS) | {name for name, knob in settings.knobs.items() if knob.counts_epochs}
    plans = _names_with_unit(settings, LR_PLAN)

    objective = changed["objective"] = section_mapping(changed, "objective", source)
    objective.setdefault("average_last", ObjectiveSettings().average_last)
    _scale_values(objective, {"average_last"}, set(), factor)
    _scale_values(fixed, counted, plans, factor)
    fixed["epochs"] = epochs
    for point in changed.get("start") or []:
        if isinstance(point, dict):
            _scale_values(point, counted, plans, factor)
    _scale_ranges(changed, counted, factor)
    return changed


def _names_with_unit(settings: type[MethodSettings], unit: dict[str, Any]) -> set[str]:
    return {name for name, field in settings.model_fields.items() if field.json_schema_extra == unit}


def _scale_values(values: dict[str, Any], counted: set[str], plans: set[str], factor: float) -> None:
    for key, value in values.items():
        if key in counted and isinstance(value, int):
            values[key] = scale_count(value, factor)
        elif key in plans and isinstance(value, str):
            values[key] = scale_plan(value, factor)


def scale_count(count: int, factor: float) -> int:
    """``count * factor`` rounded half up, at least 1; 0 (none at all) stays 0."""
    return 0 if count == 0 else max(1, int(count * factor + 0.5))


def _scale_ranges(sections: dict[str, Any], counted: set[str], factor: float) -> None:
    search = sections.get("search")
    if not isinstance(search, dict):
        return
    for name in [name for name in search if name in counted]:
        spec = search[name]
        if not isinstance(spec, dict):
            continue
        for bound in ("low", "high"):
            if isinstance(spec.get(bound), int):
                spec[bound] = scale_count(spec[bound], factor)
        if isinstance(spec.get("choices"), list):
            scaled = [scale_count(c, factor) if isinstance(c, int) else c for c in spec["choices"]]
            spec["choices"] = list(dict.fromkeys(scaled))
        if isinstance(spec.get("step"), int):
            # A step that stays whole keeps the grid; any other would leave scaled start points off it.
            step = spec["step"] * factor
            spec["step"] = int(step) if step >= 1 and step == int(step) else 1
        collapsed = spec.get("low") is not None and spec.get("low") == spec.get("high")
        if collapsed or len(spec.get("choices", (0, 0))) == 1:
            sections["fixed"][name] = spec["low"] if collapsed else spec["choices"][0]
            del search[name]
            for point in sections.get("start") or []:
                if isinstance(point, dict):
                    point.pop(name, None)
