"""``--epochs N``: the same config or search space at another length."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, TypeGuard

from tune_lnl.config.base import EPOCHS, LR_PLAN, STAGE, MethodSettings, ObjectiveSettings, section_mapping
from tune_lnl.config.lr_plans import scale_count, scale_plan
from tune_lnl.errors import InputError


def scale_epochs(
    sections: Mapping[str, Any], epochs: int, settings: type[MethodSettings], source: str
) -> dict[str, Any]:
    """Return a copy of ``sections`` at another length.

    Every epoch-valued setting, range, start point, ``average_last`` and number inside an lr plan is multiplied by
    ``epochs / old epochs`` and rounded half up, at least 1 (0 stays 0). A range that collapses to one value becomes a
    fixed setting. Values of a wrong kind stay as they are: the check of the config or space refuses them.

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
    scaling = _Scaling(settings, old, epochs)
    start = changed.get("start")
    points = [point for point in start if isinstance(point, dict)] if isinstance(start, list) else []

    for name, knob in settings.knobs.items():
        # A knob beside the setting that it decides follows from it. Rounded on its own, it could contradict it.
        if knob.decides in fixed:
            fixed.pop(name, None)
    for values in (fixed, *points):
        values.update({name: scaling.value(name, value) for name, value in values.items()})
    fixed["epochs"] = epochs

    objective = changed["objective"] = section_mapping(changed, "objective", source)
    average = objective.get("average_last", ObjectiveSettings().average_last)
    objective["average_last"] = scale_count(average, scaling.factor) if _is_count(average) else average

    search = changed.get("search")
    if not isinstance(search, dict):
        return changed
    for name, spec in list(search.items()):
        if not isinstance(spec, dict) or name not in scaling.names:
            continue
        scaling.scale_range(name, spec)
        only = _only_value(spec)
        if only is not None:
            fixed[name] = only
            del search[name]
            for point in points:
                point.pop(name, None)
    return changed


class _Scaling:
    """The settings of a method that change with its length, and by how much."""

    def __init__(self, settings: type[MethodSettings], old: int, new: int) -> None:
        self.factor = new / old
        knobs = {name for name, knob in settings.knobs.items() if knob.counts_epochs}
        self._counts = _marked(settings, EPOCHS) | knobs
        self._plans = _marked(settings, LR_PLAN)
        self._stages = _marked(settings, STAGE)
        self._longest_stage = max(1, new - 1)
        self.names = self._counts | self._plans

    def value(self, name: str, value: Any) -> Any:
        """Return the value of a setting at the new length."""
        if name in self._plans and isinstance(value, str):
            return scale_plan(value, self.factor)
        if name not in self._counts:
            return value
        if isinstance(value, list):
            return [self.value(name, item) for item in value]
        if not _is_count(value):
            return value
        scaled = scale_count(value, self.factor)
        # Rounding up must not let a stage fill the run.
        return min(scaled, self._longest_stage) if name in self._stages else scaled

    def scale_range(self, name: str, spec: dict[str, Any]) -> None:
        """Change a range, as written under ``search``, to the new length."""
        if isinstance(spec.get("choices"), list):
            scaled = [self.value(name, choice) for choice in spec["choices"]]
            spec["choices"] = [choice for at, choice in enumerate(scaled) if choice not in scaled[:at]]
        if name not in self._counts:
            return
        if _is_count(spec.get("step")):
            # The grid is kept where it stays whole. Otherwise, or if its first point is raised to 1, scaled start
            # points would lie off the grid.
            step, low = round(spec["step"] * self.factor, 9), spec.get("low")
            raised = _is_count(low) and 0 < round(low * self.factor, 9) < 0.5
            spec["step"] = int(step) if step >= 1 and step.is_integer() and not raised else 1
        for bound in {"low", "high"} & spec.keys():
            spec[bound] = self.value(name, spec[bound])


def _marked(settings: type[MethodSettings], unit: dict[str, Any]) -> set[str]:
    """Return the names of the settings that are marked with everything in ``unit``."""
    return {
        name
        for name, field in settings.model_fields.items()
        if isinstance(field.json_schema_extra, dict) and unit.items() <= field.json_schema_extra.items()
    }


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _only_value(spec: Mapping[str, Any]) -> Any:
    """Return the one value that a range has collapsed to, or None."""
    choices = spec.get("choices")
    if isinstance(choices, list):
        return choices[0] if len(choices) == 1 else None
    low, high = spec.get("low"), spec.get("high")
    return low if low == high else None
