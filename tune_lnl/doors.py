"""What the commands share: how they parse, and how they end."""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable
from typing import NoReturn

from tune_lnl.errors import InputError

Main = Callable[[list[str] | None], int]


class Parser(argparse.ArgumentParser):
    """argparse without prefix matching (``--epoch`` is not ``--epochs``) and with two-line errors."""

    def __init__(self, prog: str, description: str | None) -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}\nsee: {self.prog} --help\n")


def guarded(main: Main) -> Callable[..., int]:
    """End a command as promised: an :class:`InputError` is told on stderr and gives 2, an interruption gives 130."""

    @functools.wraps(main)
    def run(argv: list[str] | None = None) -> int:
        try:
            return main(argv)
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 130
        except BrokenPipeError:
            # The reader (head, less) has seen enough. Python would complain again while closing stdout.
            sys.stderr.close()
            return 0

    return run
