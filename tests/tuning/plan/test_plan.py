from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_search import TINY, tiny_plan, write_space

from tune_lnl.config.yaml import dump_yaml, load_yaml
from tune_lnl.datasets.images import cifar
from tune_lnl.errors import InputError
from tune_lnl.search import main
from tune_lnl.tuning.plan import plan as planning
from tune_lnl.tuning.plan.options import SearchOptions
from tune_lnl.tuning.plan.plan import plan_search
from tune_lnl.tuning.resources.divide import Machine, Resources
from tune_lnl.tuning.resources.measure import Question
from tune_lnl.tuning.resources.sharing import Reading, Sharing, choose_sharing

CPU = Machine(cpus=2, gpus=0)
CIFAR_DATA = "act_cifar80no"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TUNE_LNL_DATA", raising=False)


def files_under(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")
    }


Refused = Callable[..., str]


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs the command, which must refuse as promised; gives what it said."""

    def refused(*arguments: str) -> str:
        before = files_under(tmp_path)
        code: object
        try:
            code = main(["--no-dashboard", *arguments])
        except SystemExit as end:  # argparse has its own way of refusing
            code = end.code
        assert files_under(tmp_path) == before
        said = capsys.readouterr()
        assert code == 2
        assert said.out == ""
        assert "Traceback" not in said.err
        assert 1 <= len(said.err.strip().splitlines()) <= 4
        assert said.err.startswith("error: ")
        return said.err

    return refused


class TestBadFlags:
    @pytest.mark.parametrize(
        ("arguments", "told"),
        [
            (["act_digit8no"], ["unknown search space 'act_digit8no'", "did you mean 'act_digits8no'?"]),
            (["absent.yaml"], ["no search space file at 'absent.yaml'", "act_digits8no"]),
            ([], ["SPACE is required", "--list"]),
            (["act_digits8no", "--epoch", "6"], ["unrecognized arguments: --epoch 6"]),
            (["act_digits8no", "--set", "method=atc"], ["unknown method 'atc'", "did you mean 'act'?"]),
            (["act_digits8no", "--set", "dataset.name=digits"], ["unknown dataset 'digits'", "mean 'digits8no'?"]),
            (["act_digits8no", "--set", "dataset.subst=0.5"], ["unknown key 'subst'", "did you mean 'subset'?"]),
            (["act_digits8no", "--set", "momentun=0.5"], ["--set momentun: no such setting", "mean 'momentum'?"]),
            (["act_digits8no", "--set", "momentum"], ["--set takes KEY=VALUE, got 'momentum'"]),
            (["act_digits8no", "--set", "momentum=[0.1"], ["--set momentum", "not valid YAML"]),
            (["act_digits8no", "--set", "validation.fraction=0"], ["validation.fraction is above 0", "got 0"]),
            (["act_digits8no", "--set", "dataset.classes=11"], ["dataset.classes must be at most 10", "got 11"]),
            (["act_digits8no", "--set", "model=cnn8"], ["no model 'cnn8'", "did you mean 'cnn7'?"]),
            (["act_digits8no", "--set", "model=cnn7"], ["'cnn7' is for 32x32 images; got 8x8", "Choose a model"]),
            (
                ["act_digits8no", "--set", "search.lr={type: loguniform, low: 0.1, high: 0.01}"],
                ["search.lr: low must be below high, got low 0.1 and high 0.01"],
            ),
            (
                ["act_digits8no", "--set", "search.lr={type: loguniform, low: 0, high: 1}"],
                ["search.lr", "above 0, got low 0", "raise low or use type: uniform"],
            ),
            (
                ["act_digits8no", "--set", "warmup_epochs=45"],
                ["warmup_epochs must be below epochs, got 45 with epochs 45"],
            ),
            (
                ["act_digits8no", "--set", "search.warmup_epochs.high=45"],
                ["every range at its high end", "warmup_epochs must be below epochs, got 45"],
            ),
            (["act_digits8no", "--set", "tie_lr=true"], ["search.lr_asymmetry would change nothing", "tie_lr"]),
            (["act_digits8no", "--set", "method=standard"], ["search: unknown key 'lr_asymmetry'"]),
            (["act_digits8no", "--set", "fixed.tau=0.1", "--set", "search.tau=1"], ["search.tau is a range such as"]),
            (["act_digits8no", "--set", "start=[{lr: 9}]"], ["start point 1: lr = 9 is outside search.lr"]),
            (["act_digits8no", "--set", "start=9"], ["start is a list of points", "got 9"]),
            (["act_digits8no", "--condition", "sym"], ["unknown condition 'sym'", "sym20"]),
            (["act_digits8no", "--sampler", "tpee"], ["unknown sampler 'tpee'", "did you mean 'tpe'?"]),
            (["act_digits8no", "--pruner", "asah"], ["unknown pruner 'asah'", "did you mean 'asha'?"]),
            (["act_digits8no", "--trials", "many"], ["--trials is a whole number of at least 1, got 'many'"]),
            (["act_digits8no", "--set", "seed=4294967295"], ["--seed is a whole number from 0 to"]),
            (["act_digits8no", "--time-budget", "2 days"], ["--time-budget is a duration such as 2h", "got '2 days'"]),
            (["act_digits8no", "--concurrent", "1000"], ["--concurrent 1000 does not fit", "lower it"]),
            (["act_digits8no", "--cpus-per-trial", "1000"], ["--cpus-per-trial 1000 asks for more than"]),
            (["act_digits8no", "--gpus-per-trial", "0.3"], ["1 or 1/k", "got 0.3; nearest: 0.25 and 0.333333"]),
            (["act_digits8no", "--gpus-per-trial", "1.5"], ["1 or 1/k", "got 1.5; nearest: 0.5 and 1"]),
            (["act_digits8no", "--name", "../run"], ["--name is made of letters", "got '../run'"]),
            (["act_digits8no", "--resume"], ["no run 'act_digits8no' to resume", "start it without --resume"]),
            (["act_digits8no", "--resume", "--conditions", "all"], ["no run 'act_digits8no' to resume"]),
            (["act_digits8no", "--data-dir", "absent", "--set", "dataset.name=cifar10n"], ["--data-dir", "absent"]),
        ],
    )
    def test_refused(self, refused: Refused, arguments: Sequence[str], told: Sequence[str]) -> None:
        said = refused(*arguments)
        for part in told:
            assert part in said

    def test_a_gpu_where_there_is_none(self, refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Machine, "here", lambda: CPU)
        assert "needs a GPU, and this machine has none; leave it out" in refused(
            "act_digits8no", "--gpus-per-trial", "0.5"
        )
        assert "precision fp16 needs a GPU" in refused("act_digits8no", "--set", "precision=fp16")

    def test_a_sampler_that_is_not_installed(self, refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("tune_lnl.tuning.study.samplers.find_spec", lambda name: None)
        assert "install tune_lnl[cmaes], or use --sampler tpe" in refused("act_digits8no", "--sampler", "cmaes")


class TestBadFiles:
    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("method: [act", ["tiny.yaml, line", "not valid YAML"]),
            ("method: act\n\tdataset: x\n", ["tiny.yaml, line 2", "not valid YAML"]),
            ("method: act\nmethod: act\n", ["tiny.yaml, line 2, column 1", "key 'method' is given twice"]),
            ("- act\n", ["tiny.yaml: a config is a mapping of sections", "found list"]),
            ("", ["tiny.yaml: a config is a mapping of sections", "found nothing"]),
            ("1: act\n", ["keys are names, got 1"]),
        ],
    )
    def test_broken_yaml(self, tmp_path: Path, refused: Refused, text: str, told: Sequence[str]) -> None:
        (tmp_path / "tiny.yaml").write_text(text)
        said = refused("tiny.yaml")
        for part in told:
            assert part in said

    def test_not_text(self, tmp_path: Path, refused: Refused) -> None:
        (tmp_path / "tiny.yaml").write_bytes(b"\xff\xfe\x00")
        assert "tiny.yaml: cannot be read as UTF-8 text" in refused("tiny.yaml")

    @pytest.mark.parametrize(
        ("changes", "told"),
        [
            ({"fixed": {"epochs": 6, "lr": 0.1}}, ["tiny.yaml: lr is both fixed (0.1) and searched"]),
            ({"search": {**TINY["search"], "tua": 1}}, ["tiny.yaml: search: unknown key 'tua'", "did you mean 'tau'?"]),
            ({"method": "standard"}, ["search: unknown key 'lr_asymmetry'"]),
            ({"start": [{"lr": 0.5}]}, ["start point 1: lr = 0.5 is outside search.lr (0.002 to 0.2)", "widen"]),
            ({"validation": {"fraction": 0}}, ["validation.fraction is above 0 in a search, got 0"]),
            ({"conditions": {"a b": {"dataset.noise": "nose"}}}, ["dataset: noise"]),
            ({"budget": {}}, ["budget: trials is required"]),
        ],
    )
    def test_refused(self, tmp_path: Path, refused: Refused, changes: dict[str, Any], told: Sequence[str]) -> None:
        write_space(tmp_path, changes)
        said = refused("tiny.yaml")
        for part in told:
            assert part in said


class TestBadData:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        folder = tmp_path / "data" / "cifar100"
        folder.mkdir(parents=True)
        return folder

    def test_an_explicit_folder_without_the_data(self, refused: Refused, folder: Path) -> None:
        said = refused(CIFAR_DATA, "--data-dir", "data")
        for part in ("none found in", "data/cifar100", "https://", "--data-dir", "act_digits8no needs no data"):
            assert part in said

    def test_no_data_and_no_network(self, refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cifar, "_why_unreachable", lambda url: "no route to host")
        said = refused(CIFAR_DATA)
        for part in ("the download failed (no route to host)", "looked for", "act_digits8no needs no data"):
            assert part in said

    @pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + b"\0" * 100], ids=["empty", "head", "torn"])
    def test_damaged_parquet(self, refused: Refused, folder: Path, content: bytes) -> None:
        for name in ("train-00000-of-00001.parquet", "test-00000-of-00001.parquet"):
            (folder / name).write_bytes(content)
        assert "train-00000-of-00001.parquet" in refused(CIFAR_DATA, "--data-dir", "data")

    def test_labels_from_a_file_that_is_not_there(self, refused: Refused) -> None:
        assert "absent.npy" in refused("act_digits8no", "--set", "dataset.noise={file: absent.npy}")


class TestTheRunFolder:
    def test_a_run_that_exists(self, tmp_path: Path, refused: Refused) -> None:
        (tmp_path / "results" / "mine").mkdir(parents=True)
        (tmp_path / "results" / "mine" / "run.yaml").write_text("run: mine\n")
        said = refused("act_digits8no", "--name", "mine")
        for part in ("run 'mine' exists already", "--resume", "another --name"):
            assert part in said

    def test_an_empty_folder_is_free(self, tmp_path: Path) -> None:
        (tmp_path / "results" / "tiny").mkdir(parents=True)
        assert tiny_plan(tmp_path).files.root == tmp_path / "results" / "tiny"

    @pytest.mark.parametrize("name", ["results", "results/tiny", "results/tiny/asym40"])
    def test_a_file_in_its_place(self, tmp_path: Path, refused: Refused, name: str) -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
        write_space(tmp_path, {"conditions": {"asym40": {"dataset.noise": "asymmetric"}}})
        conditions = ["--conditions", "all"] if "asym40" in name else []
        assert "is a file; choose another --name" in refused("tiny.yaml", *conditions)

    @pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
    def test_a_folder_that_cannot_be_written_to(self, tmp_path: Path, refused: Refused) -> None:
        (tmp_path / "results").mkdir(mode=0o500)
        assert "cannot be written to; choose another --results-dir" in refused("act_digits8no")


class TestConditions:
    OPTIONS = SearchOptions.of("act_digits8no", all_conditions=True)

    def test_a_study_each(self, tmp_path: Path) -> None:
        plans = plan_search(self.OPTIONS, CPU)
        assert [plan.run for plan in plans] == [f"act_digits8no/{name}" for name in ("asym40", "sym20", "sym80")]
        assert [plan.files.root.relative_to(tmp_path / "results").as_posix() for plan in plans] == [
            plan.run for plan in plans
        ]
        assert len({plan.fingerprints["labels"] for plan in plans}) == 3
        assert len({plan.fingerprints["source"] for plan in plans}) == 1

    def test_a_space_without(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="has no conditions"):
            plan_search(SearchOptions.of(str(write_space(tmp_path)), all_conditions=True), CPU)

    def test_resuming_starts_those_that_were_not_reached(self, tmp_path: Path) -> None:
        begun = plan_search(self.OPTIONS, CPU)[0]
        begun.files.root.mkdir(parents=True)
        begun.files.settings.write_text(dump_yaml(begun.settings()))
        assert len(plan_search(replace(self.OPTIONS, resume=True), CPU)) == 3
        with pytest.raises(InputError, match="run 'act_digits8no/asym40' exists already"):
            plan_search(self.OPTIONS, CPU)

    @pytest.mark.parametrize("resume", [False, True])
    def test_a_run_of_one_condition_is_not_filled_with_others(self, tmp_path: Path, resume: bool) -> None:
        run = tmp_path / "results" / "act_digits8no"
        run.mkdir(parents=True)
        (run / "run.yaml").write_text("run: x\n")
        with pytest.raises(InputError, match="is of one condition; give --conditions all another --name"):
            plan_search(replace(self.OPTIONS, resume=resume), CPU)


class TestPlan:
    def test_nothing_is_written(self, tmp_path: Path) -> None:
        write_space(tmp_path)
        before = files_under(tmp_path)
        tiny_plan(tmp_path)
        assert files_under(tmp_path) == before

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
