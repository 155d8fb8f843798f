"""Train one config under one seed or several: the command ``train``, its figures and its files.

The output folder holds ``config.yaml``, ``seed-S/epochs.jsonl``, ``model.pt`` and, at the end, ``summary.json``. Until
then each seed also has a ``checkpoint.pt``, and the process that trains holds ``.lock``: a folder with ``.lock`` and
without ``summary.json`` is an unfinished training, which the same command continues.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from tune_lnl.config.base import check_keys, required_name, section_mapping
from tune_lnl.config.epochs import scale_epochs
from tune_lnl.config.overrides import apply_overrides, parse_overrides
from tune_lnl.config.registry import settings_type
from tune_lnl.config.trial import PROVENANCE, SECTIONS, TrialConfig, build_config
from tune_lnl.config.yaml import dump_yaml, read_mapping
from tune_lnl.datasets.images.noisy import load_noisy
from tune_lnl.datasets.paths import cache_dir, check_data_dir
from tune_lnl.errors import InputError
from tune_lnl.files import is_disk_full, replace_text
from tune_lnl.metrics.classification import mean_and_std
from tune_lnl.object_storage import local_file
from tune_lnl.training.accelerator import choose_device
from tune_lnl.training.checkpoint import write_whole
from tune_lnl.training.classification import ClassifierTraining
from tune_lnl.training.failures import DivergedError
from tune_lnl.training.loop import Report, Surroundings, check_precision, objective_so_far, spoken
from tune_lnl.training.registry import start_training, training_type
from tune_lnl.training.run import TrainingFiles, TrainingRun, finite_or_null

CONFIG, SUMMARY, CHECKPOINT, LOCK = "config.yaml", "summary.json", "checkpoint.pt", ".lock"


@dataclass(frozen=True)
class SeedResult:
    """The curve of one seed and its figures (accuracies in percent)."""

    seed: int
    reports: list[Report]
    average_last: int
    metric: str
    mode: str
    test_metrics: tuple[str, ...] = ("test_accuracy",)
    divergence: str | None = None
    """Why the training was stopped before its last epoch."""

    @property
    def objective(self) -> float:
        """The value that a search would have seen; NaN without a validation split, and of a diverged training."""
        if self.divergence is not None:
            return math.nan
        return objective_so_far(self.metric, self.average_last, self.reports)

    @property
    def has_test(self) -> bool:
        """Whether there is a test set; a user's folder may have none."""
        return any(self.test_metrics[0] in report for report in self.reports)

    @property
    def diverged(self) -> bool:
        """Whether the training diverged: its network is lost."""
        return self.divergence is not None

    @property
    def figures(self) -> dict[str, float]:
        """The three named test scores, and the objective.

        ``test_last10``: mean over the last ``average_last`` epochs (ten as published), ``test_last10_std`` their
        population deviation. ``test_at_val_best``: at the epoch with the best validation metric (first of equals).
        ``test_oracle``: best on the test set itself, for comparison with code that chooses so; never for selection.
        They use the method's first test metric; any other is given as its mean of the last epochs, by its name.
        Data without a test set has the objective only. The means of a diverged training are NaN, and it has no figures
        that depend on the validation split.
        """
        test = [report[self.test_metrics[0]] for report in self.reports] if self.has_test else []
        figures = {}
        if test:
            mean, std = (math.nan, math.nan) if self.diverged else mean_and_std(test[-self.average_last :])
            oracle = max(filter(math.isfinite, test), default=math.nan)
            figures = {"test_last10": mean, "test_last10_std": std, "test_oracle": oracle}
        judged = [report.get(self.metric, math.nan) for report in self.reports]
        if not self.diverged and all(map(math.isfinite, judged)):
            best = max(judged) if self.mode == "max" else min(judged)
            if test:
                figures["test_at_val_best"] = test[judged.index(best)]
            figures["objective"] = self.objective
        for name in self.test_metrics[1:] if test else ():
            last = [report[name] for report in self.reports[-self.average_last :]]
            figures[f"{name}_last10"] = math.nan if self.diverged else mean_and_std(last)[0]
        return figures


