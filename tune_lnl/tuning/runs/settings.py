"""``run.yaml``: the settings of a run, checked when they are read back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tune_lnl.config.base import without_removed
from tune_lnl.config.registry import METHOD_NAMES, settings_type
from tune_lnl.config.yaml import read_mapping
from tune_lnl.errors import InputError, LaterVersionError
from tune_lnl.tuning.space.ranges import parse_parameter
from tune_lnl.tuning.space.space import Budget, SearchSpace, split_start

RUN_FORMAT = 2
"""``format`` of run.yaml. 1, which is not written there: version 0.1.0. Increase it when an older version of tune_lnl
must not continue a run of this one."""
SETTINGS_KINDS: Mapping[str, type] = {
    **dict.fromkeys(("space", "versions", "fingerprints", "resources"), dict),
    **dict.fromkeys(("run", "space_name", "command"), str),
}
"""Kinds of the entries of run.yaml that commands read."""


def read_settings(path: Path) -> dict[str, Any]:
    """Return the content of a run.yaml.

    Raises:
        InputError: it is not written by a search, or by a later version of tune_lnl.
    """
    settings = read_mapping(path)
    form = settings.get("format", 1)
    if not isinstance(form, int) or form > RUN_FORMAT:
        version = settings["versions"].get("tune_lnl") if isinstance(settings.get("versions"), dict) else None
        written = "a later version of tune_lnl" if version is None else f"version {version} of tune_lnl"
        raise LaterVersionError(
            f"{path}: run format {form!r}, this version reads up to {RUN_FORMAT}; the run was written by {written}, "
            "install that"
        )
    missing = [key for key in ("run", "space_name", "condition", "command", "space") if key not in settings]
    if missing:
        raise InputError(f"{path}: not the settings of a run: {missing[0]!r} is missing; put a copy of the file back")
    for key, kind in SETTINGS_KINDS.items():
        if not isinstance(settings.get(key, kind()), kind):
            wanted, found = "text" if kind is str else "a mapping", type(settings[key]).__name__
            raise InputError(f"{path}: damaged: {key} is {wanted}, got {found}; put a copy of the file back")
    return settings


def space_from_settings(settings: Mapping[str, Any], source: str) -> SearchSpace:
    """Return the search space as it was resolved when the run began.

    Raises:
        InputError: the run uses a setting that this version no longer has.
    """
    stored = settings["space"]
    base = {key: stored[key] for key in ("method", "dataset", "validation", "objective", "fixed")}
    fixed, search = base["fixed"], stored["search"]
    if base["method"] in METHOD_NAMES.all():  # the rows of a run are read without the plugin of its method, too
        known = settings_type(base["method"])
        fixed, search = without_removed(known, fixed, source), without_removed(known, search, source)
    parameters = {name: parse_parameter(spec, f"{source}: {name}") for name, spec in search.items()}
    start, recipes = split_start(stored["start"], parameters)
    return SearchSpace(
        name=settings["space_name"],
        source=source,
        description=stored["description"],
        condition=settings["condition"],
        base={**base, "fixed": fixed},
        parameters=parameters,
        start=start,
        budget=Budget.model_validate(stored["budget"]),
        recipes=recipes,
    )
