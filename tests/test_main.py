"""``tune-lnl`` and ``python -m tune_lnl``: every command under one name, completion, and the names of commands."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from tune_lnl.__main__ import COMMANDS, main
from tune_lnl.version import __version__

ROOT = Path(__file__).parents[1]


def test_the_project_installs_it() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["scripts"] == {"tune-lnl": "tune_lnl.__main__:main"}
    assert project["version"] == __version__


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_a_door_with_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert import_module(f"tune_lnl.{command}").parser()
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert "usage:" in capsys.readouterr().out


def test_an_unknown_command_is_refused_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serch", "act_digits8no"]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("error: no command 'serch'; did you mean 'search'? valid: data, export, ")


def test_version_and_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"tune_lnl {__version__}\n"
    assert main([]) == 2
    assert "spaces" in capsys.readouterr().out


def test_as_a_module_it_names_itself() -> None:
    told = subprocess.run(
        [sys.executable, "-m", "tune_lnl", "search", "--trails", "3"], capture_output=True, text=True, check=False
    )
    assert told.returncode == 2
    assert told.stderr.splitlines()[-1] == "see: tune-lnl search --help"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("tune-lnl sea", "search "),
        ("tune-lnl search --pres", "--preset"),
        ("tune-lnl search act_digits8", "act_digits8no"),
        ("tune-lnl search act_digits8no --condition sym8", "sym80"),
        ("tune-lnl export --top", "--top"),
    ],
)
def test_a_shell_completes(line: str, expected: str, tmp_path: Path) -> None:
    answer = tmp_path / "answer"
    environment = {
        **os.environ,
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(answer),
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
        "PYTHONPATH": str(ROOT),
    }
    subprocess.run([sys.executable, "-m", "tune_lnl"], env=environment, cwd=ROOT, check=False, timeout=100)
    assert expected.strip() in answer.read_text().replace("\x0b", " ").replace("\x0d", " ")
