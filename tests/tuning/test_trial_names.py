from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from tune_lnl.tuning.ray_bridge import NUMBER
from tune_lnl.tuning.trial_names import NamedTasks, trial_name


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
