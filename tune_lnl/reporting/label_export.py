"""``export RUN --labels FILE``: judge every given label of the run's dataset by its best config."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tune_lnl.config.overrides import parse_overrides
from tune_lnl.config.trial import TrialConfig
from tune_lnl.datasets.images.noisy import load_noisy
from tune_lnl.errors import InputError
from tune_lnl.files import is_disk_full, replace_given
from tune_lnl.reporting.label_page import label_page
from tune_lnl.reporting.label_table import (
    LabelTable,
    evidence_lines,
    judge,
    require_label_file,
    summary_lines,
    write_label_file,
)
from tune_lnl.training.accelerator import choose_device
from tune_lnl.training.failures import DivergedError
from tune_lnl.training.labels import gather_evidence, label_config
from tune_lnl.training.loop import Report, Surroundings, check_precision
from tune_lnl.training.seeds import resolve_config
from tune_lnl.tuning.runs.location import ResultsDir
from tune_lnl.tuning.runs.run import Run, load_run

SUBSET = "dataset.subset"
EVIDENCE = "labels"
"""Folder of a run with what its finished label trainings have left."""
SHOWN = ("train_loss", "train_accuracy", "selection_precision", "selection_recall")


@dataclass(frozen=True)
class LabelOptions:
    """The command's arguments.

    Attributes:
        run: name under `results_dir`, or path.
        labels: FILE.csv or FILE.parquet.
        folds: of the cross-validation.
        epochs: train at another length; None: the config's.
        overrides: KEY=VALUE.
        data_dir: where the dataset lies; None: where the search found it.
        device: auto, cpu or cuda.
    """

    run: str
    results_dir: ResultsDir
    labels: Path
    folds: int = 5
    epochs: int | None = None
    overrides: Sequence[str] = ()
    data_dir: Path | None = None
    device: str = "auto"


def export_labels(options: LabelOptions, say: Callable[[str], None]) -> int:
    """Train, judge, write the file and its page, and print a summary.

    Returns:
        0, or 1 where a training diverged.

    Raises:
        InputError: run, flags, file, settings or data that cannot be used.
    """
    require_label_file(options.labels)
    run = load_run(options.run, options.results_dir)
    config = label_config(_best_config(run, options))
    device = choose_device(options.device)
    check_precision(config.settings.precision, device)
    stored = run.settings.get("data_dir")
    surroundings = Surroundings(options.data_dir or (None if stored is None else Path(stored)), device)
    say(
        f"labels of {config.dataset.name} by {config.method}, the best config of {run.name}: {options.folds} folds and "
        f"one training on all, {config.settings.epochs} epochs each, {device}"
    )
    searched = run.space.base["dataset"].get("subset", 1.0)
    share = load_noisy(config.dataset, surroundings.data_dir).share_of_whole(_subset(config))
    if share is not None:
        say(f"judges {share}; all images: leave out --set {SUBSET}")
    elif searched != 1.0:
        say(f"judges all images, of which the search used a share ({SUBSET} {searched:g})")

    def on_epoch(number: int, trainings: int, report: Report) -> None:
        say(_epoch_line(number, trainings, report))

    try:
        data, evidence = gather_evidence(config, options.folds, surroundings, run.files.root / EVIDENCE, on_epoch)
    except DivergedError as error:
        say(f"failed: {error}; lower the lr: --set lr=...")
        return 1
    except KeyboardInterrupt:
        say("interrupted; the same command continues after the last finished epoch")
        raise
    table = judge(data, evidence)
    advice = advice_lines(table, config)
    page = options.labels.with_suffix(".html")
    write_label_file(table, options.labels)
    try:
        replace_given(page, label_page(table, run.name, options.labels.name, datetime.now(), advice))
    except OSError as error:
        if is_disk_full(error):
            raise
        raise InputError(f"{page} cannot be written: {error.strerror}; name another file") from None
    say("")
    for line in (*evidence_lines(table), *advice, "", *summary_lines(table)):
        say(line)
    if data.root is not None:
        say(f"paths are relative to {data.root}")
    say(f"files: {options.labels} and {page} (the most suspicious images)")
    return 0


def _best_config(run: Run, options: LabelOptions) -> TrialConfig:
    best = run.best
    if best is None:
        raise InputError(
            f"run {run.name} has no complete trial yet, so there is no best config to judge labels by\n"
            "let the search go on, or look at its trials with --format csv"
        )
    sections, overrides = run.config(best).sections(), parse_overrides(options.overrides)
    # A search may be content with a share of the images; a verdict is wanted on every label.
    if SUBSET not in overrides and sections["dataset"].get("subset", 1.0) != 1.0:
        overrides = {SUBSET: 1.0, **overrides}
    return resolve_config(sections, overrides, options.epochs, f"run {run.name}")


def advice_lines(table: LabelTable, config: TrialConfig) -> list[str]:
    """Return which images were judged, and what gives better verdicts where corrections are withheld."""
    share = table.data.share_of_whole(_subset(config))
    lines = [] if share is None else [f"these are the labels of {share}; all are judged without --set {SUBSET}"]
    if table.judgement.support.withheld or table.judgement.support.weak_classes:
        images = "" if share is None else " and all images"
        epochs = config.settings.epochs
        lines.append(
            f"for better verdicts train longer{images}: --epochs {2 * epochs} instead of {epochs}, or search longer "
            "trials first; until then take this file for a list of labels to look at"
        )
    return lines


def _subset(config: TrialConfig) -> float:
    return float(getattr(config.dataset, "subset", 1.0))


def _epoch_line(number: int, trainings: int, report: Report) -> str:
    what = "all samples" if number == trainings - 1 else f"fold {number + 1} of {trainings - 1}"
    parts = [f"{name} {report[name]:.4g}" for name in SHOWN if name in report]
    return f"{what}, epoch {int(report['epoch']) + 1:>3}: {', '.join(parts)}, {report['seconds']:.1f} s"
