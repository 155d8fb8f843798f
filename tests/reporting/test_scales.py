from __future__ import annotations

import pytest

from tune_lnl.reporting.scales import Categories, Linear, Log, Whole, nice_step, number, scale_of, setting, shortened
from tune_lnl.tuning.space.ranges import parse_parameter


@pytest.mark.parametrize(("rough", "step"), [(0.7, 1.0), (1.0, 1.0), (1.1, 2.0), (3.0, 5.0), (6.0, 10.0), (0.03, 0.05)])
def test_steps_are_round(rough: float, step: float) -> None:
    assert nice_step(rough) == pytest.approx(step)


def test_linear() -> None:
    scale = Linear(0.0, 10.0)
    assert (scale.place(0), scale.place(2.5), scale.place(10)) == (0.0, 0.25, 1.0)
    assert [text for _, text in scale.ticks(5)] == ["0", "2", "4", "6", "8", "10"]
    assert [text for _, text in Linear(0.0, 0.2).ticks(4)] == ["0.00", "0.05", "0.10", "0.15", "0.20"]
    assert (scale.held(-1), scale.held(5), scale.held(11)) == (0.0, 5, 10.0)


@pytest.mark.parametrize("values", [[], [3.0], [0.0, 0.0], [1e-30, 2e-30], [-5.0, 5.0]])
def test_a_range_around_any_values_is_not_empty(values: list[float]) -> None:
    scale = Linear.around(values)
    assert scale.low < scale.high
    assert all(0.0 < scale.place(value) < 1.0 for value in values)


def test_counts_are_whole() -> None:
    assert [text for _, text in Whole(-0.5, 3.5).ticks(12)] == ["0", "1", "2", "3"]
    assert [text for _, text in Whole(0, 150).ticks(4)] == ["0", "50", "100", "150"]


def test_log() -> None:
    scale = Log(0.01, 100.0)
    assert [scale.place(value) for value in (0.01, 1.0, 100.0)] == pytest.approx([0.0, 0.5, 1.0])
    assert [text for _, text in scale.ticks(5)] == ["0.01", "0.1", "1", "10", "100"]
    assert len(Log(1e-12, 1e12).ticks(5)) <= 5
    assert Log.around([2.0]).low < 2.0 < Log.around([2.0]).high


def test_true_and_one_are_different_choices() -> None:
    scale = Categories([True, 1, "x<", None])
    assert [scale.place(value) for value in (True, 1, "x<", None)] == [0.125, 0.375, 0.625, 0.875]
    assert [text for _, text in scale.ticks(1)] == ["true", "1", "x<", "null"]


def test_each_kind_of_range_has_its_axis() -> None:
    def of(**spec: object) -> object:
        return scale_of(parse_parameter(spec, "search.x"))

    assert isinstance(of(type="uniform", low=0.0, high=1.0), Linear)
    assert isinstance(of(type="loguniform", low=0.1, high=1.0), Log)
    assert isinstance(of(type="int", low=1, high=9), Whole)
    assert isinstance(of(type="int", low=1, high=9, log=True), Log)
    assert of(type="choice", choices=["a", "b"]) == Categories(["a", "b"])


def test_texts() -> None:
    assert [number(value) for value in (0.002, 1e-5, 12.0, 0.123456)] == ["0.002", "1e-05", "12", "0.123"]
    assert [setting(value) for value in (None, True, 0.123456, 7, "a")] == ["null", "true", "0.1235", "7", "a"]
    assert (shortened("abc", 3), shortened("abcd", 3)) == ("abc", "ab…")
