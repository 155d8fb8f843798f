"""What a URL holds for its owner alone is in no message, wherever a URL is given and a path or name is expected."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tune_lnl import data, export, logs, predict, search, train
from tune_lnl.errors import without_secrets
from tune_lnl.steps import shown_steps, step

URL = "https://me:hunter2@host.invalid/x/f.yaml?X-Amz-Signature=abc123&X-Amz-Credential=AKIA1&size=2"
SECRETS = ("hunter2", "abc123", "AKIA1")


@pytest.mark.parametrize(
    ("door", "words"),
    [
        (data.main, ["check", URL]),
        (data.main, ["check", "digits8no", "--set", f"dataset.noise={URL}"]),
        (search.main, ["act_digits8no", "--name", URL]),
        (search.main, ["act_digits8no", "--data-dir", URL]),
        (search.main, ["act_digits8no", "--results-dir", URL]),
        (train.main, [URL]),
        (export.main, [URL]),
        (logs.main, [URL, "0"]),
        (predict.main, [URL, "x.jpg"]),
    ],
    ids=lambda value: " ".join(value)[:24] if isinstance(value, list) else value.__module__,
)
def test_no_message_repeats_them(
    door: Callable[[list[str]], int],
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        code = door(words)
    except SystemExit as ended:
        code = int(str(ended.code))
    told = "".join(capfd.readouterr())
    assert code == 2
    assert "error: " in told
    assert not [secret for secret in SECRETS if secret in told]
    assert not list(tmp_path.rglob("*"))


def test_nor_does_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(stream, "isatty", lambda: True)
    with shown_steps():
        step(f"reading {URL} ... \x1b[31m")
        told = stream.getvalue()
    assert "reading https://***@host.invalid/x/f.yaml?X-Amz-Signature=***" in told
    assert "\x1b[31m" not in told


@pytest.mark.parametrize(
    "text",
    [
        "a file web0.jpg?w=640",
        "postgresql://USER@HOST/DATABASE",
        "s3://lab/results?endpoint_override=localhost:9000&scheme=http",
        "me@host.example, see https://host.example/a@b",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert without_secrets(text) == text
