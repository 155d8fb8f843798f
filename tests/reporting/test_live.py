"""``watch``: the page of a run behind its token, and the moment of a run read from its folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from filelock import FileLock
from tiny_search import record_run

from tune_lnl.reporting.live import served_page
from tune_lnl.tuning.monitor.from_disk import Watched
from tune_lnl.watch import main


def get(url: str) -> tuple[int, dict[str, str], str]:
    try:
        with urllib.request.urlopen(url, timeout=60.0) as answer:
            return answer.status, dict(answer.headers), answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), error.read().decode()


def test_the_page_refreshes_itself_while_a_search_runs_and_wants_its_token(tmp_path: Path) -> None:
    run = record_run(tmp_path)
    with served_page(Watched(run)) as address:
        assert address.startswith("http://127.0.0.1:")
        code, headers, page = get(address)
        assert code == 200
        assert "<html" in page
        assert "tiny" in page
        assert "Refresh" not in headers, "nobody runs it"
        with FileLock(run.files.lock):
            assert int(get(address)[1]["Refresh"]) > 0
        assert get(address.partition("?")[0])[0] == 403
        assert get(address[:-1])[0] == 403
        assert get(address.replace("/?", "/etc?"))[0] == 404


def test_a_moment_of_a_run(tmp_path: Path) -> None:
    run = record_run(tmp_path)
    moment = Watched(run).now()
    assert moment.state == "interrupted"
    assert moment.view.running == []
    assert (moment.view.ended, moment.view.trials) == (4, 6)
    assert moment.view.best is not None
    assert moment.view.best.number == 0
    with FileLock(run.files.lock):
        live = Watched(run).now()
    assert live.state == "running"
    assert live.version == moment.version


def test_a_run_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nosuch", "--results-dir", str(tmp_path)]) == 2
    assert "no run 'nosuch'" in capsys.readouterr().err


@pytest.mark.slow
def test_watching_ends_with_ctrl_c_and_a_browser_may_be_missing(tmp_path: Path) -> None:
    run = record_run(tmp_path)
    watching = subprocess.Popen(
        [sys.executable, "-m", "tune_lnl", "watch", str(run.files.root), "--open"],
        env={**os.environ, "BROWSER": "/bin/false", "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert watching.stdout is not None
    told = ""
    until = time.monotonic() + 200.0
    while "the search is interrupted" not in told:
        assert time.monotonic() < until, told
        told += watching.stdout.readline()
    assert "no browser could be opened; open it yourself: http://127.0.0.1:" in told
    watching.send_signal(signal.SIGINT)
    assert watching.wait(60.0) == 0
