from __future__ import annotations

import re
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial

from tune_lnl.errors import InputError
from tune_lnl.tuning.plan.resume import require_same_search, resume_command, total_trials
from tune_lnl.tuning.plan.values import read_trials
from tune_lnl.tuning.study.trials import TAKEN_FROM

RANGES: dict[str, optuna.distributions.BaseDistribution] = {"lr": optuna.distributions.FloatDistribution(0.0, 1.0)}


def trial(state: TrialState, reported: int = 0, **attributes: Any) -> FrozenTrial:
    return create_trial(
        state=state,
        value=1.0 if state == TrialState.COMPLETE else None,
        params={"lr": 0.5},
        distributions=RANGES,
        intermediate_values=dict.fromkeys(range(reported), 1.0),
        user_attrs=attributes,
    )


class Place:
    """A study whose trials are read when they are needed."""

    def __init__(self, *trials: FrozenTrial) -> None:
        self.trials, self.read = trials, 0

    def read_trials(self) -> list[FrozenTrial]:
        self.read += 1
        return list(self.trials)


STUDY = (
    trial(TrialState.COMPLETE, 3, **{TAKEN_FROM: {"run": "other", "number": 0}}),
    trial(TrialState.COMPLETE, 3),
    trial(TrialState.PRUNED, 2),
    trial(TrialState.FAIL),
    trial(TrialState.RUNNING),
    trial(TrialState.WAITING, 1),  # was running
    trial(TrialState.WAITING),  # a start point
)


def total(asked: str | None, *trials: FrozenTrial) -> int:
    place: Any = Place(*trials)
    return total_trials(None if asked is None else read_trials(asked), settings(), place)


def space(lr: float = 0.1, **budget: Any) -> dict[str, Any]:
    return {"fixed": {"lr": lr}, "budget": {"trials": 12, "pruner": "asha", **budget}}


def settings(**changes: Any) -> dict[str, Any]:
    stored = {
        "space_name": "tiny",
        "condition": None,
        "seed": 0,
        "fingerprints": {"labels": "abc"},
        "space": space(),
    }
    return stored | changes


class TestTotal:
    @pytest.mark.parametrize(("asked", "there"), [(None, 12), ("12", 12), ("20", 20), ("+1", 13), ("+16", 28)])
    def test_as_asked(self, asked: str | None, there: int) -> None:
        place: Any = Place()
        assert total_trials(None if asked is None else read_trials(asked), settings(), place) == there
        assert place.read == 0

    def test_fewer_are_enough_where_no_more_have_begun(self) -> None:
        assert total("5", *STUDY) == 5
        assert total("1") == 1

    def test_fewer_than_have_begun(self) -> None:
        with pytest.raises(InputError, match=re.escape("--trials 4 is the total, and this run has begun 5 trials")):
            total("4", *STUDY)


class TestSameSearch:
    def test_the_number_of_trials_may_differ(self) -> None:
        require_same_search(settings(), settings(space=space(trials=3)))

    def test_what_is_not_known_yet_is_not_compared(self) -> None:
        own = settings()
        del own["fingerprints"]
        require_same_search(settings(), own)

    @pytest.mark.parametrize(
        ("change", "told"),
        [
            ({"space_name": "other"}, "space_name = 'tiny', now it is 'other'"),
            ({"condition": "sym20"}, "condition = None, now it is 'sym20'"),
            ({"seed": 1}, "seed = 0, now it is 1"),
            ({"fingerprints": {"labels": "x"}}, "fingerprints.labels = 'abc', now it is 'x'"),
            ({"fingerprints": {}}, "fingerprints.labels = 'abc', now it is None"),
            ({"space": space(lr=0.2)}, "fixed.lr = 0.1, now it is 0.2"),
            ({"space": space(pruner="none")}, "budget.pruner = 'asha', now it is 'none'"),
        ],
    )
    def test_whatever_else_differs(self, change: dict[str, Any], told: str) -> None:
        with pytest.raises(InputError, match=re.escape(told)):
            require_same_search(settings(), settings(**change))


@pytest.mark.parametrize(
    ("command", "resumed"),
    [
        ("search tiny", "search tiny --resume"),
        ("search tiny --resume", "search tiny --resume"),
        ("search tiny --trials 4 --epochs 9", "search tiny --trials 12 --epochs 9 --resume"),
        ("search tiny --trials=4 --resume", "search tiny --trials=12 --resume"),
        ("search 'my tiny' --trials +8 --resume", "search 'my tiny' --trials 12 --resume"),
    ],
)
def test_the_command_that_goes_on(command: str, resumed: str) -> None:
    assert resume_command(command, 12) == resumed


def test_a_space_that_now_writes_out_a_default_is_the_same_search() -> None:
    before: dict[str, Any] = {"space": {"method": "act", "fixed": {"epochs": 6}}}
    own: dict[str, Any] = {"space": {"method": "act", "fixed": {"epochs": 6, "penalty": "exact"}}}
    require_same_search(before, own)
    own["space"]["fixed"]["penalty"] = "code"
    with pytest.raises(InputError, match=r"fixed\.penalty = 'exact', now it is 'code'"):
        require_same_search(before, own)
