"""A search space: fixed settings, ranges of searched settings, start points, and budget.

Reads the YAML of ``search_spaces/``, applies the chosen condition, ``--epochs`` and ``--set``, and refuses any setting
that would fail later: every extreme of every range is tried as a config here, before any data or worker is touched.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice, repeat
from typing import Any, Literal, get_args

from pydantic import Field

from tune_lnl.config.base import (
    MethodSettings,
    Settings,
    check_keys,
    required_name,
    section_mapping,
    validated,
    without_removed,
)
from tune_lnl.config.epochs import scale_epochs
from tune_lnl.config.overrides import apply_overrides, parse_overrides
from tune_lnl.config.registry import settings_type
from tune_lnl.config.trial import SECTIONS, TrialConfig, build_config, default_objective
from tune_lnl.config.yaml import read_mapping
from tune_lnl.errors import InputError, nearest
from tune_lnl.tuning.space.named import find_space
from tune_lnl.tuning.space.ranges import Parameter, parse_parameter

SamplerName = Literal["tpe", "random", "qmc", "cmaes", "gp"]
PrunerName = Literal["asha", "hyperband", "median", "none"]
SAMPLERS: tuple[str, ...] = get_args(SamplerName)
PRUNERS: tuple[str, ...] = get_args(PrunerName)

KEYS = ("description", "method", *SECTIONS, "conditions", "presets", "search", "start", "budget")
PRESETS = ("quick", "medium", "full")
PRESET_COUNTS = ("epochs", "trials")
"""Keys of a preset that are no dotted settings: the same as ``--epochs`` and ``--trials``."""
NOT_SEARCHED = {
    "epochs": "it is the length of a full trial, which the stopping rule compares",
    "seed": "every trial trains with the same seed, so that settings are compared and not luck",
    "threads": "it changes last digits, not the result",
    "precision": "it is part of the machine's set-up",
    "deterministic": "it changes last digits, not the result",
}


class Budget(Settings):
    """The budget of a search, and how it chooses."""

    trials: int = Field(ge=1, description="number of trials")
    sampler: SamplerName = Field("tpe", description="proposes settings")
    pruner: PrunerName = Field("asha", description="stops trials early")


@dataclass(frozen=True)
class SearchSpace:
    """A checked search space."""

    name: str
    source: str
    description: str
    condition: str | None
    base: Mapping[str, Any]
    """``method`` and the four sections, plain values."""
    parameters: Mapping[str, Parameter]
    start: Sequence[Mapping[str, Any]]
    """The searched settings of each start point."""
    budget: Budget
    recipes: Sequence[Mapping[str, Any]] = ()
    """The other settings of each start point, which replace fixed ones in that trial alone; mostly empty."""

    def config(self, params: Mapping[str, Any]) -> TrialConfig:
        """Return the config of the trial with these searched settings.

        Where they are those of a start point, the other settings of the start point apply as well.

        Raises:
            InputError: the combination is not valid.
        """
        sections = dict(self.base)
        recipe = next((recipe for point, recipe in zip(self.start, self.recipes, strict=False) if point == params), {})
        sections["fixed"] = {**self.base["fixed"], **params, **recipe}
        return build_config(sections, self.source)

    def corners(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield (description, settings): all low, all high, and every extreme with the others low, then high."""
        lows = {name: parameter.extremes()[0] for name, parameter in self.parameters.items()}
        highs = {name: parameter.extremes()[-1] for name, parameter in self.parameters.items()}
        yield "search, every range at its low end", lows
        yield "search, every range at its high end", highs
        for name, parameter in self.parameters.items():
            for value in parameter.extremes():
                yield f"search.{name} at {value!r}", {**lows, name: value}
                yield f"search.{name} at {value!r}", {**highs, name: value}

    def any_config(self) -> TrialConfig:
        """Return the config of one valid trial, for what all trials have in common (dataset, objective, seed)."""
        _, values = next(self.corners())
        return self.config(values)

    @property
    def mode(self) -> str:
        """``max`` or ``min``: the direction of the objective."""
        return str(self.base["objective"]["mode"])

    @property
    def epochs(self) -> int:
        return int(self.base["fixed"]["epochs"])

    def with_trials(self, trials: int) -> SearchSpace:
        """Return the same search with another total of trials, at least 1."""
        return replace(self, budget=self.budget.model_copy(update={"trials": trials}))

    def with_own_start(self, stored: Sequence[Mapping[str, Any]]) -> SearchSpace:
        """Return the same search with the start points of a run that began with the same searched settings.

        A later version may give a start point other settings of its own; the run keeps those that it began with.

        Args:
            stored: the start points in the run's settings.
        """
        start, recipes = split_start(stored, self.parameters)
        return replace(self, recipes=recipes) if start == list(self.start) else self

    def longest_warmup(self) -> int:
        """Return the number of epochs of the longest warm-up that any trial can have."""
        return max(self.config(values).settings.warmup_length() for _, values in self.corners())

    def to_dict(self) -> dict[str, Any]:
        """Return plain, resolved values in the form of a space file."""
        recipes = chain(self.recipes, repeat({}))
        return {
            "description": self.description,
            **self.base,
            "search": {name: parameter.model_dump(exclude_none=True) for name, parameter in self.parameters.items()},
            "start": [{**point, **recipe} for point, recipe in zip(self.start, recipes, strict=False)],
            "budget": self.budget.model_dump(),
        }


