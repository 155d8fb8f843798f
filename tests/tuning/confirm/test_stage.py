"""A confirmation from replicates to the winner's model: done once, resumable, and with test touched only at its end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from recorded import complete
from stored_runs import in_storage
from tiny_search import EPOCHS, tiny_plan, write_space
from train_here import Here

from tune_lnl.search import main as search_main
from tune_lnl.training.loop import Surroundings
from tune_lnl.training.registry import start_training
from tune_lnl.training.seeds import read_config, train_seeds
from tune_lnl.tuning.confirm.replicates import Replicates
from tune_lnl.tuning.confirm.stage import ConfirmError
from tune_lnl.tuning.engine import worker
from tune_lnl.tuning.engine.dry_run import describe
from tune_lnl.tuning.engine.session import Session
from tune_lnl.tuning.engine.tune import JobOf
from tune_lnl.tuning.engine.worker import TrialRun
from tune_lnl.tuning.plan.options import SearchOptions
from tune_lnl.tuning.plan.plan import Plan
from tune_lnl.tuning.plan.values import ConfirmRequest
from tune_lnl.tuning.runs.run import Run, load_run


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return tiny_plan(tmp_path, name="own", trials="3", epochs=3)


@pytest.fixture
def run(plan: Plan) -> Run:
    return complete(plan, [60.0, 61.0, 40.0])


@pytest.fixture
def here(plan: Plan) -> Here:
    return Here(plan)


def _results(plan: Plan) -> dict[str, Any]:
    return {path.stem: json.loads(path.read_text()) for path in plan.files.confirm.glob("*.json")}


def test_the_whole_of_it(plan: Plan, run: Run, here: Here) -> None:
    found = here.confirmed(ConfirmRequest(2, 3), run)
    winner = found.winner
    assert here.trained == ["001-1", "001-2", "001-3", "000-1", "000-2", "000-3", f"{winner:03d}-all"]
    assert {candidate.number for candidate in found.candidates} == {0, 1}
    assert found.best_of_study == 1
    assert load_run(plan.files.root).confirmation == found

    results = _results(plan)
    for name, result in results.items():
        tested = ["test_accuracy" in report for report in result["reports"]]
        last = run.config(run.rows()[0]).objective.average_last
        assert tested == [name.endswith("all") and epoch >= 3 - last for epoch in range(3)], name
    seeds = {name: (r["config"]["seed"], r["config"]["validation.seed"]) for name, r in results.items()}
    assert [seeds[f"00{number}-{r}"] for number in (0, 1) for r in (1, 2, 3)] == [(1, 1), (2, 2), (3, 3)] * 2
    labels = {name: result["fingerprints"]["labels"] for name, result in results.items()}
    assert labels["000-1"] == labels["001-1"]
    assert len({labels["000-1"], labels["000-2"], labels["000-3"], labels[f"{winner:03d}-all"]}) == 4
    assert not list(plan.files.confirm.glob("*-*.pt")), "states of trainings that are done are gone"
    assert any(str(plan.files.best) in line for line in here.said)
    assert any(str(plan.files.confirmed) in line for line in here.said)


def test_in_object_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNE_LNL_CACHE", str(tmp_path / "cache"))
    address = (tmp_path / "storage").as_uri()
    plan = in_storage(tiny_plan(tmp_path, name="own", trials="3", epochs=3), address)
    here, run = Here(plan), complete(plan, [60.0, 61.0, 40.0])
    plan.files.sync(plan.files.settings, plan.files.study)
    here.stop_after = 1
    assert here.confirm(ConfirmRequest(1, 2), run) == "interrupted"
    stored = tmp_path / "storage" / "own"
    assert {path.name for path in (stored / "confirm").iterdir()} == {"001-1.json", "001-1.log"}
    # On another machine.
    monkeypatch.setenv("TUNE_LNL_CACHE", str(tmp_path / "another"))
    plan = in_storage(plan, address)
    here = Here(plan)
    found = here.confirmed(ConfirmRequest(1, 2), load_run("own", address))
    assert here.trained == ["001-2", "001-all"]
    names = {path.name for path in (stored / "confirm").iterdir()}
    trained = {f"{name}.{kind}" for name in ("001-1", "001-2", "001-all") for kind in ("json", "log")}
    assert names == trained | {"model.pt"}
    assert (stored / "confirmed.yaml").read_text() == plan.files.confirmed.read_text()
    assert load_run("own", address).confirmation == found
    assert any(f"{address}/own/confirm/model.pt" in line for line in here.said)


def test_confirmed_yaml_gives_the_same_test_curve_and_model(plan: Plan, run: Run, here: Here, tmp_path: Path) -> None:
    found = here.confirmed(ConfirmRequest(1, 2), run)
    assert found.test is not None
    config = read_config(plan.files.confirmed, (), None)
    assert config.validation.fraction == 0
    (again,) = train_seeds(config, [config.settings.seed], Surroundings(), tmp_path / "again", lambda s, r: None)
    last = int(found.test["epochs"])
    kept = _results(plan)[f"{found.winner:03d}-all"]["reports"]
    assert [r["test_accuracy"] for r in again.reports[-last:]] == [r["test_accuracy"] for r in kept[-last:]]
    assert again.figures["test_last10"] == found.test["mean"]
    one, other = (torch.load(p, weights_only=True) for p in (plan.files.confirmed_model, tmp_path / "again/model.pt"))
    assert all(torch.equal(one["weights"][name], other["weights"][name]) for name in one["weights"])


def test_what_is_done_is_not_repeated(plan: Plan, run: Run, here: Here) -> None:
    first = here.confirmed(ConfirmRequest(1, 2), run)
    here.trained.clear()
    assert here.confirmed(ConfirmRequest(1, 2), run) == first
    assert (here.trained, here.starts) == ([], 1), "nothing is started for what is done"
    second = here.confirmed(ConfirmRequest(1, 3), run)
    assert here.trained == ["001-3"], "a replicate more, and the winner is the same"
    assert second.asked == "1x3"


def test_an_interruption_keeps_the_finished_trainings(plan: Plan, run: Run, here: Here) -> None:
    here.stop_after = 3
    assert here.confirm(ConfirmRequest(2, 2), run) == "interrupted"
    assert len(_results(plan)) == 3
    assert load_run(plan.files.root).confirmation is None
    done, here.stop_after = list(here.trained), None
    here.confirmed(ConfirmRequest(2, 2), run)
    assert here.trained[:3] == done
    assert len(here.trained) == len(set(here.trained)) == 5


@pytest.mark.usefixtures("checkpoint_after_every_epoch")
@pytest.mark.parametrize("name", ["001-1.2.pt", "001-1.pt"])
def test_a_training_that_was_cut_short_continues_from_its_last_epoch(
    plan: Plan, run: Run, here: Here, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Its checkpoint is of the second attempt under an earlier driver, or of version 0.1.0."""
    here.confirmed(ConfirmRequest(1, 2), run)
    whole = _results(plan)["001-1"]["reports"]
    (plan.files.confirm / "001-1.json").unlink()
    (plan.files.confirm / "001-1.log").unlink()
    step = TrialRun.step

    def killed(job: TrialRun) -> dict[str, Any]:
        reply = step(job)
        if reply["epoch"] == 1:
            raise KeyboardInterrupt
        return reply

    with monkeypatch.context() as patched:
        patched.setattr(TrialRun, "step", killed)
        with pytest.raises(KeyboardInterrupt):
            here.confirm(ConfirmRequest(1, 2), run)
    (left,) = plan.files.confirm.glob("001-1*.pt")
    left.rename(plan.files.confirm / name)
    here.epochs.clear()
    here.confirmed(ConfirmRequest(1, 2), run)
    assert [epoch for job, epoch in here.epochs if job == "001-1"] == [2]
    again = _results(plan)["001-1"]["reports"]
    assert [report["val_accuracy"] for report in again] == [report["val_accuracy"] for report in whole]
    assert not list(plan.files.confirm.glob("001-1*.pt"))


