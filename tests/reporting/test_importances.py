from __future__ import annotations

import math
import random
from typing import Any

from tune_lnl.reporting.importances import importances
from tune_lnl.tuning.space.ranges import Parameter, parse_parameter

PARAMETERS: dict[str, Parameter] = {
    "lr": parse_parameter({"type": "loguniform", "low": 1e-3, "high": 1.0}, "search.lr"),
    "idle": parse_parameter({"type": "uniform", "low": 0.0, "high": 1.0}, "search.idle"),
    "flag": parse_parameter({"type": "choice", "choices": [True, False]}, "search.flag"),
}


def draws(count: int) -> list[dict[str, Any]]:
    draw = random.Random(0)
    return [{"lr": 10 ** draw.uniform(-3, 0), "idle": draw.random(), "flag": draw.random() < 0.5} for _ in range(count)]


def test_what_decides_comes_first_and_what_is_idle_has_none() -> None:
    params = draws(60)
    values = [10 * math.log10(one["lr"]) + 4 * one["flag"] for one in params]
    found = {one.name: one for one in importances(params, values, PARAMETERS)}
    assert list(found) == ["lr", "flag", "idle"]
    assert found["lr"].low > found["flag"].high > 0
    assert abs(found["idle"].median) < 0.02
    assert all(one.low <= one.median <= one.high for one in found.values())


def test_noise_alone_makes_nothing_important() -> None:
    draw = random.Random(1)
    found = importances(draws(30), [draw.random() for _ in range(30)], PARAMETERS)
    assert all(one.low < 0 for one in found)


def test_the_same_again() -> None:
    params = draws(8)
    values = [one["lr"] for one in params]
    assert importances(params, values, PARAMETERS) == importances(params, values, PARAMETERS)


def test_too_few_or_all_alike() -> None:
    assert importances(draws(5), [1.0, 2.0, 3.0, 4.0, 5.0], PARAMETERS) == []
    assert importances(draws(8), [1.0] * 8, PARAMETERS) == []