# ---- reading one


def load_space(
    name: str,
    condition: str | None = None,
    epochs: int | None = None,
    overrides: Sequence[str] = (),
    preset: str | None = None,
) -> SearchSpace:
    """Read and check a space.

    Args:
        name: a named space or a path.
        condition: one of its conditions; ``None`` takes the first, if there are any.
        epochs: another length; every setting counted in epochs scales with it.
        overrides: ``KEY=VALUE`` texts, applied last and as given.
        preset: one of its presets, applied after the condition; ``epochs`` goes before its length.

    Raises:
        InputError: the file or an argument is not valid; the message names the place.
    """
    path = find_space(name)
    raw = read_mapping(path)
    source = str(path)
    check_keys(raw, KEYS, source, "section")
    method = required_name(raw, "method", source)
    conditions = read_conditions(raw, source)
    condition = _choose_condition(condition, conditions, source)
    sections = {key: value for key, value in raw.items() if key not in ("conditions", "presets")}
    if condition is not None:
        sections = _with_variant(sections, conditions[condition], method, f"{source}: conditions.{condition}")
    presets = read_presets(raw, source)
    if preset is not None:
        if preset not in presets:
            known = nearest(preset, presets) if presets else "it has none; use --epochs, --trials and --set"
            raise InputError(f"--preset: the space {path.stem} has no preset {preset!r}; {known}")
        counts = {key: presets[preset].pop(key) for key in PRESET_COUNTS if key in presets[preset]}
        sections = _with_variant(sections, presets[preset], method, f"{source}: presets.{preset}")
        epochs = counts.get("epochs") if epochs is None else epochs
        if "trials" in counts:
            sections["budget"] = {**section_mapping(sections, "budget", source), "trials": counts["trials"]}
    if epochs is not None:
        sections = scale_epochs(sections, epochs, settings_type(method), source)
    given = parse_overrides(overrides)
    sections = apply_overrides(sections, given, settings_type(str(given.get("method", method))), source)
    return _checked_space(path.stem, source, condition, sections)


def _with_variant(sections: Mapping[str, Any], changes: Mapping[str, Any], method: str, where: str) -> dict[str, Any]:
    """Apply the dotted settings of a condition or preset, and name that in errors."""
    try:
        return apply_overrides(sections, changes, settings_type(method), where)
    except InputError as error:
        raise InputError(f"{where}: {str(error).removeprefix('--set ').removeprefix(f'{where}: ')}") from None


def read_presets(raw: Mapping[str, Any], source: str) -> dict[str, dict[str, Any]]:
    """Return the ``presets`` section: name -> ``epochs``, ``trials`` and dotted overrides."""
    presets = section_mapping(raw, "presets", source)
    check_keys(presets, PRESETS, f"{source}: presets", "preset")
    for name, values in presets.items():
        if not isinstance(values, dict):
            raise InputError(f"{source}: presets.{name} is a mapping such as {{epochs: 12, trials: 6}}, got {values!r}")
        for key in PRESET_COUNTS:
            count = values.get(key, 1)
            if not isinstance(count, int) or isinstance(count, bool) or count < 1:
                raise InputError(f"{source}: presets.{name}.{key} is a whole number of at least 1, got {count!r}")
    return {name: dict(values) for name, values in presets.items()}


def read_conditions(raw: Mapping[str, Any], source: str) -> dict[str, dict[str, Any]]:
    """Return the ``conditions`` section: name -> dotted overrides."""
    conditions = section_mapping(raw, "conditions", source)
    for name, values in conditions.items():
        if not isinstance(values, dict):
            raise InputError(f"{source}: conditions.{name} is a mapping of dotted settings, got {values!r}")
    return conditions


def condition_names(name: str) -> list[str]:
    """Return the names of the conditions of a named space or path, in order."""
    path = find_space(name)
    return list(read_conditions(read_mapping(path), str(path)))


def _choose_condition(wanted: str | None, conditions: Mapping[str, Any], source: str) -> str | None:
    if wanted is None:
        return next(iter(conditions), None)
    if wanted not in conditions:
        known = nearest(wanted, conditions) if conditions else "this space has none"
        raise InputError(f"{source}: unknown condition {wanted!r}; {known}")
    return wanted


