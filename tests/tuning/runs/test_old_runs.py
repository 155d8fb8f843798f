"""Runs of other versions: one of 0.1.0, in ``tests/data``, is read and resumed; one of a later version is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from tune_lnl import export, report, search
from tune_lnl.errors import InputError
from tune_lnl.training.seeds import read_config
from tune_lnl.tuning.plan.options import SearchOptions
from tune_lnl.tuning.plan.plan import plan_search
from tune_lnl.tuning.resources.divide import Machine
from tune_lnl.tuning.runs.run import load_run
from tune_lnl.tuning.runs.settings import RUN_FORMAT

OLD = Path(__file__).parents[2] / "data" / "run_of_0_1_0"
"""``search act_digits8no --condition sym20 --trials 3 --epochs 6``, without its networks and most of its logs."""


@pytest.fixture
def results(tmp_path: Path) -> Path:
    shutil.copytree(OLD, tmp_path / "results" / "old")
    return tmp_path / "results"


def change(results: Path, **sections: object) -> None:
    path = results / "old" / "run.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **sections}))


def test_it_is_listed_exported_and_reported(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = ["--results-dir", str(results)]
    assert search.main(["--runs", *place]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:6] == ["old", "finished", "3/3", "65.25", "±", "2.45"]
    assert export.main(["old", "--format", "json", *place]) == 0
    (best,) = json.loads(capsys.readouterr().out)["trials"]
    assert (best["number"], round(best["value"], 2), best["config"]["dataset.noise"]) == (1, 65.25, "symmetric")
    assert report.main(["old", *place]) == 0
    assert "<html" in (results / "old" / "report.html").read_text()
    assert read_config(results / "old" / "best.yaml", [], None) == load_run("old", results).space.config(best["params"])


def test_it_has_no_predictions(results: Path) -> None:
    run = load_run("old", results)
    assert run.best is not None
    with pytest.raises(KeyError, match=r"version 0\.1\.0"):
        run.heldout(run.best.number)


def test_it_is_resumed(results: Path) -> None:
    options = SearchOptions.of(
        "act_digits8no",
        name="old",
        condition="sym20",
        trials="+1",
        epochs=6,
        cpus_per_trial=1.0,
        results_dir=results,
        resume=True,
    )
    (plan,) = plan_search(options, Machine(cpus=2, gpus=0))
    assert plan.space.budget.trials == 4
    assert plan.settings()["format"] == RUN_FORMAT
    assert len(plan.place.read_trials()) == 3


def test_a_removed_setting(results: Path) -> None:
    space = yaml.safe_load((OLD / "run.yaml").read_text())["space"]
    fixed = {**space["fixed"], "label_ema_classes": None}
    change(results, space={**space, "fixed": fixed})
    assert "label_ema_classes" not in load_run("old", results).space.base["fixed"]
    change(results, space={**space, "fixed": {**fixed, "label_ema_classes": 8}})
    with pytest.raises(InputError, match=r"label_ema_classes no longer exists, got 8; .* tune_lnl 0\.1\.0, the last"):
        load_run("old", results)


def test_a_later_one_is_refused(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(results, format=RUN_FORMAT + 1, versions={"tune_lnl": "9.1.0"})
    for main, words in ((export.main, ["old"]), (report.main, ["old"])):
        assert main([*words, "--results-dir", str(results)]) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert f"run.yaml: run format {RUN_FORMAT + 1}, this version reads up to {RUN_FORMAT}" in said.err
        assert "version 9.1.0 of tune_lnl" in said.err
    before = (results / "old" / "study.log").read_bytes()
    asked = ["act_digits8no", "--name", "old", "--condition", "sym20", "--epochs", "6", "--resume"]
    assert search.main([*asked, "--results-dir", str(results)]) == 2
    assert "version 9.1.0 of tune_lnl" in capsys.readouterr().err
    assert (results / "old" / "study.log").read_bytes() == before
    assert search.main(["--runs", "--results-dir", str(results)]) == 0
    assert "of a later version" in capsys.readouterr().out
