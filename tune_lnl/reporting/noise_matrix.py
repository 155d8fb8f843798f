"""The label noise: requested, and measured in the labels that the run trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from tune_lnl.config.datasets import ReidOptions
from tune_lnl.datasets.base import NoisyData
from tune_lnl.datasets.images.noisy import load_noisy
from tune_lnl.datasets.paths import cache_dir
from tune_lnl.datasets.registry import get_dataset, parse_options
from tune_lnl.datasets.reid.data import load_reid
from tune_lnl.errors import InputError
from tune_lnl.reporting import plots
from tune_lnl.reporting.figure import Figure, Table
from tune_lnl.reporting.plots import colour, plain, rounded
from tune_lnl.reporting.run_data import RunView
from tune_lnl.reporting.texts import shortened

FEW_CLASSES = 12
"""Largest number of classes at which every cell shows its number."""
MOST_NAMED = 12_000
"""Cells above which a cell names its classes by their places: the names would make the page heavy."""

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
    """Return the noise of a run's labels, or why it cannot be shown. Nothing is downloaded."""
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
    """Describe identity noise in words: a matrix of hundreds of identities would be a grey square."""
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
    """Draw requested and measured noise, side by side."""
    seen = noise_of(view)
    if isinstance(seen, str):
        return [Figure("noise", "Label noise", seen)]
    figures = []
    if seen.requested is not None:
        sentence = "the noise below"
        if seen.requested_ratio is not None:
            sentence = f"{100 * seen.requested_ratio:.1f}% of closed-set labels wrong"
        picture = matrix_plot(seen, seen.requested)
        table = _table(seen, seen.requested, "Requested labels by true class")
        figures.append(Figure("noise-requested", "Noise matrix, requested", f"Asked for: {sentence}.", picture, table))
    picture = matrix_plot(seen, seen.measured)
    table = _table(seen, seen.measured, "Given labels by true class")
    figures.append(Figure("noise-measured", "Noise matrix, measured", _takeaway(seen), picture, table))
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


def matrix_plot(seen: NoiseSeen, matrix: Matrix) -> go.Figure:
    """Draw a cell per pair of classes, with its number where there are few."""
    rows, columns = matrix.shape
    few, named = max(matrix.shape) <= FEW_CLASSES, matrix.size <= MOST_NAMED
    percent = [[None if not np.isfinite(share) else rounded(100 * float(share), 3) for share in row] for row in matrix]
    names = [plain(name) for name in seen.class_names]
    texts = [f"{shortened(name, 8)}{'' if place < columns else '*'}" for place, name in enumerate(seen.class_names)]
    every = 1 if few else -(-rows // 20)
    trace = go.Heatmap(
        z=[[None if share is None else rounded(share**0.5, 3) for share in row] for row in percent],
        zmin=0,
        zmax=10,
        text=[["" if not share else f"{share:g}" for share in row] for row in percent] if few else None,
        texttemplate="%{text}" if few else None,
        customdata=[
            [f"true {names[r]}, given {names[c]}: {'unknown' if share is None else f'{share:g}%'}"
             for c, share in enumerate(row)]
            for r, row in enumerate(percent)
        ] if named else None,
        hovertemplate="%{customdata}<extra></extra>" if named else "true %{y}, given %{x}<extra></extra>",
        colorscale=[[0, colour("none")], [0.4, colour("shade0")], [0.75, colour("shade2")], [1, colour("shade3")]],
        xgap=1 if few else 0,
        ygap=1 if few else 0,
        colorbar={"title": {"text": "% of the true class", "side": "right"}, "thickness": 14, "outlinewidth": 0,
                  "tickvals": [0, 1, 3.1623, 5, 7.0711, 10], "ticktext": ["0", "1", "10", "25", "50", "100"]},
    )  # fmt: skip
    ticks = {"showgrid": False, "ticks": ""}
    return plots.picture(
        [trace],
        height=max(360, min(620, 120 + 30 * rows)),
        xaxis=ticks | {"title": {"text": "given label"}, "side": "top", "tickvals": list(range(0, columns, every)),
                       "ticktext": [plain(text) for text in texts[:columns:every]]},
        yaxis=ticks | {"title": {"text": "true class" + (" (* open-set)" if rows > columns else "")},
                       "autorange": "reversed", "tickvals": list(range(0, rows, every)),
                       "ticktext": [plain(text) for text in texts[::every]]},
    )  # fmt: skip


def _table(seen: NoiseSeen, matrix: Matrix, caption: str) -> Table:
    closed = matrix.shape[1]
    rows: list[Sequence[str]] = []
    for index, name in enumerate(seen.class_names):
        shares = matrix[index]
        if not np.isfinite(shares).all():
            continue
        wrong = shares.copy()
        if index < closed:
            wrong[index] = 0.0
        most = int(wrong.argmax())
        kept = f"{100 * shares[index]:.1f}" if index < closed else "open-set class"
        rows.append([name, kept, seen.class_names[most], f"{100 * wrong[most]:.1f}"])
    return Table(["true class", "right labels (%)", "most frequent wrong label", "its share (%)"], rows, caption)