def read_config(path: Path, overrides: Sequence[str], epochs: int | None) -> TrialConfig:
    """Read a training config from YAML: scaled to ``epochs``, then overridden.

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
    """Return a checked config from plain sections: first the length is changed, then overrides apply as given."""
    method = required_name(sections, "method", source)
    if epochs is not None:
        sections = scale_epochs(sections, epochs, settings_type(method), source)
    new_method = str(overrides.get("method", method))
    settings = settings_type(new_method)
    if new_method != method:
        # --set method=standard on an ACT config keeps the settings that both methods read.
        fixed = section_mapping(sections, "fixed", source)
        sections = {**sections, "fixed": {key: value for key, value in fixed.items() if key in settings.model_fields}}
    sections = apply_overrides(sections, overrides, settings, source)
    return build_config(sections, source)


def train_seeds(
    config: TrialConfig,
    seeds: Sequence[int],
    surroundings: Surroundings,
    output: Path | None,
    on_epoch: Callable[[int, Report], None],
    on_continue: Callable[[int, int], None] = lambda seed, epoch: None,
) -> list[SeedResult]:
    """Train ``config`` once per seed, scoring the test set every epoch, and write the results.

    A seed that diverges ends there; the others are still trained.

    Args:
        output: folder for the files, in which an unfinished training of the same config is continued; ``None`` writes
            nothing. ``model.pt`` is of the seed with the best objective, the first where there is none; a diverged
            training has none.
        on_epoch: called with (seed, report) after every epoch.
        on_continue: called with (seed, epochs done) where a checkpoint is found.

    Raises:
        InputError: a checkpoint in ``output`` belongs to another config or other data.
    """
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        for name in (CONFIG, SUMMARY, "model.pt"):
            for path in output.glob(f".{name}.*"):
                path.unlink()  # half of a file, whose writer was killed
        replace_text(output / CONFIG, dump_yaml(config.sections()))
    results: list[SeedResult] = []
    for seed in seeds:
        seeded = replace(config, settings=config.settings.model_copy(update={"seed": seed}))
        training = start_training(seeded, replace(surroundings, test_from=0))
        files = TrainingFiles()
        if output is not None:
            folder = output / f"seed-{seed}"
            for path in folder.glob(f".{CHECKPOINT}.*"):
                path.unlink()  # half of a checkpoint, whose writer was killed
            files = TrainingFiles(folder / CHECKPOINT, epochs=folder / "epochs.jsonl")
        run = TrainingRun(training, files)
        if run.continued:
            on_continue(seed, training.epoch)
        divergence = None
        try:
            with closing(run.epochs()) as reports:
                for report in reports:
                    on_epoch(seed, report)
        except DivergedError as error:
            divergence = str(error)
            on_epoch(seed, run.reports[-1])
        objective = config.objective
        result = SeedResult(
            *(seed, run.reports, objective.average_last, objective.metric, objective.mode),
            *(config.settings.test_metrics, divergence),
        )
        results.append(result)
        if output is not None and best_seed(results) is result:
            write_whole(output / "model.pt", training.model_file())
    if output is not None:
        summary = {"config": config.flat(), "device": surroundings.device, "torch": torch.__version__}
        summary |= {"seeds": {str(result.seed): result.figures for result in results}, "over_seeds": summarise(results)}
        replace_text(output / SUMMARY, json.dumps(finite_or_null(summary), indent=2, allow_nan=False) + "\n")
        for seed in seeds:
            (output / f"seed-{seed}" / CHECKPOINT).unlink(missing_ok=True)
    return results


def best_seed(results: Sequence[SeedResult]) -> SeedResult | None:
    """Return the result with the best objective; without objectives, the first that did not diverge, if any."""
    judged = [result for result in results if math.isfinite(result.objective)]
    if not judged:
        return next((result for result in results if not result.diverged), None)
    sign = 1 if judged[0].mode == "max" else -1
    return max(judged, key=lambda result: sign * result.objective)


def summarise(results: Sequence[SeedResult]) -> dict[str, dict[str, float]]:
    """Return mean and (sample) standard deviation over the seeds of every figure; one seed has no deviation.

    Both are NaN where a seed's figure is.
    """
    summary: dict[str, dict[str, float]] = {}
    for name in dict.fromkeys(name for result in results for name in result.figures):
        values = [result.figures[name] for result in results if name in result.figures]
        summary[name] = {"mean": statistics.fmean(values), "n": len(values)}
        if len(values) > 1:
            # Python 3.11's stdev raises AttributeError for NaN.
            summary[name]["std"] = statistics.stdev(values) if all(map(math.isfinite, values)) else math.nan
    return summary


# ---- the command


FIGURES = {
    "test_last10": "test {metric}, mean of the last {n} epochs (as published)",
    "test_at_val_best": "test {metric} at the best validation epoch",
    "test_oracle": "best test {metric} of any epoch (not for selection)",
    "test_rank1_last10": "test rank-1, mean of the last {n} epochs",
    "objective": "objective on the held-out split",
}
EPOCH_COLUMNS = (
    *("val_accuracy", "val_map", "val_rank1", "train_loss", "lr", "lr1"),
    *("selection_precision", "selection_recall", "refined_accuracy"),
)
"""Numbers of an epoch that its line on the screen shows: none of the test set, so that nobody chooses by it."""


def train(
    config: str | Path,
    seeds: str | None,
    epochs: int | None,
    device: str,
    overrides: Sequence[str],
    data_dir: Path | None,
    output: Path | None,
    say: Callable[[str], None],
) -> int:
    """Check the arguments of ``tune_lnl.train``, train seed by seed, and print the figures.

    Args:
        config: a file's path or URL.

    Returns:
        0, or 1 where a seed diverged.

    Raises:
        InputError: config, flags or data cannot be used; nothing is written then.
        KeyboardInterrupt: a checkpoint of the last finished epoch is written.
    """
    check_data_dir(data_dir)
    config = local_file(config, cache_dir())
    trial = read_config(config, overrides, epochs)
    numbers = [trial.settings.seed] if seeds is None else _seeds(seeds)
    surroundings = Surroundings(data_dir=data_dir, device=choose_device(device))
    check_precision(trial.settings.precision, surroundings.device)
    folder = _output_folder(output, config, trial, numbers)
    training_type(trial.method).prepare(trial, surroundings)
    # Once more: packing can take long, and another process may have begun or finished a training there meanwhile.
    folder = _output_folder(output, config, trial, numbers)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if is_disk_full(error):
            raise
        reason = f"{error.strerror}: {str(error.filename)!r}"
        raise InputError(f"results cannot be written to {folder}: {reason}; use another --output") from None
    try:
        with FileLock(folder / LOCK, timeout=0):
            length = f"{trial.settings.epochs} epochs"
            say(f"training {trial.method} on {trial.dataset.name}, {length}, {surroundings.device}")
            results = train_seeds(
                trial,
                numbers,
                surroundings,
                folder,
                lambda seed, report: say(_epoch_line(seed, report)),
                lambda seed, epoch: say(f"continuing seed {seed} in {folder} after epoch {epoch}"),
            )
    except Timeout:
        raise InputError(f"{folder} is in use by another process; name another --output") from None
    except KeyboardInterrupt:
        say(f"interrupted; the same command continues the training in {folder}")
        raise
    (folder / LOCK).unlink(missing_ok=True)
    say("")
    for line in _closing_lines(results, summarise(results)):
        say(line)
    share = _share(trial, surroundings)
    if share is not None:
        say(f"note: this is a training on {share}; on all images: --set dataset.subset=1.0")
    written = [name for name in (CONFIG, SUMMARY, "model.pt") if (folder / name).exists()]
    say(f"files: {folder} ({', '.join(written)}, seed-*/epochs.jsonl)")
    return 1 if any(result.diverged for result in results) else 0


def _share(config: TrialConfig, surroundings: Surroundings) -> str | None:
    """Return ``216 of 1,438 images (dataset.subset 0.15)``, as after a search on a share; None for all images."""
    subset = getattr(config.dataset, "subset", 1.0)
    if subset == 1.0:
        return None
    if not issubclass(training_type(config.method), ClassifierTraining):
        return f"a share of the images (dataset.subset {subset:g})"
    return load_noisy(config.dataset, surroundings.data_dir).share_of_whole(subset)


def _seeds(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdecimal() and len(part) < 10 for part in parts):
        raise InputError(f"--seeds is a list of whole numbers such as 0,1,2, got {text!r}")
    numbers = [int(part) for part in parts]
    if len(set(numbers)) < len(numbers):
        raise InputError(f"--seeds names a seed twice: {text!r}")
    return numbers


def _output_folder(output: Path | None, source: Path, config: TrialConfig, seeds: Sequence[int]) -> Path:
    """Return the folder for the results; nothing is written.

    ``--output`` must be new, empty, or an unfinished training of this config and no other seeds. Without it, the folder
    is the first of ``results/train/NAME``, ``NAME-2``, ... for which this holds.

    Raises:
        InputError: ``--output`` holds something else, or the folder cannot be written to.
    """
    base = Path("results") / "train" / (source.stem if source.stem != "best" else source.resolve().parent.name)
    if output is not None:
        obstacle = _obstacle(output, config, seeds)
        if obstacle is not None:
            raise InputError(f"--output {output} {obstacle}; name a new folder")
        folder = output
    else:
        numbered = (base.with_name(f"{base.name}-{number}") for number in itertools.count(2))
        candidates = itertools.chain([base], numbered)
        folder = next(path for path in candidates if _obstacle(path, config, seeds) is None)
    above = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise InputError(f"results cannot be written to {folder}: {above} is no writable folder; use another --output")
    return folder


def _obstacle(folder: Path, config: TrialConfig, seeds: Sequence[int]) -> str | None:
    """Return why a training cannot begin or continue in ``folder``; ``None``: it can."""
    if not folder.exists():
        return None
    if not folder.is_dir():
        return "exists already and is not a folder"
    if not any(folder.iterdir()):
        return None
    if not (folder / LOCK).exists() or (folder / SUMMARY).exists():
        return "exists already and is not empty"
    stored = folder / CONFIG
    if stored.exists() and stored.read_text(encoding="utf-8") != dump_yaml(config.sections()):
        return "holds an unfinished training of another config"
    others = {path.name for path in folder.glob("seed-*")} - {f"seed-{seed}" for seed in seeds}
    if others:
        return f"holds an unfinished training with {', '.join(sorted(others))}, which --seeds does not name"
    try:
        with FileLock(folder / LOCK, timeout=0):
            return None
    except Timeout:
        return "is in use by another process"


def _epoch_line(seed: int, report: Report) -> str:
    parts = [f"{name} {report[name]:.4g}" for name in EPOCH_COLUMNS if name in report]
    return f"seed {seed} epoch {int(report['epoch']) + 1:>3}: " + ", ".join(parts) + f", {report['seconds']:.1f} s"


def _closing_lines(results: Sequence[SeedResult], summary: Mapping[str, Mapping[str, float]]) -> list[str]:
    lines = []
    for result in results:
        if result.diverged:
            lines.append(f"seed {result.seed} diverged: {result.divergence}; lower the lr")
        elif result.has_test:
            mean, std = result.figures["test_last10"], result.figures["test_last10_std"]
            lines.append(f"seed {result.seed}: test_last10 {mean:.2f} ± {std:.2f} over epochs")
    for name, text in FIGURES.items():
        if name in summary:
            spread = f" ± {summary[name]['std']:.2f} over {summary[name]['n']} seeds" if "std" in summary[name] else ""
            first = results[0].test_metrics[0]
            label = text.format(metric=spoken(first), n=min(results[0].average_last, len(results[0].reports)))
            lines.append(f"{name:<17} {summary[name]['mean']:6.2f}{spread}   {label}")
    if not any(result.has_test for result in results):
        lines.append("this dataset has no test set, so there are no test scores")
    return lines
