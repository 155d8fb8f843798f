"""A confirmation from replicates to the winner's model: done once, resumable, and with test touched only at its end."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from recorded import complete
from stored_runs import in_storage
from tiny_search import EPOCHS, tiny_plan, write_space

from tune_lnl.search import main as search_main
from tune_lnl.training import run as training_run
from tune_lnl.training.checkpoint import save_checkpoint
from tune_lnl.training.loop import Surroundings, Training
from tune_lnl.training.registry import start_training
from tune_lnl.training.seeds import read_config, train_seeds
from tune_lnl.tuning.confirm import stage as confirming
from tune_lnl.tuning.confirm.stage import ConfirmError, Job, Stopper, confirm, read_result, train_job
from tune_lnl.tuning.confirm.statistics import replicate_config
from tune_lnl.tuning.engine.dry_run import describe
from tune_lnl.tuning.plan.options import ConfirmRequest, SearchOptions
from tune_lnl.tuning.plan.plan import Plan
from tune_lnl.tuning.runs.confirmation import Confirmation
from tune_lnl.tuning.runs.run import Run, load_run


class Here:
    """Trains in this process what would be a Ray task each, and keeps count."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, plan: Plan) -> None:
        self.plan = plan
        self.said: list[str] = []
        self.trained: list[str] = []
        self.stop_after: int | None = None
        self.stopper = Stopper(plan.files, None)
        here = self

        def run(bench: Any, jobs: Sequence[Job]) -> Iterator[tuple[Job, Any]]:
            for job in jobs:
                if len(here.trained) == here.stop_after:
                    here.stopper.stop("interrupted")
                result = json.loads(train_job(json.dumps(bench._payload(job))))
                if "reports" in result:
                    here.trained.append(job.name)
                yield job, result

        monkeypatch.setattr(confirming._Bench, "_run", run)

    @contextmanager
    def at_work(self, stopper: Stopper) -> Iterator[None]:
        yield

    def confirm(self, request: ConfirmRequest, run: Run) -> Confirmation | None:
        self.stopper = Stopper(self.plan.files, None)
        self.plan.files.stop_flag.unlink(missing_ok=True)
        return confirm(self.plan, request, run, self.stopper, self.at_work, self.said.append)


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return tiny_plan(tmp_path, name="own", trials="3", epochs=3)


@pytest.fixture
def run(plan: Plan) -> Run:
    return complete(plan, [60.0, 61.0, 40.0])


