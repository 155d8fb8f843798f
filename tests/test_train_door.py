"""``python -m tune_lnl.train``, from its arguments to its files."""

from __future__ import annotations

import itertools
import json
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from tiny_runs import EPOCHS, TIMES, finish, sections, start, tiny, without_times

from tune_lnl.config.yaml import dump_yaml, load_yaml
from tune_lnl.train import main
from tune_lnl.training.accelerator import choose_device
from tune_lnl.training.run import TrainingFiles, TrainingRun
from tune_lnl.training.standard import StandardTraining

SPACE = Path(__file__).parents[1] / "search_spaces" / "act_digits8no.yaml"


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TUNE_LNL_DATA", raising=False)


def config_file(name: str = "mine.yaml", method: str = "act", **changes: Any) -> str:
    Path(name).write_text(dump_yaml(sections(method, **changes)), encoding="utf-8")
    return name


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# ---- a run


def test_two_seeds_from_config_to_files(capsys: pytest.CaptureFixture[str]) -> None:
    changes: dict[str, Any] = {"dataset": {"subset": 0.3}, "lr": 0.02, "warmup_epochs": 1}
    assert main([config_file(**changes), "--seeds", "1,0", "--output", "out", "--device", "cpu"]) == 0
    out = Path("out")
    found = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    assert found == ["config.yaml", "model.pt", "seed-0/epochs.jsonl", "seed-1/epochs.jsonl", "summary.json"]

    # Each curve is the run of that seed.
    curves = {seed: lines_of(out / f"seed-{seed}" / "epochs.jsonl") for seed in (0, 1)}
    for seed, curve in curves.items():
        assert without_times(curve) == without_times(finish(start(tiny("act", seed=seed, **changes), test_from=0)))
        assert set(TIMES) <= curve[0].keys()

    # The figures follow from the curves: average_last is 2.
    summary = json.loads((out / "summary.json").read_text())
    objectives = {}
    for seed, curve in curves.items():
        test = [line["test_accuracy"] for line in curve]
        val = [line["val_accuracy"] for line in curve]
        objectives[seed] = (val[-1] + val[-2]) / 2
        assert summary["seeds"][str(seed)] == pytest.approx(
            {
                "test_last10": (test[-1] + test[-2]) / 2,
                "test_last10_std": abs(test[-1] - test[-2]) / 2,
                "test_oracle": max(test),
                "test_at_val_best": test[val.index(max(val))],
                "objective": objectives[seed],
            }
        )
    for name, over in summary["over_seeds"].items():
        values = [summary["seeds"][seed][name] for seed in ("0", "1")]
        assert over == {
            "mean": pytest.approx(statistics.fmean(values)),
            "n": 2,
            "std": pytest.approx(statistics.stdev(values)),
        }
    assert summary["config"] == tiny("act", **changes).flat()
    assert (summary["device"], summary["torch"]) == ("cpu", torch.__version__)

    # The model is the one of the seed with the best objective.
    best = max((1, 0), key=lambda seed: objectives[seed])
    model = torch.load(out / "model.pt", weights_only=True)
    assert model["config"]["seed"] == best
    again = start(tiny("act", seed=best, **changes))
    finish(again)
    weights = again.model_file()["weights"]
    assert all(torch.equal(model["weights"][name], tensor) for name, tensor in weights.items())

    # What is told on the terminal.
    told = capsys.readouterr()
    assert told.err == ""
    lines = told.out.splitlines()
    assert lines[0] == "training act on digits8no, 4 epochs, cpu"
    assert [line[:15] for line in lines[1:9]] == [
        f"seed {seed} epoch   {e}"[:15] for seed in (1, 0) for e in range(1, 5)
    ]
    assert f"test_last10       {summary['over_seeds']['test_last10']['mean']:6.2f} ± " in told.out
    assert "test accuracy, mean of the last 2 epochs" in told.out
    assert "not for selection" in told.out
    assert "note: this is a training on 377 of 1,258 images (dataset.subset 0.3); on all images" in lines[-2]
    assert lines[-1].startswith("files: out (")


