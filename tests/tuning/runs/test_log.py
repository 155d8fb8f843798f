"""A trial's log, whole and as it grows."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from tiny_search import EPOCHS, record_run, tiny_plan

from tune_lnl.config.yaml import dump_yaml
from tune_lnl.errors import InputError
from tune_lnl.files import replace_text
from tune_lnl.logs import main as logs
from tune_lnl.tuning.runs.log import epochs_as_table, trial_log
from tune_lnl.tuning.runs.run import Run
from tune_lnl.tuning.study.study import SearchStudy


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Trials 0 to 3 have ended, 4 has not."""
    run = record_run(tmp_path)
    for number in range(4):
        run.files.log(number).write_text(f"hello from trial {number}\n", encoding="utf-8")
    return run


def told(run: Run, number: str, follow: bool = False) -> str:
    return "".join(trial_log(str(run.files.root), number, Path("results"), follow))


def test_the_whole_log(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert told(run, "3") == "hello from trial 3\n"
    assert told(run, "3", follow=True) == "hello from trial 3\n"
    assert logs(["tiny", "2", "--results-dir", str(tmp_path / "results")]) == 0
    assert capsys.readouterr().out == "hello from trial 2\n"


def test_a_log_of_an_earlier_version_shows_no_test_metric(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run.files.log(0).parent.mkdir(parents=True, exist_ok=True)
    run.files.log(0).write_text("epoch=0 val_accuracy=45.5 test_accuracy=90 test_accuracy_ntm=80 seconds=1\n")
    assert logs([run.name, "0", "--results-dir", str(run.files.root.parent)]) == 0
    assert capsys.readouterr().out == "epoch=0 val_accuracy=45.5 seconds=1\n"


EPOCHS_OF_ACT = """2026-12-01 13:00:20,355 INFO trial 0, attempt 1, from epoch 1, started in 1.00 s: lr=0.01
2026-12-01 13:00:22,155 INFO epoch 1: lr=0.01 lr1=0.08 train_loss=-0.0142419 train_accuracy=24.7446 val_accuracy=9.565 \
val_loss=1.95736 val_accuracy_standard_error=2.39371 seconds=31.79808 images_per_second=525.664
2026-12-01 13:00:22,941 INFO epoch 12: lr=1e-05 lr1=0.000501234 train_loss=nan val_accuracy=100 seconds=0.69
2026-12-01 13:00:23,500 WARNING the disk is slow
2026-12-01 13:00:24,500 INFO epoch 13: lr=0.01 lr1=0.08 train_loss=1 val_accuracy=45 val_loss=2 seconds=1
"""


def test_epochs_are_a_table_of_eighty_columns(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run.files.log(0).write_text(EPOCHS_OF_ACT, encoding="utf-8")
    heading = "time     epoch  val_accuracy  train_loss  val_loss   seconds        lr       lr1"
    expected = [
        "2026-12-01 13:00:20,355 INFO trial 0, attempt 1, from epoch 1, started in 1.00 s: lr=0.01",
        heading,
        "13:00:22     1          9.56     -0.0142      1.96     31.80    0.0100    0.0800",
        "13:00:22    12        100.00         nan         -      0.69  1.00e-05  0.000501",
        "2026-12-01 13:00:23,500 WARNING the disk is slow",
        heading,
        "13:00:24    13         45.00        1.00      2.00      1.00    0.0100    0.0800",
    ]
    assert len(heading) == 80
    assert told(run, "0").splitlines() == told(run, "0", follow=True).splitlines() == expected
    assert logs([run.name, "0", "--all", "--results-dir", str(tmp_path / "results")]) == 0
    assert capsys.readouterr().out == EPOCHS_OF_ACT


def test_the_table_begins_with_the_objective_and_leaves_out_what_does_not_fit(tmp_path: Path) -> None:
    figures = "lr=0.01 head_lr=0.1 train_loss=1 val_map=40 val_loss=2 seconds=3"
    line = f"2026-12-01 13:00:22,155 INFO epoch 1: {figures}\n"
    heading, _ = epochs_as_table([line], "val_map")
    assert heading.split() == ["time", "epoch", "val_map", "train_loss", "val_loss", "seconds", "lr", "head_lr"]
    heading, _ = epochs_as_table([line.replace("val_map", "val_" + "x" * 30)], "val_" + "x" * 30)
    assert heading.split() == ["time", "epoch", "val_" + "x" * 30, "train_loss", "val_loss"]


@pytest.mark.parametrize("number", ["6", "-1", "best", "1.0", "²", "", "9" * 5000])
def test_numbers_that_there_are_not(run: Run, capsys: pytest.CaptureFixture[str], number: str) -> None:
    assert logs([str(run.files.root), "--", number]) == 2
    assert f"has no trial {number!r}; its trials are 0 to 4" in capsys.readouterr().err


def test_runs_that_have_none(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert logs(["other", "0", "--results-dir", str(tmp_path / "results")]) == 2
    assert "no run 'other'" in capsys.readouterr().err
    plan = tiny_plan(tmp_path, name="new")
    plan.files.root.mkdir(parents=True)
    replace_text(plan.files.settings, dump_yaml(plan.settings()))
    with pytest.raises(InputError, match="has no trials yet"):
        trial_log("new", "0", tmp_path / "results", False)


def test_a_trial_that_has_written_nothing(run: Run) -> None:
    assert told(run, "4") == "(trial 4 has written nothing yet; it is running)\n"


def test_nobody_runs_it_any_more(run: Run) -> None:
    run.files.log(4).write_text("so far", encoding="utf-8")
    assert told(run, "4", follow=True) == "so far\n(trial 4 has not ended, and no search is running it)\n"


@pytest.fixture
def live(tmp_path: Path) -> Iterator[tuple[Run, SearchStudy]]:
    """A run whose driver is this process, with trial 0 at work."""
    plan = tiny_plan(tmp_path)
    plan.files.trial(0).mkdir(parents=True)
    replace_text(plan.files.settings, dump_yaml(plan.settings()))
    study = SearchStudy.create(plan.files.study, plan.space, 0)
    study.ask()
    with FileLock(plan.files.lock):
        yield Run(plan.files, plan.settings(), plan.space, study.trials), study


def test_following_ends_with_the_trial(live: tuple[Run, SearchStudy]) -> None:
    run, study = live
    heard: list[str] = []
    something = threading.Event()

    def follow() -> None:
        for piece in trial_log(str(run.files.root), "0", Path("results"), True):
            heard.append(piece)
            something.set()

    follower = threading.Thread(target=follow)
    follower.start()
    with run.files.log(0).open("ab") as log:
        log.write(b"first line\nhalf a character " + "é".encode()[:1])
        log.flush()
        assert something.wait(20.0)
        assert heard == ["first line\n"]
        log.write("é".encode()[1:] + b"\nlast line, without an end")
    for epoch in range(EPOCHS):
        study.report(0, epoch, 50.0)
    study.complete(0, 50.0, 1.0)
    follower.join(timeout=20.0)
    assert not follower.is_alive()
    assert "".join(heard) == "first line\nhalf a character é\nlast line, without an end"
