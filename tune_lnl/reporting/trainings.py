"""Trainings of ``tune_lnl.train`` on a run's data: plain cross-entropy, and the best config again."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tune_lnl.reporting.run_data import RunView
from tune_lnl.wording import counted

PLAIN = {"classification": "standard", "re-identification": "reid_standard"}
"""The method that trains with plain cross-entropy, by task."""
PLAIN_TRAINED = "plain cross-entropy"
"""Its label."""
NOT_COMPARED = ("seed", "threads", "precision", "deterministic")
"""Settings in which two trainings of one config may differ."""


@dataclass(frozen=True)
class Recorded:
    """A training of one config under several seeds; figures in percent, one per seed."""

    label: str
    folder: Path
    test: tuple[float, ...]
    """Test accuracy, mean over the last epochs."""
    objective: tuple[float, ...]
    """The objectives that a search would have seen; empty without a validation split."""

    @property
    def name(self) -> str:
        return f"{self.label}, {counted(len(self.test), 'seed')}"


def recorded_trainings(view: RunView) -> list[Recorded]:
    """Return the trainings in ``train/`` of the results folder on this run's dataset, split and number of epochs."""
    root = view.run.files.root
    places = [root.parent / "train", root.parent.parent / "train"]
    found = [_recorded(view, path) for place in places for path in sorted(place.glob("*/summary.json"))]
    return [one for one in found if one is not None]


def _recorded(view: RunView, path: Path) -> Recorded | None:
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        config, seeds = summary["config"], summary["seeds"]
        label = _label(view, config) if _same_data(view, config) else None
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None  # being written, or not a training's summary
    if label is None:
        return None
    test, objective = (_figures(seeds, name) for name in ("test_last10", "objective"))
    return Recorded(label, path.parent, test, objective) if test else None


def _figures(seeds: Mapping[str, Mapping[str, Any]], name: str) -> tuple[float, ...]:
    values = [figures.get(name) for figures in seeds.values()]
    return tuple(value for value in values if isinstance(value, float) and math.isfinite(value))


def _same_data(view: RunView, config: Mapping[str, Any]) -> bool:
    own = {key: value for key, value in view.flat_base.items() if key.startswith(("dataset.", "validation."))}
    return {key: config.get(key) for key in own} == own and config.get("epochs") == view.epochs


def _label(view: RunView, config: Mapping[str, Any]) -> str | None:
    if config["method"] == PLAIN.get(view.base.settings.task):
        return PLAIN_TRAINED
    for trial, label in ((view.best, "best config, trained again"), (view.start, "published setting, trained again")):
        if trial is not None and _without_luck(trial.config) == _without_luck(config):
            return label
    return None


def _without_luck(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in NOT_COMPARED}
