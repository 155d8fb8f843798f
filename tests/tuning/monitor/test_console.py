"""Lines, verbosity, and a table on a terminal (a pseudo-terminal of the test)."""

from __future__ import annotations

import itertools
import os
import pty
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from rich.text import Text

from tune_lnl.tuning.monitor.console import Console
from tune_lnl.tuning.plan.options import Verbosity


def heard(verbosity: Verbosity) -> list[str]:
    lines: list[str] = []
    console = Console(verbosity, lines.append)
    console("always")
    console.tell("usually")
    console.row("a row")
    console.detail("a detail")
    return lines


def test_levels() -> None:
    assert heard("quiet") == ["always"]
    assert heard("normal") == ["always", "usually", "a row"]
    assert heard("verbose") == ["always", "usually", "a row", "a detail"]


def test_no_terminal_gets_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console()
    with console.showing(lambda screen: Text("a table")):
        console("a line [not markup] " + "x" * 200)
        console.row("a row " + "y" * 200)
    assert capsys.readouterr().out == f"a line [not markup] {'x' * 200}\na row {'y' * 200}\n"


@contextmanager
def terminal(monkeypatch: pytest.MonkeyPatch, columns: int = 100) -> Iterator[Callable[[], str]]:
    """Standard output is a terminal; gives what it has shown so far."""
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("LINES", "30")
    ours, theirs = pty.openpty()
    shown: list[bytes] = []

    def read() -> None:
        while True:
            try:
                shown.append(os.read(ours, 65536))
            except OSError:
                return

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    with os.fdopen(theirs, "w", encoding="utf-8") as screen:
        monkeypatch.setattr(sys, "stdout", screen)
        yield lambda: b"".join(shown).decode()
    reader.join(timeout=5.0)
    os.close(ours)


def wait_for(shown: Callable[[], str], text: str) -> None:
    until = time.monotonic() + 20.0
    while text not in shown():
        assert time.monotonic() < until, f"{text!r} is not in {shown()!r}"
        time.sleep(0.02)


def test_a_terminal_gets_a_table_below_the_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal(monkeypatch) as shown:
        console = Console()
        with console.showing(lambda screen: Text("the table " + "=" * 300, style="green", no_wrap=True)):
            console("a long line " + "x" * 150)
            console.row("a row " + "yy " * 75)
            wait_for(shown, "a row")
            print("a stray print")
            wait_for(shown, "a stray print")
        console("afterwards")
        wait_for(shown, "afterwards")
    text = shown()
    assert "\x1b[?25l" not in text, "a killed search would leave the terminal without a cursor"
    assert "\x1b[32m" in text
    plain = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text)
    lines = re.split(r"[\r\n]+", plain)
    assert any(line.startswith("the table") and len(line) <= 100 for line in lines)
    assert max(map(len, (line for line in lines if "y" in line))) <= 100
    assert "".join(line.strip() for line in lines if "y" in line).count("y") >= 150, "nothing of a row is cut"
    assert "x" * 150 in plain, "a word stays whole, to be copied"
    assert plain.rstrip().endswith("afterwards")


def test_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal(monkeypatch) as shown:
        monkeypatch.setenv("NO_COLOR", "1")
        with Console().showing(lambda screen: Text("the table", style="bold green")):
            wait_for(shown, "the table")
    assert not re.search(r"\x1b\[(\d+;)*3\d", shown())


@pytest.mark.parametrize("term", ["dumb", ""])
def test_a_terminal_that_cannot_move_its_cursor(monkeypatch: pytest.MonkeyPatch, term: str) -> None:
    with terminal(monkeypatch) as shown:
        monkeypatch.setenv("TERM", term)
        monkeypatch.setenv("COLUMNS", "20")
        console = Console()
        with console.showing(lambda screen: Text("the table")):
            console.row("a row")
            console("longer than the terminal is wide")
            wait_for(shown, "wide")
    assert shown() == "a row\r\nlonger than the\r\n    terminal is wide\r\n"


def test_quiet_has_no_table(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal(monkeypatch) as shown:
        console = Console("quiet")
        with console.showing(lambda screen: Text("the table")):
            console("said")
            wait_for(shown, "said")
    assert shown() == "said\r\n"


def seen(output: str) -> list[str]:
    """The rows of an endless screen after all that was written to it."""
    rows, row, column = [""], 0, 0
    for move, text in re.findall(r"(\x1b\[\d*[A-Za-z]|\r|\n)|([^\x1b\r\n]+)", output):
        if text:
            rows[row] = rows[row][:column].ljust(column) + text + rows[row][column + len(text) :]
            column += len(text)
        elif move == "\r":
            column = 0
        elif move == "\n":
            row += 1
            rows += [""] * (row == len(rows))
        elif move == "\x1b[1A":
            row = max(0, row - 1)
        elif move == "\x1b[2K":
            rows[row] = ""
        else:
            assert move.endswith("m"), move
    return rows


def test_a_table_that_grows_and_shrinks_erases_no_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tune_lnl.tuning.monitor.console.DRAWS_PER_SECOND", 2000.0)
    heights = itertools.cycle((1, 12, 5))
    lines = [f"line {number}" for number in range(300)]
    with terminal(monkeypatch) as shown:
        console = Console()
        with console.showing(lambda screen: Text("\n".join(["the table"] * next(heights)))):
            for number, line in enumerate(lines):
                (print, console, console.row)[number % 3](line)
        console("afterwards")
        wait_for(shown, "afterwards")
    assert [row for row in seen(shown()) if row] == [*lines, "afterwards"]


def test_a_process_that_leaves_at_once_leaves_no_table(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal(monkeypatch) as shown:
        console = Console()
        console.take_table_down()
        with console.showing(lambda screen: Text("the table")):
            wait_for(shown, "the table")
            console.take_table_down()
            console("goodbye")
            wait_for(shown, "goodbye")
            after = shown().rsplit("the table", 1)[1]
    assert "\x1b[2K" in after, "the table's line is erased"
    assert after.endswith("goodbye\r\n")
