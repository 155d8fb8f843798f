"""Training one config under several seeds: what ``tune_lnl.train`` runs, and what it leaves behind."""

from __future__ import annotations

import json
import math
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import torch

from tune_lnl.config.base import check_keys, required_name, section_mapping
from tune_lnl.config.overrides import apply_overrides, parse_overrides, scale_epochs
from tune_lnl.config.registry import settings_type
from tune_lnl.config.trial import SECTIONS, TrialConfig, build_config
from tune_lnl.config.yaml import dump_yaml, read_mapping
from tune_lnl.errors import InputError
from tune_lnl.metrics.classification import mean_and_std
from tune_lnl.training.checkpoint import write_whole
from tune_lnl.training.loop import Report, Surroundings, objective_so_far
from tune_lnl.training.registry import start_training

PROVENANCE = "provenance"
"""Section of an exported config that says where it came from; training does not read it."""


@dataclass(frozen=True)
class SeedResult:
    """One seed's curve and the figures read from it (accuracies in percent)."""

    seed: int
    reports: list[Report]
    average_last: int
    metric: str
    mode: str
    test_metrics: tuple[str, ...] = ("test_accuracy",)

    @property
    def objective(self) -> float:
        """What a search would have seen; NaN without a validation split."""
        return objective_so_far(self.metric, self.average_last, self.reports)

    @property
    def has_test(self) -> bool:
        """Whether there is a test set: a folder of the user's need not have one."""
        return any(self.test_metrics[0] in report for report in self.reports)

    @property
    def diverged(self) -> bool:
        """Whether a score of the last epochs is not a finite number: the network is lost."""
        last = self.reports[-self.average_last :]
        return not all(
            math.isfinite(report.get(name, 0.0)) for report in last for name in (self.metric, *self.test_metrics)
        )

    @property
    def figures(self) -> dict[str, float]:
        """The three named test scores, and the objective.

        ``test_last10``: mean over the last ``average_last`` epochs (ten as published), ``test_last10_std`` their
        population deviation. ``test_at_val_best``: at the epoch with the best validation metric (first of equals).
        ``test_oracle``: best on the test set itself, to be compared with codes that choose so; never for selection.
        They are of the method's first test metric; any other is there as its mean of the last epochs, by its name.
        Data without a test set has the objective only.
        """
        test = [report[self.test_metrics[0]] for report in self.reports] if self.has_test else []
        figures = {}
        if test:
            mean, std = mean_and_std(test[-self.average_last :])
            oracle = max(filter(math.isfinite, test), default=math.nan)
            figures = {"test_last10": mean, "test_last10_std": std, "test_oracle": oracle}
        judged = [report.get(self.metric, math.nan) for report in self.reports]
        if all(map(math.isfinite, judged)):
            best = max(judged) if self.mode == "max" else min(judged)
            if test:
                figures["test_at_val_best"] = test[judged.index(best)]
            figures["objective"] = self.objective
        for name in self.test_metrics[1:] if test else ():
            figures[f"{name}_last10"] = mean_and_std([report[name] for report in self.reports[-self.average_last :]])[0]
        return figures


