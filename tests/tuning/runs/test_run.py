"""A run read back."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from tiny_search import EPOCHS, curve, tiny_plan, tiny_space

from tune_lnl.config.yaml import dump_yaml, load_yaml
from tune_lnl.errors import InputError
from tune_lnl.tuning.plan.warm_start import find_other_run
from tune_lnl.tuning.runs.finding import find_run
from tune_lnl.tuning.runs.run import Run, load_run, run_folders
from tune_lnl.tuning.runs.settings import space_from_settings
from tune_lnl.tuning.study.study import SearchStudy


class TestReading:
    def test_a_run_is_what_was_planned(self, tmp_path: Path, run: Run) -> None:
        assert (run.name, run.metric, run.mode) == ("tiny", "val_accuracy", "max")
        planned = tiny_plan(tmp_path, name="other").space
        assert run.space.to_dict() == planned.to_dict()
        assert run.space.parameters == planned.parameters

    def test_the_one_order(self, run: Run) -> None:
        rows = run.rows()
        assert [row.number for row in rows[:4]] == [0, 1, 2, 3]
        assert [row.state for row in rows[:5]] == ["COMPLETE", "COMPLETE", "PRUNED", "FAIL", "RUNNING"]
        assert run.best == rows[0]

    def test_a_row(self, run: Run) -> None:
        complete, _, pruned, failed, running = run.rows()[:5]
        assert (complete.value, complete.standard_error, complete.epochs) == (60.0, 1.5, EPOCHS)
        assert complete.params == {"lr": 0.01, "lr_asymmetry": 8, "warmup_epochs": 2}
        assert complete.seconds is not None
        assert complete.seconds >= 0
        assert (pruned.value, pruned.standard_error, pruned.epochs) == (90.0, 2.5, 3)
        assert (failed.failure, failed.message, failed.epochs) == ("bug", "ValueError: no", 2)
        assert (running.value, running.seconds, running.attempts) == (curve(4, 50.0, 1)[0], None, 1)

    def test_the_config_of_a_row(self, run: Run) -> None:
        flat = run.config(run.rows()[0]).flat()
        assert (flat["lr"], flat["lr1"], flat["warmup_epochs"]) == (0.01, pytest.approx(0.08), 2)
        assert (flat["seed"], flat["threads"]) == (0, 1)

    def test_per_epoch_metrics(self, run: Run) -> None:
        assert [report["val_accuracy"] for report in run.epoch_reports(1)] == curve(1, 60.0)
        assert run.epoch_reports(99) == []

    def test_minimising(self, tmp_path: Path) -> None:
        objective = {"metric": "val_loss", "mode": "min", "average_last": 1}
        space = tiny_space(tmp_path, objective=objective)
        path = tmp_path / "study.log"
        study = SearchStudy.create(path, space, 0)
        for value in (2.0, 1.0, 3.0):
            study.complete(study.ask().number, value, None)
        settings = {"run": "r", "space_name": "tiny", "condition": None, "space": space.to_dict()}
        run = Run(tiny_plan(tmp_path).files, settings, space_from_settings(settings, "run.yaml"), study.trials)
        assert (run.metric, run.mode) == ("val_loss", "min")
        assert [row.number for row in run.rows()] == [1, 0, 2]

    def test_without_the_plugin_of_its_method(self, run: Run) -> None:
        settings = load_yaml(run.files.settings.read_text(), "run.yaml")
        settings["space"]["method"] = "not_installed"
        run.files.write(run.files.settings, dump_yaml(settings))
        assert [row.number for row in load_run(run.files.root).rows()] == [row.number for row in run.rows()]


class TestFinding:
    def test_by_name_or_path(self, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        root = tmp_path / "results" / "tiny"
        assert load_run("tiny", tmp_path / "results").files.root == root
        assert load_run(root, "nowhere").files.root == root
        monkeypatch.chdir(tmp_path)
        assert load_run("tiny").files.root == Path("results/tiny")

    def test_unknown(self, tmp_path: Path, run: Run) -> None:
        with pytest.raises(InputError, match=r"no run 'tinny' under .*did you mean 'tiny'"):
            find_run("tinny", tmp_path / "results")
        with pytest.raises(InputError, match="there are no runs yet"):
            find_run("tiny", tmp_path / "absent")

    @pytest.mark.parametrize("read", [find_run, run_folders, partial(find_other_run, condition="sym20")])
    def test_a_name_too_long_for_the_file_system(self, tmp_path: Path, read: Callable[..., object]) -> None:
        with pytest.raises(InputError, match="cannot be read: File name too long; give another name or path"):
            read("n" * 300, tmp_path)

    def test_a_run_per_condition(self, tmp_path: Path) -> None:
        for name in ("asym40", "sym20"):
            folder = tmp_path / "many" / name
            folder.mkdir(parents=True)
            (folder / "run.yaml").write_text("run: x\n")
        with pytest.raises(InputError, match="many holds one run per condition; name one of: many/asym40, many/sym20"):
            find_run("many", tmp_path)
        assert find_run("many/sym20", tmp_path) == tmp_path / "many" / "sym20"

    @pytest.mark.parametrize("content", [None, b"", b'{"op_code": 0'])
    def test_before_the_study_has_begun(self, tmp_path: Path, run: Run, content: bytes | None) -> None:
        run.files.study.unlink()
        if content is not None:
            run.files.study.write_bytes(content)
        begun = load_run(run.files.root)
        assert (begun.trials, begun.best, begun.rows()) == ([], None, [])
