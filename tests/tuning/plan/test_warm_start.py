"""What a run takes from another, and what it says about it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from recorded import begin, complete, search
from tiny_search import EPOCHS, tiny_plan

from tune_lnl.config.yaml import dump_yaml, read_mapping
from tune_lnl.errors import InputError
from tune_lnl.training.registry import training_type
from tune_lnl.tuning.plan.warm_start import plan_warm_start
from tune_lnl.tuning.runs.best import write_best
from tune_lnl.tuning.runs.export import export_run
from tune_lnl.tuning.runs.run import Run, load_run
from tune_lnl.tuning.runs.tables import write_tables
from tune_lnl.tuning.study.trials import ENDED, TAKEN_FROM


@pytest.fixture
def other(tmp_path: Path) -> Run:
    """A finished run of 14 trials called ``other``."""
    run = search(tiny_plan(tmp_path, name="other", trials="14"), concurrent=2, chance=3)
    model = run.files.model(run.best.number if run.best else 0)
    model.parent.mkdir(exist_ok=True)
    model.write_bytes(b"a network")
    return run


def warm_plan(tmp_path: Path, **options: Any) -> Any:
    return tiny_plan(tmp_path, **{"name": "own", "trials": "4", "warm_start": "other", **options})


def test_a_comparable_run_is_taken_over_with_honest_states_and_curves(other: Run, tmp_path: Path) -> None:
    plan = warm_plan(tmp_path)
    assert plan.remarks()[0].startswith("warm start: takes over 14 trials of run other (")
    run = search(plan)
    taken = run.trials[:14]
    assert [trial.user_attrs[TAKEN_FROM]["number"] for trial in taken] == list(range(14))
    for own, theirs in zip(taken, other.trials, strict=True):
        assert (own.state, own.values, own.params) == (theirs.state, theirs.values, theirs.params)
        assert own.intermediate_values == theirs.intermediate_values
        assert run.epoch_reports(own.number) == other.epoch_reports(theirs.number)
    assert {trial.state.name for trial in taken} == {"COMPLETE", "PRUNED", "FAIL"}
    assert len(run.trials) == 14 + 4, "those of the other run do not count"
    assert not any(TAKEN_FROM in trial.user_attrs for trial in run.trials[14:])
    tried = [trial.params for trial in taken]
    assert all(trial.params not in tried for trial in run.trials[14:]), "its start points and draws are not repeated"


def test_every_view_tells_where_they_come_from(other: Run, tmp_path: Path) -> None:
    run = search(warm_plan(tmp_path))
    write_tables(run)
    assert write_best(run)
    assert other.best is not None
    row = next(row for row in run.rows() if row.number == other.best.number)
    assert row.taken_from == f"other trial {other.best.number}"
    assert (row.value, row.standard_error) == (other.best.value, other.best.standard_error)
    assert run.config(row).flat() == other.config(other.best).flat(), "its config reproduces it"
    table = pq.read_table(run.files.trials_table).to_pylist()
    assert [line["taken_from"] for line in table] == [f"other trial {n}" for n in range(14)] + [None] * 4
    epochs = pq.read_table(run.files.epochs_table)
    assert epochs.num_rows == sum(len(trial.intermediate_values) for trial in run.trials)
    assert '"taken_from": "other trial' in export_run(run, 100, "json").text
    assert run.files.model(other.best.number).read_bytes() == b"a network"
    assert "other" in run.files.log(0).read_text()


def test_of_failures_only_diverged_ones_are_taken_over(tmp_path: Path) -> None:
    plan = tiny_plan(tmp_path, name="other")
    study = begin(plan)
    for failure in ("bug", "diverged", "out of memory"):
        study.fail(study.ask().number, failure, "because")
    study.ask()
    run = search(warm_plan(tmp_path))
    assert [trial.user_attrs.get(TAKEN_FROM) for trial in run.trials[:3]] == [None, {"run": "other", "number": 1}, None]
    assert run.trials[0].params == {"lr": 0.01, "lr_asymmetry": 8, "warmup_epochs": 2}, "failed there, so tried here"
    assert run.trials[1].params == {"lr": 0.02, "lr_asymmetry": 1, "warmup_epochs": 1}, "its number stays free for it"


def test_trials_outside_the_ranges_stay_where_they_are(other: Run, tmp_path: Path) -> None:
    narrow = {"overrides": ["search.lr.high=0.05"]}
    inside = sum(trial.params["lr"] <= 0.05 for trial in other.trials)
    assert 0 < inside < 14
    plan = warm_plan(tmp_path, **narrow)
    assert f"takes over {inside} of its 14 trials" in plan.remarks()[0]
    run = search(plan)
    assert sum(TAKEN_FROM in trial.user_attrs for trial in run.trials) == inside
    assert max(trial.params["lr"] for trial in run.trials) <= 0.05


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"overrides": ["dataset.noise_seed=1"]}, "dataset.noise_seed is 0 there, 1 here"),
        ({"overrides": ["dataset.subset=0.4"]}, "dataset.subset is 0.3 there, 0.4 here"),
        ({"overrides": ["validation.seed=5"]}, "validation.seed is 0 there, 5 here"),
        ({"overrides": ["objective.average_last=2"]}, "objective.average_last is 1 there, 2 here"),
        ({"overrides": ["batch_size=32"]}, "batch_size is 64 there, 32 here"),
        ({"overrides": ["threads=2"]}, "threads is 1 there, 2 here"),
        ({"overrides": ["warmup_epochs=1"]}, "it searches lr, lr_asymmetry, warmup_epochs, this one lr, lr_asymmetry"),
        ({"seed": 4}, "seed is 0 there, 4 here"),
        ({"epochs": 12}, "epochs is 6 there, 12 here"),
    ],
)
def test_anything_that_decides_numbers_forbids_it(tmp_path: Path, change: dict[str, Any], difference: str) -> None:
    complete(tiny_plan(tmp_path, name="other"), [60.0, 61.0, 62.0])
    plan = warm_plan(tmp_path, **change)
    assert not plan.warm_starts[0].takes_over
    assert f"not comparable ({difference})" in plan.remarks()[0]
    assert plan.settings()["warm_start"][0]["because"] == difference


def test_other_data_is_told_apart_by_its_fingerprint(tmp_path: Path) -> None:
    run = complete(tiny_plan(tmp_path, name="other"), [60.0])
    stored = run.files.settings.read_text()
    run.files.settings.write_text(stored.replace(run.settings["fingerprints"]["source"], "f0" * 32))
    assert "source of the data is 'f0f0f0f0f0f..." in warm_plan(tmp_path).remarks()[0]


def test_best_configs_come_after_the_start_points(tmp_path: Path) -> None:
    theirs = complete(tiny_plan(tmp_path, name="other"), [50.0, 51.0, 60.0, 66.0, 64.0, 63.0, 65.0, 62.0])
    plan = warm_plan(tmp_path, trials="9", overrides=["dataset.noise_seed=1"])
    run = search(plan)
    assert [trial.params for trial in run.trials[:2]] == [dict(point) for point in plan.space.start]
    assert run.trials[2].params == theirs.trials[3].params, "their best is the first suggestion"
    assert any(trial.params not in [other.params for other in theirs.trials] for trial in run.trials)
    assert not any(TAKEN_FROM in trial.user_attrs for trial in run.trials)


def test_several_runs_warm_start_one(other: Run, tmp_path: Path) -> None:
    complete(tiny_plan(tmp_path, name="third", seed=4), [50.0, 51.0, 66.0])
    plan = warm_plan(tmp_path, warm_start=["other", "third"])
    taken, related = plan.remarks()[:2]
    assert taken.startswith("warm start: takes over 14 trials of run other (")
    assert related.startswith("warm start: run third is not comparable (seed is 4 there, 0 here); ")
    run = search(plan)
    assert [entry["run"] for entry in read_mapping(run.files.settings)["warm_start"]] == ["other", "third"]
    assert sum(TAKEN_FROM in trial.user_attrs for trial in run.trials) == 14
    for same in ([], ["other", "third"]):
        warm_plan(tmp_path, resume=True, warm_start=same)
    for given in (["other"], ["third", "other"]):
        with pytest.raises(InputError, match="started with --warm-start other --warm-start third"):
            warm_plan(tmp_path, resume=True, warm_start=given)
    with pytest.raises(InputError, match="this run is given twice"):
        warm_plan(tmp_path, name="twice", warm_start=["other", str(other.files.root)])


@pytest.mark.parametrize(
    ("line", "other_line", "named"),
    [("method: act", "method: standard", "method is standard"), ("mode: max", "mode: min", "direction .* is min")],
)
def test_a_run_of_another_method_or_direction_is_refused(
    tmp_path: Path, line: str, other_line: str, named: str
) -> None:
    run = complete(tiny_plan(tmp_path, name="other"), [50.0, 51.0, 60.0])
    stored = run.files.settings.read_text()
    assert line in stored
    run.files.settings.write_text(stored.replace(line, other_line))
    if other_line == "method: standard":  # which knows fewer settings
        run.files.settings.write_text(_without_knobs(run.files.settings))
    with pytest.raises(InputError, match=f"--warm-start other: its {named}"):
        warm_plan(tmp_path)
    assert not (tmp_path / "results" / "own").exists()


def _without_knobs(settings: Path) -> str:
    content = read_mapping(settings)
    content["space"]["search"].pop("lr_asymmetry")
    content["space"]["start"] = []
    return dump_yaml(content)


def test_epochs_of_best_configs_scale_with_the_length(tmp_path: Path) -> None:
    theirs = complete(tiny_plan(tmp_path, name="other"), [50.0, 51.0, 60.0])
    run = search(warm_plan(tmp_path, epochs=2 * EPOCHS))
    best = theirs.trials[2].params
    assert run.trials[2].params == {**best, "warmup_epochs": 2 * best["warmup_epochs"]}


def test_what_gives_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--warm-start: no run 'other'"):
        warm_plan(tmp_path)
    begin(tiny_plan(tmp_path, name="other")).ask()
    with pytest.raises(InputError, match="no finished trial"):
        warm_plan(tmp_path)
    with pytest.raises(InputError, match="no complete trial whose config fits"):
        warm_plan(tmp_path, overrides=["dataset.noise_seed=1"])
    assert not (tmp_path / "results" / "own").exists()


def test_a_run_cannot_start_from_itself(other: Run, tmp_path: Path) -> None:
    plan = warm_plan(tmp_path)
    with pytest.raises(InputError, match="cannot start from itself"):
        plan_warm_start(other, plan.space, other.files, plan.fingerprints, "cpu")


def test_a_run_that_is_not_there_is_told_before_the_data_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*args: object) -> None:
        raise AssertionError("the data were read")

    monkeypatch.setattr(training_type("act"), "prepare", read)
    with pytest.raises(InputError, match="--warm-start: no run 'nowhere'"):
        tiny_plan(tmp_path, warm_start="nowhere")


# ---- resumed


def test_it_is_remembered_and_not_repeated(other: Run, tmp_path: Path) -> None:
    search(warm_plan(tmp_path))
    for given in (None, "other", str(other.files.root)):
        plan = warm_plan(tmp_path, resume=True, warm_start=given)
        assert plan.warm_starts[0].folder == str(other.files.root)
        assert plan.remarks() == []
    shutil.rmtree(other.files.root)
    plan = warm_plan(tmp_path, resume=True, warm_start=None, trials="6")
    run = search(plan)
    assert len(run.trials) == 14 + 6
    assert read_mapping(run.files.settings)["warm_start"][0]["run"] == "other"


def test_another_than_before_is_refused(other: Run, tmp_path: Path) -> None:
    search(warm_plan(tmp_path))
    with pytest.raises(InputError, match="started with --warm-start other, now it is given --warm-start else"):
        warm_plan(tmp_path, resume=True, warm_start="else")
    with pytest.raises(InputError, match="started without --warm-start"):
        tiny_plan(tmp_path, name="other", trials="14", resume=True, warm_start="own")


def test_a_driver_that_died_while_it_took_over(other: Run, tmp_path: Path) -> None:
    plan = warm_plan(tmp_path)
    begin(plan)
    lines = plan.files.study.read_bytes().splitlines(keepends=True)
    plan.files.study.write_bytes(b"".join(lines[:9]))
    assert 0 < len(load_run(plan.files.root).trials) < 14
    study = begin(warm_plan(tmp_path, resume=True, warm_start=None))
    assert [trial.user_attrs[TAKEN_FROM]["number"] for trial in study.trials] == list(range(14))
    assert study.count(*ENDED) == 0
    plan.files.study.write_bytes(b"".join(lines[:9]))
    shutil.rmtree(other.files.root)
    with pytest.raises(InputError, match="no longer in"):
        begin(warm_plan(tmp_path, resume=True, warm_start=None))
