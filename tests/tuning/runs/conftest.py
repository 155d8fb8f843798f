"""A recorded run, shared by the tests of this room."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tiny_search import record_run

from tune_lnl.tuning.runs.run import Run, load_run


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record_run(tmp_path_factory.mktemp("recorded")).files.root


@pytest.fixture
def run(tmp_path: Path, recorded: Path) -> Run:
    """Two complete trials, one stopped early, one failed, one in the middle, of six; a copy, to be changed."""
    return load_run(shutil.copytree(recorded, tmp_path / "results" / "tiny"))
