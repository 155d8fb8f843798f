"""The parser and the exit codes that all commands share."""

from __future__ import annotations

import argparse
import codecs
import errno
import functools
import io
import os
import re
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from tune_lnl.bugs import unexpected
from tune_lnl.errors import InputError, closest, shown, without_secrets
from tune_lnl.files import is_disk_full
from tune_lnl.interruption import at_work, exit_code
from tune_lnl.object_storage import masked
from tune_lnl.steps import step
from tune_lnl.tuning.plan.options import FLAGS, SearchOptions
from tune_lnl.version import __version__


def whole(text: str) -> int:
    """Read a whole number, for argparse: in ASCII digits, and not of thousands of them."""
    if re.fullmatch(r"[-+]?[0-9]{1,15}", text) is None:
        raise ValueError
    return int(text)


whole.__name__ = "int"  # in argparse's messages
IN_ASCII = {"±": "+-", "–": "-", "…": "...", "×": "x", "→": "->"}
UNUSABLE = (
    *(errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR),
    *(errno.EACCES, errno.EPERM, errno.EROFS),
)
"""Errors of the system that say something about a path: one that a user has named, the cache, or the current folder."""
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
        self.exit(2, f"error: {_told(f'{message}{self._meant(message)}')}\nsee: {self.prog} --help\n")

    def _meant(self, message: str) -> str:
        """Return the nearest valid word to one that argparse has refused."""
        if (choice := re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message)) is not None:
            word, valid = choice[1], re.findall(r"[\w.-]+", choice[2])
        elif (flag := re.search(r"^unrecognized arguments: (--[^ =]*)", message)) is not None:
            parsers = [self, *(parser for _, parser in self.commands.values())]
            actions = [action for parser in parsers for action in parser.arguments]
            word, valid = flag[1], [each for action in actions for each in action.option_strings]
        else:
            return ""
        near = closest(word, valid)
        return "" if near is None else f"; did you mean {near}?"

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse, but a value that is empty or begins with a dash belongs to its option, which can refuse it."""
        words = list(sys.argv[1:] if args is None else args)
        known = {word: action for action in self.arguments for word in action.option_strings}
        joined: list[str] = []
        while words:
            word = words.pop(0)
            takes_value = word in known and known[word].nargs is None and word.startswith("--")
            if takes_value and words and words[0][:1] in ("", "-") and words[0] not in (*known, "-h", "--help", "--"):
                word = f"{word}={words.pop(0)}"
            if word == "":
                self.error("an argument is empty; give a name or a path, or leave it out")
            joined.append(word)
            if word == "--":
                joined += words
                break
        return super().parse_known_args(joined, namespace)

    def add_argument(self, *words: Any, **details: Any) -> argparse.Action:
        if details.get("type") is Path:
            details["type"] = _local_path
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

    def add_results_dir(self) -> None:
        """Add the option that every command takes which reads runs."""
        self.add_argument(
            "--results-dir",
            default="results",
            metavar="DIR|URL",
            help="where runs lie: a folder (default: results), or object storage such as s3://bucket/prefix",
        )

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


def _local_path(text: str) -> Path:
    if "://" in text:
        raise argparse.ArgumentTypeError(f"a path on this machine is needed, got {masked(text)!r}")
    return Path(text)


def guarded(main: Main) -> Callable[..., int]:
    """Turn what ends a command into its exit code; refuse Windows, where file locks and Ray's sockets differ.

    An :class:`InputError` is printed on stderr and gives 2, a full disk likewise gives 1, an interruption gives 130 (by
    SIGTERM 143, by SIGHUP 129). A reader that closes the pipe early (head, less) ends the command silently: with 1
    where that cut it short. Any other exception is a bug: two lines name it and the file that its traceback was written
    to, and the code is 1.
    """

    @functools.wraps(main)
    def run(argv: list[str] | None = None) -> int:
        code = 1
        try:
            if sys.platform == "win32":
                raise InputError("tune_lnl runs on Linux and macOS, not on Windows\nuse it in WSL there")
            _print_any_character()
            with at_work():
                code = main(argv)
                sys.stdout.flush()
            if code == 130 and argv is None:
                _heed_no_more_interruptions()
        except InputError as error:
            print(f"error: {_told(str(error))}", file=sys.stderr)
            return 2
        except KeyboardInterrupt as error:
            if argv is None:
                _heed_no_more_interruptions()
            _print_if_possible(str(error) or "interrupted")
            return exit_code(error)
        except BrokenPipeError:
            _leave_standard_streams()
        except Exception as error:
            if isinstance(error, OSError) and isinstance(error.__context__, KeyboardInterrupt):
                # The terminal is gone, whose end was the signal: its last lines cannot be printed.
                _leave_standard_streams()
                return exit_code(error.__context__)
            if isinstance(error, OSError) and is_disk_full(error):
                where = f" ({error.filename})" if error.filename else ""
                print(
                    f"error: the disk is full: {error.strerror or error}{where}; free some room and try again",
                    file=sys.stderr,
                )
                return 1
            if isinstance(error, OSError) and error.errno in UNUSABLE and error.filename is not None:
                name = _told(os.fsdecode(error.filename))[:400]
                print(f"error: {error.strerror}: {name}; check the name and the permissions", file=sys.stderr)
                return 2
            if isinstance(error, FileNotFoundError) and not _working_folder_exists():
                print("error: the current folder does not exist any more; change to another one", file=sys.stderr)
                return 2
            for line in unexpected(error):
                print(line, file=sys.stderr)
            return 1
        return code

    return run


def _told(message: str) -> str:
    """Return a message that may repeat what was given, without its secrets and its control characters."""
    return "\n".join(map(shown, without_secrets(message).split("\n")))


def _working_folder_exists() -> bool:
    try:
        return Path.cwd().exists()
    except OSError:
        return False


def _leave_standard_streams() -> None:
    """Lead standard output and a lost terminal nowhere: Python flushes once more at exit, and would complain then."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    try:
        print(end="", file=sys.stderr, flush=True)
    except OSError:
        os.dup2(nowhere, sys.stderr.fileno())


def _print_if_possible(line: str) -> None:
    """Print a last line on standard error, unless the terminal is gone."""
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:
        _leave_standard_streams()


def _heed_no_more_interruptions() -> None:
    """Let the end of the process pass undisturbed: another Ctrl-C would print a traceback."""
    with suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGINT, lambda number, frame: None)


def _print_any_character() -> None:
    """Write characters that the console's encoding lacks in ASCII, in place of an error in the middle of a search."""
    codecs.register_error("tune_lnl.ascii", _in_ascii)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and (stream.errors == "strict" or "utf" not in stream.encoding.lower()):
            stream.reconfigure(errors="tune_lnl.ascii")


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    signs = error.object[error.start : error.end]
    return "".join(IN_ASCII.get(sign) or ascii(sign)[1:-1] for sign in signs), error.end
