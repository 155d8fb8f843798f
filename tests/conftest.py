from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Packed datasets of the tests go where the tests go, never into the user's cache."""
    before = os.environ.get("TUNE_LNL_CACHE")
    folder = tmp_path_factory.mktemp("cache")
    os.environ["TUNE_LNL_CACHE"] = str(folder)
    yield folder
    if before is None:
        del os.environ["TUNE_LNL_CACHE"]
    else:
        os.environ["TUNE_LNL_CACHE"] = before
