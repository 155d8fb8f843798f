"""The page of the most suspicious labels: a thumbnail each, by the label they were given."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from markupsafe import Markup
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
MOST_DECIDED = 50_000
"""Labels of a set that is decided on the page, which then holds them all."""


def label_page(table: LabelTable, run: str, file: str, written: datetime, advice: Sequence[str] = ()) -> str:
    """Return the page as the text of an HTML file.

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
        # Every correction is to be looked at, as far as there is room.
        corrections = int(((table.judgement.verdict == RELABEL) & (table.data.given_labels == label)).sum())
        samples = most_suspicious(table, label, max(each, min(corrections, THUMBNAILS // classes)))
        if len(samples):
            images = table.data.train_images[table.data.rows[samples]]
            cards = [_card(table, int(sample), image) for sample, image in zip(samples, images, strict=True)]
            galleries.append((f"label-{label}", table.class_name(label), _counts(table, label), cards))
    found, unsure = int(table.found.sum()), int((table.suspicious & ~table.found).sum())
    return render(
        "labels.html.j2",
        title="Suspicious labels",
        contents=[("overview", "By given label"), *((key, name) for key, name, *_ in galleries)],
        pictures=False,
        script="labels.js" if len(table) <= MOST_DECIDED else None,
        decisions=_decisions(table, file) if len(table) <= MOST_DECIDED else None,
        decided_file=decided_name(file),
        lines=[
            *(f"{line[:1].upper()}{line[1:]}." for line in (*evidence_lines(table), *advice)),
            f"{found:,} of {len(table):,} labels are called wrong and {unsure:,} are unsure, by the best config of "
            f"{run}. Of each given label the most suspicious images are shown; all are in {file}.",
            f"Written {written:%Y-%m-%d %H:%M}.",
        ],
        overview=_overview(table),
        galleries=galleries,
        footer="Made by tune_lnl; works offline.",
    )


def decided_name(file: str) -> str:
    """Return the name of the file that the page saves."""
    return f"{file.rpartition('.')[0]}.decided.csv"


def _decisions(table: LabelTable, file: str) -> Markup:
    """Return everything that the page's script needs for the decided file, as JSON in HTML."""
    data, judged = table.data, table.judgement
    images = data.train_names is not None
    relabelled = np.flatnonzero(judged.verdict == RELABEL)
    content = {
        "key": "path" if images else "id",
        "file": decided_name(file),
        # Sets without files take class numbers.
        "numbers": not images,
        "names": [table.class_name(label) for label in range(data.num_classes)],
        "rows": [[table.sample_name(row), int(label)] for row, label in enumerate(data.given_labels)],
        "changed": {int(row): int(judged.corrected[row]) for row in relabelled},
    }
    return Markup(json.dumps(content).replace("<", "\\u003c"))


def most_suspicious(table: LabelTable, label: int, count: int) -> NDArray[np.int64]:
    """Return suspicious samples under a given label: corrections, open-set, unsure ones, each the likeliest first.

    Of equals the earlier one is first.
    """
    samples = np.flatnonzero((table.data.given_labels == label) & table.suspicious)
    order = np.lexsort((-table.judgement.wrong[samples], table.judgement.verdict[samples]))
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
    row: int
    label: int
    proposal: int | None
    """Another class to accept or to refuse; None for open-set images."""
    proposed: str


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
    address, proposal = None, None
    if data.root is not None and data.train_names is not None:
        address = (data.root.absolute() / data.train_names[int(data.rows[sample])]).as_uri()
    if verdict != OPEN_SET:
        proposal = int((judged.corrected if verdict == RELABEL else judged.nearest)[sample])
    return Card(
        given,
        sentence,
        below,
        str(table.sample_name(sample)),
        data_uri(image),
        address,
        sample,
        int(data.given_labels[sample]),
        proposal,
        "" if proposal is None else table.class_name(proposal),
    )


def data_uri(image: NDArray[np.uint8]) -> str:
    """Return an image uint8 (H, W, 1 or 3) as a data: URI, small ones without loss."""
    from PIL import Image

    picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
    if max(picture.size) > SIDE:
        picture.thumbnail((SIDE, SIDE))
    kind = "PNG" if max(picture.size) <= LOSSLESS_SIDE else "JPEG"
    memory = io.BytesIO()
    picture.save(memory, kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(memory.getvalue()).decode()}"
