"""The page of the most suspicious labels: a thumbnail each, by the label they were given."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from tune_lnl.methods.label_verdicts import OPEN_SET, RELABEL, VERDICTS
from tune_lnl.reporting.figure import Table
from tune_lnl.reporting.label_table import LabelTable, evidence_lines
from tune_lnl.reporting.rendering import render

THUMBNAILS, MOST_PER_CLASS, LEAST_PER_CLASS = 600, 12, 2
"""On a page, at most about; and per given label."""
SIDE = 112
"""Larger images are brought to this longer side, pixels; the page stays below 5 MB."""
LOSSLESS_SIDE = 48


def label_page(table: LabelTable, run: str, file: str, written: datetime, advice: Sequence[str] = ()) -> str:
    """The page as the text of an HTML file.

    Args:
        table: what was found.
        run: name of the run whose best config judged the labels.
        file: name of the file with the whole table.
        advice: further sentences for the top of the page.
    """
    classes = table.data.num_classes
    each = max(LEAST_PER_CLASS, min(MOST_PER_CLASS, THUMBNAILS // classes))
    galleries = []
    for label in range(classes):
        samples = most_suspicious(table, label, each)
        if len(samples):
            galleries.append((f"label-{label}", table.class_name(label), _counts(table, label), _cards(table, samples)))
    found, unsure = int(table.found.sum()), int((table.suspicious & ~table.found).sum())
    return render(
        "labels.html.j2",
        title="Suspicious labels",
        contents=[("overview", "By given label"), *((key, name) for key, name, *_ in galleries)],
        pictures=False,
        lines=[
            *(f"{line[:1].upper()}{line[1:]}." for line in (*evidence_lines(table), *advice)),
            f"{found:,} of {len(table):,} labels are called wrong and {unsure:,} are unsure, by the best config of "
            f"{run}. Of each given label the {each} most suspicious images are shown; all are in {file}. "
            f"Written {written:%Y-%m-%d %H:%M}.",
        ],
        overview=_overview(table),
        galleries=galleries,
        footer="Made by tune_lnl; works offline.",
    )


def most_suspicious(table: LabelTable, label: int, count: int) -> NDArray[np.int64]:
    """Suspicious samples under this given label: those called wrong, then unsure ones, each the likeliest first.

    Of equals the earlier one is first.
    """
    samples = np.flatnonzero((table.data.given_labels == label) & table.suspicious)
    order = np.lexsort((-table.judgement.wrong[samples], ~table.found[samples]))
    return samples[order[:count]].astype(np.int64)


def _overview(table: LabelTable) -> Table:
    rows = []
    for label in range(table.data.num_classes):
        verdicts = table.judgement.verdict[table.data.given_labels == label]
        counts = np.bincount(verdicts, minlength=len(VERDICTS))
        rows.append([table.class_name(label), f"{len(verdicts):,}", *(f"{count:,}" for count in counts)])
    return Table(["given label", "samples", *VERDICTS], rows, "Verdicts by given label")


def _counts(table: LabelTable, label: int) -> str:
    of_it = table.data.given_labels == label
    wrong, unsure = int((table.found & of_it).sum()), int((table.suspicious & ~table.found & of_it).sum())
    return f"{wrong:,} of {int(of_it.sum()):,} labels are called wrong, {unsure:,} are unsure."


@dataclass(frozen=True)
class Card:
    """One image with its verdict, in words."""

    given: str
    verdict: str
    below: str
    name: str
    image: str
    """A data: URI."""
    address: str | None
    """Of the image's own file, where it is one."""


def _cards(table: LabelTable, samples: NDArray[np.int64]) -> list[Card]:
    images = table.data.train_images[table.data.rows[samples]]
    return [_card(table, int(sample), image) for sample, image in zip(samples, images, strict=True)]


def _card(table: LabelTable, sample: int, image: NDArray[np.uint8]) -> Card:
    judged, data = table.judgement, table.data
    given = table.class_name(int(data.given_labels[sample]))
    verdict = int(judged.verdict[sample])
    other = table.class_name(int(judged.nearest[sample]))
    if verdict == RELABEL:
        sentence = f"rather {table.class_name(int(judged.corrected[sample]))}"
        below = f"{100 * judged.confidence[sample]:.0f}% sure"
    elif verdict == OPEN_SET:
        sentence, below = "no class", f"nearest: {other}"
    else:
        sentence, below = "unsure", f"{given}, or perhaps {other}"
    address = None
    if data.root is not None and data.train_names is not None:
        address = (data.root.absolute() / data.train_names[int(data.rows[sample])]).as_uri()
    return Card(given, sentence, below, str(table.sample_name(sample)), data_uri(image), address)


def data_uri(image: NDArray[np.uint8]) -> str:
    """An image uint8 (H, W, 1 or 3) as a data: URI, small ones without loss."""
    from PIL import Image

    picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
    if max(picture.size) > SIDE:
        picture.thumbnail((SIDE, SIDE))
    kind = "PNG" if max(picture.size) <= LOSSLESS_SIDE else "JPEG"
    memory = io.BytesIO()
    picture.save(memory, kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(memory.getvalue()).decode()}"
