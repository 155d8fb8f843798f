"""Trainings of one process do not influence each other."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import tiny_runs
from tiny_runs import WARMUP, finish, start, tiny, without_times

from tune_lnl.config.registry import METHODS


@pytest.mark.parametrize("method", ["act", "core"])
def test_a_training_after_others_equals_one_in_a_process_of_its_own(method: str) -> None:
    command = [sys.executable, tiny_runs.__file__, method]
    alone = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)[method]
    for earlier in METHODS:
        finish(start(tiny(earlier, seed=5, lr=0.2, batch_size=16, precision="bf16", dataset={"noise_seed": 4})))
    assert without_times(finish(start(tiny(method), test_from=WARMUP))) == alone
