from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

from report_runs import Asked, view

from tune_lnl.reporting.importances import importance_figure, importances
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


def test_importances_warn_below_thirty(tmp_path: Path) -> None:
    seen = view(tmp_path, [Asked("COMPLETE", 50.0 + number % 4) for number in range(8)])
    assert importance_figure(seen).takeaway.startswith("Warning: 8 trials are few (under 30)")
    assert importance_figure(view(tmp_path, name="few")).takeaway == (
        "Importances need at least 6 trials with different values; there are 4 trials to compare."
    )


def test_importances_come_from_where_trials_can_be_compared(tmp_path: Path) -> None:
    pruned = [Asked("PRUNED", 40.0 + number, epochs=3) for number in range(6)]
    seen = view(tmp_path, [Asked("COMPLETE", 60.0), Asked("COMPLETE", 61.0), *pruned])
    figure = importance_figure(seen)
    assert figure.takeaway.startswith("Warning: 8 trials")
    assert "after epoch 3, the first comparison of 8 trials" in figure.notes[0]
