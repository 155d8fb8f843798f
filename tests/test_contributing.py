"""The additions in CONTRIBUTING, applied to a copy of the project, pass the contract tests and run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```\w+\n# ([\w/.]+)(?:, in (\w+))?\n(.*?)^```$", TEXT, flags=re.MULTILINE | re.DOTALL)
COPIED = ("tune_lnl", "tests", "search_spaces", "pyproject.toml", "docs")


def added_files() -> list[str]:
    return [path for path, within, _ in BLOCKS if not within]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the project with every block of the page applied: files written, lines put into mappings."""
    folder = tmp_path_factory.mktemp("project")
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder / name)
    for path, within, text in BLOCKS:
        target = folder / path
        if within:
            before = target.read_text(encoding="utf-8")
            after, changes = re.subn(rf"^({within}\b[^=\n]*= \{{\n)", rf"\g<1>{text}", before, flags=re.MULTILINE)
            assert changes == 1, f"{path} has one {within}"
            target.write_text(after, encoding="utf-8")
        else:
            assert not target.exists(), f"{path} is new"
            kept = f"# {path}\n" if target.suffix == ".yaml" else ""
            target.write_text(kept + text, encoding="utf-8")
    return folder


def run(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment: Mapping[str, str] = {**os.environ, "PYTHONPATH": str(project)}
    return subprocess.run(
        [sys.executable, *arguments], cwd=project, env=environment, capture_output=True, text=True, timeout=280
    )


def test_the_page_adds_one_of_each() -> None:
    assert added_files() == [
        "tune_lnl/training/bootstrapping.py",
        "tune_lnl/datasets/stripes.py",
        "search_spaces/act_stripes.yaml",
    ]
    assert [(path, within) for path, within, _ in BLOCKS if within] == [
        ("tune_lnl/config/registry.py", "METHODS"),
        ("tests/training/test_live_knobs.py", "LIVE"),
        ("tune_lnl/config/registry.py", "DATASETS"),
    ]


@pytest.mark.slow
class TestApplied:
    def test_the_style_is_the_projects(self, project: Path) -> None:
        python = [path for path in added_files() if path.endswith(".py")]
        for command in (["check", "--no-cache"], ["format", "--check", "--no-cache"]):
            done = run(project, "-m", "ruff", *command, *python)
            assert done.returncode == 0, done.stdout

    def test_the_contract_tests_take_it_and_pass(self, project: Path) -> None:
        least = {
            "training/test_method_contract.py": 15,
            "training/test_live_knobs.py": 4,
            "datasets/test_dataset_contract.py": 3,
            "tuning/space/test_space_contract.py": 1,
        }
        files = [f"tests/{name}" for name in least]
        chosen = "(bootstrapping and not leaks) or (stripes and not method_contract and not live_knobs)"
        fast = "not slow and not kill and not gpu"
        done = run(project, "-m", "pytest", "-vv", "-p", "no:cacheprovider", *files, "-k", chosen, "-m", fast)
        assert done.returncode == 0, done.stdout
        for name, count in least.items():
            assert len(re.findall(rf"^tests/{name}::.* PASSED", done.stdout, flags=re.MULTILINE)) >= count, name

    def test_its_commands_run(self, project: Path) -> None:
        """Run the commands in the copy, with a shorter search and training."""
        where = run(project, "-c", "import tune_lnl; print(tune_lnl.__file__)").stdout
        assert Path(where.strip()).parent.parent == project
        commands = re.findall(r"^python (-m tune_lnl\.\w+ .*)$", TEXT, flags=re.MULTILINE)
        assert len(commands) == 3
        for command in commands:
            shorter = (
                ["--epochs", "3", "--trials", "2", "--no-dashboard"] if ".search" in command else ["--epochs", "3"]
            )
            done = run(project, *command.split(), *shorter)
            assert done.returncode == 0, done.stderr
        assert (project / "results" / "act_stripes" / "report.html").is_file()
