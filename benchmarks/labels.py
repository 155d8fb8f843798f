"""Exported corrections beside the labels that they replace, by the commands of docs/tutorial_folder.md.

    python benchmarks/labels.py --work DIR [--draws 901,902,903] [--only NAME]... [--data-dir DIR] [--output FILE.json]

Searches a share of the images, exports the labels as a user does, and holds the exported file against the true labels,
and against confident learning (cleanlab's find_label_issues) on the same out-of-sample predictions. Needs the
extra `benchmark` (cleanlab). DIR keeps everything; an interrupted run continues.
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from evidence import evidence, write_evidence
from folder_labels import write_folder
from numpy.typing import NDArray

from tune_lnl.cli import Parser, guarded
from tune_lnl.datasets.base import NoisyData
from tune_lnl.datasets.images.noisy import load_noisy
from tune_lnl.errors import InputError
from tune_lnl.metrics.label_quality import label_quality
from tune_lnl.training.seeds import read_config

FILTERS = ("prune_by_noise_rate", "both", "confident_learning", "prune_by_class", "predicted_neq_given")
"""Of cleanlab; the first is its default."""
SHARE = ("--set", "dataset.subset=0.15", "--set", "batch_size=16", "--set", "validation.fraction=0.3")
SEARCH = (*SHARE, "--epochs", "8", "--trials", "3")
"""As in the tutorial."""
PER_CLASS = 100
DEFAULT = f"cleanlab {FILTERS[0]}"


@dataclass(frozen=True)
class Case:
    """One condition of noise: the words for the table, and the noise of digits8no; None: a folder of CIFAR-100."""

    title: str
    condition: str | None


CASES = {
    "asym40": Case("digits, 40% to the next class", "asym40"),
    "sym20": Case("digits, 20% spread evenly", "sym20"),
    "sym80": Case("digits, 80% spread evenly", "sym80"),
    "cifar": Case("ten classes of CIFAR-100, 30% to the next class", None),
}
EXPORTS = {
    "tutorial": ("5 folds, 8 epochs", 5, ()),
    "short": ("2 folds, 4 epochs", 2, ("--folds", "2", "--epochs", "4")),
    "long": ("5 folds, 45 epochs", 5, ("--epochs", "45")),
}


def parser() -> argparse.ArgumentParser:
    p = Parser(prog="benchmarks/labels.py", description=__doc__)
    p.add_argument("--work", type=Path, required=True, metavar="DIR", help="keeps runs and exported files")
    p.add_argument("--draws", default="901,902,903", help="seeds of the noise")
    p.add_argument("--only", action="append", choices=CASES, help="may be repeated")
    p.add_argument("--exports", default="tutorial,short,long")
    p.add_argument("--data-dir", type=Path)
    p.add_argument("--finished", action="store_true", help="read the exported files that are there, and make none")
    p.add_argument("--output", type=Path, metavar="FILE.json")
    return p


def run(command: Sequence[str]) -> None:
    """Run a command of tune_lnl. Raises InputError with the end of its output where it fails."""
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(f"python -m {' '.join(command)} failed:\n{(done.stdout + done.stderr)[-2000:]}")


def searched(name: str, draw: int, work: Path, data_dir: Path | None) -> Path:
    """Return the folder of one draw with a finished search in results/search."""
    folder, case = work / f"{name}-{draw}", CASES[name]
    finished = folder / "results" / "search" / "best.yaml"
    if finished.is_file():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    where = ("--name", "search", "--results-dir", str(folder / "results"), "--no-dashboard")
    if case.condition is None:
        write_folder(folder / "images", data_dir, 10, PER_CLASS, 0.3, "asymmetric", draw)
        run(("tune_lnl.search", "act_folder", "--data", str(folder / "images" / "images"), *where, *SEARCH))
    else:
        noise = ("--condition", case.condition, "--set", f"dataset.noise_seed={draw}")
        run(("tune_lnl.search", "act_digits8no", *noise, *where, *SEARCH))
    return folder


def exported(folder: Path, export: str, finished: bool) -> dict[str, NDArray[Any]]:
    """Return the columns of the file that the export writes; trainings that are done are not repeated.

    Args:
        finished: read the file that is there.
    """
    _, _, flags = EXPORTS[export]
    results, file = folder / "results", folder / f"{export}.parquet"
    if not (results / export).is_dir():
        # A run of its own for each export: the training on all images has one place in a run.
        shutil.copytree(results / "search", results / export)
    if not finished:
        run(("tune_lnl.export", export, "--results-dir", str(results), "--labels", str(file), *flags))
    table = pq.read_table(file)
    return {column: np.asarray(table[column].to_pylist()) for column in table.column_names}


def held_out(folder: Path, export: str, count: int) -> NDArray[np.float64]:
    """Return the reported network's predictions of images that it has not seen, (n, C)."""
    _, folds, _ = EXPORTS[export]
    found: NDArray[np.float64] | None = None
    for number in range(folds):
        path = folder / "results" / export / "labels" / f"fold-{number + 1}-of-{folds}.npz"
        with np.load(path, allow_pickle=False) as part:
            if found is None:
                found = np.full((count, part["held_out"].shape[1]), np.nan)
            found[part["held_out_samples"]] = part["held_out"]
    assert found is not None
    return found