def test_the_written_config_gives_the_same_run() -> None:
    assert main([config_file(), "--output", "one"]) == 0
    assert main(["one/config.yaml", "--output", "two"]) == 0
    one, two = (lines_of(Path(name) / "seed-0" / "epochs.jsonl") for name in ("one", "two"))
    assert without_times(one) == without_times(two)
    assert (Path("one") / "config.yaml").read_text() == (Path("two") / "config.yaml").read_text()


def test_without_a_validation_split_the_figures_are_those_of_the_test_set(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([config_file(validation={"fraction": 0.0}), "--seeds", "1,0", "--output", "out"]) == 0
    summary = json.loads(Path("out/summary.json").read_text())
    assert summary["seeds"].keys() == {"0", "1"}
    assert summary["over_seeds"].keys() == {"test_last10", "test_last10_std", "test_oracle"}
    assert "objective" not in capsys.readouterr().out
    assert torch.load("out/model.pt", weights_only=True)["config"]["seed"] == 1, "the first seed given"


def test_seed_and_length_default_to_the_configs() -> None:
    assert main([config_file(seed=4, epochs=3, method="standard"), "--output", "out"]) == 0
    assert [path.name for path in Path("out").glob("seed-*")] == ["seed-4"]
    assert len(lines_of(Path("out/seed-4/epochs.jsonl"))) == 3


def test_flags_scale_and_override() -> None:
    argv = [config_file(), "--epochs", "6", "--set", "method=standard", "--set", "lr=0.01", "--output", "out"]
    assert main(argv) == 0
    written = load_yaml(Path("out/config.yaml").read_text(), "written")
    assert written["method"] == "standard"
    assert (written["fixed"]["epochs"], written["fixed"]["warmup_epochs"], written["fixed"]["lr"]) == (6, 3, 0.01)
    assert written["objective"]["average_last"] == 3
    assert len(lines_of(Path("out/seed-0/epochs.jsonl"))) == 6


def test_results_go_to_the_next_free_folder_of_the_configs_name(capsys: pytest.CaptureFixture[str]) -> None:
    mine = config_file(method="standard", epochs=2, warmup_epochs=0)
    for _ in range(3):
        assert main([mine]) == 0
    assert sorted(path.name for path in Path("results/train").iterdir()) == ["mine", "mine-2", "mine-3"]
    Path("my_run").mkdir()
    best = config_file("my_run/best.yaml", method="standard", epochs=2, warmup_epochs=0)
    assert main([best]) == 0
    assert Path("results/train/my_run/summary.json").is_file()
    assert "files: results/train/my_run (" in capsys.readouterr().out


def test_an_empty_folder_may_be_the_output() -> None:
    Path("out").mkdir()
    assert main([config_file(method="standard", epochs=2, warmup_epochs=0), "--output", "out"]) == 0


def test_a_seed_that_diverges_gives_1_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([config_file(method="standard", lr=1e30), "--output", "out"]) == 1
    told = capsys.readouterr()
    assert "seed 0 diverged: " in told.out
    assert "at epoch 1; lower the lr" in told.out
    assert told.out.count("seed 0 epoch ") == 1
    assert not list(Path("out").rglob("*.pt"))
    assert json.loads(Path("out/seed-0/epochs.jsonl").read_text().splitlines()[-1])["val_accuracy"] is None


def test_divergence_is_noticed_without_a_validation_split() -> None:
    assert main([config_file(method="standard", lr=1e30, validation={"fraction": 0.0}), "--output", "out"]) == 1


def test_an_interruption_gives_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tune_lnl.training.seeds.train_seeds", interrupted)
    assert main([config_file()]) == 130
    told = capsys.readouterr()
    assert told.err == "interrupted\n"
    assert told.out.endswith("interrupted; the same command continues the training in results/train/mine\n")


# ---- continuing


def unfinished(folder: str, epochs: int = 2, **changes: Any) -> None:
    """Leave the files of a training that was killed after some epochs."""
    output = Path(folder)
    (output / "seed-0").mkdir(parents=True)
    config = tiny("act", **changes)
    (output / "config.yaml").write_text(dump_yaml(config.sections()))
    (output / ".lock").touch()
    files = TrainingFiles(output / "seed-0" / "checkpoint.pt", epochs=output / "seed-0" / "epochs.jsonl")
    run = TrainingRun(start(config, test_from=0), files)
    for _ in itertools.islice(run.epochs(), epochs):
        pass


@pytest.mark.parametrize("flags", [["--output", "results/train/mine"], []], ids=["output", "no output"])
def test_the_same_command_continues_an_unfinished_training(
    flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    mine = config_file()
    unfinished("results/train/mine")
    assert main([mine, "--output", "whole"]) == 0
    capsys.readouterr()
    assert main([mine, *flags]) == 0
    out = capsys.readouterr().out
    assert "continuing seed 0 in results/train/mine after epoch 2" in out
    assert out.count("seed 0 epoch ") == EPOCHS - 2
    folder, whole = Path("results/train/mine"), Path("whole")
    curves = [without_times(lines_of(each / "seed-0" / "epochs.jsonl")) for each in (folder, whole)]
    assert curves[0] == curves[1]
    assert (folder / "summary.json").read_text() == (whole / "summary.json").read_text()
    weights = [torch.load(each / "model.pt", weights_only=True)["weights"] for each in (folder, whole)]
    assert all(torch.equal(weights[0][name], value) for name, value in weights[1].items())
    files = sorted(path.name for path in folder.rglob("*") if path.is_file())
    assert files == ["config.yaml", "epochs.jsonl", "model.pt", "summary.json"]


def test_an_unfinished_training_of_something_else_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    mine = config_file(method="standard", epochs=2, warmup_epochs=0)
    unfinished("results/train/mine")
    before = {path: path.read_bytes() for path in Path("results/train/mine").rglob("*") if path.is_file()}
    assert "holds an unfinished training of another config" in refusal([mine, "--output", "results/train/mine"], capsys)
    assert main([mine]) == 0
    assert Path("results/train/mine-2/summary.json").is_file()
    assert {path: path.read_bytes() for path in Path("results/train/mine").rglob("*") if path.is_file()} == before


def test_other_seeds_or_a_training_in_progress_are_not_continued(capsys: pytest.CaptureFixture[str]) -> None:
    mine = config_file()
    unfinished("out")
    with FileLock("out/.lock"):
        assert "is in use by another process" in refusal([mine, "--output", "out"], capsys)
    told = refusal([mine, "--output", "out", "--seeds", "1,2"], capsys)
    assert "holds an unfinished training with seed-0, which --seeds does not name" in told


def test_a_training_that_ends_elsewhere_during_the_preparation_is_not_overwritten(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = config_file(method="standard", epochs=2, warmup_epochs=0)
    own_prepare = StandardTraining.prepare

    def prepare_while_another_trains(*arguments: Any) -> dict[str, str]:
        monkeypatch.setattr(StandardTraining, "prepare", own_prepare)
        assert main([mine, "--seeds", "7", *output]) == 0
        return own_prepare(*arguments)

    output: list[str] = []
    monkeypatch.setattr(StandardTraining, "prepare", prepare_while_another_trains)
    assert main([mine]) == 0
    assert Path("results/train/mine/seed-7").is_dir()
    assert Path("results/train/mine-2/summary.json").is_file()

    output = ["--output", "out"]
    monkeypatch.setattr(StandardTraining, "prepare", prepare_while_another_trains)
    assert main([mine, *output]) == 2
    assert "exists already and is not empty" in capsys.readouterr().err
    assert [path.name for path in Path("out").glob("seed-*")] == ["seed-7"]


@pytest.mark.slow
def test_train_killed_at_60_percent_and_continued_gives_the_same_numbers() -> None:
    changes: dict[str, Any] = {"epochs": 20, "warmup_epochs": 5}
    mine = config_file(**changes)
    command = [sys.executable, "-m", "tune_lnl.train", mine, "--seeds", "0,1", "--device", "cpu", "--output"]
    subprocess.run([*command, "whole"], check=True, stdout=subprocess.DEVNULL)
    # 60% of the 40 epochs of both seeds: in the fifth epoch of seed 1.
    log = Path("killed/seed-1/epochs.jsonl")
    with subprocess.Popen([*command, "killed"], stdout=subprocess.DEVNULL) as process:
        while not log.exists() or log.read_bytes().count(b"\n") < 4:
            assert process.poll() is None
            time.sleep(0.005)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert len(lines_of(log)) < 20
    assert not Path("killed/summary.json").exists()
    again = subprocess.run([*command, "killed"], check=True, capture_output=True, text=True).stdout
    assert "continuing seed 0 in killed after epoch 20" in again
    assert "continuing seed 1 in killed after epoch " in again
    for seed in (0, 1):
        curves = [lines_of(Path(each) / f"seed-{seed}" / "epochs.jsonl") for each in ("whole", "killed")]
        assert without_times(curves[0]) == without_times(curves[1])
    assert Path("whole/summary.json").read_text() == Path("killed/summary.json").read_text()
    weights = [torch.load(f"{each}/model.pt", weights_only=True)["weights"] for each in ("whole", "killed")]
    assert all(torch.equal(weights[0][name], value) for name, value in weights[1].items())


# ---- bad input


def files_and_times() -> dict[Path, int]:
    """Return all files below here with their time of change; 0 for locks, which filelock 3.20 touches when it asks."""
    return {path: 0 if path.name == ".lock" else path.stat().st_mtime_ns for path in Path().rglob("*")}


def refusal(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Return stderr of a command that must end with 2, print few lines, and write nothing."""
    before = files_and_times()
    try:
        code = main(argv)
    except SystemExit as exit_:  # argparse
        code = int(exit_.code or 0)
    told = capsys.readouterr()
    assert code == 2
    assert told.out == ""
    assert told.err.startswith("error: ")
    assert "Traceback" not in told.err
    assert 1 <= len(told.err.splitlines()) <= 3
    assert files_and_times() == before
    return told.err


def test_a_missing_config(capsys: pytest.CaptureFixture[str]) -> None:
    said = refusal(["nowhere.yaml"], capsys)
    assert "nowhere.yaml: no such config file" in said
    assert "tune_lnl.export" in said


def test_a_folder_is_no_config(capsys: pytest.CaptureFixture[str]) -> None:
    Path("folder").mkdir()
    assert "folder: no such config file" in refusal(["folder"], capsys)


def test_no_config_at_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert "the following arguments are required: CONFIG.yaml" in refusal([], capsys)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("method: act\nfixed: {lr: 1\nseed: 3\n", "mine.yaml, line 3, column 5: not valid YAML"),
        ("method: act\nmethod: standard\n", "mine.yaml, line 2, column 1: not valid YAML: key 'method' is given twice"),
        ("", "mine.yaml: a config is a mapping of sections (method:, dataset:, ...), found nothing"),
        ("- 1\n", "found list"),
        ("fixed: {}\n", "'method' is required and is a name, got None"),
        ("method: act\n", "mine.yaml: dataset: 'name' is required"),
        ("method: act\nfxed: {}\n", "unknown section 'fxed'; did you mean 'fixed'?"),
    ],
)
def test_a_broken_config(text: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.yaml").write_text(text)
    assert said in refusal(["mine.yaml"], capsys)


def test_a_search_space_is_no_config(capsys: pytest.CaptureFixture[str]) -> None:
    said = refusal([str(SPACE)], capsys)
    assert "is a search space" in said
    assert f"python -m tune_lnl.search {SPACE}" in said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"lr2": 0.1}, "unknown key 'lr2'; did you mean 'lr"),
        ({"lr": -0.1}, "mine.yaml: lr must be greater than 0, got -0.1"),
        ({"tau": "high"}, "mine.yaml: tau must be a valid number, got 'high'"),
        ({"warmup_epochs": 4}, "warmup_epochs must be below epochs, got 4 with epochs 4"),
        ({"objective": {"average_last": 9}}, "objective.average_last must not exceed epochs, got 9 with epochs 4"),
        ({"lr_decay": "cosin:3"}, "lr_decay: unknown lr plan 'cosin:3': did you mean 'cosine:'?"),
        ({"dataset": {"name": "digits8n"}}, "unknown dataset 'digits8n'; did you mean 'digits8no'?"),
        ({"dataset": {"subset": 2.0}}, "dataset: subset"),
        ({"dataset": {"noise": {"file": "no.npy"}}}, "no.npy"),
        ({"model": "cnn77"}, "There is no model 'cnn77'; did you mean 'cnn7'?"),
        ({"model": "cnn7"}, "32"),
        ({"validation": {"fraction": 0.95}}, "validation: fraction must be less than or equal to 0.9, got 0.95"),
        ({"validation": {"seed": 2**32}}, "validation: seed must be less than 4294967296"),
        ({"precision": "fp16"}, "precision fp16 needs a GPU, got device cpu"),
    ],
    ids=str,
)
def test_settings_that_cannot_be(changes: dict[str, Any], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert said in refusal([config_file(**changes), "--device", "cpu"], capsys)


def test_an_unknown_method(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.yaml").write_text(dump_yaml({**sections("act"), "method": "standrd"}))
    assert "unknown method 'standrd'; did you mean 'standard'?" in refusal(["mine.yaml"], capsys)


@pytest.mark.parametrize("seeds", ["", "a", "0,,1", "-1", "1.5", "0 1", "0-2"])
def test_bad_seeds(seeds: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = refusal([config_file(), f"--seeds={seeds}"], capsys)
    assert said == f"error: --seeds is a list of whole numbers such as 0,1,2, got {seeds!r}\n"


def test_a_seed_named_twice(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--seeds names a seed twice: '1,2,01'" in refusal([config_file(), "--seeds", "1,2,01"], capsys)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--epochs", "0"], "--epochs is at least 1, got 0"),
        (["--epochs", "x"], "argument --epochs: invalid int value: 'x'"),
        (["--epochs", "1"], "warmup_epochs must be below epochs, got 1 with epochs 1"),
        (["--epoch", "3"], "unrecognized arguments: --epoch 3"),
        (["--device", "tpu"], "argument --device: invalid choice: 'tpu'"),
        (["--set", "tau"], "--set takes KEY=VALUE, got 'tau'"),
        (["--set", "tua=0.1"], "--set tua: no such setting; did you mean 'tau'?"),
        (["--set", "tau=[1"], "--set tau, line 1, column 3: not valid YAML"),
        (["--set", "tau=-1"], "tau must be greater than or equal to 0, got -1"),
        (["--set", "dataset.subst=1"], "dataset: unknown key 'subst'; did you mean 'subset'?"),
        (["--set", "search.tau={type: uniform}"], "unknown section 'search'"),
        (["--set", "budget.trials=3"], "unknown section 'budget'"),
        (["--set", "start=5", "--set", "tau=1"], "unknown section 'start'"),
        (["--set", "method=standrd"], "unknown method 'standrd'"),
        (["--set", "method=[act]"], "unknown method"),
        (["--set", "dataset.name=3"], "dataset: 'name' is required and is a name, got 3"),
        (["--set", "dataset.name=cifar80no", "--data-dir", "nowhere"], "nowhere"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_flags(flags: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert said in refusal([config_file(), *flags], capsys)


def test_an_output_that_exists(capsys: pytest.CaptureFixture[str]) -> None:
    mine = config_file()
    Path("out").mkdir()
    (Path("out") / "summary.json").write_text("{}")
    assert "--output out exists already and is not empty" in refusal([mine, "--output", "out"], capsys)
    assert "--output mine.yaml exists already" in refusal([mine, "--output", "mine.yaml"], capsys)


def test_an_output_that_cannot_be_made(capsys: pytest.CaptureFixture[str]) -> None:
    mine = config_file()
    assert "results cannot be written to mine.yaml/out" in refusal([mine, "--output", "mine.yaml/out"], capsys)
    Path("results").write_text("")
    assert "results cannot be written to results/train/mine" in refusal([mine], capsys)


def test_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "--device cuda needs a CUDA GPU" in refusal([config_file(), "--device", "cuda"], capsys)


@pytest.mark.parametrize(("there", "auto"), [(True, "cuda"), (False, "cpu")])
def test_auto_takes_the_gpu_where_there_is_one(there: bool, auto: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert choose_device("auto") == auto
    assert choose_device("cpu") == "cpu"
