"""A run as pandas frames, and as a small table in a notebook."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from tune_lnl.tuning.runs.results import (
    Run,
    describe_params,
    describe_state,
    describe_value,
    epochs_table,
    trials_table,
)

if TYPE_CHECKING:
    from pandas import DataFrame

SHOWN = 5
"""Rows of the small table."""


def trials_frame(run: Run) -> DataFrame:
    """A row per trial, its number the index: state, value, standard_error, epochs, params.*, ... as in trials.parquet.

    What is searched over choices is text there, whatever the choices are.
    """
    frame: DataFrame = trials_table(run).to_pandas()
    return frame.set_index("number")


def epochs_frame(run: Run) -> DataFrame:
    """A row per trial and epoch, both the index: the objective and every metric, as in epochs.parquet.

    Read from the trials' own files: it holds the test metrics that the search did not see.
    """
    frame: DataFrame = epochs_table(run).to_pandas()
    return frame.set_index(["number", "epoch"])


def run_html(run: Run) -> str:
    """States, and the best trials with their values; names and messages are escaped."""
    rows = run.rows()
    head = "".join(f"<th>{escape(name)}</th>" for name in ("trial", "state", run.metric, "epochs", "settings"))
    body = "".join(
        "<tr>"
        + "".join(
            f"<td>{escape(cell)}</td>"
            for cell in (
                str(row.number),
                row.state.lower() if row.failure is None else f"failed: {row.failure}",
                describe_value(row),
                str(row.epochs),
                describe_params(row.params),
            )
        )
        + "</tr>"
        for row in rows[:SHOWN]
    )
    rest = f"<p>and {len(rows) - SHOWN} more: run.trials_frame()</p>" if len(rows) > SHOWN else ""
    return (
        f"<p><b>{escape(run.name)}</b>: {escape(describe_state(run.trials))}</p>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{rest}"
    )
