"""What Ray is asked for, without starting it."""

from __future__ import annotations

import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ray import tune
from tiny_search import tiny_plan
from toy_runs import local_session, open_run

from tune_lnl.tuning.engine.local import LocalRay
from tune_lnl.tuning.engine.runner import keeping_sigterm, trial_job


class AskedFor(Exception):  # noqa: N818 (no error)
    """Raised in place of a start."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options


def test_workers_are_kept_and_ray_saves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def tuner(trainable: Any, **options: Any) -> None:
        raise AskedFor(options)

    monkeypatch.setattr(tune, "Tuner", tuner)
    plan = tiny_plan(tmp_path)
    with pytest.raises(AskedFor) as asked:
        LocalRay(2).train(plan, local_session(plan, open_run(plan)), partial(trial_job, plan), tmp_path)
    assert asked.value.options["tune_config"].reuse_actors is True
    checkpoints = asked.value.options["run_config"].checkpoint_config
    assert checkpoints.checkpoint_at_end is False
    assert checkpoints.checkpoint_frequency == 0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_sigterm_is_heeded_where_the_exception_of_rays_handler_is_lost() -> None:
    """In a destructor, or in a function that runs at a fork."""
    heeded: list[int] = []

    def ray_exits(number: int, frame: object) -> None:
        raise SystemExit(number)

    class Lost:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, lambda number, frame: heeded.append(number))
    try:
        with keeping_sigterm():
            signal.raise_signal(signal.SIGTERM)
            assert heeded == [signal.SIGTERM]
            signal.signal(signal.SIGTERM, ray_exits)
            Lost()
        assert heeded == [signal.SIGTERM] * 2
        signal.raise_signal(signal.SIGTERM)
        assert heeded == [signal.SIGTERM] * 3
    finally:
        signal.signal(signal.SIGTERM, before)
