"""Small searches for the tests of this room: spaces, studies and runs on disk, without Ray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tune_lnl.files import replace_text
from tune_lnl.training.run import append_report
from tune_lnl.tuning.plan.options import SearchOptions
from tune_lnl.tuning.plan.plan import Measure, Plan, plan_search
from tune_lnl.tuning.resources.divide import Machine
from tune_lnl.tuning.resources.measure import measure_sharing
from tune_lnl.tuning.runs.run import Run, load_run
from tune_lnl.tuning.space.space import SearchSpace, load_space
from tune_lnl.tuning.study.study import SearchStudy

EPOCHS = 6
TINY: dict[str, Any] = {
    "description": "a test",
    "method": "act",
    "dataset": {"name": "digits8no", "subset": 0.3},
    "objective": {"metric": "val_accuracy", "mode": "max", "average_last": 1},
    "validation": {"fraction": 0.3},
    "fixed": {"epochs": EPOCHS, "batch_size": 64},
    "search": {
        "lr": {"type": "loguniform", "low": 0.002, "high": 0.2},
        "lr_asymmetry": {"type": "loguniform", "low": 0.2, "high": 16},
        "warmup_epochs": {"type": "int", "low": 1, "high": 2},
    },
    "start": [
        {"lr": 0.01, "lr_asymmetry": 8, "warmup_epochs": 2},
        {"lr": 0.02, "lr_asymmetry": 1, "warmup_epochs": 1},
    ],
    "budget": {"trials": 6, "sampler": "random", "pruner": "asha"},
}
"""Trials are compared after epochs 3 and 4: rungs 2 and 3."""


def write_space(folder: Path, changes: Mapping[str, Any] | None = None, name: str = "tiny") -> Path:
    """A space file: TINY with whole sections replaced; ``None`` leaves a section out."""
    sections = {key: value for key, value in {**TINY, **(changes or {})}.items() if value is not None}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(sections, sort_keys=False), encoding="utf-8")
    return path


def tiny_space(folder: Path, overrides: Sequence[str] = (), **changes: Any) -> SearchSpace:
    return load_space(str(write_space(folder, changes)), overrides=overrides)


def tiny_plan(folder: Path, machine: Machine | None = None, measure: Measure = measure_sharing, **options: Any) -> Plan:
    space = str(write_space(folder))
    asked = {
        "results_dir": folder / "results",
        "command": "python -m tune_lnl.search tiny.yaml",
        "portfolio": "none",
        **options,
    }
    (plan,) = plan_search(SearchOptions.of(space, **asked), machine or Machine(cpus=2, gpus=0), measure)
    return plan


def curve(number: int, last: float, epochs: int = EPOCHS) -> list[float]:
    """A rising objective that ends at ``last``."""
    return [last - (epochs - 1 - epoch) - number / 100 * (epoch < epochs - 1) for epoch in range(epochs)]


def record_run(folder: Path) -> Run:
    """A run on disk as a search leaves it, half way: two equal COMPLETE trials, a better PRUNED one, a FAIL, and one
    that runs."""
    plan = tiny_plan(folder)
    plan.files.root.mkdir(parents=True)
    replace_text(plan.files.settings, yaml.safe_dump(plan.settings(), sort_keys=False))
    study = SearchStudy.create(plan.files.study, plan.space, plan.seed)
    for last, epochs in ((60.0, EPOCHS), (60.0, EPOCHS), (90.0, 3), (40.0, 2), (50.0, 1)):
        number = study.ask().number
        values = curve(number, last, epochs)
        for epoch, value in enumerate(values):
            study.report(number, epoch, value)
            report = {"attempt": 1, "epoch": float(epoch), "val_accuracy": value, "test_accuracy": value / 2}
            append_report(plan.files.epochs(number), report)
        if number < 2:
            study.complete(number, last, 1.5)
        elif number == 2:
            study.prune(number, 2.5)
        elif number == 3:
            study.fail(number, "bug", "ValueError: no")
    return load_run(plan.files.root)
