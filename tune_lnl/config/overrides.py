"""``--set KEY=VALUE``: the only parser, and its effect on a config or a search space before validation.

Both are plain nested values. A config has the sections of :mod:`tune_lnl.config.trial`; a search space also has
``search`` (ranges) and ``start`` (points).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel

from tune_lnl.config.base import (
    SHORTHAND,
    MethodSettings,
    ObjectiveSettings,
    required_name,
    section_mapping,
    without_removed,
)
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
    """Return every dotted name that ``--set`` may change for this method and dataset."""
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
    """Return a copy of ``sections`` with each override applied, in order and as given.

    - ``tau=...`` fixes a setting and ends the search over it. If a searched knob decides the setting
      (``lr_asymmetry`` decides ``lr1``), the search over the knob ends too.
    - ``search.tau=...`` searches a setting. A value that it had as a fixed setting moves into the start points, so
      that trial 0 is still the same trial.
    - ``dataset.subset=...`` and the like set a key of that section.

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
                _forget(changed, {rest} | _rivals(settings, rest))
            _set_nested(changed, section, rest.split("."), value)
        elif rest and section in settings.model_fields and isinstance(_written_out(changed, settings, section), dict):
            _set_nested(changed, "fixed", key.split("."), value)
        elif key in settings.model_fields or key in settings.knobs:
            _forget(changed, {key} | _rivals(settings, key))
            _set_nested(changed, "fixed", [key], value)
        elif key in settings.removed:
            without_removed(settings, {key: value}, "--set")
        else:
            searchable = (*settings.model_fields, *settings.knobs)
            names = [*setting_names(sections, settings, source), *(f"search.{name}" for name in searchable)]
            raise InputError(f"--set {key}: no such setting; {nearest(key, names)}")
    return changed


def _written_out(sections: dict[str, Any], settings: type[MethodSettings], name: str) -> Any:
    """Return the fixed value of a setting; ``model: cnn7`` is first changed to ``model: {name: cnn7}``."""
    fixed = sections.get("fixed")
    value = fixed.get(name) if isinstance(fixed, dict) else None
    extra = settings.model_fields[name].json_schema_extra
    key = extra.get(SHORTHAND) if isinstance(extra, dict) else None
    if key is not None and not isinstance(value, dict):
        value = {} if value is None else {str(key): value}
        _set_nested(sections, "fixed", [name], value)
    return value


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
    """Make room for a range of ``name``: move its fixed value into the start points, forget its rivals."""
    fixed = sections.get("fixed")
    if isinstance(fixed, dict) and name in fixed:
        value = fixed.pop(name)
        for point in _start_points(sections):
            point.setdefault(name, value)
    _forget(sections, _rivals(settings, name))


def _rivals(settings: type[MethodSettings], name: str) -> set[str]:
    """Return the knobs that decide ``name``, and the setting that ``name`` decides if it is a knob."""
    rivals = {knob for knob, spec in settings.knobs.items() if spec.decides == name}
    return rivals | {settings.knobs[name].decides} if name in settings.knobs else rivals


def _forget(sections: dict[str, Any], names: set[str]) -> None:
    """Remove every value and range of these settings."""
    for values in (sections.get("fixed"), sections.get("search"), *_start_points(sections)):
        if isinstance(values, dict):
            for name in names:
                values.pop(name, None)


def _start_points(sections: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the start points that are mappings; the check of the space refuses the others."""
    start = sections.get("start")
    return [point for point in start if isinstance(point, dict)] if isinstance(start, list) else []
