from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.utils.callback import _create_default_callbacks

from tune_lnl.tuning.engine.trial_names import NamedTasks, trial_name
from tune_lnl.tuning.engine.tune import NUMBER


class Method:
    """Stands for a method of Ray's actor handle."""

    def __init__(self, name: str | None = None) -> None:
        self.name = name

    def options(self, name: str) -> Any:
        # Ray gives an object with `remote` alone.
        return SimpleNamespace(remote=lambda: name)


def trial(number: int, worker: object) -> Any:
    return SimpleNamespace(config={NUMBER: number}, temporary_state=SimpleNamespace(ray_actor=worker))


def test_names() -> None:
    assert [trial_name(number) for number in (0, 12, 1234)] == ["trial-000", "trial-012", "trial-1234"]


def test_a_worker_that_trains_one_trial_after_another() -> None:
    worker = SimpleNamespace(train=Method())
    for number in (3, 7):
        NamedTasks().on_trial_start(0, [], trial(number, worker))
        assert worker.train.remote() == trial_name(number)


def test_no_worker_yet() -> None:
    NamedTasks().on_trial_start(0, [], trial(1, None))


def test_ray_prints_no_line_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    named = NamedTasks()
    for hook in (named.on_trial_result, named.on_trial_error, named.on_trial_complete):
        hook(0, [], trial(1, None), result={"done": True})
    assert capsys.readouterr().out == ""
    # One that is given is the only one: Ray adds its own where there is none.
    added = _create_default_callbacks([named], air_verbosity=None)
    assert [each for each in added if isinstance(each, TrialProgressCallback)] == [named]
