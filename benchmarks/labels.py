"""The verdict on given labels, compared with confident learning on the same out-of-sample predictions.

    python benchmarks/labels.py CONFIG.yaml [--work DIR] [--folds 5] [--epochs N] [--set KEY=VALUE]...
        [--truth FILE.csv] [--noise-seeds 1,2,3] [--data-dir DIR] [--output FILE.json]

CONFIG names a dataset whose true labels are known; `python -m tune_lnl.export RUN` writes one. Needs the extra
`benchmark` (cleanlab). DIR, if given, keeps trainings; an interrupted run continues from there.
Confident learning (cleanlab's find_label_issues) gets the reported network's predictions, with each of its filters; its
ranking is its own label quality score, its corrected label the network's prediction.
"""

from __future__ import annotations

import argparse
import csv
import platform
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from evidence import evidence, write_evidence
from numpy.typing import NDArray

from tune_lnl.cli import Parser, guarded
from tune_lnl.datasets.base import NoisyData
from tune_lnl.errors import InputError
from tune_lnl.methods.label_verdicts import OPEN_SET, RELABEL, VERDICTS, Judgement, judge_labels
from tune_lnl.metrics.label_quality import LabelQuality, label_quality
from tune_lnl.reporting.label_table import REPORTED, LabelTable, evidence_lines, judge
from tune_lnl.training.accelerator import choose_device
from tune_lnl.training.labels import LabelEvidence, gather_evidence, label_config
from tune_lnl.training.loop import Report, Surroundings
from tune_lnl.training.seeds import read_config

FILTERS = ("prune_by_noise_rate", "both", "confident_learning", "prune_by_class", "predicted_neq_given")
"""Of cleanlab; the first is its default."""
SHOWN = {"precision": 11, "recall": 8, "f1": 8, "auroc": 8}
"""Columns of the printed table, and their widths."""


def parser() -> argparse.ArgumentParser:
    p = Parser(prog="benchmarks/labels.py", description=__doc__)
    p.add_argument("config", type=Path, metavar="CONFIG.yaml")
    p.add_argument("--work", type=Path, metavar="DIR", help="where trainings are kept, to continue from")
    p.add_argument("--folds", type=int, default=5)
    p.add_argument("--epochs", type=int)
    p.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    p.add_argument("--truth", type=Path, metavar="FILE.csv", help="columns path and true_label, for a folder of images")
    p.add_argument("--noise-seeds", metavar="1,2,3", help="one draw of the noise each; then also their means")
    p.add_argument("--data-dir", type=Path)
    p.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    p.add_argument("--output", type=Path, metavar="FILE.json")
    return p


def cleanlab_qualities(table: LabelTable, probabilities: NDArray[np.float32]) -> dict[str, LabelQuality]:
    """Return the quality of each filter of cleanlab, on the samples that have predictions."""
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    data, true = table.data, table.data.true_labels
    assert true is not None, "refused before"
    known = ~np.isnan(probabilities).any(axis=1)
    given = data.given_labels[known]
    predicted = probabilities[known].astype(np.float64)
    predicted /= predicted.sum(axis=1, keepdims=True)
    score = 1.0 - np.asarray(get_label_quality_scores(given, predicted))
    found = {}
    for name in FILTERS:
        issues = np.asarray(find_label_issues(given, predicted, filter_by=name, n_jobs=1), dtype=np.bool_)
        corrected = np.where(issues, predicted.argmax(axis=1), given)
        found[name] = label_quality(true[known], given, corrected, issues, score, data.num_classes)
    return found


def own_quality(table: LabelTable, judged: Judgement) -> LabelQuality:
    data = table.data
    assert data.true_labels is not None, "refused before"
    found = np.isin(judged.verdict, (RELABEL, OPEN_SET))
    return label_quality(data.true_labels, data.given_labels, judged.corrected, found, judged.wrong, data.num_classes)


def open_set_quality(table: LabelTable) -> dict[str, float | int] | None:
    """Return the quality of the verdict open_set; None where no sample is open-set."""
    data = table.data
    if data.true_labels is None or not (data.true_labels >= data.num_classes).any():
        return None
    open_set, called = data.true_labels >= data.num_classes, table.judgement.verdict == OPEN_SET
    both = int((open_set & called).sum())
    return {"open_set": int(open_set.sum()), "called": int(called.sum()), "both": both}


def calibration(table: LabelTable) -> dict[str, list[dict[str, float | int]]]:
    """Return said and true share of right labels by tenth of the confidence, of corrections and of all labels."""
    true, judged = table.data.true_labels, table.judgement
    assert true is not None, "refused before"
    right, known = judged.corrected == true, ~np.isnan(judged.confidence)
    tenth = np.minimum((np.nan_to_num(judged.confidence) * 10).astype(int), 9)
    return {
        name: [
            {
                "from": number / 10,
                "labels": int(here.sum()),
                "said": float(judged.confidence[here].mean()),
                "true": float(right[here].mean()),
            }
            for number in range(10)
            if (here := among & (tenth == number)).any()
        ]
        for name, among in (("corrections", judged.verdict == RELABEL), ("all labels", known))
    }


def qualities(table: LabelTable, evidence: LabelEvidence) -> dict[str, LabelQuality]:
    """Return our qualities, then cleanlab's."""
    known = table.quality()
    assert known is not None, "refused before"
    rows = {"verdict": known[0], "verdict_in_sample": known[1]}
    if evidence.selected_share is not None:
        alone = judge_labels(evidence.held_out[REPORTED], table.data.given_labels)
        rows["verdict, predictions alone"] = own_quality(table, alone)
    reported = cleanlab_qualities(table, evidence.held_out[REPORTED])
    return rows | {f"cleanlab {name}": quality for name, quality in reported.items()}


