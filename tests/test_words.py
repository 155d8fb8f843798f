"""Command lines and run folders that used to end in a traceback, or in an answer that helps nobody: each gets words."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_search import record_run

ROOT = Path(__file__).resolve().parents[1]
LONG = "x" * 300


@pytest.fixture
def told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int | str | None, str]]:
    """Run a command in an empty folder; return its exit code and stderr, which holds a few lines and no control
    characters."""
    monkeypatch.chdir(tmp_path)

    def run(door: str, *words: str) -> tuple[int | str | None, str]:
        try:
            code: int | str | None = importlib.import_module(f"tune_lnl.{door}").main(list(words))
        except SystemExit as ended:
            code = ended.code
        err = capsys.readouterr().err
        assert "Traceback" not in err
        assert "unexpected" not in err.partition("\n")[0], err
        assert len(err.splitlines()) <= 5
        assert "\x1b" not in err
        return code, err

    return run


Told = Callable[..., tuple[int | str | None, str]]


@pytest.mark.parametrize(
    "words",
    [
        ("export", LONG),
        ("logs", LONG, "0"),
        ("report", LONG),
        ("train", f"{LONG}.yaml"),
        ("predict", LONG, "x"),
        ("search", LONG, "--dry-run"),
        ("search", "act_digits8no", "--name", "a", "--results-dir", LONG),
        ("search", "--runs", "--results-dir", LONG),
        ("data", "check", "cifar80no", "--data-dir", LONG),
        ("data", "check", "folder", "--set", f"dataset.root={LONG}"),
        ("export", "x", "--results-dir", ""),
        ("logs", "x", "0", "--results-dir", ""),
        ("report", "x", "--results-dir", ""),
        ("search", "act_digits8no", "--results-dir", ""),
        ("search", "--runs", "--results-dir", ""),
        ("data", "check", "cifar80no", "--data-dir", "\x1b[2J"),
        ("search", "act_digits8no", "--trials", "٣"),
        ("search", "act_digits8no", "--trials", "1_0"),
        ("search", "act_digits8no", "--gpus-per-trial", "0"),
        ("search", "act_digits8no", "--gpus-per-trial", "٣"),
        ("search", "act_digits8no", "--cpus-per-trial", "1_0"),
        ("search", "act_digits8no", "--cpus-per-trial", "nan"),
        ("train", "a.yaml", "--epochs", "٣"),
        ("export", "x", "--top", "9" * 5000),
        ("search", "https://h/x?X-Amz-Signature=s3cret", "--dry-run"),
        ("train", "https://h/x?X-Amz-Signature=s3cret"),
        ("train", "s3://b/x?sig=s3cret"),
    ],
)
def test_bad_input_is_refused_in_words(told: Told, words: tuple[str, ...]) -> None:
    code, err = told(*words)
    assert code == 2, err
    assert "s3cret" not in err


@pytest.mark.parametrize("value", ["-2h", "-1", "-x"])
@pytest.mark.parametrize("flag", ["--time-budget", "--disk-budget", "--trials", "--name"])
def test_a_value_that_begins_with_a_dash_is_named(told: Told, flag: str, value: str) -> None:
    code, err = told("search", "act_digits8no", flag, value)
    assert code == 2
    assert flag in err
    assert repr(value) in err
    assert "expected one argument" not in err


LINES = (
    *("[]", "3", '"x"', "null", "{}", "[" * 50_000, '{"epoch": "x"}', '{"epoch": null}', '{"epoch": 1e400}'),
    *('{"epoch": NaN}', '{"epoch": -1}', '{"epoch": 3.5}', '{"epoch": [1]}', '{"epoch": 1, "attempt": "x"}'),
    *('{"epoch": 1, "val_accuracy": "high"}', '{"epoch": 1, "val_accuracy": {"a": 1}}', '{"epoch": true}', "\0"),
)


def test_odd_lines_of_epochs_and_damaged_files_of_a_run(told: Told, tmp_path: Path) -> None:
    root = record_run(tmp_path).files.root
    with (root / "trials" / "000" / "epochs.jsonl").open("a") as file:
        file.write("\n".join(LINES) + "\n")
    (root / ".trials.json").write_text("[" * 50_000)
    assert told("report", str(root))[0] == 0
    assert told("export", str(root), "--format", "csv")[0] == 0
    for name, content in (
        ("confirm.yaml", "a: 3\n"),
        ("study.log", "[" * 50_000 + "\n"),
        ("study.log", None),
        ("run.yaml", "a: " + "[" * 5_000),
        ("run.yaml", "- 1\n" * 600_000),
        ("run.yaml", (root / "run.yaml").read_text().replace("space:", "space: 3\nx:")),
        ("run.yaml", (root / "run.yaml").read_text().replace("  fixed:", "  fixed:\n  x:")),
        ("run.yaml", (root / "run.yaml").read_text().replace("    trials:", "    trials: x #")),
        ("run.yaml", (root / "run.yaml").read_text().replace("versions:", "versions: 3\nx:")),
    ):
        damaged = tmp_path / "damaged"
        shutil.copytree(root, damaged)
        (damaged / name).unlink(missing_ok=True)
        if content is None:
            (damaged / name).mkdir()
        else:
            (damaged / name).write_text(content)
        for door, *more in (("export",), ("report",), ("logs", "7")):
            code, err = told(door, str(damaged), *more)
            assert code == 2, (name, content, err)
            assert name in err or door == "logs"
        assert told("search", "--runs", "--results-dir", str(tmp_path))[0] == 0
        shutil.rmtree(damaged)


def test_a_folder_that_is_gone(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    for door in ("search act_digits8no", "export x", "train x.yaml", "data check digits8no", "search --runs"):
        command = f"cd {gone} && rmdir {gone} && {sys.executable} -m tune_lnl.{door}"
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        ran = subprocess.run(command, shell=True, capture_output=True, text=True, env=environment)
        assert "Traceback" not in ran.stderr, ran.stderr
        assert "unexpected" not in ran.stderr
        assert len(ran.stderr.splitlines()) <= 3, ran.stderr
        gone.mkdir()


def test_a_training_whose_folder_cannot_be_made(told: Told, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "method: standard\ndataset: {name: digits8no}\nobjective: {metric: val_accuracy, mode: max, average_last: 1}\n"
        "validation: {fraction: 0.3}\nfixed: {epochs: 1, lr: 0.01}\n"
    )
    code, err = told("train", "a.yaml", "--output", "/proc/tune_lnl-test")
    assert code == 2
    assert "results cannot be written to /proc/tune_lnl-test" in err