def _checked_space(name: str, source: str, condition: str | None, sections: Mapping[str, Any]) -> SearchSpace:
    settings = settings_type(required_name(sections, "method", source))
    base = {"method": sections["method"]} | {key: section_mapping(sections, key, source) for key in SECTIONS}
    base["objective"] = {**default_objective(settings, sections, source), **base["objective"]}
    if "epochs" not in base["fixed"]:
        raise InputError(f"{source}: fixed.epochs is required: the length of a full trial")
    parameters = _parameters(section_mapping(sections, "search", source), base["fixed"], settings, source)
    start, recipes = _start_points(sections.get("start"), parameters, settings, source)
    space = SearchSpace(
        name=name,
        source=source,
        description=str(sections.get("description") or ""),
        condition=condition,
        base=base,
        parameters=parameters,
        start=start,
        budget=validated(Budget, section_mapping(sections, "budget", source), f"{source}: budget"),
        recipes=recipes,
    )
    _check_corners(space)
    for number, point in enumerate(space.start):
        if len(point) == len(parameters):
            _config_at(space, f"start point {number + 1}", point)
    if base["validation"].get("fraction") == 0:
        raise InputError(
            f"{source}: validation.fraction is above 0 in a search, got 0; trials are judged on that split"
        )
    return space


def _parameters(
    search: Mapping[str, Any], fixed: Mapping[str, Any], settings: type[MethodSettings], source: str
) -> dict[str, Parameter]:
    if not search:
        raise InputError(f"{source}: nothing to search; give at least one range under search:")
    names = [*settings.model_fields, *settings.knobs]
    search = without_removed(settings, search, f"{source}: search")
    check_keys(search, names, f"{source}: search")
    for name in search:
        if name in NOT_SEARCHED:
            raise InputError(f"{source}: search.{name}: {name} cannot be searched: {NOT_SEARCHED[name]}; fix it")
        if name in fixed:
            raise InputError(f"{source}: {name} is both fixed ({fixed[name]!r}) and searched; keep one of the two")
    return {name: parse_parameter(value, f"{source}: search.{name}") for name, value in search.items()}


def split_start(
    points: Sequence[Mapping[str, Any]], parameters: Mapping[str, Parameter]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the searched and the other settings of each start point."""
    searched = [{name: value for name, value in point.items() if name in parameters} for point in points]
    return searched, [{name: value for name, value in point.items() if name not in parameters} for point in points]


def _start_points(
    value: Any, parameters: Mapping[str, Parameter], settings: type[MethodSettings], source: str
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    if value is None:
        return [], []
    if not isinstance(value, list) or not all(isinstance(point, dict) for point in value):
        raise InputError(f"{source}: start is a list of points, each a mapping of settings, got {value!r}")
    for number, point in enumerate(value, start=1):
        where = f"{source}: start point {number}"
        check_keys(point, [name for name in settings.model_fields if name not in NOT_SEARCHED] + [*parameters], where)
        if not parameters.keys() <= point.keys() and point.keys() - parameters.keys():
            missing = ", ".join(name for name in parameters if name not in point)
            raise InputError(
                f"{where}: a start point that sets a setting which is not searched gives every searched one, too; "
                f"missing: {missing}"
            )
        for name, given in point.items():
            if name in parameters and not parameters[name].contains(given):
                low, high = parameters[name].extremes()[0], parameters[name].extremes()[-1]
                raise InputError(
                    f"{where}: {name} = {given!r} is outside search.{name} ({low!r} to {high!r}); "
                    "widen the range, or drop the start points with --set start=[]"
                )
    return split_start(value, parameters)


def _check_corners(space: SearchSpace) -> None:
    """Check that every extreme is a valid config, and that no searched setting is without effect in all of them."""
    # What both ends of the ranges complain of comes from a fixed setting, not from a range.
    (_, lows), (_, highs) = islice(space.corners(), 2)
    complaint = _complaint(space, lows)
    if complaint is not None and complaint == _complaint(space, highs):
        raise InputError(complaint)
    dead: dict[str, str] | None = None
    for where, values in space.corners():
        here = _config_at(space, where, values).settings.dead()
        dead = here if dead is None else {name: why for name, why in dead.items() if name in here}
    for name, why in (dead or {}).items():
        if name in space.parameters:
            raise InputError(
                f"{space.source}: search.{name} would change nothing: {why}; fix {name} or change that setting"
            )


def _complaint(space: SearchSpace, values: Mapping[str, Any]) -> str | None:
    try:
        space.config(values)
    except InputError as error:
        return str(error)
    return None


def _config_at(space: SearchSpace, where: str, values: Mapping[str, Any]) -> TrialConfig:
    try:
        return space.config(values)
    except InputError as error:
        message = str(error).removeprefix(f"{space.source}: ")
        raise InputError(f"{space.source}: {where}: {message}") from None
