"""A search can be followed from its journal, and a journal that was changed gives itself away."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from recorded import begin, complete, copied, search
from tiny_search import tiny_plan
from toy_runs import TOY, write_toy

from tune_lnl.errors import CorruptDataError, InputError
from tune_lnl.search import main
from tune_lnl.tuning.replaying import replay
from tune_lnl.tuning.runs.results import Run, load_run
from tune_lnl.tuning.study.study import SAMPLER_START

Line = dict[str, Any]


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """25 trials, three at once, three drivers."""
    plan = tiny_plan(tmp_path_factory.mktemp("resumed"), trials="25", sampler="tpe")
    return search(plan, concurrent=3, crashes=(20, 21, 60))


@pytest.mark.parametrize(
    ("sampler", "pruner"),
    [("tpe", "asha"), ("random", "median"), ("qmc", "hyperband"), ("gp", "none"), ("tpe", "hyperband")],
)
def test_every_sampler_and_pruner_is_followed(tmp_path: Path, sampler: str, pruner: str) -> None:
    plan = tiny_plan(tmp_path, trials="10", sampler=sampler, pruner=pruner)
    run = search(plan, concurrent=2, crashes=(15,))
    found = replay(run)
    assert found.difference is None
    assert found.trials == 10
    assert found.suggestions >= 10
    assert found.decisions > 10
    assert str(found) == "replayed 10 trials: every suggestion and decision is the same"


def test_a_resumed_search_is_followed_through_every_driver(resumed: Run) -> None:
    starts = [line for line in _lines(resumed) if SAMPLER_START in line.get("user_attr", {})]
    assert len(starts) == 4
    assert len({line["user_attr"][SAMPLER_START]["seed"] for line in starts}) > 1
    assert {trial.state.name for trial in resumed.trials} >= {"COMPLETE", "PRUNED"}
    assert replay(resumed).difference is None


def test_the_order_of_arrival_is_what_is_recorded(tmp_path: Path) -> None:
    one, other = (
        search(tiny_plan(tmp_path, name=f"run{chance}", trials="12", sampler="tpe"), concurrent=3, chance=chance)
        for chance in (1, 2)
    )
    assert [trial.params for trial in one.trials] != [trial.params for trial in other.trials]
    assert replay(one).difference is None
    assert replay(other).difference is None


def test_a_search_that_is_cut_off_anywhere_is_followed(tmp_path: Path, resumed: Run) -> None:
    lines = resumed.files.study.read_bytes().splitlines(keepends=True)
    for count in range(5, len(lines), max(1, len(lines) // 12)):
        run = copied(resumed, tmp_path / str(count))
        run.files.study.write_bytes(b"".join(lines[:count]))
        assert replay(load_run(run.files.root)).difference is None, count


def test_a_driver_that_died_while_it_wrote_an_answer(tmp_path: Path) -> None:
    plan = tiny_plan(tmp_path, trials="6", sampler="tpe")
    study = begin(plan)
    for _ in range(3):
        study.ask()
    lines = plan.files.study.read_bytes().splitlines(keepends=True)
    place = max(at for at, line in enumerate(lines) if b'"param_name"' in line)
    plan.files.study.write_bytes(b"".join(lines[:place]))
    run = search(plan, concurrent=2)
    assert len(run.trials) == 6
    assert replay(run).difference is None


# ---- tampering


def _lines(run: Run) -> list[Line]:
    return [json.loads(line) for line in run.files.study.read_text().splitlines()]


def _changed(run: Run, folder: Path, change: Callable[[list[Line]], None]) -> str:
    """What replay says of a copy whose journal was changed."""
    other = copied(run, folder / "changed")
    lines = _lines(other)
    change(lines)
    other.files.study.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = replay(load_run(other.files.root)).difference
    assert found is not None
    return found


def _another_lr(lines: list[Line]) -> None:
    line = next(line for line in lines if line.get("param_name") == "lr" and line["trial_id"] == 9)
    line["param_value_internal"] *= 1.0001


def test_a_changed_suggestion_is_named(resumed: Run, tmp_path: Path) -> None:
    assert _changed(resumed, tmp_path, _another_lr).startswith("trial 9: recorded lr = ")


def test_a_changed_decision_is_named(resumed: Run, tmp_path: Path) -> None:
    stopped = next(trial for trial in resumed.trials if trial.state.name == "PRUNED")

    def change(lines: list[Line]) -> None:
        reports = [line for line in lines if line.get("trial_id") == stopped.number and "step" in line]
        end = next(line for line in lines if line.get("trial_id") == stopped.number and line.get("state") == 2)
        # Better than all others at the rung: nothing would have stopped it.
        reports[-1]["intermediate_value"] = 99.0
        end["values"] = [99.0]

    place = f"trial {stopped.number} after epoch {len(stopped.intermediate_values)}"
    assert _changed(resumed, tmp_path, change) == f"{place}: recorded stopped, replay went on"


def test_a_trial_that_should_have_been_stopped_is_named(tmp_path: Path) -> None:
    run = complete(tiny_plan(tmp_path), [90.0, 80.0])
    assert replay(run).difference == "trial 1 after epoch 3: recorded went on, replay stopped"


def test_a_changed_final_value_is_named(resumed: Run, tmp_path: Path) -> None:
    whole = next(t for t in resumed.trials if t.state.name == "COMPLETE" and t.user_attrs["attempts"] == 1)

    def change(lines: list[Line]) -> None:
        next(line for line in lines if line.get("trial_id") == whole.number and line.get("state") == 1)["values"] = [
            99.9
        ]

    assert _changed(resumed, tmp_path, change).startswith(f"trial {whole.number} ended with 99.9")


def test_a_changed_order_is_named(resumed: Run, tmp_path: Path) -> None:
    def change(lines: list[Line]) -> None:
        seeds = [line["user_attr"][SAMPLER_START] for line in lines if SAMPLER_START in line.get("user_attr", {})]
        seeds[1]["seed"] += 1

    assert "a sampler was started with seed" in _changed(resumed, tmp_path, change)


def test_what_cannot_be_replayed_is_refused(resumed: Run, tmp_path: Path) -> None:
    run = copied(resumed, tmp_path / "old")
    lines = [line for line in run.files.study.read_text().splitlines(keepends=True) if SAMPLER_START not in line]
    run.files.study.write_text("".join(lines))
    with pytest.raises(InputError, match="does not record"):
        replay(run)
    run.files.study.write_text("nonsense\n" + "".join(lines))
    with pytest.raises(CorruptDataError, match="not a readable journal"):
        replay(run)
    run.files.study.unlink()
    with pytest.raises(InputError, match="no study yet"):
        replay(run)


def test_the_door(resumed: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--replay", str(resumed.files.root)]) == 0
    assert capsys.readouterr().out == "replayed 25 trials: every suggestion and decision is the same\n"
    _changed(resumed, tmp_path, _another_lr)
    assert main(["--replay", "changed", "--results-dir", str(tmp_path)]) == 1
    assert "trial 9: recorded lr = " in capsys.readouterr().out
    assert main(["--replay", "absent", "--results-dir", str(tmp_path)]) == 2


# ---- with Ray


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_real_searches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One at a time twice: the same trials and numbers. Two at once, resumed with more: can be followed."""
    monkeypatch.setenv("PYTHONPATH", str(TOY))
    monkeypatch.syspath_prepend(str(TOY))
    space = write_toy(tmp_path, [{"x": 0.5}], epochs=9, trials=10, sampler="tpe", pruner="asha")
    common = [str(space), "--results-dir", str(tmp_path / "results"), "--no-dashboard", "--seed", "3"]
    for name in ("one", "two"):
        assert main([*common, "--name", name, "--concurrent", "1"]) == 0
    one, two = (load_run(tmp_path / "results" / name) for name in ("one", "two"))
    assert [(t.state, t.value, t.params, t.intermediate_values) for t in one.trials] == [
        (t.state, t.value, t.params, t.intermediate_values) for t in two.trials
    ]
    assert {trial.state.name for trial in one.trials} == {"COMPLETE", "PRUNED"}
    assert main([*common, "--name", "three", "--concurrent", "2"]) == 0
    assert main([*common, "--name", "three", "--concurrent", "2", "--resume", "--trials", "+4"]) == 0
    for name in ("one", "three"):
        assert main(["--replay", name, "--results-dir", str(tmp_path / "results")]) == 0
