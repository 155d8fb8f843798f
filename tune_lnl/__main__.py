# PYTHON_ARGCOMPLETE_OK
"""``tune-lnl COMMAND ...``, also ``python -m tune_lnl COMMAND ...``: every command of this package under one name."""

from __future__ import annotations

import os
import sys
from importlib import import_module

from tune_lnl.cli import Parser, guarded
from tune_lnl.errors import InputError, nearest

COMMANDS = {
    "search": "search the settings of a method under label noise",
    "watch": "show a running or finished search: table, report page, study dashboard",
    "runs": "list the runs: state, best value, age",
    "spaces": "list the named search spaces, their conditions and presets",
    "report": "write the report of a run, or compare several",
    "export": "print the best configs of a run, or (--labels) write its verdict on each label",
    "train": "train one config, under one seed or several, and score it",
    "predict": "classify images with a trained model",
    "judge": "settle which model is best by judging some held-out images by hand",
    "data": "list the datasets, check one or a folder of images, pack one",
    "logs": "print the log of a trial",
}
"""Each is a module of that name with ``parser()`` and ``main(words)``."""


def parser() -> Parser:
    width = max(map(len, COMMANDS))
    p = Parser(
        prog="tune-lnl",
        description=__doc__,
        epilog="commands:\n" + "\n".join(f"  {name:<{width}}  {line}" for name, line in COMMANDS.items()),
    )
    p.add_argument(
        "command", metavar="COMMAND", choices=list(COMMANDS), help="one of those below; COMMAND --help: its flags"
    )
    return p


@guarded
def main(argv: list[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else argv
    if "_ARGCOMPLETE" in os.environ:
        from tune_lnl.completion import complete

        complete(parser(), tuple(COMMANDS))
    if not words:
        parser().print_help()
        return 2
    if words[0].startswith("-"):
        parser().parse_args(words[:1])
    if words[0] not in COMMANDS:
        raise InputError(f"no command {words[0]!r}; {nearest(words[0], COMMANDS)}\nsee: tune-lnl --help")
    code: int = import_module(f"tune_lnl.{words[0]}").main(words[1:])
    return code


if __name__ == "__main__":
    sys.exit(main())
