"""The door `python -m tune_lnl.search` itself; what it refuses and runs is tested with the room behind it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tune_lnl import api
from tune_lnl.search import main
from tune_lnl.tuning.monitor.console import Console
from tune_lnl.tuning.plan.options import REMOVED, SearchOptions
from tune_lnl.tuning.plan.values import TrialCount

Asked = list[SearchOptions]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """What the door hands on, instead of a search."""
    seen: Asked = []

    def search(options: SearchOptions, console: Console) -> int:
        seen.append(options)
        console("a line")
        return 130

    monkeypatch.setattr(api, "search", search)
    return seen


def test_the_list_has_a_line_per_space(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {"act_cifar80no", "act_digits8no"} <= {line.split()[0] for line in lines}


def test_every_flag_arrives(
    asked: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out" / "run").mkdir(parents=True)  # one to resume
    arguments = [
        *("my space.yaml", "--name", "run", "--trials", "+4", "--epochs", "12", "--seed", "3", "--conditions", "all"),
        *("--set", "tau=0.1", "--set", "search.lr.high=0.1", "--results-dir", "out", "--data-dir", "in", "--resume"),
        *("--concurrent", "2", "--gpus-per-trial", "0.5", "--cpus-per-trial", "1.5", "--sampler", "gp"),
        *("--pruner", "none", "--time-budget", "2h", "--disk-budget", "1GB", "--no-dashboard"),
        *("--tensorboard", "--quiet"),
    ]
    assert main(arguments) == 130
    assert capsys.readouterr().out == "a line\n"
    assert asked == [
        SearchOptions(
            "my space.yaml",
            name="run",
            trials=TrialCount(4, added=True),
            epochs=12,
            seed=3,
            all_conditions=True,
            overrides=("tau=0.1", "search.lr.high=0.1"),
            results_dir="out",
            data_dir=Path("in"),
            resume=True,
            concurrent=2,
            gpus_per_trial=0.5,
            cpus_per_trial=1.5,
            sampler="gp",
            pruner="none",
            time_budget=7200.0,
            disk_budget=10**9,
            dashboard=False,
            tensorboard=True,
            verbosity="quiet",
            command="python -m tune_lnl.search 'my space.yaml' " + " ".join(arguments[1:]),
        )
    ]


def test_nothing_asked_is_nothing_decided(asked: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    main(["act_digits8no", "--condition", "sym20"])
    expected = SearchOptions(
        "act_digits8no", condition="sym20", command="python -m tune_lnl.search act_digits8no --condition sym20"
    )
    assert asked == [expected]


@pytest.mark.parametrize("flag", REMOVED)
@pytest.mark.parametrize("written", ["{} x", "{}=x"])
def test_a_removed_flag_is_refused_with_what_replaces_it(
    flag: str, written: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["act_digits8no", *written.format(flag).split()]) == 2
    assert capsys.readouterr().err == f"error: {flag} was removed; {REMOVED[flag]}\n"


def test_a_dry_run_describes_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["act_digits8no", "--epochs", "12", "--set", "dataset.subset=0.3", "--concurrent", "1", "--dry-run"]
    assert main(arguments) == 0
    assert list(tmp_path.iterdir()) == []
    told = capsys.readouterr().out
    for part in (
        "# search act_digits8no",
        "condition asym40",
        "subset: 0.3",
        "epochs: 12",
        "lr_asymmetry:",
        "# trial 0: the first start point, complete",
        "#   lr1: 0.08",
        "# resources: 1 at once",
        "# an epoch: ",
        "# the search: about ",
        "# disk: ",
    ):
        assert part in told
    assert main([*arguments, "--resume"]) == 2
    assert "leave --resume out" in capsys.readouterr().err


def test_it_runs_as_a_module() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "tune_lnl.search", "act_digit8no"], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr.startswith("error: unknown search space 'act_digit8no'; did you mean 'act_digits8no'?")
