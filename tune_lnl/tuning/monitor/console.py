"""Where a search speaks: lines on any stream, and on a terminal a table below them that is drawn anew."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from rich.console import Console as RichConsole
from rich.console import RenderableType
from rich.constrain import Constrain
from rich.live import Live
from rich.text import Text

from tune_lnl.tuning.plan.options import Verbosity

WIDEST = 100
"""Columns of the table; a wider terminal gets no wider table."""
DRAWS_PER_SECOND = 2.0


class Console:
    """Called with a line, it says it. What may be left out in quiet, or told only in verbose, goes the other ways.

    Args:
        write: takes every line instead of standard output; there is no table then.
    """

    def __init__(self, verbosity: Verbosity = "normal", write: Callable[[str], None] | None = None) -> None:
        self.verbosity = verbosity
        self._write = write
        self._screen: RichConsole | None = None
        self._table: _Table | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Ray makes a copy of all that its searcher can reach, which nobody reads; a screen cannot be copied."""
        return {**vars(self), "_screen": None, "_table": None}

    @classmethod
    def of(cls, say: Callable[[str], None]) -> Console:
        """A console over any function that takes a line."""
        return say if isinstance(say, Console) else cls(write=say)

    def __call__(self, line: str) -> None:
        """Say something that the user is to know at any level."""
        screen = self._screen
        if self._write is not None:
            self._write(line)
        elif screen is not None:
            screen.print(Text(line), soft_wrap=True)
        else:
            print(line, flush=True)

    def tell(self, line: str) -> None:
        """Say it unless the user wants quiet."""
        if self.verbosity != "quiet":
            self(line)

    def detail(self, line: str) -> None:
        """Say it to who wants to know everything."""
        if self.verbosity == "verbose":
            self(line)

    def row(self, line: str) -> None:
        """Like :meth:`tell`, in one row above a table: what the terminal has no room for is cut off there."""
        screen = self._screen
        if screen is None or self.verbosity == "quiet":
            self.tell(line)
        else:
            screen.print(Text(line), no_wrap=True, overflow="ellipsis", crop=True)

    @contextmanager
    def showing(self, draw: Callable[[RichConsole], RenderableType]) -> Iterator[None]:
        """Keep a table below the lines while the context lasts, where there is a terminal to show it on.

        ``draw`` is called from a thread of its own, twice a second.
        """
        if self._write is not None or self.verbosity == "quiet" or not draws_tables(sys.stdout):
            yield
            return
        screen = _Screen(highlight=False, markup=False, emoji=False, force_jupyter=False)
        table = _Table(screen, draw)
        table.begin()
        self._screen, self._table = screen, table
        try:
            yield
        finally:
            self.take_table_down()

    def take_table_down(self) -> None:
        """Also for a process that ends without leaving :meth:`showing`: the next prompt is to find a clean line."""
        table, self._screen, self._table = self._table, None, None
        if table is not None:
            table.end()


class _Screen(RichConsole):
    """A console that leaves the cursor alone, and on which one thread at a time moves it."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.whole = threading.RLock()
        """To be held first by whatever prints: rich works out how many rows to erase before it gets to write, and a row
        printed by another thread in between would be erased with them."""

    def print(self, *objects: Any, **options: Any) -> None:
        with self.whole:
            super().print(*objects, **options)

    def show_cursor(self, show: bool = True) -> bool:
        """A killed search would leave the terminal without one."""
        return False


class _Table(threading.Thread):
    """Draws a table anew below whatever is printed, until it is taken down."""

    def __init__(self, screen: _Screen, draw: Callable[[RichConsole], RenderableType]) -> None:
        super().__init__(name="table", daemon=True)
        self._screen = screen
        self._draw = draw
        self._live = Live(console=screen, auto_refresh=False, transient=True)
        self._over = threading.Event()

    def begin(self) -> None:
        with self._screen.whole:
            self._live.start()
        self.start()

    def run(self) -> None:
        while not self._over.is_set():
            table = Constrain(self._draw(self._screen), WIDEST)  # not while others wait to print: it may ask a driver
            with self._screen.whole:
                if not self._over.is_set():
                    self._live.update(table, refresh=True)
            self._over.wait(1.0 / DRAWS_PER_SECOND)

    def end(self) -> None:
        with self._screen.whole:
            self._over.set()
            self._live.stop()


def draws_tables(stream: TextIO) -> bool:
    """Whether this stream is a terminal that can move its cursor, and knows more than ASCII."""
    knows = "utf" in (stream.encoding or "").lower()
    return knows and stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb", "unknown")
