"""The lines of a search on any stream and, on a terminal, a table below them that is redrawn."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from rich.console import Console as RichConsole
from rich.console import RenderableType
from rich.constrain import Constrain
from rich.live import Live
from rich.text import Text

from tune_lnl.steps import step
from tune_lnl.tuning.plan.options import Verbosity

WIDEST = 100
"""Columns of the table; a wider terminal gets no wider table."""
DRAWS_PER_SECOND = 2.0
COMMANDS = ("python -m ", "tune-lnl ")
"""Lines that begin so are commands."""


class Console:
    """Prints lines: ``console(line)`` always, :meth:`tell` unless ``--quiet``, :meth:`detail` only with ``--verbose``.

    Args:
        write: receives every line instead of standard output; there is no table then.
    """

    def __init__(self, verbosity: Verbosity = "normal", write: Callable[[str], None] | None = None) -> None:
        self.verbosity = verbosity
        self._write = write
        self._screen: _Screen | None = None

    def __call__(self, line: str) -> None:
        """Print a line at every verbosity; a terminal breaks it between words, but no command.

        Nothing is cut, and a pipe or a file gets one line.
        """
        screen, width = self._screen, self.width
        step("")
        if self._write is not None:
            self._write(line)
            return
        for text in line.split("\n") if width is None else _wrapped(line, width):
            if screen is not None:
                screen.print(Text(text), soft_wrap=True)
            else:
                print(text, flush=True)

    def tell(self, line: str) -> None:
        """Print a line unless ``--quiet`` was given."""
        if self.verbosity != "quiet":
            self(line)

    def detail(self, line: str) -> None:
        """Print a line only if ``--verbose`` was given."""
        if self.verbosity == "verbose":
            self(line)

    def row(self, line: str, rest: str = "") -> None:
        """Print a line as :meth:`tell` does, and ``rest`` at its end; on a terminal where that fits, else below."""
        whole = f"{line}  {rest}".rstrip()
        width = self.width
        if width is None or len(whole) <= width or not rest:
            self.tell(whole)
        else:
            self.tell(line)
            self.tell(f"      {rest}")

    def labelled(self, label: str, address: str) -> None:
        """Print a path, an address or a command, at every verbosity; on a line of its own where both do not fit."""
        width = self.width
        if width is None or len(label) + 2 + len(address) <= width:
            self(f"{label}: {address}")
        else:
            indent = " " * (len(label) - len(label.lstrip()) + 2)
            self(f"{label}:")
            self(f"{indent}{address}")

    @property
    def width(self) -> int | None:
        """Columns of the terminal; ``None`` where the lines do not go to one."""
        if self._screen is not None:  # standard output is then Rich's
            return self._screen.width
        if self._write is not None or not sys.stdout.isatty():
            return None
        return shutil.get_terminal_size().columns

    @property
    def shows_table(self) -> bool:
        return self._screen is not None

    @contextmanager
    def showing(self, draw: Callable[[RichConsole], RenderableType]) -> Iterator[None]:
        """Keep a table below the lines while the context lasts, if standard output is a terminal.

        ``draw`` is called from a thread of its own, twice a second.
        """
        if self._write is not None or self.verbosity == "quiet" or not draws_tables(sys.stdout):
            yield
            return
        step("")
        screen = _Screen(draw)
        screen.start()
        self._screen = screen
        try:
            yield
        finally:
            self.take_table_down()

    def take_table_down(self) -> None:
        """Erase the table, also for a process that ends without leaving :meth:`showing`."""
        screen, self._screen = self._screen, None
        if screen is not None:
            screen.stop()


class _Screen(RichConsole):
    """A terminal with a table below the printed lines.

    Rich computes how many rows to erase before it writes, so a row that another thread prints in between is erased too
    (Rich 15 with its own refresh thread: 19 to 30 of 300 lines lost). Here one lock is held for both.
    """

    def __init__(self, draw: Callable[[RichConsole], RenderableType]) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, force_jupyter=False)
        self._draw = draw
        self._printing = threading.RLock()
        self._table = Live(console=self, auto_refresh=False, transient=True)
        self._stopped = threading.Event()

    def start(self) -> None:
        with self._printing:
            self._table.start()
        threading.Thread(target=self._redraw, name="table", daemon=True).start()

    def stop(self) -> None:
        with self._printing:
            self._stopped.set()
            self._table.stop()

    def _redraw(self) -> None:
        while not self._stopped.is_set():
            table = Constrain(self._draw(self), WIDEST)  # without the lock: it may query the GPU driver
            with self._printing:
                if not self._stopped.is_set():
                    self._table.update(table, refresh=True)
            self._stopped.wait(1.0 / DRAWS_PER_SECOND)

    def print(self, *objects: Any, **options: Any) -> None:
        with self._printing:
            super().print(*objects, **options)

    def show_cursor(self, show: bool = True) -> bool:
        """Leave the cursor visible: a killed search could not restore it."""
        return False


def _wrapped(text: str, width: int) -> list[str]:
    """Break what is longer than the terminal is wide between words; commands and addresses stay whole, to be copied."""
    lines: list[str] = []
    for line in text.split("\n"):
        words = line.lstrip()
        if len(line) <= width or words.startswith(COMMANDS):
            lines.append(line)
        else:
            indent = " " * (len(line) - len(words) + 4)
            lines += textwrap.wrap(
                line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
            )
    return lines


def draws_tables(stream: TextIO) -> bool:
    """Return whether the stream is a terminal that can move its cursor and shows more than ASCII."""
    unicode = "utf" in (stream.encoding or "").lower()
    return unicode and stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb", "unknown")
