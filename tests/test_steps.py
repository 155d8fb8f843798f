"""Signs of life on standard error."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tune_lnl.steps import percent, shown_steps, step


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def wait_for(stream: io.StringIO, text: str) -> None:
    until = time.monotonic() + 20.0
    while text not in stream.getvalue():
        assert time.monotonic() < until, stream.getvalue()
        time.sleep(0.01)


def test_a_pipe_gets_a_line_per_step(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with shown_steps(held=0.0):
        step("reading digits ...")
        wait_for(stream, "reading")
        for done in range(0, 11):
            step(f"packing photos ... {percent(done, 10)}")
        step("")
        step("starting Ray ...")
    step("nobody listens")
    assert stream.getvalue() == "reading digits ...\npacking photos ... 0%\nstarting Ray ...\n"


def test_a_command_that_is_refused_at_once_prints_no_step(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with shown_steps(held=60.0):
        step("reading digits ...")
    assert stream.getvalue() == ""


def test_a_terminal_gets_one_line_that_is_erased(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    with shown_steps():
        step("packing photos ... 10%")
        step("packing photos ... 20%")
    shown = stream.getvalue()
    assert "\n" not in shown
    assert shown.endswith("\r\x1b[Kpacking photos ... 20%\r\x1b[K")


def test_the_line_stays_on_the_terminal_while_the_descriptor_leads_elsewhere(tmp_path: Path) -> None:
    """Ray's start sends the descriptor of standard error to the run's log."""
    terminal, user = pty.openpty()
    code = (
        "import os, sys\n"
        "from tune_lnl.steps import shown_steps, step\n"
        f"with shown_steps('reading ...'), open({str(tmp_path / 'log')!r}, 'w') as log:\n"
        "    os.dup2(log.fileno(), 2)\n"
        "    step('starting Ray ...')\n"
    )
    subprocess.run([sys.executable, "-c", code], stderr=user, check=True)
    os.close(user)
    shown = b""
    with contextlib.suppress(OSError):  # the end of a pseudo-terminal
        while piece := os.read(terminal, 1024):
            shown += piece
    os.close(terminal)
    assert b"starting Ray ..." in shown
    assert (tmp_path / "log").read_text() == ""