@pytest.mark.usefixtures("checkpoint_after_every_epoch")
def test_a_winner_that_was_cut_short_on_all_the_data_continues_from_its_last_epoch(
    plan: Plan, run: Run, here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = TrialRun.step

    def killed(job: TrialRun) -> dict[str, Any]:
        reply = step(job)
        if (plan.files.confirm / "001-all.log").exists() and reply["epoch"] == 1:
            raise KeyboardInterrupt
        return reply

    with monkeypatch.context() as patched:
        patched.setattr(TrialRun, "step", killed)
        with pytest.raises(KeyboardInterrupt):
            here.confirm(ConfirmRequest(1, 2), run)
    assert (plan.files.confirm / "001-all.1.pt").exists()
    here.epochs.clear()
    here.confirmed(ConfirmRequest(1, 2), run)
    assert here.epochs == [("001-all", 2)]


def test_a_training_whose_end_was_not_recorded_is_not_repeated(
    plan: Plan, run: Run, here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(replicates: Replicates, number: int, value: float, standard_error: float | None) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Replicates, "complete", killed)
        with pytest.raises(KeyboardInterrupt):
            here.confirm(ConfirmRequest(1, 2), run)
    log = (plan.files.confirm / "001-1.log").read_text()
    here.confirmed(ConfirmRequest(1, 2), run)
    assert (plan.files.confirm / "001-1.log").read_text().count("val_accuracy=") == log.count("val_accuracy=") == 3


def test_a_result_of_other_settings_does_not_count(plan: Plan, run: Run, here: Here) -> None:
    here.confirm(ConfirmRequest(1, 2), run)
    path = plan.files.confirm / "001-2.json"
    stored = json.loads(path.read_text())
    path.write_text(json.dumps({**stored, "config": {**stored["config"], "lr": 0.5}}))
    (plan.files.confirm / "001-1.json").write_text("{torn")
    here.trained.clear()
    here.confirm(ConfirmRequest(1, 2), run)
    assert here.trained == ["001-1", "001-2"]


def test_a_result_of_version_0_1_0_counts(plan: Plan, run: Run, here: Here) -> None:
    here.confirmed(ConfirmRequest(1, 2), run)
    for path in plan.files.confirm.glob("*.json"):
        stored = json.loads(path.read_text())
        config = {**stored["config"], "label_ema_classes": None}
        del config["deterministic"]  # which that version did not have
        path.write_text(json.dumps({**stored, "config": config}))
    here.trained.clear()
    here.confirmed(ConfirmRequest(1, 2), run)
    assert here.trained == []


def test_only_the_winner_that_is_kept_counts_as_trained(plan: Plan, run: Run, here: Here) -> None:
    here.confirm(ConfirmRequest(1, 2), run)
    for path in plan.files.confirm.glob("*-all.json"):
        path.rename(plan.files.confirm / "002-all.json")
    here.trained.clear()
    here.confirmed(ConfirmRequest(1, 2), run)
    assert here.trained == ["001-all"]
    assert not (plan.files.confirm / "002-all.json").exists()


def test_more_than_there_are_complete(run: Run, here: Here) -> None:
    found = here.confirmed(ConfirmRequest(9, 2), run)
    assert len(found.candidates) == 3
    assert here.said[0] == "confirming 3 trials: no more are complete"


def test_a_failure_that_says_nothing_about_the_settings_is_told(
    plan: Plan, run: Run, here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any) -> Any:
        raise ZeroDivisionError("no")

    monkeypatch.setattr(worker, "start_training", broken)
    with pytest.raises(ConfirmError, match="training 001-1 again: bug: ZeroDivisionError: no"):
        here.confirm(ConfirmRequest(1, 2), run)
    assert _results(plan) == {}


def test_a_failure_after_an_interruption_is_an_interruption(
    plan: Plan, run: Run, here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions: list[Session] = []
    train = here.train

    def noted(session: Session, job_of: JobOf) -> None:
        sessions.append(session)
        train(session, job_of)

    def broken(*arguments: Any) -> Any:
        sessions[0].stop("interrupted")
        raise ZeroDivisionError("no")

    monkeypatch.setattr(here, "train", noted)
    monkeypatch.setattr(worker, "start_training", broken)
    assert here.confirm(ConfirmRequest(1, 2), run) == "interrupted"
    assert _results(plan) == {}


def test_divergence_is_a_result(plan: Plan, run: Run, here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    started = start_training

    def start(config: Any, surroundings: Any) -> Any:
        training = started(config, surroundings)
        if config.settings.seed == 2 and config.settings.lr == run.rows()[0].params["lr"]:
            monkeypatch.setattr(training, "diverged", lambda report: "train_loss is not finite")
        return training

    monkeypatch.setattr(worker, "start_training", start)
    found = here.confirmed(ConfirmRequest(2, 2), run)
    assert (found.winner, found.candidates[1].number) == (0, 1)
    assert found.candidates[1].mean is None
    assert _results(plan)["001-2"]["failure"] == "diverged"


def test_the_dry_run_tells_the_cost(tmp_path: Path) -> None:
    space = write_space(tmp_path)
    text = describe(SearchOptions.of(str(space), results_dir=tmp_path / "results", confirm="3x5"))
    assert "16 full trainings" in text
    assert "confirmation" not in describe(SearchOptions.of(str(space), results_dir=tmp_path / "results"))


# ---- with Ray


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_real_search_confirms_itself_and_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    space = write_space(tmp_path)
    command = [str(space), "--name", "own", "--trials", "2", "--epochs", str(EPOCHS), "--concurrent", "2"]
    command += ["--pruner", "none", "--no-dashboard", "--results-dir", str(tmp_path / "results")]
    assert search_main(command) == 0
    assert load_run(tmp_path / "results" / "own").confirmation is None
    assert search_main([*command, "--resume", "--confirm", "2x2"]) == 0
    confirmed = load_run(tmp_path / "results" / "own")
    assert confirmed.confirmation is not None
    assert confirmed.confirmation.test is not None
    assert confirmed.files.confirmed_model.exists()
    assert not confirmed.files.ray_folder.exists()
    capsys.readouterr()
    assert search_main([*command, "--resume", "--confirm", "2x2"]) == 0
    assert "trainings to do" not in capsys.readouterr().out
