"""The label noise: requested, and measured in the labels that the run trained on."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tune_lnl.config.datasets import ReidOptions
from tune_lnl.datasets.base import NoisyData
from tune_lnl.datasets.images.noisy import load_noisy
from tune_lnl.datasets.paths import cache_dir
from tune_lnl.datasets.registry import get_dataset, parse_options
from tune_lnl.datasets.reid.data import load_reid
from tune_lnl.errors import InputError
from tune_lnl.reporting.drawing import Drawing, Figure, Size, box, text
from tune_lnl.reporting.markup import Html, Table, el, folded
from tune_lnl.reporting.run_data import RunView
from tune_lnl.reporting.scales import shortened

FEW_CLASSES = 12
"""Largest number of classes at which every cell shows its number."""

OTHER_LABELS = "The labels found here are not those the run was made with (their fingerprints differ)."

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class NoiseSeen:
    """Row: true class; column: given label, one of the K closed classes. Shares in [0, 1].

    Attributes:
        requested: (C, K) what the labels were drawn from; ``None`` where they come from a file.
        measured: (C, K) shares among the training samples of each class; NaN rows for classes without any.
        class_names: (C,) closed ones first.
    """

    requested: Matrix | None
    measured: Matrix
    class_names: tuple[str, ...]
    requested_ratio: float | None
    measured_ratio: float | None
    open_share: float | None


def noise_of(view: RunView) -> NoiseSeen | str:
    """The noise of a run's labels, or why it cannot be shown. Nothing is downloaded for it."""
    recorded = (view.run.settings.get("fingerprints") or {}).get("labels")
    if recorded is None:
        return "The run recorded no labels that could be compared."
    data_dir = view.run.settings.get("data_dir")
    place = None if data_dir is None else Path(data_dir)
    try:
        dataset = get_dataset(str(view.dataset["name"]))
        if not dataset.is_present(place, cache_dir()):
            return (
                f"The noise is measured on the training labels, and the data of {dataset.name} is not here. Write the "
                "report where the data is, or set TUNE_LNL_DATA."
            )
        options = parse_options(view.dataset)
        if isinstance(options, ReidOptions):
            return _identity_noise(view, options, place, recorded)
        data = load_noisy(options, place)
    except InputError as error:
        return f"The noise is measured on the training labels, which cannot be read: {error}"
    return measure_noise(data) if data.fingerprints["labels"] == recorded else OTHER_LABELS


def _identity_noise(view: RunView, options: ReidOptions, place: Path | None, recorded: str) -> str:
    """In words: a matrix of hundreds of identities would be a grey square."""
    held_out = view.base.validation
    data = load_reid(options, place, held_out.fraction, held_out.seed)
    if data.fingerprints["labels"] != recorded:
        return OTHER_LABELS
    asked = "labels from elsewhere" if data.requested_noise is None else f"{100 * data.requested_noise:.1f}% asked for"
    if data.measured_noise is None:
        return f"The true identities are not known, so the noise cannot be measured ({asked})."
    return (
        f"{100 * data.measured_noise:.1f}% of the {len(data.given_labels)} training images carry a wrong identity "
        f"({asked}); {data.num_classes} identities."
    )


def measure_noise(data: NoisyData) -> NoiseSeen | str:
    """Count the given labels by true class."""
    if data.true_labels is None:
        return "The true labels are not known, so the noise cannot be measured."
    total, closed = len(data.class_names), data.num_classes
    counts = np.zeros((total, closed))
    np.add.at(counts, (data.true_labels, data.given_labels), 1.0)
    with np.errstate(invalid="ignore"):
        measured = counts / counts.sum(axis=1, keepdims=True)
    return NoiseSeen(
        requested=None if data.matrix is None else data.matrix[:, :closed],
        measured=measured,
        class_names=data.class_names,
        requested_ratio=data.requested_noise,
        measured_ratio=data.measured_noise,
        open_share=data.measured_open_share,
    )


def noise_figures(view: RunView) -> list[Figure]:
    """Requested and measured, side by side."""
    seen = noise_of(view)
    if isinstance(seen, str):
        return [Figure("noise", "Label noise", seen, None)]
    table = folded("As a table", _table(seen).html("Given labels by true class"))
    figures = []
    if seen.requested is not None:
        sentence = (
            "" if seen.requested_ratio is None else f"{100 * seen.requested_ratio:.1f}% of closed-set labels wrong"
        )
        takeaway = f"Asked for: {sentence or 'the noise below'}."
        figures.append(Figure("noise-requested", "Noise matrix, requested", takeaway, _drawer(seen, seen.requested)))
    figures.append(
        Figure("noise-measured", "Noise matrix, measured", _takeaway(seen), _drawer(seen, seen.measured), [table])
    )
    return figures


