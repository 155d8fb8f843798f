"""Dependencies are declared and bounded; the wheel holds the search spaces, and its commands run in any folder."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def normal(name: str) -> str:
    """Return the name of a distribution as the index writes it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(groups: tuple[str, ...]) -> dict[str, str]:
    """Return name -> lowest version (empty where none is given) of ``dependencies`` and the extras named."""
    lines = [*PROJECT["dependencies"], *(line for group in groups for line in PROJECT["optional-dependencies"][group])]
    found = [re.fullmatch(r"([\w.-]+)(?:\[[\w,]+\])?(?:>=([\w.]+))?", line) for line in lines]
    return {normal(match[1]): match[2] or "" for match in found if match is not None}


def imported(folder: Path) -> dict[str, str]:
    """Return top-level package -> one file that imports it, of all that is neither the standard library's nor ours."""
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [str(node.module)]
            found |= {name.partition(".")[0]: path.relative_to(ROOT).as_posix() for name in names}
    # Tests import benchmarks, too, whose folder they put on the path.
    places = [path for place in (folder, ROOT / "benchmarks") for path in place.rglob("*.py")]
    ours = {"tune_lnl", *(path.stem for path in places), *(path.parent.name for path in places)}
    return {name: path for name, path in found.items() if name not in sys.stdlib_module_names and name not in ours}


def test_whatever_is_imported_is_declared() -> None:
    """A package that another one happens to bring may be gone with that one's next release."""
    owners = packages_distributions()
    users = tuple(extra for extra in PROJECT["optional-dependencies"] if extra not in ("dev", "benchmark", "browser"))
    for folder, extras in (("tune_lnl", users), ("tests", tuple(PROJECT["optional-dependencies"]))):
        known = set(declared(extras))
        modules = imported(ROOT / folder)
        assert len(modules) > 10
        undeclared = {
            f"{name} ({path})"
            for name, path in modules.items()
            if not known & {normal(owner) for owner in owners.get(name, [name])}
        }
        assert undeclared == set(), folder


def test_lowest_versions_are_the_bounds() -> None:
    """``make test-lowest`` installs exactly the versions that pyproject.toml promises."""
    lines = (ROOT / "constraints-lowest.txt").read_text(encoding="utf-8").split("\n")
    pinned = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    extras = tuple(extra for extra in PROJECT["optional-dependencies"] if extra not in ("dev", "benchmark", "browser"))
    bounds = declared(extras)
    assert "" not in bounds.values()
    assert {normal(name): version for name, version in pinned.items()} == bounds


@pytest.fixture(scope="module")
def unpacked_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(folder), str(ROOT)], check=True, timeout=240)
    (wheel,) = folder.glob("tune_lnl-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


@pytest.mark.slow
def test_the_wheel_ships_every_search_space(unpacked_wheel: Path) -> None:
    shipped = {path.name: path.read_bytes() for path in (unpacked_wheel / "tune_lnl" / "search_spaces").rglob("*.yaml")}
    assert shipped == {path.name: path.read_bytes() for path in (ROOT / "search_spaces").rglob("*.yaml")}
    assert shipped.keys() >= {"act_cifar80no.yaml", "act.yaml"}, "portfolios, too"


@pytest.mark.slow
def test_the_wheel_ships_the_templates_of_reports(unpacked_wheel: Path) -> None:
    room = Path("tune_lnl") / "reporting" / "templates"
    shipped = {path.name for path in (unpacked_wheel / room).iterdir()}
    assert shipped == {path.name for path in (ROOT / room).iterdir()} >= {"run.html.j2", "page.js", "style.css"}


@pytest.mark.slow
def test_commands_run_from_the_wheel_outside_the_checkout(unpacked_wheel: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(unpacked_wheel)}
    where = "import tune_lnl; print(tune_lnl.__file__)"
    for arguments, expected in (
        (["-c", where], str(unpacked_wheel)),
        (["-m", "tune_lnl.search", "--list"], "act_cifar80no"),
        (["-m", "tune_lnl.search", "act_digits8no", "--dry-run", "--trials", "2"], "# the search: about"),
    ):
        done = subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240
        )
        assert done.returncode == 0, done.stderr
        assert expected in done.stdout
    assert list(tmp_path.iterdir()) == []
