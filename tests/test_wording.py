"""How states, durations, counts and values are written."""

from __future__ import annotations

import doctest

import pytest

from tune_lnl import wording


def test_the_examples() -> None:
    found = doctest.testmod(wording)
    assert (found.failed, found.attempted) == (0, 5)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (99.0, "99 s"), (99.6, "2 min"), (600.0, "10 min"), (9000.0, "2.5 h"), (216000.0, "2.5 d")],
)
def test_durations(seconds: float, text: str) -> None:
    assert wording.duration(seconds) == text
