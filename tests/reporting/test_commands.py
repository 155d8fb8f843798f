from __future__ import annotations

from pathlib import Path

from report_runs import COMPLETE, MIXED, view

from tune_lnl.reporting.commands import commands_of


def test_a_run_that_is_not_finished_is_resumed(tmp_path: Path) -> None:
    found = dict(commands_of(view(tmp_path, MIXED)))
    assert found["Run the whole search again (under another --name)"].endswith("tune_lnl.search tiny.yaml --trials 6")
    assert found["Resume it"] == "python -m tune_lnl.search tiny.yaml --trials 6 --resume"
    assert found["Export its best config"].endswith(str(tmp_path / "results" / "tiny"))
    watch = next(command for name, command in found.items() if name.startswith("Watch it"))
    assert watch == f"python -m tune_lnl watch {tmp_path / 'results' / 'tiny'}"
    plain = found["Train plain cross-entropy on the same data, to compare with"]
    assert plain.endswith("--set method=standard")
    assert str(tmp_path / "results" / "train" / "tiny-plain") in plain


def test_a_finished_one_gets_more_trials(tmp_path: Path) -> None:
    found = dict(commands_of(view(tmp_path, [COMPLETE] * 6)))
    assert found["Resume it with more trials"] == "python -m tune_lnl.search tiny.yaml --resume --trials +12"
    assert found["Confirm its winner on fresh splits and seeds"].endswith("--trials 6 --resume --confirm 3x5")


def test_a_run_from_python(tmp_path: Path) -> None:
    found = dict(commands_of(view(tmp_path, [COMPLETE], command="python mine.py")))
    assert "resume=True" in found["Resume it, from Python"]
    assert "name='tiny'" in found["Resume it, from Python"]


def test_nothing_to_train_without_a_best(tmp_path: Path) -> None:
    assert not [name for name, _ in commands_of(view(tmp_path, [])) if name.startswith("Train")]