def true_labels(data: NoisyData, folder: Path) -> NDArray[np.int64]:
    """Return the true labels, of a folder from the table beside it."""
    if data.true_labels is not None:
        return data.true_labels
    assert data.train_names is not None
    with (folder / "images" / "labels.csv").open(newline="", encoding="utf-8") as file:
        known = {row["path"].removeprefix("images/"): row["true_label"] for row in csv.DictReader(file)}
    classes = {name: number for number, name in enumerate(data.class_names)}
    return np.array([classes[known[data.train_names[row]]] for row in data.rows], dtype=np.int64)


def measured(folder: Path, export: str, data_dir: Path | None, finished: bool) -> dict[str, Any]:
    """Return the figures of one exported file, and cleanlab's on the same predictions."""
    columns = exported(folder, export, finished)
    dataset = read_config(folder / "results" / "search" / "best.yaml", ["dataset.subset=1.0"], None).dataset
    data = load_noisy(dataset, data_dir)
    true, given, classes = true_labels(data, folder), data.given_labels, data.num_classes
    number = {name: label for label, name in enumerate(data.class_names)}
    assert [number[name] for name in columns["given_label"]] == given.tolist(), "the file is of other labels"
    corrected = np.array([number[name] for name in columns["corrected_label"]], dtype=np.int64)
    verdict, confidence = columns["verdict"], columns["confidence"].astype(float)
    found, right = np.isin(verdict, ("relabel", "open_set")), corrected == true
    predicted = held_out(folder, export, len(given))
    ours = label_quality(true, given, corrected, found, 1.0 - confidence, classes)
    surely = (verdict == "relabel") & (confidence >= 0.9)
    return {
        "images": len(given),
        "agreement": float(columns["agreement"][0]),
        "withheld": "corrections are withheld"
        in (pq.read_schema(folder / f"{export}.parquet").metadata[b"evidence"]).decode(),
        "verdicts": {name: int((verdict == name).sum()) for name in ("keep", "relabel", "open_set", "unsure")},
        "relabelled at 0.9": [int(surely.sum()), int(right[surely].sum())],
        "corrections": tenths(confidence, right, verdict == "relabel"),
        "all labels": tenths(confidence, right, np.ones(len(given), dtype=np.bool_)),
        "rows": {"verdict": asdict(ours)} | cleanlab_rows(predicted, given, true, classes),
    }


def tenths(confidence: NDArray[np.float64], right: NDArray[np.bool_], among: NDArray[np.bool_]) -> list[list[float]]:
    """Return [tenth, labels, sum of the confidence, right labels] for each tenth of the confidence that occurs."""
    tenth = np.minimum((np.nan_to_num(confidence) * 10).astype(int), 9)
    return [
        [number, int(here.sum()), round(float(confidence[here].sum()), 2), int(right[here].sum())]
        for number in range(10)
        if (here := among & (tenth == number)).any()
    ]


def cleanlab_rows(
    predicted: NDArray[np.float64], given: NDArray[np.int64], true: NDArray[np.int64], classes: int
) -> dict[str, dict[str, Any]]:
    """Return the quality of each filter, with the network's prediction as the correction."""
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    known = ~np.isnan(predicted).any(axis=1)
    predicted, given, true = predicted[known], given[known], true[known]
    predicted = predicted / predicted.sum(axis=1, keepdims=True)
    score = 1.0 - np.asarray(get_label_quality_scores(given, predicted))
    rows = {}
    for name in FILTERS:
        issues = np.asarray(find_label_issues(given, predicted, filter_by=name, n_jobs=1), dtype=np.bool_)
        corrected = np.where(issues, predicted.argmax(axis=1), given)
        rows[f"cleanlab {name}"] = asdict(label_quality(true, given, corrected, issues, score, classes))
    return rows


