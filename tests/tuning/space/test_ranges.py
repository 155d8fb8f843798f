from __future__ import annotations

from typing import Any

import pytest

from tune_lnl.errors import InputError
from tune_lnl.tuning.space.ranges import parse_parameter


@pytest.mark.parametrize(
    ("spec", "inside", "outside", "extremes"),
    [
        ({"type": "uniform", "low": 0, "high": 1}, [0, 0.3, 1.0], [-0.1, 1.1, float("nan"), True, "0.5"], [0, 1]),
        ({"type": "uniform", "low": 0.1, "high": 0.7, "step": 0.2}, [0.1, 0.3, 0.5, 0.7], [0.2, 0.9], [0.1, 0.7]),
        ({"type": "loguniform", "low": 0.001, "high": 0.1}, [0.001, 0.02, 0.1], [0.0, 0.2], [0.001, 0.1]),
        ({"type": "int", "low": 5, "high": 12, "step": 3}, [5, 8, 11], [6, 12, 14, 8.0, True], [5, 11]),
        ({"type": "int", "low": 1, "high": 64, "log": True}, [1, 7, 64], [0, 65], [1, 64]),
        ({"type": "choice", "choices": ["sgd", "adam"]}, ["sgd"], ["sdg", None], ["sgd", "adam"]),
        ({"type": "choice", "choices": [1, 0.5, None, False]}, [1, 0.5, None, False], [1.0, True, 0], None),
    ],
)
def test_what_a_range_holds(spec: dict[str, Any], inside: list[Any], outside: list[Any], extremes: list[Any]) -> None:
    parameter = parse_parameter(spec, "search.x")
    assert all(parameter.contains(value) for value in inside)
    assert not any(parameter.contains(value) for value in outside)
    assert parameter.extremes() == (spec["choices"] if extremes is None else extremes)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (0.1, r"search\.x is a range such as .*got 0\.1; a single value belongs under fixed:"),
        ({"low": 0, "high": 1}, r"search\.x\.type is unknown: None; valid: choice"),
        ({"type": "logunifrom", "low": 1, "high": 2}, r"search\.x\.type is unknown.*did you mean 'loguniform'"),
        ({"type": "uniform", "low": 1, "high": 1}, r"search\.x: low must be below high, got low 1\.0 and high 1\.0"),
        ({"type": "uniform", "low": 2, "high": 1}, r"low must be below high.*belongs under fixed:"),
        ({"type": "int", "low": 3, "high": 3}, r"low must be below high"),
        ({"type": "int", "low": 3, "high": 2}, r"low must be below high"),
        ({"type": "loguniform", "low": 0, "high": 1}, r"lies above 0, got low 0\.0; raise low or use type: uniform"),
        ({"type": "loguniform", "low": -1, "high": 1}, r"lies above 0, got low -1\.0"),
        ({"type": "int", "low": 0, "high": 4, "log": True}, r"with log lies above 0, got low 0"),
        ({"type": "int", "low": 1, "high": 9, "step": 2, "log": True}, r"a step or log, not both, got step 2"),
        ({"type": "int", "low": 1.5, "high": 4}, r"search\.x\.low: .*got 1\.5"),
        ({"type": "int", "low": 1, "high": 4, "step": 0}, r"search\.x\.step: .*got 0"),
        ({"type": "uniform", "low": 1}, r"search\.x\.high is required for type uniform"),
        ({"type": "uniform", "low": 1, "hihg": 2}, r"search\.x\.hihg: unknown key; did you mean 'high'"),
        ({"type": "uniform", "low": 1, "high": 2, "stepp": 1}, r"search\.x\.stepp: unknown key; did you mean 'step'"),
        ({"type": "uniform", "low": 1, "high": float("inf")}, r"search\.x\.high: .*got inf"),
        ({"type": "choice", "choices": ["one"]}, r"search\.x\.choices: .*got \['one'\]"),
        ({"type": "choice", "choices": [[1], [2]]}, r"search\.x\.choices"),
    ],
)
def test_what_is_refused(spec: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_parameter(spec, "search.x")
