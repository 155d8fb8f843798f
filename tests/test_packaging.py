"""What ships: the wheel holds the search spaces, and the commands work from it in any folder."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


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
    shipped = {path.name: path.read_bytes() for path in (unpacked_wheel / "tune_lnl" / "search_spaces").glob("*.yaml")}
    assert shipped == {path.name: path.read_bytes() for path in (ROOT / "search_spaces").glob("*.yaml")}
    assert "act_cifar80no.yaml" in shipped


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
