"""Watching a run from any terminal: its table or status lines, its report as a live page, and its study."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, cast

from rich.console import Console as RichConsole
from rich.console import RenderableType

from tune_lnl.errors import InputError
from tune_lnl.reporting.live import follow, served_page
from tune_lnl.reporting.write import REPORT
from tune_lnl.tuning.monitor.console import Console
from tune_lnl.tuning.monitor.dashboards import about_run, study_dashboard
from tune_lnl.tuning.monitor.from_disk import Moment, Watched
from tune_lnl.tuning.monitor.status import status_line
from tune_lnl.tuning.monitor.table import table_of
from tune_lnl.tuning.runs.location import nearby
from tune_lnl.tuning.runs.run import load_run

if TYPE_CHECKING:
    from tune_lnl.tuning.study.database import StudyDatabase

LOOK_SECONDS = 2.0


def watch(root: Path, show: Callable[[str], None] | None, port: int, every: float) -> int:
    """Show a run until the user ends it with Ctrl-C; the search itself is not touched.

    Args:
        root: its folder.
        show: opens the page in a browser; ``None``: it is only served.
        port: of the page; 0: a free one.
        every: seconds between two status lines where there is no table.

    Returns:
        the exit code, 0.

    Raises:
        InputError: the port is taken.
    """
    run = load_run(root)
    watched, console = Watched(run), Console()
    moment = watched.now()
    with contextlib.ExitStack() as stack:
        try:
            address = stack.enter_context(served_page(watched, port))
        except (OSError, OverflowError) as error:
            raise InputError(f"--port {port} cannot be used: {error}; give another, or none") from None
        console(f"run {run.name} ({moment.state})")
        console.labelled("  files", nearby(run.files.root))
        console.labelled("  page", address)
        if (run.files.root / REPORT).is_file():
            console.labelled("  report", str(run.files.root / REPORT))
        database: StudyDatabase | None = None
        if run.settings.get("storage") is not None:
            database = cast("StudyDatabase", run.place)
        stack.enter_context(study_dashboard(run.files, console, database, about_run(run)))
        console("  Ctrl-C ends the watching" + ("; the search goes on" if moment.state == "running" else ""))
        if show is not None:
            show(address)
        with contextlib.suppress(KeyboardInterrupt):
            _show_until_ended(watched, console, every)
            threading.Event().wait()  # the page is served until Ctrl-C
    return 0


def _show_until_ended(watched: Watched, console: Console, every: float) -> None:
    """Show the table, or status lines, while the run is running; then its last state."""
    run, latest = watched.run, [watched.now()]
    epochs, metric = run.space.epochs, run.metric

    def draw(screen: RichConsole) -> RenderableType:
        return table_of(metric, epochs, latest[0].view, None, screen)

    def line(moment: Moment) -> None:
        console(status_line(moment.view, epochs, time.strftime("%H:%M")))

    if latest[0].state == "running":
        with console.showing(draw):
            if console.shows_table:
                follow(watched, lambda moment: latest.__setitem__(0, moment), LOOK_SECONDS)
            else:
                _lines(watched, line, every)
    last = watched.now()
    line(last)
    if last.state != "running":
        console(f"the search is {last.state}")
        ended = load_run(run.files.root)
        if ended.answer is not None and ended.best is not None:  # need not be the highest value, which is named above
            console(f"its answer is trial {ended.best.number}, {metric} {ended.best.value_text}: {ended.answer.words}")


def _lines(watched: Watched, line: Callable[[Moment], None], every: float) -> None:
    """Print a line now and every ``every`` seconds until the run is no longer running."""
    due = [0.0]

    def show(moment: Moment) -> None:
        if moment.state == "running" and time.monotonic() >= due[0]:
            line(moment)
            due[0] = time.monotonic() + every

    follow(watched, show, min(LOOK_SECONDS, every))