def _takeaway(seen: NoiseSeen) -> str:
    sentence = "The training labels hold"
    if seen.measured_ratio is not None:
        sentence += f" {100 * seen.measured_ratio:.1f}% wrong closed-set labels"
        if seen.requested_ratio is not None:
            sentence += f" ({100 * seen.requested_ratio:.1f}% asked for)"
    if seen.open_share:
        sentence += f", and {100 * seen.open_share:.1f}% of all samples belong to no closed class"
    return sentence + "."


def _drawer(seen: NoiseSeen, matrix: Matrix) -> Callable[[Size], Drawing]:
    if max(matrix.shape) <= FEW_CLASSES:
        return lambda size: _cells(seen, matrix, size)
    return lambda size: _picture(matrix, size)


def _cells(seen: NoiseSeen, matrix: Matrix, size: Size) -> Drawing:
    rows, columns = matrix.shape
    left, top = 76.0, 42.0
    cell = min(48.0, (size.width - left - 4) / columns)
    parts = [
        text(left, 14, "given label", class_="label"),
        text(0, top - 8, "true class", class_="label"),
        *(
            text(left + (c + 0.5) * cell, top - 8, shortened(seen.class_names[c], 5), anchor="middle")
            for c in range(columns)
        ),
    ]
    for r in range(rows):
        name = shortened(seen.class_names[r], 6) + ("" if r < columns else "*")
        parts.append(text(left - 8, top + (r + 0.5) * cell + 5, name, anchor="end"))
        for c in range(columns):
            share = float(matrix[r, c])
            known = np.isfinite(share)
            shade = int(min(5, share**0.5 * 6)) if known else 0
            x, y = left + c * cell, top + r * cell
            sentence = f"true {seen.class_names[r]}, given {seen.class_names[c]}: {100 * share:.1f}%" if known else None
            parts.append(box(x, y, cell - 1, cell - 1, f"cell cell{shade}", sentence))
            if known and share >= 0.005:
                label = f"{100 * share:.0f}"
                parts.append(text(x + cell / 2, y + cell / 2 + 5, label, anchor="middle", class_=f"in-cell{shade}"))
    height = top + rows * cell
    if rows > columns:
        parts.append(text(0, height + 18, "percent of a true class; * open-set class", class_="label"))
    else:
        parts.append(text(0, height + 18, "percent of a true class", class_="label"))
    return Drawing(Size(size.width, height + 24), Html("".join(parts)))


def _picture(matrix: Matrix, size: Size) -> Drawing:
    """A pixel per cell: ten thousand rectangles would be heavier than all the rest of the page."""
    rows, columns = matrix.shape
    top, width = 22.0, min(420.0, size.width - 4)
    height = width * rows / columns
    image = el(
        "image",
        href=f"data:image/png;base64,{_png(matrix)}",
        x="0",
        y=f"{top:g}",
        width=f"{width:.1f}",
        height=f"{height:.1f}",
        style="image-rendering:pixelated",
    )
    parts = [
        text(0, 14, "across: given label; down: true class", class_="label"),
        image,
        text(0, top + height + 18, "the darker, the larger the share (square root)", class_="label"),
    ]
    return Drawing(Size(size.width, top + height + 24), Html("".join(parts)))


def _png(matrix: Matrix) -> str:
    from PIL import Image  # slow to import

    light = np.nan_to_num(np.sqrt(np.clip(matrix, 0.0, 1.0)))
    low, high = np.array([238.0, 243.0, 249.0]), np.array([8.0, 48.0, 107.0])
    pixels = low + (high - low) * light[..., None]
    buffer = io.BytesIO()
    Image.fromarray(np.rint(pixels).astype(np.uint8)).save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def _table(seen: NoiseSeen) -> Table:
    closed = seen.measured.shape[1]
    rows: list[Sequence[str]] = []
    for index, name in enumerate(seen.class_names):
        shares = seen.measured[index]
        if not np.isfinite(shares).all():
            continue
        wrong = shares.copy()
        if index < closed:
            wrong[index] = 0.0
        most = int(wrong.argmax())
        kept = f"{100 * shares[index]:.1f}" if index < closed else "open-set class"
        asked = "–"
        if seen.requested is not None and index < closed:
            asked = f"{100 * seen.requested[index, index]:.1f}"
        rows.append([name, asked, kept, seen.class_names[most], f"{100 * wrong[most]:.1f}"])
    header = [
        "true class",
        "right labels asked for (%)",
        "right labels (%)",
        "most frequent wrong label",
        "its share (%)",
    ]
    return Table(header, rows)
