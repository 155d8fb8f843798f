"""Data that only some machines have."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def real_cifar100() -> Path:
    """The folder with the real CIFAR-100 in parquet shards; skips the test where there is none."""
    beside = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"
    configured = os.environ.get("TUNE_LNL_DATA")
    for place in (Path(configured), beside) if configured else (beside,):
        for folder in (place / "cifar100", place):
            if len(list(folder.glob("*-of-*.parquet"))) == 3:
                return folder
    pytest.skip("the real CIFAR-100 is absent: set TUNE_LNL_DATA")
