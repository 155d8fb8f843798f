"""What the commands share: how they parse, and how they end."""

from __future__ import annotations

import argparse
import functools
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from tune_lnl.errors import InputError

Main = Callable[[list[str] | None], int]


class Parser(argparse.ArgumentParser):
    """argparse without prefix matching (``--epoch`` is not ``--epochs``) and with two-line errors."""

    def __init__(self, prog: str, description: str | None = None, **options: Any) -> None:
        super().__init__(prog=prog, description=description, **{**options, "allow_abbrev": False})

    def add_removed(self, flag: str, instead: str) -> None:
        """Refuse a flag of an earlier version with a sentence that tells what to use instead; --help leaves it out."""

        class Removed(argparse.Action):
            def __call__(self, *given: Any, **options: Any) -> NoReturn:
                raise InputError(f"{flag} was removed: {instead}")

        self.add_argument(flag, action=Removed, nargs="?", default=argparse.SUPPRESS, help=argparse.SUPPRESS)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}\nsee: {self.prog} --help\n")


def flags(parser: argparse.ArgumentParser, values: Mapping[str, Any]) -> list[str]:
    """The words that ask ``parser`` for ``values``, by their names in its namespace; defaults are left out.

    Names that the parser does not have are passed over.
    """
    known = {action.dest: action for action in parser._actions if action.option_strings}
    words = []
    for name, value in values.items():
        if name in known and value is not None and value != parser.get_default(name):
            words += _flag(known[name], value, [action for action in parser._actions if action.dest == name])
    return words


def _flag(action: argparse.Action, value: Any, same: Sequence[argparse.Action]) -> list[str]:
    if isinstance(action, argparse.BooleanOptionalAction):
        return [action.option_strings[0 if value else 1]]
    if action.nargs == 0:
        # Of several flags for one value, such as --quiet and --verbose, the one that stands for this.
        return [next(each.option_strings[-1] for each in same if each.const == value)]
    return [
        word
        for each in (value if isinstance(value, list | tuple) else [value])
        for word in (action.option_strings[-1], str(each))
    ]


def guarded(main: Main) -> Callable[..., int]:
    """End a command as promised: an :class:`InputError` is told on stderr and gives 2, an interruption gives 130.

    A reader that has seen enough (head, less) ends it in silence: with 1 where that cut the command short.
    """

    @functools.wraps(main)
    def run(argv: list[str] | None = None) -> int:
        code = 1
        try:
            code = main(argv)
            sys.stdout.flush()
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 130
        except BrokenPipeError:
            # Python flushes once more at exit, and would complain then.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return code

    return run
