"""The verdict on every given label: a row per training sample, as a table, a file and a summary in text."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tune_lnl.datasets.base import NoisyData
from tune_lnl.datasets.estimate import NoiseEstimate, anchor_estimate, simple_predictions
from tune_lnl.errors import InputError, shown
from tune_lnl.files import given_file, is_disk_full, no_formula, refuse_output
from tune_lnl.methods.label_verdicts import (
    KEEP,
    OPEN_SET,
    RELABEL,
    UNSURE,
    VERDICTS,
    Judgement,
    judge_in_sample,
    judge_labels,
    plateau,
)
from tune_lnl.metrics.label_quality import LabelQuality, label_quality
from tune_lnl.training.labels import LabelEvidence

REPORTED = ""
SUFFIXES = (".csv", ".parquet")
LINES_OF_CLASSES = 40
NAMED = 10


@dataclass(frozen=True)
class LabelTable:
    """n training samples, in the dataset's order.

    Attributes:
        data: what was judged.
        judgement: out of sample.
        in_sample: int64 (n,), place in :data:`tune_lnl.methods.label_verdicts.VERDICTS`.
        in_sample_wrong: float64 (n,), one minus the belief in the given label.
        in_sample_corrected: int64 (n,), the likeliest class of the belief.
        selected_share: float32 (n,) in [0, 1], or None.
        disagreement: float64 (n,) in [0, 1]: how far apart the two networks' predictions are (total variation), NaN
            where there are none; None for methods with one network.
        estimate: the noise as ``data check`` estimates it, by a simple classifier; None for too few images.
    """

    data: NoisyData
    judgement: Judgement
    in_sample: NDArray[np.int64]
    in_sample_wrong: NDArray[np.float64]
    in_sample_corrected: NDArray[np.int64]
    selected_share: NDArray[np.float32] | None
    disagreement: NDArray[np.float64] | None
    estimate: NoiseEstimate | None = None

    def __len__(self) -> int:
        return len(self.data.given_labels)

    @property
    def found(self) -> NDArray[np.bool_]:
        """(n,) whose label is called wrong: to be replaced, or of no class."""
        return np.isin(self.judgement.verdict, (RELABEL, OPEN_SET))

    @property
    def suspicious(self) -> NDArray[np.bool_]:
        """(n,) whose label is called wrong or is not sure."""
        suspicious: NDArray[np.bool_] = self.judgement.verdict != KEEP
        return suspicious

    def class_name(self, label: int) -> str:
        return printable(self.data.class_names[label])

    def sample_name(self, sample: int) -> str | int:
        """Return the path relative to the dataset's root, or the row in the dataset where there are no files."""
        row = int(self.data.rows[sample])
        return row if self.data.train_names is None else printable(self.data.train_names[row])

    def quality(self) -> tuple[LabelQuality, LabelQuality] | None:
        """Return the quality of the verdict and of the verdict in sample; ``None`` without true labels."""
        data, true = self.data, self.data.true_labels
        if true is None:
            return None
        judged = self.judgement
        out = label_quality(true, data.given_labels, judged.corrected, self.found, judged.wrong, data.num_classes)
        kept = self.in_sample == KEEP
        corrected = np.where(kept, data.given_labels, self.in_sample_corrected)
        within = label_quality(true, data.given_labels, corrected, ~kept, self.in_sample_wrong, data.num_classes)
        return out, within


def judge(data: NoisyData, evidence: LabelEvidence) -> LabelTable:
    """Return the verdicts of :mod:`tune_lnl.methods.label_verdicts`."""
    given, networks = data.given_labels, list(evidence.held_out.values())
    simple = simple_predictions(data.train_images, data.rows, given)
    every = np.mean(networks, axis=0)
    own = evidence.belief[np.arange(len(given)), given].astype(np.float64)
    return LabelTable(
        data=data,
        judgement=judge_labels(
            evidence.held_out[REPORTED],
            given,
            evidence.selected_share,
            every,
            # The lower end: of two shares the larger is used, which would favour a chance high one.
            right=None if simple is None else plateau(*simple)[1],
        ),
        in_sample=judge_in_sample(evidence.belief, given),
        in_sample_wrong=1.0 - own,
        in_sample_corrected=evidence.belief.argmax(axis=1),
        selected_share=evidence.selected_share,
        disagreement=None
        if len(networks) < 2
        else 0.5 * np.abs(networks[0].astype(np.float64) - networks[1]).sum(axis=1),
        estimate=None if simple is None else anchor_estimate(*simple),
    )


