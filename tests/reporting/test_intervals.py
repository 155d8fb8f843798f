from __future__ import annotations

import pytest

from tune_lnl.reporting.intervals import Estimate, difference


def ends(found: Estimate) -> list[float | None]:
    return [found.value, found.low, found.high]


def test_one_measurement() -> None:
    found = Estimate.measured(50.0, 2.0)
    assert ends(found) == pytest.approx([50.0, 46.080, 53.920], abs=1e-3)
    assert str(found) == "50.00 (46.08 to 53.92)"
    assert str(Estimate.measured(50.0, None)) == "50.00"


def test_the_mean_of_a_few_runs() -> None:
    """Mean 2, deviation 1, t(0.975, 2) = 4.3027: half width 4.3027 / sqrt 3."""
    assert ends(Estimate.mean_of([1.0, 2.0, 3.0])) == pytest.approx([2.0, -0.4841, 4.4841], abs=1e-4)
    assert Estimate.mean_of([4.0]) == Estimate(4.0)
    with pytest.raises(ValueError, match="no values"):
        Estimate.mean_of([])


def test_a_difference_adds_variances() -> None:
    half = 1.959964 * 5.0
    assert ends(difference(10.0, 3.0, 4.0, 4.0)) == pytest.approx([6.0, 6.0 - half, 6.0 + half])
    assert difference(10.0, None, 4.0, 4.0) == Estimate(6.0)
