"""Signs of life: a line for each thing that takes a while, before and after the trials themselves.

Any room calls :func:`step`; a command shows the lines on standard error with :func:`shown_steps`. A terminal gets one
line that is overwritten, with the seconds so far; a pipe or a log file gets a line for each step. Standard output stays
what it was. Where nobody shows them, as in a worker, the lines go nowhere.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from tune_lnl.errors import shown, without_secrets

logger = logging.getLogger("tune_lnl.steps")

SHOWN_AFTER = 2.0
"""Seconds from which a terminal's line counts them."""
PER_SECOND = 4.0
PERCENT_LINES = 10.0
"""Seconds between two lines of the same step in a pipe or log file, such as ``packing ... 40%``."""
HELD = 0.1
"""Seconds for which the first line is held back in a pipe: a command that is refused at once prints its error alone."""
HELD_SHORT = 2.0
"""The same for commands that answer at once nearly always, and whose output goes into files and other programs."""
HELD_CAPTURED = 30.0
"""The same for a command that is called inside another program, which has replaced standard error."""


def step(text: str) -> None:
    """Tell what is done now, such as ``starting Ray ...``; with an empty text, that nothing is."""
    logger.info("%s", shown(without_secrets(text)))


def percent(done: int, total: int) -> str:
    """Write a share.

    >>> percent(2, 5), percent(0, 0)
    ('40%', '100%')
    """
    return f"{100 * done // total if total else 100}%"


@contextmanager
def shown_steps(first: str = "", held: float | None = None) -> Iterator[None]:
    """Show steps on standard error while the context lasts.

    Args:
        first: a step to show at once; a command calls this before it imports what takes time.
        held: seconds for which the first line is held back in a pipe.
    """
    if held is None:
        held = HELD if sys.stderr is sys.__stderr__ else HELD_CAPTURED
    stream = _own(sys.stderr)
    handler = _Live(stream) if stream.isatty() else _Lines(stream, held)
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    step(first)
    try:
        yield
    finally:
        handler.close()
        logger.removeHandler(handler)
        if stream is not sys.stderr:
            stream.close()
        logger.setLevel(before[0])
        logger.propagate = before[1]


def _own(stream: TextIO) -> TextIO:
    """Return a stream to the same place that stays there: the descriptor leads to a log file while Ray starts."""
    try:
        number = os.dup(stream.fileno())
    except (OSError, ValueError):  # a stream in memory
        return stream
    return os.fdopen(number, "w", encoding=stream.encoding, errors=stream.errors)


class _Lines(logging.Handler):
    """A line for each step; a step that only counts on gets one every :data:`PERCENT_LINES` seconds."""

    def __init__(self, stream: TextIO, held: float) -> None:
        super().__init__()
        self._stream = stream
        self._last, self._at = "", 0.0
        self._held: list[str] | None = []
        self._timer = threading.Timer(held, self._release)
        self._timer.daemon = True
        self._timer.start()

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if not text:
            self._held = None if self._held is None else []  # other lines were printed, which say more
            return
        name, now = text.partition("...")[0], time.monotonic()
        if name == self._last and now - self._at < PERCENT_LINES:
            return
        self._last, self._at = name, now
        if self._held is None:
            print(text, file=self._stream, flush=True)
        else:
            self._held.append(text)

    def _release(self) -> None:
        with self.lock or threading.Lock():
            held, self._held = self._held, None
            for text in held or ():
                print(text, file=self._stream, flush=True)

    def close(self) -> None:
        self._timer.cancel()
        with self.lock or threading.Lock():
            self._held = None
        super().close()


class _Live(logging.Handler):
    """One line at the end of a terminal, erased before anything else is printed there."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._text, self._since = "", 0.0
        self._ended = threading.Event()
        threading.Thread(target=self._tick, name="steps", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if text.partition("...")[0] != self._text.partition("...")[0]:
            self._since = time.monotonic()
        self._text = text
        self._draw()

    def _tick(self) -> None:
        while not self._ended.wait(1.0 / PER_SECOND):
            with self.lock or threading.Lock():
                if self._text and time.monotonic() - self._since > SHOWN_AFTER:
                    self._draw()

    def _draw(self) -> None:
        seconds = time.monotonic() - self._since
        clock = f" {seconds:.0f} s" if self._text and seconds > SHOWN_AFTER else ""
        line = f"{self._text}{clock}"[: shutil.get_terminal_size().columns - 1]
        self._stream.write(f"\r\x1b[K{line}")
        self._stream.flush()

    def close(self) -> None:
        self._ended.set()
        with self.lock or threading.Lock():
            if self._text:
                self._text = ""
                self._draw()
        super().close()