def printable(name: str) -> str:
    """Return a name as valid text; bytes that are no UTF-8 are written as \\xNN."""
    return os.fsencode(name).decode("utf-8", "backslashreplace") if not name.isascii() else name


# ---- files


def require_label_file(path: Path) -> None:
    """Refuse a FILE that cannot be written.

    Raises:
        InputError: another suffix than csv or parquet, a folder, or no folder to write to.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"--labels names a file that ends in {' or '.join(SUFFIXES)}, got {path}")
    reason = refuse_output(path)
    if reason is not None:
        rule = "lies in no folder that can be written to" if reason.startswith("lies in") else reason
        raise InputError(f"--labels {shown(str(path))} {rule}; name another file")


def write_label_file(table: LabelTable, path: Path) -> None:
    """Write the table as CSV or parquet, by the suffix; readers see the old file or the whole new one.

    In CSV, text that a spreadsheet would take for a formula gets an apostrophe in front; parquet has it as it is.

    Raises:
        InputError: it cannot be written.
    """
    write = _write_parquet if path.suffix.lower() == ".parquet" else _write_csv
    try:
        with given_file(path) as beside:
            write(table, beside)
    except OSError as error:
        if is_disk_full(error) or isinstance(error, BrokenPipeError):
            raise
        raise InputError(f"--labels {path} cannot be written: {error.strerror or error}; name another file") from None


def columns_of(table: LabelTable) -> dict[str, list[Any]]:
    """Return the columns by name, in order; None for an unknown value. The last two are of the whole file."""
    judged, count = table.judgement, range(len(table))
    key = "id" if table.data.train_names is None else "path"
    return {
        key: [table.sample_name(sample) for sample in count],
        "given_label": [table.class_name(label) for label in table.data.given_labels],
        "corrected_label": [table.class_name(label) for label in judged.corrected],
        "confidence": _numbers(judged.confidence, len(table)),
        "selected_share": _numbers(table.selected_share, len(table)),
        "disagreement": _numbers(table.disagreement, len(table)),
        "verdict": [VERDICTS[place] for place in judged.verdict],
        "verdict_in_sample": [VERDICTS[place] for place in table.in_sample],
        "agreement": [round(judged.support.agreement, 6)] * len(table),
        "estimated_noise": [None if table.estimate is None else round(table.estimate.rate, 6)] * len(table),
    }


def _numbers(values: NDArray[Any] | None, count: int) -> list[float | None]:
    if values is None:
        return [None] * count
    return [None if np.isnan(value) else round(float(value), 6) for value in values]


def _write_parquet(table: LabelTable, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    numbers = ("confidence", "selected_share", "disagreement", "agreement", "estimated_noise")
    kinds = dict.fromkeys(numbers, pa.float64()) | {"id": pa.int64()}
    columns = {name: pa.array(values, kinds.get(name, pa.string())) for name, values in columns_of(table).items()}
    evidence = "\n".join(evidence_lines(table))
    pq.write_table(pa.table(columns).replace_schema_metadata({"evidence": evidence}), path)


def _write_csv(table: LabelTable, path: Path) -> None:
    columns = columns_of(table)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for row in zip(*columns.values(), strict=True):
            writer.writerow([no_formula(cell) if isinstance(cell, str) else cell for cell in row])


# ---- text


def evidence_lines(table: LabelTable) -> Iterator[str]:
    """Yield sentences on the evidence of the verdicts, and whether it supports corrections."""
    support = table.judgement.support
    yield (
        f"the networks agree with {100 * support.agreement:.0f}% of the {support.judged:,} labels that they have not "
        f"seen; networks that make no mistake would agree with about {100 * support.right:.0f}%"
    )
    yield f"{support.judged:,} of {len(table):,} labels are judged"
    yield noise_line(table.estimate)
    if support.withheld:
        yield (
            "corrections are withheld: the networks know too little about these classes to correct labels, so every "
            "given label stays, and those that they disagree with are 'unsure'"
        )
        return
    if support.weak_classes:
        named = ", ".join(shown(table.class_name(label)) for label in support.weak_classes[:NAMED])
        more = ", ..." if len(support.weak_classes) > NAMED else ""
        yield (
            f"the networks do not know {len(support.weak_classes):,} of the {table.data.num_classes:,} classes "
            f"({named}{more}): next to no label of them is confirmed, so none of them is corrected"
        )
    changed = table.judgement.verdict == RELABEL
    if changed.any():
        said = float(table.judgement.confidence[changed].mean())
        yield (
            f"{int(changed.sum()):,} labels have a correction, about {100 * said:.0f}% of which are right by the "
            f"confidence column; {int((table.judgement.verdict == UNSURE).sum()):,} are 'unsure' and stay"
        )


def noise_line(estimate: NoiseEstimate | None) -> str:
    """Write the noise estimate of ``data check`` as a sentence."""
    if estimate is None:
        return "estimated share of wrong labels: unknown, there are too few images"
    bound = "at most " if estimate.upper_bound else ""
    return (
        f"estimated share of wrong labels: {bound}{100 * estimate.rate:.0f}%, 95% interval {100 * estimate.low:.0f} to "
        f"{100 * estimate.high:.0f}% (a simple classifier's {estimate.anchors:,} surest predictions)"
    )


def summary_lines(table: LabelTable) -> Iterator[str]:
    """Yield counts per given label, and the quality of the verdicts where the true labels are known."""
    given, verdict, classes = table.data.given_labels, table.judgement.verdict, table.data.num_classes
    counts = np.zeros((classes, len(VERDICTS)), dtype=np.int64)
    np.add.at(counts, (given, verdict), 1)
    # The most suspicious ones where not all have room, in the order of the classes.
    suspicious = np.argsort(-(1.0 - counts[:, KEEP] / np.maximum(counts.sum(axis=1), 1)), kind="stable")
    listed = np.sort(suspicious[:LINES_OF_CLASSES])
    names = [shown(table.class_name(label)) for label in listed]
    width = max([len("given label"), *map(len, names)])
    yield f"{'given label':<{width}}  samples" + "".join(f"{name:>10}" for name in VERDICTS)
    for name, row in zip(names, counts[listed], strict=True):
        yield f"{name:<{width}}  {row.sum():>7,}" + "".join(f"{count:>10,}" for count in row)
    if len(listed) < classes:
        yield f"... and {classes - len(listed):,} classes with a smaller share of suspicious labels"
    yield f"{'all':<{width}}  {len(given):>7,}" + "".join(f"{count:>10,}" for count in counts.sum(axis=0))
    unknown = int(np.isnan(table.judgement.confidence).sum())
    if unknown:
        yield f"{unknown:,} labels have one sample each: nothing else could teach them, so they are kept"
    quality = table.quality()
    if quality is not None:
        yield ""
        yield from _quality_lines(quality)


def _quality_lines(quality: Sequence[LabelQuality]) -> Iterator[str]:
    out, within = quality
    yield f"true labels are known: {out.wrong:,} of the given ones are wrong"
    yield f"{'':<18}{'found':>8}{'precision':>11}{'recall':>9}{'F1':>8}{'AUROC':>8}{'accuracy of labels':>20}"
    for name, one in (("verdict", out), ("verdict_in_sample", within)):
        change = f"{_percent(one.given_accuracy)} -> {_percent(one.corrected_accuracy)}"
        yield (
            f"{name:<18}{one.found:>8,}{_percent(one.precision):>11}{_percent(one.recall):>9}{_percent(one.f1):>8}"
            f"{_percent(one.auroc):>8}{change:>20}"
        )


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"