def pooled(draws: Sequence[Sequence[Sequence[float]]]) -> list[dict[str, float]]:
    """Return said and true share by tenth of the confidence, over all draws."""
    sums: dict[int, NDArray[np.float64]] = {}
    for tenth, *counts in (row for draw in draws for row in draw):
        sums[int(tenth)] = sums.get(int(tenth), np.zeros(3)) + np.array(counts)
    return [
        {"from": tenth / 10, "labels": int(n), "said": round(said / n, 4), "true": round(right / n, 4)}
        for tenth, (n, said, right) in sorted(sums.items())
    ]


def markdown(content: Mapping[str, Any]) -> list[str]:
    """Return the lines of docs/labels.md: right labels and quality, then the calibration, in percent."""
    lines = []
    for table in content["tables"].values():
        draws = list(table["draws"].values())

        def mean(row: str, key: str, draws: Sequence[Mapping[str, Any]] = draws) -> str:
            values = [draw["rows"][row][key] for draw in draws if draw["rows"][row][key] is not None]
            return f"{100 * sum(values) / len(values):.1f}" if values else "–"

        before, after = (mean("verdict", f"{when}_accuracy") for when in ("given", "corrected"))
        filtered = [mean(f"cleanlab {name}", "corrected_accuracy") for name in (FILTERS[0], FILTERS[-1])]
        quality = [" / ".join(mean(row, key) for key in ("precision", "recall")) for row in ("verdict", DEFAULT)]
        surely = [sum(draw["relabelled at 0.9"][place] for draw in draws) for place in (0, 1)]
        held = sum(draw["withheld"] for draw in draws)
        cells = [table["title"], len(draws), before, after, *filtered, *quality, f"{surely[1]} of {surely[0]}", held]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    for kind in ("corrections", "all labels"):
        rows = [row for table in content["tables"].values() for draw in table["draws"].values() for row in draw[kind]]
        for row in pooled([rows]):
            words = f"{row['from']:.1f} to {row['from'] + 0.1:.1f}"
            lines.append(
                f"| {kind} | {words} | {row['labels']:,} | {100 * row['said']:.1f} | {100 * row['true']:.1f} |"
            )
    return lines


@guarded
def main(argv: list[str] | None = None) -> int:
    a = parser().parse_args(argv)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    tables: dict[str, dict[str, Any]] = {}
    for name in a.only or CASES:
        for export in a.exports.split(","):
            draws = {}
            for draw in map(int, a.draws.split(",")):
                if name == "cifar" and export == "long":
                    continue
                if a.finished and not (a.work / f"{name}-{draw}" / f"{export}.parquet").is_file():
                    continue
                folder = searched(name, draw, a.work, a.data_dir)
                draws[str(draw)] = found = measured(folder, export, a.data_dir, a.finished)
                ours, filtered = found["rows"]["verdict"], found["rows"][f"cleanlab {FILTERS[0]}"]
                print(
                    f"{name} {export} {draw}: right {100 * ours['given_accuracy']:.1f} -> "
                    f"{100 * ours['corrected_accuracy']:.1f}, cleanlab {100 * filtered['corrected_accuracy']:.1f}, "
                    f"agree {100 * found['agreement']:.0f}, {found['verdicts']}, at 0.9 {found['relabelled at 0.9']}",
                    flush=True,
                )
            if draws:
                tables[f"{name} {export}"] = {
                    "title": f"{CASES[name].title}; {EXPORTS[export][0]}",
                    "draws": draws,
                    "corrections": pooled([draw["corrections"] for draw in draws.values()]),
                    "all labels": pooled([draw["all labels"] for draw in draws.values()]),
                }
    if a.output is not None:
        what = "Right labels before and after the export, by the tutorial's commands; cleanlab on the same predictions"
        base = evidence(("torch", "numpy", "cleanlab"), f"cpu, {platform.machine()}")
        write_evidence(a.output, {"what": what, **base, "search": " ".join(SEARCH), "tables": tables})
        print("\n".join(markdown({"tables": tables})))
    return 0


if __name__ == "__main__":
    sys.exit(main())
