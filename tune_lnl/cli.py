"""The parser and the exit codes that all commands share."""

from __future__ import annotations

import argparse
import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from tune_lnl.errors import InputError
from tune_lnl.files import is_disk_full
from tune_lnl.steps import step
from tune_lnl.tuning.plan.options import FLAGS, SearchOptions
from tune_lnl.version import __version__

Main = Callable[[list[str] | None], int]


class Parser(argparse.ArgumentParser):
    """argparse without prefix matching (``--epoch`` is not ``--epochs``) and with two-line errors.

    Attributes:
        arguments: what was added, in that order, for the pages that document the commands.
        commands: the inner commands: (one line of help, parser) by name.
    """

    def __init__(self, prog: str, description: str | None = None, **options: Any) -> None:
        self.arguments: list[argparse.Action] = []
        self.commands: dict[str, tuple[str, Parser]] = {}
        self._inner: Any = None
        prog = called_as(prog)
        if "epilog" in options:  # it has lines of its own
            options["formatter_class"] = argparse.RawDescriptionHelpFormatter
        super().__init__(prog=prog, description=description, **{**options, "allow_abbrev": False})
        if "tune_lnl" in prog or prog.startswith("tune-lnl"):
            version = f"tune_lnl {__version__}"
            super().add_argument("--version", action="version", version=version, help="print the version and stop")

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}\nsee: {self.prog} --help\n")

    def add_argument(self, *words: Any, **details: Any) -> argparse.Action:
        action = super().add_argument(*words, **details)
        self.arguments.append(action)
        return action

    def add_command(self, name: str, help: str) -> Parser:
        """Add an inner command, whose name ends up in ``command``, and return its parser."""
        if self._inner is None:
            self._inner = self.add_subparsers(dest="command", required=True, parser_class=Parser)
        parser: Parser = self._inner.add_parser(name, help=help)
        self.commands[name] = (help, parser)
        return parser

    def add_search_options(self) -> None:
        """Add every option of a search, as text; :func:`search_options` reads what was parsed."""
        for name, flag in FLAGS.items():
            if len(flag.switches) == 2 and {switch.value for switch in flag.switches} == {True, False}:
                # Not exclusive: of --dashboard and --no-dashboard the last one counts.
                self.add_argument(
                    flag.switches[0].word, dest=name, action=argparse.BooleanOptionalAction, help=flag.switches[0].help
                )
            elif flag.switches:
                one_of = self.add_mutually_exclusive_group()
                for switch in flag.switches:
                    action = one_of.add_argument(
                        switch.word, dest=name, action="store_const", const=switch.value, help=switch.help
                    )
                    self.arguments.append(action)
            elif not flag.word:
                self.add_argument(name, nargs="?", metavar=flag.metavar, help=flag.help)
            else:
                choices = list(flag.choices) or None
                action_name = "append" if flag.repeated else "store"
                self.add_argument(
                    flag.word, dest=name, action=action_name, metavar=flag.metavar, choices=choices, help=flag.help
                )


def called_as(prog: str) -> str:
    """Return the name of a command as the user has called it: ``tune-lnl search`` for ``python -m tune_lnl.search``."""
    program = Path(sys.argv[0])
    if program.name == "tune-lnl" or (program.name == "__main__.py" and program.parent.name == "tune_lnl"):
        return prog.replace("python -m tune_lnl.", "tune-lnl ")
    return prog


def search_options(parsed: argparse.Namespace, command: str | None = None) -> SearchOptions:
    """Read the options of a search from what a parser with :meth:`Parser.add_search_options` has parsed.

    Raises:
        InputError: an option that has no such value.
    """
    given = {name: getattr(parsed, name) for name in FLAGS if name != "space"}
    return SearchOptions.of(parsed.space, command=command, **given)


def printed(line: str) -> None:
    """Print a line at once, after what shows a step is erased."""
    step("")
    print(line, flush=True)


def open_page(page: Path | str) -> None:
    """Show a file or an address in the browser; where there is none, say where it is."""
    import webbrowser

    address = page.as_uri() if isinstance(page, Path) else page
    try:
        opened = webbrowser.open(address)
    except (webbrowser.Error, OSError):
        opened = False
    if not opened:
        print(f"no browser could be opened; open it yourself: {page}", file=sys.stderr)


def guarded(main: Main) -> Callable[..., int]:
    """Turn what ends a command into its exit code.

    An :class:`InputError` is printed on stderr and gives 2, a full disk likewise gives 1, an interruption gives 130. A
    reader that closes the pipe early (head, less) ends the command silently: with 1 where that cut it short.
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
        except OSError as error:
            if is_disk_full(error):
                where = f" ({error.filename})" if error.filename else ""
                print(
                    f"error: the disk is full: {error.strerror}{where}; free some room and try again", file=sys.stderr
                )
                return 1
            if not isinstance(error, BrokenPipeError):
                raise
            # Python flushes once more at exit, and would complain then.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return code

    return run
