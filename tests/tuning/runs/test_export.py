from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_disk import fill, small_disk
from tiny_search import EPOCHS

from tune_lnl.errors import InputError
from tune_lnl.training.seeds import read_config
from tune_lnl.tuning.runs.export import FORMATS, Export, export_run, save_export
from tune_lnl.tuning.runs.run import Run
from tune_lnl.tuning.study.study import SearchStudy


def exported(run: Run, top: int = 1) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(export_run(run, top, "json").text)
    return content


class TestJson:
    def test_the_promised_keys(self, run: Run) -> None:
        content = exported(run)
        assert {key: content[key] for key in ("run", "space", "metric", "mode")} == {
            "run": "tiny",
            "space": "tiny",
            "metric": "val_accuracy",
            "mode": "max",
        }
        (best,) = content["trials"]
        assert list(best) == ["number", "state", "value", "standard_error", "epochs", "params", "config"]
        assert (best["number"], best["state"], best["value"], best["standard_error"]) == (0, "COMPLETE", 60.0, 1.5)
        assert best["epochs"] == EPOCHS

    def test_params_were_searched_and_config_is_flat_and_complete(self, run: Run) -> None:
        (best,) = exported(run)["trials"]
        assert best["params"] == {"lr": 0.01, "lr_asymmetry": 8, "warmup_epochs": 2}
        config = best["config"]
        assert config == run.config(run.rows()[0]).flat()
        assert {"method", "dataset.name", "validation.fraction", "lr", "lr1", "tau", "seed", "threads"} <= set(config)
        assert "lr_asymmetry" not in config

    def test_all_of_them_in_the_one_order(self, run: Run) -> None:
        for top in (len(run.trials), 1000):
            trials = exported(run, top)["trials"]
            assert [trial["number"] for trial in trials] == [row.number for row in run.rows()]
            assert [trial["state"] for trial in trials[:4]] == ["COMPLETE", "COMPLETE", "PRUNED", "FAIL"]
        assert (trials[3]["failure"], trials[3]["message"]) == ("bug", "ValueError: no")

    def test_a_trial_that_has_not_begun_has_no_config(self, tmp_path: Path, run: Run) -> None:
        study = SearchStudy.create(tmp_path / "study.log", run.space, 0)
        waiting = Run(run.files, run.settings, run.space, study.trials)
        trials = exported(waiting, 9)["trials"]
        assert [(trial["state"], trial["config"], trial["value"]) for trial in trials] == [("WAITING", {}, None)] * 2


class TestOthers:
    def test_csv_is_a_row_per_trial(self, run: Run) -> None:
        rows = list(csv.DictReader(io.StringIO(export_run(run, 1000, "csv").text)))
        for row, expected in zip(rows, run.rows(), strict=True):
            assert int(row["number"]) == expected.number
            assert row["state"] == expected.state
            assert row["failure"] == (expected.failure or "")
            assert float(row["value"]) == expected.value
            assert float(row["lr"]) == expected.params["lr"]

    def test_yaml_is_a_config_each(self, tmp_path: Path, run: Run) -> None:
        (tmp_path / "one.yaml").write_text(export_run(run, 1, "yaml").text)
        assert read_config(tmp_path / "one.yaml", [], None) == run.config(run.rows()[0])
        documents = list(yaml.safe_load_all(export_run(run, 1000, "yaml").text))
        assert [document["provenance"]["trial"] for document in documents] == [0, 1]

    def test_args_and_what_they_cannot_say(self, run: Run) -> None:
        export = export_run(run, 2, "args")
        lines = export.text.splitlines()
        assert len(lines) == 2
        assert "--lr 0.01 --lr1 0.08 " in lines[0]
        assert f"--warmup-epochs 2 --epochs {EPOCHS} " in lines[0]
        assert any("penalty" in remark for remark in export.remarks)
        assert len(set(export.remarks)) == len(export.remarks)

    def test_args_of_a_method_without_a_script(self, run: Run) -> None:
        plain = replace(run, space=replace(run.space, base={**run.space.base, "method": "standard"}))
        with pytest.raises(InputError, match="method 'standard' has none here; use --format yaml"):
            export_run(plain, 1, "args")

    def test_remarks_are_for_args_alone(self, run: Run) -> None:
        assert all(export_run(run, 1, form).remarks == () for form in FORMATS if form != "args")


@pytest.mark.parametrize("form", FORMATS)
def test_top_is_at_least_one(run: Run, form: str) -> None:
    with pytest.raises(InputError, match="--top is at least 1, got 0"):
        export_run(run, 0, form)


@pytest.mark.parametrize("form", ["yaml", "args"])
def test_nothing_complete_yet(run: Run, form: str) -> None:
    unfinished = Run(run.files, run.settings, run.space, run.trials[2:])
    with pytest.raises(InputError, match=r"run tiny has no complete trial to export yet; .*--format csv"):
        export_run(unfinished, 5, form)


class TestSaving:
    def test_whole(self, tmp_path: Path) -> None:
        path = tmp_path / "best.yaml"
        path.write_text("old")
        save_export(Export("new\n"), path)
        assert path.read_text() == "new\n"
        assert [entry.name for entry in tmp_path.iterdir()] == ["best.yaml"]

    @pytest.mark.parametrize(
        ("name", "told"), [("absent/best.yaml", "lies in no existing folder"), ("folder", "is a folder")]
    )
    def test_refused(self, tmp_path: Path, name: str, told: str) -> None:
        (tmp_path / "folder").mkdir()
        with pytest.raises(InputError, match=f"--output names a file, and .*{told}; name another"):
            save_export(Export("new"), tmp_path / name)
        assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]

    def test_no_room(self, tmp_path: Path) -> None:
        with small_disk(tmp_path / "disk", "64k") as disk:
            (disk / "best.yaml").write_text("before")
            fill(disk)
            with pytest.raises(OSError, match="No space left on device"):
                save_export(Export("a: 1\n" * 10_000), disk / "best.yaml")
            assert (disk / "best.yaml").read_text() == "before"
