"""The pictures of a run for a notebook: those of its report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tune_lnl.reporting.page import figures_by_section
from tune_lnl.reporting.run_data import view_run
from tune_lnl.tuning.runs.run import Run

if TYPE_CHECKING:
    import plotly.graph_objects as go


def figures_of(run: Run) -> dict[str, go.Figure]:
    """Return every picture that the report of a run has by now: name -> Plotly figure."""
    found = [figure for section in figures_by_section(view_run(run)).values() for figure in section]
    return {figure.key: figure.plot for figure in found if figure.plot is not None}