def read_config(path: Path, overrides: Sequence[str], epochs: int | None) -> TrialConfig:
    """A training config from YAML: scaled to ``epochs``, then overridden.

    Raises:
        InputError: see :func:`tune_lnl.config.trial.build_config`; also a search space instead of a config.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such config file; export one with: python -m tune_lnl.export RUN --output FILE")
    sections = read_mapping(path)
    source = str(path)
    if "search" in sections:
        raise InputError(
            f"{path} is a search space (it has a search section); train takes one config. "
            f"Run: python -m tune_lnl.search {path}   and then: python -m tune_lnl.export RUN --output best.yaml"
        )
    check_keys(sections, ("method", *SECTIONS, PROVENANCE), source, "section")
    sections.pop(PROVENANCE, None)
    return resolve_config(sections, parse_overrides(overrides), epochs, source)


def resolve_config(
    sections: Mapping[str, Any], overrides: Mapping[str, Any], epochs: int | None, source: str
) -> TrialConfig:
    """Plain sections to a checked config: first the length, then the overrides, which are taken as given."""
    method = required_name(sections, "method", source)
    if epochs is not None:
        sections = scale_epochs(sections, epochs, settings_type(method), source)
    new_method = overrides.get("method", method)
    if new_method != method:
        sections = _without_foreign_settings(sections, str(new_method), source)
    sections = apply_overrides(sections, overrides, settings_type(str(new_method)), source)
    return build_config(sections, source)


def _without_foreign_settings(sections: Mapping[str, Any], method: str, source: str) -> dict[str, Any]:
    """``--set method=standard`` on an ACT config keeps what both methods read and drops the rest."""
    read = settings_type(method).model_fields
    fixed = section_mapping(sections, "fixed", source)
    return {**sections, "fixed": {key: value for key, value in fixed.items() if key in read}}


def train_seeds(
    config: TrialConfig,
    seeds: Sequence[int],
    surroundings: Surroundings,
    output: Path | None,
    on_epoch: Callable[[int, Report], None],
) -> list[SeedResult]:
    """Train ``config`` once per seed, scoring the test set every epoch, and write the results.

    Args:
        output: folder for ``config.yaml``, ``seed-S/epochs.jsonl``, ``summary.json`` and ``model.pt`` (of the seed with
            the best objective, the first where there is none); ``None`` writes nothing.
        on_epoch: called with (seed, report) after every epoch.
    """
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        (output / "config.yaml").write_text(dump_yaml(config.sections()), encoding="utf-8")
    results: list[SeedResult] = []
    for seed in seeds:
        seeded = replace(config, settings=config.settings.model_copy(update={"seed": seed}))
        result, model = _train_seed(seeded, seed, surroundings, output, on_epoch)
        results.append(result)
        if output is not None and best_seed(results) is result:
            write_whole(output / "model.pt", model)
    if output is not None:
        summary = {"config": config.flat(), "device": surroundings.device, "torch": torch.__version__}
        summary |= {"seeds": {str(result.seed): result.figures for result in results}, "over_seeds": summarise(results)}
        (output / "summary.json").write_text(
            json.dumps(_finite_or_null(summary), indent=2, allow_nan=False) + "\n", encoding="utf-8"
        )
    return results


def _train_seed(
    config: TrialConfig,
    seed: int,
    surroundings: Surroundings,
    output: Path | None,
    on_epoch: Callable[[int, Report], None],
) -> tuple[SeedResult, dict[str, Any]]:
    training = start_training(config, replace(surroundings, test_from=0))
    reports: list[Report] = []
    while not training.finished:
        report = training.run_epoch()
        reports.append(report)
        if output is not None:
            append_report(output / f"seed-{seed}" / "epochs.jsonl", report)
        on_epoch(seed, report)
    objective = config.objective
    result = SeedResult(
        seed, reports, objective.average_last, objective.metric, objective.mode, config.settings.test_metrics
    )
    return result, training.model_file()


def append_report(path: Path, report: Mapping[str, Any]) -> None:
    """Add one line of JSON. Non-finite numbers are written as null, which every JSON reader accepts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(_finite_or_null(report), allow_nan=False).encode() + b"\n"
    with path.open("a+b") as file:
        if file.tell() and not _ends_line(file):
            # Its last writer was killed in the middle: what it left must not swallow this line.
            line = b"\n" + line
        file.write(line)


def _ends_line(file: BinaryIO) -> bool:
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


def _finite_or_null(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite_or_null(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def best_seed(results: Sequence[SeedResult]) -> SeedResult:
    """The result with the best objective; without objectives, the first."""
    judged = [result for result in results if math.isfinite(result.objective)]
    if not judged:
        return results[0]
    sign = 1 if judged[0].mode == "max" else -1
    return max(judged, key=lambda result: sign * result.objective)


def summarise(results: Sequence[SeedResult]) -> dict[str, dict[str, float]]:
    """Mean and (sample) standard deviation over the seeds of every figure; one seed has no deviation."""
    summary: dict[str, dict[str, float]] = {}
    for name in dict.fromkeys(name for result in results for name in result.figures):
        values = [result.figures[name] for result in results if name in result.figures]
        summary[name] = {"mean": statistics.fmean(values), "n": len(values)}
        if len(values) > 1:
            summary[name]["std"] = statistics.stdev(values)
    return summary
