"""How commands parse and how they end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest

from tune_lnl.cli import Parser, guarded
from tune_lnl.errors import CorruptDataError, InputError, nearest


def door(prog: str = "python -m tune_lnl.door") -> Parser:
    parser = Parser(prog=prog, description="A door.")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--mode", choices=["a", "b"])
    parser.add_argument("--output", type=Path)
    return parser


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (["--epoch", "3"], "unrecognized arguments: --epoch 3; did you mean --epochs?"),
        (["--epochs", "x"], "argument --epochs: invalid int value: 'x'"),
        (["--mode", "c"], "argument --mode: invalid choice: 'c'"),
        (["more"], "unrecognized arguments: more"),
        ([""], "an argument is empty"),
        (
            ["--output", "s3://b/x?sig=secret#secret"],
            "argument --output: a path on this machine is needed, got 's3://b/x?sig=***#***'",
        ),
    ],
)
def test_a_bad_flag_ends_with_two_lines_and_2(argv: list[str], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        door().parse_args(argv)
    assert ended.value.code == 2
    told = capsys.readouterr()
    assert told.out == ""
    first, second = told.err.splitlines()
    assert first.startswith(f"error: {why}")
    assert second == "see: python -m tune_lnl.door --help"


def test_help_ends_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        door().parse_args(["--help"])
    assert ended.value.code == 0
    assert "A door." in capsys.readouterr().out


@pytest.mark.parametrize("code", [0, 1])
def test_a_command_that_ends_by_itself_keeps_its_code(code: int) -> None:
    assert guarded(lambda argv: code)([]) == code


def test_arguments_are_handed_on() -> None:
    seen: list[list[str] | None] = []

    @guarded
    def main(argv: list[str] | None) -> int:
        """A doc."""
        seen.append(argv)
        return 0

    main(["--x"])
    main()
    assert seen == [["--x"], None]
    assert (main.__name__, main.__doc__) == ("main", "A doc.")


@pytest.mark.parametrize("kind", [InputError, CorruptDataError])
def test_an_input_error_is_told_without_a_traceback(kind: type[InputError], capsys: pytest.CaptureFixture[str]) -> None:
    def main(argv: list[str] | None) -> NoReturn:
        raise kind("the rule, got 3\nthe next step")

    assert guarded(main)([]) == 2
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", "error: the rule, got 3\nthe next step\n")


def test_an_interruption_gives_130(capsys: pytest.CaptureFixture[str]) -> None:
    def main(argv: list[str] | None) -> NoReturn:
        raise KeyboardInterrupt

    assert guarded(main)([]) == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize("kind", [ValueError, RuntimeError, OSError, RecursionError, MemoryError])
def test_any_other_error_is_a_bug_that_two_lines_name(
    kind: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def main(argv: list[str] | None) -> NoReturn:
        raise kind("surprise")

    monkeypatch.setenv("TUNE_LNL_CACHE", str(tmp_path))
    assert guarded(main)([]) == 1
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2
    assert f"unexpected {kind.__name__}: surprise" in told[0]


@pytest.mark.parametrize("handler", ["", ":surrogateescape"], ids=["strict", "as in the locale C"])
def test_a_console_that_knows_ascii_alone_gets_ascii(handler: str) -> None:
    """Not an error in the middle of a search."""
    script = "from tune_lnl.cli import guarded; raise SystemExit(guarded(lambda argv: print('1 ± 2 ✓') or 0)())"
    environment = {**os.environ, "PYTHONIOENCODING": f"ascii{handler}"}
    ran = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "1 +- 2 \\u2713\n", "")


def ended(body: str, buffered: bool) -> tuple[int, str]:
    """Exit code and stderr of a command whose reader has gone."""
    script = f"import sys\nfrom tune_lnl.cli import guarded\nsys.exit(guarded(lambda argv: {body})())"
    command = [sys.executable, *([] if buffered else ["-u"]), "-c", script]
    environment = {"PYTHONUNBUFFERED": ""}
    # Gone before the command starts: one that prints fast would otherwise be done before its reader leaves.
    reader, writer = os.pipe()
    os.close(reader)
    run = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, env=environment, check=False)
    os.close(writer)
    return run.returncode, run.stderr


def test_a_reader_that_left_is_no_news() -> None:
    assert ended("print('all of it') or 0", buffered=True) == (0, "")


def test_a_command_cut_short_by_its_reader_did_not_do_its_work() -> None:
    assert ended("[print('x') for _ in range(9)] and 0", buffered=False) == (1, "")


# ---- the sentences that errors are made of


def test_nearest_offers_the_closest_name_and_all_of_them() -> None:
    assert nearest("tua", ["sigma", "tau"]) == "did you mean 'tau'? valid: sigma, tau"
    assert nearest("zzz", ["b", "a"]) == "valid: a, b"


def test_user_errors_are_value_errors() -> None:
    assert issubclass(InputError, ValueError)
    assert issubclass(CorruptDataError, InputError)


def test_windows_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    assert guarded(lambda argv: 0)([]) == 2
    assert capsys.readouterr().err == ("error: tune_lnl runs on Linux and macOS, not on Windows\nuse it in WSL there\n")