@pytest.fixture
def here(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> Here:
    return Here(monkeypatch, plan)


def _results(plan: Plan) -> dict[str, Any]:
    return {path.stem: json.loads(path.read_text()) for path in plan.files.confirm.glob("*.json")}


def test_the_whole_of_it(plan: Plan, run: Run, here: Here) -> None:
    found = here.confirm(ConfirmRequest(2, 3), run)
    assert found is not None
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
    here, run = Here(monkeypatch, plan), complete(plan, [60.0, 61.0, 40.0])
    plan.files.sync(plan.files.settings, plan.files.study)
    here.stop_after = 1
    assert here.confirm(ConfirmRequest(1, 2), run) is None
    stored = tmp_path / "storage" / "own"
    assert {path.name for path in (stored / "confirm").iterdir()} == {"001-1.json"}
    # On another machine.
    monkeypatch.setenv("TUNE_LNL_CACHE", str(tmp_path / "another"))
    plan = in_storage(plan, address)
    here = Here(monkeypatch, plan)
    found = here.confirm(ConfirmRequest(1, 2), load_run("own", address))
    assert found is not None
    assert here.trained == ["001-2", "001-all"]
    names = {path.name for path in (stored / "confirm").iterdir()}
    assert names == {"001-1.json", "001-2.json", "001-all.json", "model.pt"}
    assert (stored / "confirmed.yaml").read_text() == plan.files.confirmed.read_text()
    assert load_run("own", address).confirmation == found
    assert any(f"{address}/own/confirm/model.pt" in line for line in here.said)


def test_confirmed_yaml_gives_the_same_test_curve_and_model(plan: Plan, run: Run, here: Here, tmp_path: Path) -> None:
    found = here.confirm(ConfirmRequest(1, 2), run)
    assert found is not None
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
    first = here.confirm(ConfirmRequest(1, 2), run)
    here.trained.clear()
    assert here.confirm(ConfirmRequest(1, 2), run) == first
    assert here.trained == []
    second = here.confirm(ConfirmRequest(1, 3), run)
    assert here.trained == ["001-3"], "a replicate more, and the winner is the same"
    assert second is not None
    assert second.asked == "1x3"


def test_an_interruption_keeps_what_is_done_and_goes_on(plan: Plan, run: Run, here: Here) -> None:
    here.stop_after = 3
    assert here.confirm(ConfirmRequest(2, 2), run) is None
    assert here.stopper.stop_reason == "interrupted"
    assert len(_results(plan)) == 3
    assert load_run(plan.files.root).confirmation is None
    done, here.stop_after = list(here.trained), None
    found = here.confirm(ConfirmRequest(2, 2), run)
    assert found is not None
    assert here.trained[:3] == done
    assert len(here.trained) == len(set(here.trained)) == 5


def test_a_training_that_was_cut_short_goes_on_from_its_last_epoch(
    plan: Plan, run: Run, here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Job("000-1", replicate_config(run.config(run.rows()[0]), 0), scores_test=False)
    payload = json.dumps(
        {
            "name": job.name,
            "run_dir": str(plan.files.root),
            "sections": job.config.sections(),
            "scores_test": False,
            "data_dir": None,
            "device": "cpu",
            "memory_fraction": None,
        }
    )
    whole = json.loads(train_job(payload))
    job.result(plan.files).unlink()
    saved = save_checkpoint

    def killed(*arguments: Any) -> None:
        saved(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(training_run, "save_checkpoint", killed)
    with pytest.raises(KeyboardInterrupt):
        train_job(payload)
    assert read_result(plan.files, job) is None
    epochs: list[int] = []

    def counted(path: Path, training: Training, *more: Any) -> None:
        epochs.append(training.epoch)
        saved(path, training, *more)

    monkeypatch.setattr(training_run, "save_checkpoint", counted)
    again = json.loads(train_job(payload))
    assert epochs == [2, 3]
    assert [r["val_accuracy"] for r in again["reports"]] == [r["val_accuracy"] for r in whole["reports"]]


def test_a_result_of_other_settings_does_not_count(plan: Plan, run: Run, here: Here) -> None:
    here.confirm(ConfirmRequest(1, 2), run)
    path = plan.files.confirm / "001-2.json"
    stored = json.loads(path.read_text())
    path.write_text(json.dumps({**stored, "config": {**stored["config"], "lr": 0.5}}))
    (plan.files.confirm / "001-1.json").write_text("{torn")
    here.trained.clear()
    here.confirm(ConfirmRequest(1, 2), run)
    assert here.trained == ["001-1", "001-2"]


def test_only_the_winner_that_is_kept_counts_as_trained(plan: Plan, run: Run, here: Here) -> None:
    here.confirm(ConfirmRequest(1, 2), run)
    for path in plan.files.confirm.glob("*-all.json"):
        path.rename(plan.files.confirm / "002-all.json")
    here.trained.clear()
    found = here.confirm(ConfirmRequest(1, 2), run)
    assert found is not None
    assert here.trained == ["001-all"]
    assert not (plan.files.confirm / "002-all.json").exists()


def test_more_than_there_are_complete(run: Run, here: Here) -> None:
    found = here.confirm(ConfirmRequest(9, 2), run)
    assert found is not None
    assert len(found.candidates) == 3
    assert here.said[0] == "confirming 3 trials: no more are complete"


def test_a_failure_that_says_nothing_about_the_settings_is_told(
    plan: Plan, run: Run, here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any) -> Any:
        raise ZeroDivisionError("no")

    monkeypatch.setattr(confirming, "start_training", broken)
    with pytest.raises(ConfirmError, match="confirming 001-1: bug: ZeroDivisionError: no"):
        here.confirm(ConfirmRequest(1, 2), run)
    assert _results(plan) == {}


def test_divergence_is_a_result(plan: Plan, run: Run, here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    started = start_training

    def start(config: Any, surroundings: Any) -> Any:
        training = started(config, surroundings)
        if config.settings.seed == 2 and config.settings.lr == run.rows()[0].params["lr"]:
            monkeypatch.setattr(training, "diverged", lambda report: "train_loss is not finite")
        return training

    monkeypatch.setattr(confirming, "start_training", start)
    found = here.confirm(ConfirmRequest(2, 2), run)
    assert found is not None
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
