"""The refusals of ``--resume``: exit code 2, the difference by name, and every file of the run left as it was."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import yaml
from filelock import FileLock
from toy_runs import TOY, local_session, open_run, run_locally, spread, toy_plan, write_toy

from tune_lnl import export, search
from tune_lnl.errors import CorruptDataError
from tune_lnl.training.registry import training_type
from tune_lnl.tuning.runs.layout import RunFiles
from tune_lnl.tuning.space.space import load_space
from tune_lnl.tuning.study.journal import read_trials

EPOCHS = 3


@pytest.fixture
def space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(TOY))
    return write_toy(tmp_path, spread(3), epochs=EPOCHS)


@pytest.fixture
def files(tmp_path: Path, space: Path) -> RunFiles:
    """A search that was stopped: two trials complete, one in its middle."""
    plan = toy_plan(tmp_path, space)
    study = open_run(plan)
    run_locally(plan, local_session(plan, study))
    plan = toy_plan(tmp_path, space, resume=True, trials="4")
    study = open_run(plan)
    study.report(study.ask().number, 0, 50.0)
    return plan.files


def contents(files: RunFiles) -> dict[str, str]:
    """Digest of every file of the run but the lock, which holds nothing."""
    return {
        str(path.relative_to(files.root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files.root.rglob("*")
        if path.is_file() and path != files.lock
    }


def refused(space: Path, files: RunFiles, capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    """What a refused resume says, after making sure that it did nothing."""
    before = contents(files)
    results = str(files.root.parent)
    code = search.main([str(space), "--resume", "--no-dashboard", "--results-dir", results, "--name", "toy", *flags])
    said = capsys.readouterr()
    assert code == 2
    assert said.out == ""
    assert len(said.err.splitlines()) <= 3
    assert contents(files) == before
    return said.err


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (("--seed", "1"), "seed = 0, now it is 1"),
        (("--epochs", "6"), "fixed.epochs = 3, now it is 6"),
        (("--set", "search.x.high=0.99"), "search.x.high = 1.0, now it is 0.99"),
        (("--set", "pause=0.5"), "fixed.pause = 0.0, now it is 0.5"),
        (("--set", "dataset.classes=5"), "dataset.classes = None, now it is 5"),
        (("--sampler", "tpe"), "budget.sampler = 'random', now it is 'tpe'"),
        (("--pruner", "asha"), "budget.pruner = 'none', now it is 'asha'"),
    ],
)
def test_other_flags(
    space: Path, files: RunFiles, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], named: str
) -> None:
    assert named in refused(space, files, capsys, *flags)


def test_another_space(tmp_path: Path, files: RunFiles, capsys: pytest.CaptureFixture[str]) -> None:
    other = write_toy(tmp_path, spread(3), epochs=EPOCHS, name="another")
    assert "space_name = 'toy', now it is 'another'" in refused(other, files, capsys)


def test_other_data(
    space: Path, files: RunFiles, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOY_DATA", "other pixels")
    said = refused(space, files, capsys)
    assert "fingerprints.source = 'toy data', now it is 'other pixels'" in said


def test_a_second_driver(space: Path, files: RunFiles, capsys: pytest.CaptureFixture[str]) -> None:
    with FileLock(files.lock):
        assert "run 'toy' is being run by another process" in refused(space, files, capsys)


@pytest.mark.parametrize(
    ("line", "damage"),
    [(1, b'{"op_code": 4, "wor'), (10, b"\x00\x00\x00"), (2, b"[]"), (10, b"17"), (10, b"{}"), (1, b"<html>")],
)
def test_a_journal_that_is_damaged_inside(
    space: Path, files: RunFiles, capsys: pytest.CaptureFixture[str], line: int, damage: bytes
) -> None:
    lines = files.study.read_bytes().split(b"\n")
    lines[line - 1] = damage
    files.study.write_bytes(b"\n".join(lines))
    said = refused(space, files, capsys)
    assert str(files.study) in said
    assert f"line {line} of {len(lines) - 1} is not a record" in said


def test_a_journal_that_lacks_its_first_record(
    space: Path, files: RunFiles, capsys: pytest.CaptureFixture[str]
) -> None:
    files.study.write_bytes(files.study.read_bytes().split(b"\n", 1)[1])
    assert "the study is damaged" in refused(space, files, capsys)


@pytest.mark.parametrize("tail", [b"\x00\x00\x00\n", b'{"op_code": 4, "wor\n', b'{"op_code"', b"\x00\x00"])
def test_a_journal_that_is_damaged_at_its_end_is_cut_there(
    tmp_path: Path, space: Path, files: RunFiles, tail: bytes
) -> None:
    whole = files.study.read_bytes()
    before = [trial.state for trial in read_trials(files.study)]
    files.study.write_bytes(whole + tail)
    assert [trial.state for trial in read_trials(files.study)] == before
    plan = toy_plan(tmp_path, space, resume=True, trials="4")
    run_locally(plan, local_session(plan, open_run(plan)))
    assert files.study.read_bytes().startswith(whole)
    assert [trial.state.name for trial in read_trials(files.study)] == ["COMPLETE"] * 4


def test_the_other_commands_name_a_damaged_journal_too(files: RunFiles, capsys: pytest.CaptureFixture[str]) -> None:
    files.study.write_bytes(b"nonsense\n" + files.study.read_bytes())
    with pytest.raises(CorruptDataError, match="line 1 of"):
        read_trials(files.study)
    assert export.main([str(files.root)]) == 2
    assert "line 1 of" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "space: [", "run: toy\n", "[]"])
def test_a_damaged_run_yaml(space: Path, files: RunFiles, capsys: pytest.CaptureFixture[str], text: str) -> None:
    files.settings.write_text(text)
    assert "run.yaml" in refused(space, files, capsys)


def test_a_start_without_resume(space: Path, files: RunFiles, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(files)
    assert search.main([str(space), "--results-dir", str(files.root.parent)]) == 2
    assert "continue it with --resume" in capsys.readouterr().err
    assert contents(files) == before


def test_a_total_below_what_has_begun(space: Path, files: RunFiles, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(space, files, capsys, "--trials", "3")
    assert "--trials 3 is the total, and this run has begun 4 trials" in said
    assert "to finish its 4, or give 4 or more" in said


@pytest.mark.parametrize(("asked", "total"), [(None, 4), ("9", 9), ("4", 4), ("+2", 6)])
def test_the_total_may_change(tmp_path: Path, space: Path, files: RunFiles, asked: str | None, total: int) -> None:
    """Without the flag a run keeps its own, whatever the space says."""
    stored = yaml.safe_load(files.settings.read_text())
    assert stored["space"]["budget"]["trials"] == 4
    assert load_space(str(space)).budget.trials == 3
    assert toy_plan(tmp_path, space, resume=True, trials=asked).space.budget.trials == total


def test_other_flags_are_refused_before_the_data_are_read(
    space: Path, files: RunFiles, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*args: object) -> None:
        raise AssertionError("the data were read")

    monkeypatch.setattr(training_type("toy"), "prepare", read)
    assert "seed = 0, now it is 1" in refused(space, files, capsys, "--seed", "1")
    assert "--trials 1 is the total" in refused(space, files, capsys, "--trials", "1")
