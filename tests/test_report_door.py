"""The door `python -m tune_lnl.report` itself; what it writes is tested with the room behind it."""

from __future__ import annotations

import subprocess
import sys
import webbrowser
from collections.abc import Sequence
from pathlib import Path

import pytest

from tune_lnl import report as door
from tune_lnl.report import main
from tune_lnl.reporting import write as writing


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Replace the writing of two pages; collect the arguments."""
    seen: list[object] = []

    def write_reports(runs: Sequence[str], results_dir: Path) -> list[Path]:
        seen.extend([runs, results_dir])
        return [Path("/pages/both.html"), Path("/pages/one/report.html")]

    monkeypatch.setattr(door, "refuse_unknown", lambda runs, results_dir: None)
    monkeypatch.setattr(writing, "write_reports", write_reports)
    monkeypatch.setattr(webbrowser, "open", lambda address: seen.append(address))
    return seen


def test_names_what_was_written(asked: list[object], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["one", "two", "--results-dir", "out"]) == 0
    assert asked == [["one", "two"], "out"]
    assert capsys.readouterr().out == "comparison: /pages/both.html\none: /pages/one/report.html\n"


def test_opens_the_first(asked: list[object]) -> None:
    assert main(["one", "--open"]) == 0
    assert asked[-1] == "file:///pages/both.html"


@pytest.mark.parametrize("arguments", [[], ["mine", "--op"]])
def test_wrong_usage_exits_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2


def test_an_unknown_run(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "tune_lnl.report", "mine"], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("error: no run 'mine' under 'results' or at that path")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("argument", "also"), [("--help", set()), ("no_such_run", set())])
def test_what_needs_nothing_heavy(argument: str, also: set[str]) -> None:
    code = (
        "import sys\nfrom tune_lnl.report import main\n"
        f"try:\n    main([{argument!r}])\nexcept SystemExit:\n    pass\nprint('loaded:', *sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    loaded = {name.partition(".")[0] for name in told.rpartition("loaded:")[2].split()}
    assert loaded & {"torch", "ray", "optuna", "numpy", "sklearn", "pyarrow", "pydantic"} <= also
