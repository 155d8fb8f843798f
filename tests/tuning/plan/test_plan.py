"""The plan of a search: options fitted to data and machine; the measurements of shares are the test's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_search import tiny_plan, write_space

from tune_lnl.config.yaml import dump_yaml, load_yaml
from tune_lnl.errors import InputError
from tune_lnl.tuning.plan import plan as planning
from tune_lnl.tuning.plan.options import SearchOptions
from tune_lnl.tuning.plan.plan import plan_search
from tune_lnl.tuning.resources.divide import Machine, Resources
from tune_lnl.tuning.resources.measure import Question
from tune_lnl.tuning.resources.sharing import Reading, Sharing, choose_sharing

CPU = Machine(cpus=2, gpus=0)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TUNE_LNL_DATA", raising=False)


class TestPlan:
    def test_nothing_is_written(self, tmp_path: Path) -> None:
        write_space(tmp_path)
        before = sorted(tmp_path.rglob("*"))
        tiny_plan(tmp_path)
        assert sorted(tmp_path.rglob("*")) == before

    def test_flags_win(self, tmp_path: Path) -> None:
        plan = tiny_plan(tmp_path, trials="9", sampler="qmc", pruner="none", name="other", condition=None)
        assert plan.space.budget.model_dump() == {"trials": 9, "sampler": "qmc", "pruner": "none"}
        assert plan.run == "other"
        assert plan.files.root.name == "other"

    def test_seed_and_threads_are_part_of_every_config(self, tmp_path: Path) -> None:
        plan = tiny_plan(tmp_path, seed=5, cpus_per_trial=2.0)
        assert plan.seed == 5
        assert (plan.space.base["fixed"]["seed"], plan.space.base["fixed"]["threads"]) == (5, 2)
        assert plan.resources == Resources(2.0, 0.0, 1, 2)

    def test_a_seed_given_by_name_is_taken_as_given(self, tmp_path: Path) -> None:
        plan = tiny_plan(tmp_path, seed=5, overrides=["seed=3"])
        assert (plan.seed, plan.space.base["fixed"]["seed"]) == (5, 3)
        assert tiny_plan(tmp_path, overrides=["seed=3"]).seed == 3

    def test_threads_ask_for_cores(self, tmp_path: Path) -> None:
        assert tiny_plan(tmp_path, overrides=["threads=2"]).resources == Resources(2.0, 0.0, 1, 2)

    def test_rungs(self, tmp_path: Path) -> None:
        assert tiny_plan(tmp_path).rungs == [2, 3]
        assert tiny_plan(tmp_path, epochs=2).rungs == []

    @pytest.mark.parametrize(("sampler", "pruner", "told"), [("gp", "asha", 1), ("gp", "none", 0), ("tpe", "asha", 0)])
    def test_a_remark_where_the_choice_has_a_catch(self, tmp_path: Path, sampler: str, pruner: str, told: int) -> None:
        remarks = tiny_plan(tmp_path, sampler=sampler, pruner=pruner).remarks()
        assert len(remarks) == told
        assert all("learns from complete trials only" in remark for remark in remarks)

    def test_how_to_resume(self, tmp_path: Path) -> None:
        assert tiny_plan(tmp_path, command="go tiny").resume_command() == "go tiny --resume"
        assert tiny_plan(tmp_path, command="go tiny --resume").resume_command() == "go tiny --resume"
        assert tiny_plan(tmp_path, command="go --trials 2 x", trials="9").resume_command() == "go --trials 9 x --resume"

    def test_what_run_yaml_holds(self, tmp_path: Path) -> None:
        plan = tiny_plan(tmp_path)
        settings = plan.settings()
        assert load_yaml(dump_yaml(settings), "run.yaml") == settings
        assert settings["command"] == "python -m tune_lnl.search tiny.yaml"
        assert set(settings["fingerprints"]) == {"source", "labels", "split"}
        assert {"torch", "ray", "optuna", "tune_lnl", "python"} <= set(settings["versions"])
        assert settings["space"]["fixed"]["threads"] == 1
        assert settings["resources"]["device"] == "cpu"

    def test_on_gpus(self, tmp_path: Path) -> None:
        options = SearchOptions.of(str(write_space(tmp_path)), gpus_per_trial=0.5, overrides=["precision=fp16"])
        (plan,) = plan_search(options, Machine(cpus=16, gpus=2))
        assert plan.resources == Resources(4.0, 0.5, 4, 4)
        assert plan.resources.device == "cuda"
        assert plan.resources.memory_fraction == 0.5

    @pytest.mark.parametrize(("machine", "options"), [(CPU, {}), (Machine(cpus=16, gpus=2), {})])
    def test_who_has_a_device_to_itself_has_no_cap(
        self, machine: Machine, options: dict[str, Any], tmp_path: Path
    ) -> None:
        (plan,) = plan_search(SearchOptions.of(str(write_space(tmp_path)), **options), machine)
        assert plan.resources.memory_fraction is None

    def test_a_quarter_is_for_a_machine_that_has_a_gpu(self, tmp_path: Path) -> None:
        options = SearchOptions.of(str(write_space(tmp_path)), gpus_per_trial=0.25)
        (plan,) = plan_search(options, Machine(cpus=16, gpus=1))
        assert plan.resources == Resources(4.0, 0.25, 4, 4)
        with pytest.raises(InputError, match=r"--gpus-per-trial 0\.25 needs a GPU, and this machine has none"):
            plan_search(options, CPU)


class TestMeasuredShare:
    """``--gpus-per-trial auto`` with a measurement of its own."""

    GPUS = Machine(cpus=16, gpus=2)

    @pytest.fixture
    def asked(self) -> list[Question]:
        return []

    @pytest.fixture
    def measure(self, asked: list[Question]) -> Callable[[Question], Sharing]:
        def measure(question: Question) -> Sharing:
            asked.append(question)
            readings = [Reading(k, 100.0 * k, 2 * 10**9, 5 * 10**8) for k in (1, 2, 4)]
            return choose_sharing(readings, "a device", 80 * 10**9, 79 * 10**9, on_gpu=question.gpus > 0)

        return measure

    def options(self, folder: Path, **changes: Any) -> SearchOptions:
        return SearchOptions.of(str(write_space(folder)), gpus_per_trial="auto", **changes)

    def test_on_gpus(self, tmp_path: Path, asked: list[Question], measure: Callable[[Question], Sharing]) -> None:
        (plan,) = plan_search(self.options(tmp_path), self.GPUS, measure)
        assert plan.resources == Resources(2.0, 0.25, 8, 2)
        assert plan.space.base["fixed"]["threads"] == 2
        assert plan.resources.memory_fraction == pytest.approx(0.25 - 0.5 / 80)
        assert "4 is the fewest within a tenth of the best: each gets 1/4 GPU, at most 19.5 GB" in plan.remarks()[1]
        (question,) = asked
        assert (question.cpus, question.gpus, question.cpus_per_trial, question.threads) == (16, 2, None, None)
        assert question.wanted == 6  # trials of the space
        assert [config.flat()["batch_size"] for config in question.configs] == [64]

    def test_on_cpus(self, tmp_path: Path, measure: Callable[[Question], Sharing]) -> None:
        (plan,) = plan_search(self.options(tmp_path), Machine(cpus=8, gpus=0), measure)
        assert plan.resources == Resources(2.0, 0.0, 4, 2)
        assert plan.space.base["fixed"]["threads"] == 2
        assert plan.resources.memory_fraction is None

    def test_what_was_asked_for_stays(
        self, tmp_path: Path, asked: list[Question], measure: Callable[[Question], Sharing]
    ) -> None:
        options = self.options(tmp_path, cpus_per_trial=1.0, concurrent=3, overrides=["threads=1"])
        (plan,) = plan_search(options, self.GPUS, measure)
        assert plan.resources == Resources(1.0, 0.25, 3, 1)
        assert (asked[0].cpus_per_trial, asked[0].threads, asked[0].wanted) == (1.0, 1, 3)

    def test_nothing_is_measured_for_a_search_that_cannot_be(
        self, tmp_path: Path, asked: list[Question], measure: Callable[[Question], Sharing]
    ) -> None:
        for options in ({"concurrent": 0}, {"overrides": ["dataset.name=cifar80no"]}, {"cpus_per_trial": 17.0}):
            with pytest.raises(InputError):
                plan_search(self.options(tmp_path, **options), self.GPUS, measure)
        assert asked == []

    def test_a_resumed_run_keeps_its_share(
        self,
        tmp_path: Path,
        asked: list[Question],
        measure: Callable[[Question], Sharing],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(planning, "device_name", lambda device: "a device")
        (plan,) = plan_search(self.options(tmp_path), self.GPUS, measure)
        plan.files.root.mkdir(parents=True)
        plan.files.settings.write_text(dump_yaml(plan.settings()))
        (again,) = plan_search(self.options(tmp_path, resume=True), self.GPUS, measure)
        assert again.resources == plan.resources
        assert again.space == plan.space
        assert len(asked) == 1
