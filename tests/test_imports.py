"""Who may be imported where: training alone needs neither Ray nor Optuna, and asking for help needs next to nothing."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_search import record_run

import tune_lnl
from tune_lnl.tuning.runs.snapshot import write_snapshot

ROOMS = ("config", "methods", "models", "datasets", "metrics", "training")
HEAVY = {"torch", "ray", "optuna", "numpy", "sklearn", "pyarrow", "pydantic"}


def modules_after(code: str) -> set[str]:
    """Top-level packages that a fresh interpreter holds after ``code``."""
    ended = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint('loaded:', *sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    return {name.partition(".")[0] for name in ended.stdout.rpartition("loaded:")[2].split()}


def modules_of(room: str) -> list[str]:
    folder = str(Path(tune_lnl.__file__).parent / room)
    return [f"tune_lnl.{room}", *(f"tune_lnl.{room}.{module.name}" for module in pkgutil.walk_packages([folder]))]


def test_rooms_below_the_search_know_neither_ray_nor_optuna() -> None:
    """Every module of them, and the doors that use nothing else."""
    names = [name for room in ROOMS for name in modules_of(room)] + [
        "tune_lnl.train",
        "tune_lnl.data",
        "tune_lnl.predict",
    ]
    assert len(names) > 20
    loaded = modules_after("\n".join(f"import {name}" for name in names))
    assert "torch" in loaded
    assert not loaded & {"ray", "optuna"}


def test_the_package_itself_imports_nothing_heavy() -> None:
    assert not modules_after("import tune_lnl") & HEAVY


def test_what_the_package_offers() -> None:
    assert set(tune_lnl.__all__) == {"__version__", "load_run", "run_search"}
    assert all(getattr(tune_lnl, name) is not None for name in tune_lnl.__all__)
    assert tune_lnl.run_search.__module__ == "tune_lnl.api"
    with pytest.raises(AttributeError, match="has no attribute 'run_serach'"):
        _ = tune_lnl.run_serach


@pytest.mark.parametrize("door", ["search", "train", "export", "report", "data", "logs", "predict", "judge"])
def test_help_is_at_hand_at_once(door: str) -> None:
    code = (
        f"from tune_lnl.{door} import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as end:\n    assert end.code == 0"
    )
    assert not modules_after(code) & HEAVY


def test_the_list_of_spaces_needs_no_torch() -> None:
    loaded = modules_after("from tune_lnl.search import main\nassert main(['--list']) == 0")
    assert not loaded & {"torch", "ray", "optuna"}


@pytest.mark.parametrize(
    "words",
    [["act_digits8no", "--trials", "many"], ["act_digits8no", "--submit", "http://head"], ["act_digits8no"]],
    ids=["a bad value", "a removed flag", "a run that exists"],
)
def test_a_search_is_refused_at_once(words: list[str], tmp_path: Path) -> None:
    run = tmp_path / "act_digits8no"
    run.mkdir()
    (run / "run.yaml").touch()
    words = [*words, "--results-dir", str(tmp_path)]
    assert not modules_after(f"from tune_lnl.search import main\nassert main({words!r}) == 2") & HEAVY


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on disk with its log and the copy of its rows that the driver keeps beside the study."""
    run = record_run(tmp_path_factory.mktemp("results"))
    write_snapshot(run.files, run.rows())
    (run.files.root / "trials" / "000" / "log.txt").write_text("epoch 0\n")
    return run.files.root


@pytest.mark.parametrize(
    "command",
    [
        "search --runs --results-dir {folder}",
        "logs {run} 0",
        "export {run}",
        "export {run} --format json --top 5",
    ],
)
def test_commands_that_only_read_a_run_import_nothing_heavy(command: str, finished_run: Path) -> None:
    door, _, rest = command.format(run=finished_run, folder=finished_run.parent).partition(" ")
    code = f"from tune_lnl.{door} import main\nassert main({rest.split()!r}) == 0"
    assert not modules_after(code) & (HEAVY - {"pydantic"})


def test_settings_spaces_and_overrides_are_read_without_torch() -> None:
    code = (
        "from tune_lnl.config.overrides import parse_overrides\n"
        "from tune_lnl.config.registry import DATASETS, METHODS, dataset_options, settings_type\n"
        "from tune_lnl.tuning.space.named import space_files\n"
        "from tune_lnl.tuning.space.space import load_space\n"
        "[settings_type(name) for name in METHODS], [dataset_options(name) for name in DATASETS]\n"
        "spaces = [load_space(name, overrides=['seed=1']) for name in space_files()]\n"
        "assert len(spaces) > 10"
    )
    assert not modules_after(code) & (HEAVY - {"pydantic"})
