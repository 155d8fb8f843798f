"""The door `python -m tune_lnl.export` itself; what it writes is tested with the room behind it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tune_lnl.export import main
from tune_lnl.tuning.runs import export as exporting
from tune_lnl.tuning.runs import run as reading
from tune_lnl.tuning.runs.export import Export


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """A run that exports itself as a line of text and two remarks; collects what was asked for."""
    seen: list[object] = []

    def load_run(run: str, results_dir: Path) -> str:
        seen.extend([run, results_dir])
        return "the run"

    def export_run(run: object, top: int, form: str) -> Export:
        seen.extend([run, top, form])
        return Export("text\n", ("first", "second"))

    monkeypatch.setattr(reading, "load_run", load_run)
    monkeypatch.setattr(exporting, "export_run", export_run)
    return seen


def test_text_goes_to_stdout_and_remarks_to_stderr(asked: list[object], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mine"]) == 0
    assert asked == ["mine", "results", "the run", 1, "yaml"]
    told = capsys.readouterr()
    assert (told.out, told.err) == ("text\n", "note: first\nnote: second\n")


def test_every_flag_arrives(tmp_path: Path, asked: list[object], capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "best.txt"
    arguments = ["mine", "--top", "3", "--format", "args", "--output", str(output), "--results-dir", "out"]
    assert main(arguments) == 0
    assert asked == ["mine", "out", "the run", 3, "args"]
    assert capsys.readouterr().out == ""
    assert output.read_text() == "text\n"


def test_an_output_that_cannot_be(tmp_path: Path, asked: list[object], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mine", "--output", str(tmp_path / "absent" / "best.yaml")]) == 2
    assert "lies in no existing folder" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [[], ["mine", "--format", "xml"], ["mine", "--top", "two"], ["mine", "theirs"]])
def test_wrong_usage_exits_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2


def test_an_unknown_run(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "tune_lnl.export", "mine"], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr.startswith("error: no run 'mine' under 'results' or at that path; there are no runs yet")


@pytest.mark.parametrize(("flag", "value"), [("--top", "3"), ("--format", "csv"), ("--output", "best.yaml")])
def test_labels_refuse_what_they_would_not_read(flag: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["a_run", "--labels", "labels.csv", flag, value])
    assert ended.value.code == 2
    assert f"{flag} not with --labels FILE" in capsys.readouterr().err
