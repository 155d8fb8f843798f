"""Recorded trainings as tables that a search can be replayed on.

A table is a parquet file in the columns of TaskSet: a row per training with its hyperparameters, and lists of its
losses after every report; ``valid_loss`` is what a search minimises. A loss that is not finite is a training that
diverged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from optuna.distributions import BaseDistribution

from tune_lnl.errors import InputError
from tune_lnl.tuning.space.ranges import LogUniform, Parameter
from tune_lnl.tuning.space.space import SearchSpace
from tune_lnl.tuning.study.samplers import scaled
from tune_lnl.tuning.study.study import distribution

LOSS = "valid_loss"
CURVES = ("train_loss", "valid_loss", "test_loss")


@dataclass(frozen=True)
class Table:
    """The recorded trainings of one task."""

    name: str
    ranges: Mapping[str, Parameter]
    """Of the searched settings."""
    settings: Sequence[Mapping[str, Any]]
    """(N,) of each row, by the names of ``ranges``."""
    losses: np.ndarray
    """(N, reports), not finite where a training had diverged."""
    warmup: int = 0
    """Reports of the longest warm-up."""
    average_last: int = 1
    """Number of reports over which each loss is averaged."""
    truth: np.ndarray | None = None
    """(N,) test accuracy on true labels, percent, which no engine sees."""

    @cached_property
    def distributions(self) -> dict[str, BaseDistribution]:
        return {name: distribution(range_) for name, range_ in self.ranges.items()}

    @cached_property
    def points(self) -> np.ndarray:
        """(N, axes): the settings, each axis scaled to [0, 1], logarithmic where its range is."""
        return np.array([self.point(row) for row in self.settings])

    @property
    def reports(self) -> int:
        return int(self.losses.shape[1])

    def point(self, params: Mapping[str, Any]) -> np.ndarray:
        """Return the (axes,) position of settings."""
        return np.array([scaled(params[name], range_) for name, range_ in self.distributions.items()])

    def nearest_unused(self, point: np.ndarray, used: np.ndarray) -> int:
        """Return the row nearest to ``point`` (Euclidean) that is not in ``used``, (N,) bool; ties to the first."""
        distances: np.ndarray = np.square(self.points - point).sum(axis=1)
        distances[used] = np.inf
        return int(distances.argmin())

    @cached_property
    def final(self) -> np.ndarray:
        """(N,): the last loss of each row; of one that diverged the worst of all rows' last finite losses."""
        finite = np.isfinite(self.losses)
        last = self.reports - 1 - finite[:, ::-1].argmax(axis=1)
        values: np.ndarray = self.losses[np.arange(len(last)), last]
        values[~finite.any(axis=1)] = -np.inf  # diverged: set below
        # The last report of a training that diverged says nothing: it counts as the worst.
        values[~finite[:, -1]] = values.max()
        return values

    def regret(self, row: int) -> float:
        """Return the normalised regret of a row: 0 is the best of the table, 1 its median."""
        best = self.final.min()
        return float((self.final[row] - best) / (np.median(self.final) - best))

    def truth_regret(self, row: int) -> float:
        """Return the points of true test accuracy that a row lacks to the best of the table."""
        assert self.truth is not None
        return float(self.truth.max() - self.truth[row])

    def ranking(self) -> tuple[np.ndarray, int]:
        """Return the rows, best first, and how many of the last are equally bad because they diverged."""
        diverged = int((~np.isfinite(self.losses[:, -1])).sum())
        return np.argsort(self.final, kind="stable"), diverged

    def reversed(self) -> Table:
        """Return the table with its losses reversed: each row takes the curve of the row of the mirrored rank."""
        order = np.argsort(self.final, kind="stable")
        losses = np.empty_like(self.losses)
        losses[order] = self.losses[order[::-1]]
        return replace(self, name=f"{self.name} reversed", losses=losses)


def read_table(path: Path) -> Table:
    """Read one table.

    Raises:
        InputError: it is no table in TaskSet's columns.
    """
    try:
        content = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"--tables: {path} cannot be read as parquet: {error}") from None
    if LOSS not in content.column_names:
        raise InputError(f"--tables: {path} has no column {LOSS!r}; a table has TaskSet's columns")
    axes = [name for name in content.column_names if name not in CURVES]
    try:
        settings = np.column_stack([content[name].to_numpy().astype(float) for name in axes])
        losses = np.array(content[LOSS].to_pylist(), dtype=float)
    except (ValueError, TypeError) as error:
        raise InputError(
            f"--tables: {path}: hyperparameters are numbers and {LOSS} lists of equal length: {error}"
        ) from None
    if not len(settings) or losses.ndim != 2 or not (np.isfinite(settings) & (settings > 0)).all():
        raise InputError(f"--tables: {path}: hyperparameters are above 0, and every row has its losses")
    if not np.isfinite(losses[:, -1]).any():
        raise InputError(f"--tables: {path}: no training ends with a finite {LOSS}")
    ends = dict(zip(axes, zip(settings.min(axis=0).tolist(), settings.max(axis=0).tolist(), strict=True), strict=True))
    ranges: dict[str, Parameter] = {
        name: LogUniform(type="loguniform", low=low, high=high) for name, (low, high) in ends.items() if low < high
    }
    if not ranges:
        raise InputError(f"--tables: {path}: every training has the same hyperparameters; there is nothing to search")
    rows = [{name: row[axes.index(name)] for name in ranges} for row in settings.tolist()]
    table = Table(path.stem, ranges, rows, losses)
    if np.median(table.final) == table.final.min():
        raise InputError(f"--tables: {path}: half of its trainings end at the best {LOSS}; there is nothing to search")
    return table


def read_tables(folder: Path) -> list[Table]:
    """Read every table of a folder, by name.

    Raises:
        InputError: it holds none, or one that cannot be read.
    """
    if not folder.is_dir():
        raise InputError(f"--tables: there is no folder {folder}; give one with a table (*.parquet) per task")
    paths = sorted(folder.glob("*.parquet"))
    if not paths:
        raise InputError(f"--tables {folder}: no *.parquet there; give a folder with one table per task")
    return [read_table(path) for path in paths]


def read_curves(path: Path, space: SearchSpace) -> Table:
    """Read what ``benchmarks/record_curves.py`` wrote: the objective, in percent, of configs of a space."""
    content = pq.read_table(path)
    losses = 100.0 - np.array(content["objective"].to_pylist(), dtype=float)
    return Table(
        path.stem,
        space.parameters,
        content.select(list(space.parameters)).to_pylist(),
        losses,
        space.longest_warmup(),
        space.any_config().objective.average_last,
        content["test_last10"].to_numpy().astype(float),
    )


def read_recordings(folder: Path) -> list[Table]:
    """Read the recordings (NAME.npz) that ``benchmarks/testbeds/record.py`` wrote; none where there are none."""
    record = import_module("testbeds.record")
    return [table_of(path.stem, record.load(path)[1]) for path in sorted(folder.glob("*.npz"))]


def table_of(name: str, arrays: Mapping[str, np.ndarray]) -> Table:
    """Return the trials of the recording ``name`` as a table; row 0 is the published setting."""
    space = import_module("testbeds.record").space_of(name)
    columns = {name: arrays[f"param_{name}"].tolist() for name in space.parameters}
    return Table(
        name,
        space.parameters,
        [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)],
        100.0 - arrays["objective"].astype(float),
        space.longest_warmup(),
        space.any_config().objective.average_last,
        np.nan_to_num(arrays["test_accuracy"].astype(float), nan=0.0),
    )
