"""``--on-end``: a command with the facts in its environment, or JSON to an address; a failure is printed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from http_server import answering

from tune_lnl.tuning.monitor.on_end import tell_end

FACTS = {"run": "mine", "path": "/results/mine", "state": "finished", "value": 61.5, "trial": None}


def told(target: str) -> list[str]:
    lines: list[str] = []
    tell_end(target, FACTS, lines.append)
    return lines


def test_a_command_finds_the_facts_in_its_environment(tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = f'echo "$TUNE_LNL_RUN $TUNE_LNL_STATE $TUNE_LNL_VALUE [$TUNE_LNL_TRIAL]" > {out}'
    assert told(command) == []
    assert out.read_text() == "mine finished 61.5 []\n"


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("echo no room >&2; exit 3", "exit code 3: no room"),
        ("no-such-command-anywhere", "exit code 127"),
        ("http://127.0.0.1:9/closed", "URLError"),
        ("http://", "URLError"),
    ],
)
def test_a_failure_is_printed_in_one_line(target: str, why: str) -> None:
    (line,) = told(target)
    assert line.startswith("  --on-end failed: ")
    assert why in line


@pytest.fixture
def hook() -> Iterator[tuple[str, list[Any]]]:
    received: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.append((self.headers["Content-Type"], json.loads(body)))
            self.send_response(500 if self.path == "/broken" else 204)
            self.end_headers()

    with answering(Handler) as server:
        yield f"http://127.0.0.1:{server.server_port}", received


def test_an_address_gets_json(hook: tuple[str, list[Any]]) -> None:
    address, received = hook
    assert told(f"{address}/hook") == []
    assert received == [("application/json", FACTS)]
    (line,) = told(f"{address}/broken")
    assert "HTTP Error 500" in line
