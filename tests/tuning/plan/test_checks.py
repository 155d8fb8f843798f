"""The refusals of a search, through its door: exit code 2, a few lines, nothing written."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_search import tiny_plan, write_space

from tune_lnl.config.yaml import dump_yaml
from tune_lnl.errors import InputError
from tune_lnl.search import main
from tune_lnl.tuning.plan import checks
from tune_lnl.tuning.plan.checks import check_search
from tune_lnl.tuning.plan.options import SearchOptions
from tune_lnl.tuning.plan.plan import plan_search
from tune_lnl.tuning.resources.divide import Machine

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
    """Run the command, which must refuse with exit code 2 and write nothing; return its error."""

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


class TestFlags:
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
            (["act_digits8no", "--set", "validation.fraction=0"], ["validation.fraction is above 0", "got 0"]),
            (["act_digits8no", "--set", "dataset.classes=11"], ["dataset.classes must be at most 10", "got 11"]),
            (["act_digits8no", "--set", "model=cnn8"], ["no model 'cnn8'", "did you mean 'cnn7'?"]),
            (["act_digits8no", "--set", "model=cnn7"], ["'cnn7' is for 32x32 images; got 8x8", "Choose a model"]),
            (
                ["act_digits8no", "--set", "search.warmup_epochs.high=45"],
                ["every range at its high end", "warmup_epochs must be below epochs, got 45"],
            ),
            (["act_digits8no", "--condition", "sym"], ["unknown condition 'sym'", "sym20"]),
            (["act_digits8no", "--sampler", "tpee"], ["unknown sampler 'tpee'", "did you mean 'tpe'?"]),
            (["act_digits8no", "--pruner", "asah"], ["unknown pruner 'asah'", "did you mean 'asha'?"]),
            (["act_digits8no", "--trials", "many"], ["--trials is a whole number of at least 1, got 'many'"]),
            (["act_digits8no", "--set", "seed=4294967295"], ["--seed is a whole number from 0 to"]),
            (["act_digits8no", "--concurrent", "1000"], ["--concurrent 1000 does not fit", "lower it"]),
            (["act_digits8no", "--cpus-per-trial", "1000"], ["--cpus-per-trial 1000 asks for more than"]),
            (["act_digits8no", "--gpus-per-trial", "0.3"], ["1 or 1/k", "got 0.3; nearest: 0.25 and 0.333333"]),
            (["act_digits8no", "--gpus-per-trial", "1.5"], ["1 or 1/k", "got 1.5; nearest: 0.5 and 1"]),
            (["act_digits8no", "--name", "../run"], ["--name is made of letters", "got '../run'"]),
            (["act_digits8no", "--data", "photos"], ["--data PATH is for your own images", "reads digits8no"]),
            (["act_digits8no", "--preset", "quik"], ["has no preset 'quik'", "did you mean 'quick'?"]),
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


class TestSpaceFiles:
    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("method: [act", ["tiny.yaml, line", "not valid YAML"]),
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


class TestData:
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
        monkeypatch.setattr("tune_lnl.downloads.why_unreachable", lambda url: "no route to host")
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

    @pytest.mark.parametrize("asked", ["act_digits8no", "--runs"])
    def test_an_empty_name(self, refused: Refused, asked: str) -> None:
        assert "--results-dir needs a value, got ''" in refused(asked, "--results-dir", "")

    def test_a_name_too_long_for_the_file_system(self, refused: Refused) -> None:
        assert "--name has at most 255 characters, got 256; give a shorter one" in refused("x", "--name", "n" * 256)

    @pytest.mark.parametrize("flags", [[], ["--conditions", "all"], ["--resume"]])
    def test_a_folder_too_long_for_the_file_system(self, refused: Refused, flags: Sequence[str]) -> None:
        said = refused("act_digits8no", "--results-dir", "n" * 300, *flags)
        assert "File name too long" in said
        assert "choose another --name or --results-dir" in said
        assert "File name too long" in refused("--runs", "--results-dir", "n" * 300)

    @pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
    def test_a_folder_that_cannot_be_written_to(self, tmp_path: Path, refused: Refused) -> None:
        (tmp_path / "results").mkdir(mode=0o500)
        assert "cannot be written to; choose another --results-dir" in refused("act_digits8no")


def test_a_package_that_is_missing(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "find_spec", lambda name: None)
    assert "--tensorboard needs the package" in refused("act_digits8no", "--tensorboard")


def test_object_storage_needs_a_database(refused: Refused) -> None:
    assert "add --storage postgresql://USER@HOST/DATABASE" in refused("act_digits8no", "--results-dir", "s3://bucket/x")


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
            check_search(SearchOptions.of(str(write_space(tmp_path)), all_conditions=True))

    def test_resuming_starts_those_that_were_not_reached(self, tmp_path: Path) -> None:
        begun = plan_search(self.OPTIONS, CPU)[0]
        begun.files.root.mkdir(parents=True)
        begun.files.settings.write_text(dump_yaml(begun.settings()))
        assert len(check_search(replace(self.OPTIONS, resume=True))) == 3
        with pytest.raises(InputError, match="run 'act_digits8no/asym40' exists already"):
            check_search(self.OPTIONS)

    @pytest.mark.parametrize("resume", [False, True])
    def test_a_run_of_one_condition_is_not_filled_with_others(self, tmp_path: Path, resume: bool) -> None:
        run = tmp_path / "results" / "act_digits8no"
        run.mkdir(parents=True)
        (run / "run.yaml").write_text("run: x\n")
        with pytest.raises(InputError, match="is of one condition; give --conditions all another --name"):
            check_search(replace(self.OPTIONS, resume=resume))
