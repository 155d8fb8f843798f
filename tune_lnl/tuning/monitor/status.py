"""A status line every few minutes, where no table is shown: in a pipe, or a log file."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tune_lnl.tuning.monitor.console import Console
from tune_lnl.tuning.monitor.state import SearchState, View
from tune_lnl.tuning.monitor.table import time_left
from tune_lnl.wording import duration

MOST_NAMED = 4
"""Running trials named in a status line."""


@contextmanager
def status_lines(state: SearchState, epochs: int, every: float, console: Console) -> Iterator[None]:
    """Print a line every ``every`` seconds while the context lasts, unless a table is shown."""
    ended = threading.Event()

    def run() -> None:
        while not ended.wait(every):
            if not console.shows_table:
                console.tell(status_line(state.view(), epochs, time.strftime("%H:%M")))

    if console.verbosity != "quiet" and not console.shows_table:
        threading.Thread(target=run, name="status", daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def status_line(view: View, epochs: int, clock: str) -> str:
    """Return the state of a search in one line.

    Args:
        epochs: length of a full trial.
        clock: the time of day.
    """
    running = [
        f"trial {trial.number} epoch {trial.epochs}/{epochs}{'' if trial.value is None else f' at {trial.value:.2f}'}"
        for trial in view.running[:MOST_NAMED]
    ]
    if len(view.running) > MOST_NAMED:
        running.append(f"{len(view.running) - MOST_NAMED} more")
    best = "none" if view.best is None else f"{view.best.value_text} (trial {view.best.number})"
    return (
        f"{clock}  {view.ended} of {view.trials} trials have ended, best so far {best}; "
        f"running: {', '.join(running) or 'none'}; {duration(view.elapsed)} so far{time_left(view)}"
    )
