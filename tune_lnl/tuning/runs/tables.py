"""``trials.parquet`` and ``epochs.parquet``: a row per trial, and a row per trial and epoch; the same as CSV beside."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from tune_lnl.datasets.bounds import ScoreBounds
from tune_lnl.files import no_formula
from tune_lnl.tuning.runs.run import Run

if TYPE_CHECKING:
    from tune_lnl.tuning.study.trials import FrozenTrial


def write_tables(run: Run, ended: dict[int, pa.Table] | None = None) -> None:
    """Write both tables, as parquet and as CSV.

    Args:
        ended: as in :func:`epochs_table`.
    """
    for path, text_path, table in (
        (run.files.trials_table, run.files.trials_csv, trials_table(run)),
        (run.files.epochs_table, run.files.epochs_csv, epochs_table(run, ended)),
    ):
        with run.files.writing(path) as beside:
            pq.write_table(table, beside)
        with run.files.writing(text_path) as beside:
            pa.csv.write_csv(_without_formulas(table), beside)


def _without_formulas(table: pa.Table) -> pa.Table:
    """Return the table with an apostrophe before each text that a spreadsheet would run as a formula."""
    for index, column in enumerate(table.schema):
        if column.type == pa.string():
            values = [None if value is None else no_formula(value) for value in table.column(index).to_pylist()]
            table = table.set_column(index, column.name, pa.array(values, pa.string()))
    return table


def trials_table(run: Run) -> pa.Table:
    """Return a row per trial, by number; searched settings are columns ``params.NAME``.

    ``ceiling`` and ``chance`` are what a perfect network and guessing would score, in every row the same; null where
    they are not known.
    """
    rows = sorted(run.rows(), key=lambda row: row.number)
    bounds = ScoreBounds.stored(run.settings.get("score_bounds"))
    ceiling, chance = (None, None) if bounds is None else (bounds.ceiling, bounds.chance)
    columns: dict[str, pa.Array] = {
        "number": pa.array([row.number for row in rows], pa.int64()),
        "state": pa.array([row.state for row in rows], pa.string()),
        "value": pa.array([row.value for row in rows], pa.float64()),
        "standard_error": pa.array([row.standard_error for row in rows], pa.float64()),
        "ceiling": pa.array([ceiling] * len(rows), pa.float64()),
        "chance": pa.array([chance] * len(rows), pa.float64()),
        "epochs": pa.array([row.epochs for row in rows], pa.int64()),
        "failure": pa.array([row.failure for row in rows], pa.string()),
        "message": pa.array([row.message for row in rows], pa.string()),
        "attempts": pa.array([row.attempts for row in rows], pa.int64()),
        "seconds": pa.array([row.seconds for row in rows], pa.float64()),
        "taken_from": pa.array([row.taken_from for row in rows], pa.string()),
    }
    for name, parameter in run.space.parameters.items():
        kind = {"Int": pa.int64(), "Choice": pa.string()}.get(type(parameter).__name__, pa.float64())
        values = [row.params.get(name) for row in rows]
        if kind == pa.string():
            values = [None if value is None else str(value) for value in values]
        columns[f"params.{name}"] = pa.array(values, kind)
    return pa.table(columns)


def epochs_table(run: Run, ended: dict[int, pa.Table] | None = None) -> pa.Table:
    """Return a row per trial and epoch: the objective so far, and every metric.

    Args:
        ended: cache of the rows of ended trials, by number, which this function fills: reading the files of a thousand
            trials takes seconds.
    """
    ended = {} if ended is None else ended
    parts = [_records_table([])]
    for trial in sorted(run.trials, key=lambda trial: trial.number):
        rows = ended.get(trial.number)
        if rows is None:
            rows = _records_table(list(_epoch_records(run, trial)))
            if trial.state.is_finished() and rows.num_rows >= len(trial.intermediate_values):
                ended[trial.number] = rows
        if rows.num_rows:
            parts.append(rows)
    return pa.concat_tables(parts, promote_options="default")


def _records_table(records: Sequence[Mapping[str, Any]]) -> pa.Table:
    names = dict.fromkeys(name for record in records for name in record)
    names.pop("number", None)
    names.pop("epoch", None)
    columns = {
        "number": pa.array([record["number"] for record in records], pa.int64()),
        "epoch": pa.array([int(record["epoch"]) for record in records], pa.int64()),
    }
    for name in names:
        columns[name] = pa.array([record.get(name) for record in records], pa.float64())
    return pa.table(columns)


def _epoch_records(run: Run, trial: FrozenTrial) -> Iterator[dict[str, Any]]:
    for report in run.epoch_reports(trial.number):
        objective = trial.intermediate_values.get(int(report["epoch"]))
        yield {"number": trial.number, "epoch": report["epoch"], "objective": objective, **report}
