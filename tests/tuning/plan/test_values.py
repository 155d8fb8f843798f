"""The values of options, read from texts."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tune_lnl.errors import InputError
from tune_lnl.tuning.plan.values import ConfirmRequest, read_bytes, read_confirm, read_seconds


def refused(read: Callable[[str], object], text: str) -> str:
    with pytest.raises(InputError) as found:
        read(text)
    return str(found.value)


def test_durations() -> None:
    texts = {"2h": 7200, "90m": 5400, "1h30m": 5400, "45s": 45, "1.5h": 5400, " 1m1s ": 61}
    assert {text: read_seconds(text) for text in texts} == texts
    for text in ("", "2", "h", "2h30", "-1h", "1d", "30m1h", "0s", "1e3s", "inf"):
        assert refused(read_seconds, text) == f"--time-budget is a duration such as 2h, 90m or 1h30m, got {text!r}"


def test_sizes() -> None:
    texts = {"20GB": 20 * 10**9, "500MB": 5 * 10**8, "1.5 GB": 15 * 10**8, "7kb": 7000, "3B": 3}
    assert {text: read_bytes(text) for text in texts} == texts
    for text in ("", "20", "GB", "-1GB", "0GB", "20GiB", "1e3MB"):
        assert refused(read_bytes, text) == f"--disk-budget is a size such as 20GB or 500MB, got {text!r}"


def test_a_confirmation() -> None:
    assert read_confirm("3x5") == ConfirmRequest(3, 5)
    assert ConfirmRequest(3, 5).trainings == 16
    assert read_confirm("none") == "none"
    assert str(ConfirmRequest(3, 5)) == "3x5"
    for text in ("3", "3x", "x5", "-1x5", "3X5", "3x5x2", ""):
        assert refused(read_confirm, text).startswith("--confirm is KxS")
    assert "at least one trial" in refused(read_confirm, "0x5")
    for text in ("3x1", "3x0"):
        assert "at least two replicates" in refused(read_confirm, text)
