"""What ``tune_lnl.train`` does with its arguments: check, train seed by seed, tell the figures."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tune_lnl.datasets.paths import cache_dir
from tune_lnl.errors import InputError
from tune_lnl.object_storage import local_file
from tune_lnl.training.devices import choose_device
from tune_lnl.training.loop import Report, Surroundings, check_precision, spoken
from tune_lnl.training.registry import training_type
from tune_lnl.training.seeds import SeedResult, read_config, summarise, train_seeds

FIGURES = {
    "test_last10": "test {metric}, mean of the last {n} epochs (as published)",
    "test_at_val_best": "test {metric} at the best validation epoch",
    "test_oracle": "best test {metric} of any epoch (not for selection)",
    "test_rank1_last10": "test rank-1, mean of the last {n} epochs",
    "objective": "objective on the held-out split",
}
SHOWN = (
    *("val_accuracy", "test_accuracy", "val_map", "val_rank1", "test_map", "train_loss", "lr", "lr1"),
    *("selection_precision", "selection_recall", "refined_accuracy"),
)
"""Numbers of an epoch that its line on the screen has room for."""


def train_command(
    config: str | Path,
    seeds: str | None,
    epochs: int | None,
    device: str,
    overrides: Sequence[str],
    data_dir: Path | None,
    output: Path | None,
    say: Callable[[str], None],
) -> int:
    """Train and report.

    Args:
        config: a file's path or URL.

    Returns:
        0, or 1 where a seed diverged.

    Raises:
        InputError: config, flags or data cannot be used; nothing is written then.
    """
    config = local_file(config, cache_dir())
    trial = read_config(config, overrides, epochs)
    numbers = [trial.settings.seed] if seeds is None else _seeds(seeds)
    surroundings = Surroundings(data_dir=data_dir, device=choose_device(device))
    check_precision(trial.settings.precision, surroundings.device)
    folder = _output_folder(output, config)
    training_type(trial.method).prepare(trial, surroundings)
    say(f"training {trial.method} on {trial.dataset.name}, {trial.settings.epochs} epochs, {surroundings.device}")
    results = train_seeds(trial, numbers, surroundings, folder, lambda seed, report: say(_epoch_line(seed, report)))
    say("")
    for line in _closing_lines(results, summarise(results)):
        say(line)
    say(f"files: {folder} (config.yaml, summary.json, model.pt, seed-*/epochs.jsonl)")
    return 1 if any(result.diverged for result in results) else 0


def _seeds(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise InputError(f"--seeds is a list of whole numbers such as 0,1,2, got {text!r}")
    numbers = [int(part) for part in parts]
    if len(set(numbers)) < len(numbers):
        raise InputError(f"--seeds names a seed twice: {text!r}")
    return numbers


def _output_folder(output: Path | None, config: Path) -> Path:
    """The asked folder, which must be new; without one, the first free of ``results/train/NAME``, ``NAME-2``, ..."""
    if output is not None:
        if output.exists() and (not output.is_dir() or any(output.iterdir())):
            raise InputError(f"--output {output} exists already and is not empty; name a new folder")
        return _writable(output)
    base = Path("results") / "train" / (config.stem if config.stem != "best" else config.resolve().parent.name)
    number = 1
    folder = base
    while folder.exists():
        number += 1
        folder = base.with_name(f"{base.name}-{number}")
    return _writable(folder)


def _writable(folder: Path) -> Path:
    """``folder``, which can be made (or filled) where it is."""
    above = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise InputError(f"results cannot be written to {folder}: {above} is no writable folder; use another --output")
    return folder


def _epoch_line(seed: int, report: Report) -> str:
    parts = [f"{name} {report[name]:.4g}" for name in SHOWN if name in report]
    return f"seed {seed} epoch {int(report['epoch']) + 1:>3}: " + ", ".join(parts) + f", {report['seconds']:.1f} s"


def _closing_lines(results: Sequence[SeedResult], summary: Mapping[str, Mapping[str, float]]) -> list[str]:
    lines = []
    for result in results:
        if result.has_test:
            mean, std = result.figures["test_last10"], result.figures["test_last10_std"]
            lines.append(f"seed {result.seed}: test_last10 {mean:.2f} ± {std:.2f} over epochs")
        if result.diverged:
            lines.append(f"seed {result.seed} diverged: a score of its last epochs is not finite; lower the lr")
    for name, text in FIGURES.items():
        if name in summary:
            spread = f" ± {summary[name]['std']:.2f} over {summary[name]['n']} seeds" if "std" in summary[name] else ""
            first = results[0].test_metrics[0]
            label = text.format(metric=spoken(first), n=min(results[0].average_last, len(results[0].reports)))
            lines.append(f"{name:<17} {summary[name]['mean']:6.2f}{spread}   {label}")
    if not any(result.has_test for result in results):
        lines.append("this dataset has no test set, so there are no test scores")
    return lines