def measure(a: argparse.Namespace, work: Path, device: str) -> dict[str, Any]:
    """Measure one draw of the noise, or several and their means."""
    if a.noise_seeds is None:
        return hold_against(a, a.overrides, work, device)
    draws = {
        seed: hold_against(a, [*a.overrides, f"dataset.noise_seed={int(seed)}"], work / f"noise-{seed}", device)
        for seed in a.noise_seeds.split(",")
    }
    content = {**next(iter(draws.values())), "rows": {seed: draw["rows"] for seed, draw in draws.items()}}
    for of_one_draw in ("open_set", "estimated", "verdicts", "calibration"):
        content[of_one_draw] = {seed: draw[of_one_draw] for seed, draw in draws.items()}
    del content["fingerprints"]
    content["means"] = means(list(content["rows"].values()))
    print("means over the draws of the noise")
    show(content["means"])
    return content


@guarded
def main(argv: list[str] | None = None) -> int:
    a = parser().parse_args(argv)
    device = choose_device(a.device)
    with TemporaryDirectory() as temporary:
        content = measure(a, Path(temporary) if a.work is None else a.work, device)
    if a.output is not None:
        write_evidence(a.output, content)
    return 0


def hold_against(a: argparse.Namespace, overrides: list[str], work: Path, device: str) -> dict[str, Any]:
    """Train, judge and compare one draw of the noise."""
    config = label_config(read_config(a.config, overrides, a.epochs))

    def on_epoch(number: int, trainings: int, report: Report) -> None:
        print(f"training {number + 1} of {trainings}, epoch {int(report['epoch']) + 1}", flush=True)

    data, found = gather_evidence(config, a.folds, Surroundings(a.data_dir, device), work, on_epoch)
    if a.truth is not None:
        data = replace(data, true_labels=true_labels(data, a.truth))
    if data.true_labels is None:
        raise InputError(f"{config.dataset.name} has no true labels to hold verdicts against; give --truth FILE")
    table = judge(data, found)
    rows = {name: asdict(one) for name, one in qualities(table, found).items()}
    show(rows)
    for line in evidence_lines(table):
        print(line)
    for name, tenths in calibration(table).items():
        for one in tenths:
            share = f"said {one['said']:.2f}, true {one['true']:.2f}"
            print(f"{name}, confidence from {one['from']:.1f}: {one['labels']:>6} {share}")
    return _evidence(config.flat(), a.folds, device, table, rows)


def true_labels(data: NoisyData, table: Path) -> NDArray[np.int64]:
    """Return the true label of each training image from a table, which may name images from a folder above the root.

    Raises:
        InputError: an image or a class is missing.
    """
    with table.open(newline="", encoding="utf-8") as file:
        known = {row["path"]: row["true_label"] for row in csv.DictReader(file)}
    above = {path.partition("/")[2]: label for path, label in known.items()}
    classes = {name: number for number, name in enumerate(data.class_names)}
    if data.train_names is None:
        raise InputError("--truth names images by their files, and this dataset has none")
    names = [data.train_names[row] for row in data.rows]
    try:
        return np.array([classes[known.get(name) or above[name]] for name in names], dtype=np.int64)
    except KeyError as missing:
        raise InputError(f"{table}: every image and class is to be in it; {missing} is not") from None


def show(rows: Mapping[str, Mapping[str, float | None]]) -> None:
    print(f"{'':<32}{'found':>7}{'precision':>11}{'recall':>8}{'F1':>8}{'AUROC':>8}{'accuracy of labels':>21}")
    for name, one in rows.items():
        shares = "".join(f"{_percent(one[key]):>{width}}" for key, width in SHOWN.items())
        change = f"{_percent(one['given_accuracy'])} -> {_percent(one['corrected_accuracy'])}"
        print(f"{name:<32}{one['found']:>7.0f}{shares}{change:>21}")


def means(draws: Sequence[Mapping[str, Mapping[str, float | None]]]) -> dict[str, dict[str, float | None]]:
    """Return the mean of every figure over the draws of the noise; None where a draw has none."""

    def mean(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return statistics.fmean(known) if len(known) == len(values) else None

    return {name: {key: mean([draw[name][key] for draw in draws]) for key in row} for name, row in draws[0].items()}


def _evidence(
    config: dict[str, Any], folds: int, device: str, table: LabelTable, rows: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    support = table.judgement.support
    return {
        "what": "Wrong labels found, fractions: ours, and cleanlab on the same out-of-sample predictions",
        **evidence(("torch", "numpy", "cleanlab"), f"{device}, {platform.machine()}"),
        "config": {name: value for name, value in config.items() if name != "dataset.root"},
        "folds": folds,
        "samples": len(table),
        "classes": table.data.num_classes,
        "fingerprints": table.data.fingerprints,
        "estimated": {
            "agreement": support.agreement,
            "right_labels": support.right,
            "skill": support.skill,
            "withheld": support.withheld,
            "noise_by_data_check": None if table.estimate is None else asdict(table.estimate),
        },
        "verdicts": {name: int((table.judgement.verdict == place).sum()) for place, name in enumerate(VERDICTS)},
        "calibration": calibration(table),
        "open_set": open_set_quality(table),
        "rows": rows,
    }


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


if __name__ == "__main__":
    sys.exit(main())
