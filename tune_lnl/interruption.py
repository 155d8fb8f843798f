"""SIGINT, SIGTERM and SIGHUP for a command: a word and an exit code, from its first import to its last line.

Python's own handler raises ``KeyboardInterrupt``, which prints a traceback wherever nothing catches it: while modules
are imported, before ``main`` and after it. SIGTERM and SIGHUP (a closed terminal) would end a command without a word.
A search has handlers of its own while its trials run (:mod:`tune_lnl.tuning.engine.signals`).
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

ENDING = ("SIGINT", "SIGTERM", "SIGHUP")


class Ended(KeyboardInterrupt):
    """SIGTERM or SIGHUP during the work of a command, which ends as at Ctrl-C."""

    def __init__(self, number: int) -> None:
        super().__init__(f"ended by {signal.Signals(number).name}")
        self.number = number


class _Command:
    """The process of a command, and whether it is at work, so that it has something to put in order."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self.working = 0

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self.process:  # a fork, which has inherited the handler
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif self.working and not _is_importing(frame):
            raise KeyboardInterrupt if number == signal.SIGINT else Ended(number)
        else:
            line = "interrupted" if number == signal.SIGINT else str(Ended(number))
            try:
                os.write(2, f"{line}\n".encode())
            finally:  # a closed terminal cannot be written to
                os._exit(128 + number)


_command: _Command | None = None


def answer_signals() -> None:
    """Answer signals from now on, if this process is a command of this package; a handler of somebody else stays."""
    global _command
    if _command is not None or not _is_command(sys.orig_argv[1:]):
        return
    _command = _Command()
    for name in ENDING:
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _command.on_signal)


@contextmanager
def at_work() -> Iterator[None]:
    """Raise ``KeyboardInterrupt`` at a signal while the context lasts, unless a module is being imported then."""
    if _command is None:
        yield
        return
    _command.working += 1
    try:
        yield
    finally:
        _command.working -= 1


def exit_code(error: KeyboardInterrupt) -> int:
    """Return 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP.

    >>> exit_code(KeyboardInterrupt()), exit_code(Ended(15))
    (130, 143)
    """
    return 128 + (error.number if isinstance(error, Ended) else signal.SIGINT)


def _is_command(words: list[str]) -> bool:
    """Return whether the interpreter was started with these words for a command.

    ``sys.argv`` cannot tell: a process that multiprocessing has spawned copies it.

    >>> _is_command(["-u", "-m", "tune_lnl.train", "x.yaml"]), _is_command(["/usr/bin/tune-lnl", "runs"])
    (True, True)
    >>> _is_command(["-c", "import tune_lnl"]), _is_command(["-X", "dev", "-m", "pytest"]), _is_command([])
    (False, False, False)
    """
    words = list(words)
    while words:
        word = words.pop(0)
        if word == "-m":
            return bool(words) and words[0].partition(".")[0] == "tune_lnl"
        if word in ("-X", "-W"):
            words = words[1:]
        elif word == "-c" or not word.startswith("-"):
            return word.rpartition("/")[2] == "tune-lnl"  # pathlib takes milliseconds to import
    return False


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False
