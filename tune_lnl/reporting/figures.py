"""A run for scripts and notebooks: the run read back, with the pictures of its report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tune_lnl.tuning.runs.location import ResultsDir
from tune_lnl.tuning.runs.run import Run

if TYPE_CHECKING:
    import plotly.graph_objects as go


class RunWithFigures(Run):
    """A run, and the pictures of its report."""

    def figures(self) -> dict[str, go.Figure]:
        """Return the pictures of the report, by name, as Plotly figures: ``run.figures()["history"].show()``.

        A picture that has nothing to show yet is left out.
        """
        from tune_lnl.reporting.page import figures_by_section  # imports torch
        from tune_lnl.reporting.run_data import view_run

        found = [figure for section in figures_by_section(view_run(self)).values() for figure in section]
        return {figure.key: figure.plot for figure in found if figure.plot is not None}


def load_run(run: ResultsDir, results_dir: ResultsDir = "results") -> RunWithFigures:
    """Read a run by name (under ``results_dir``), path or URL; one in object storage is downloaded first.

    Raises:
        InputError: no such run, one that holds several conditions (which are then named), one of a later version, or a
            database or an object storage that cannot be reached.
    """
    return RunWithFigures.load(run, results_dir)
