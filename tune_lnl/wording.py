"""How states, durations, counts and values are written: once, so that one thing reads the same in every view."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ENDED = ("COMPLETE", "PRUNED", "FAIL")
"""Names of the states of a trial that has ended."""
STATES = {
    "COMPLETE": "complete",
    "PRUNED": "stopped early",
    "FAIL": "failed",
    "RUNNING": "running",
    "WAITING": "waiting",
}
"""The word for each state of a trial."""


def duration(seconds: float) -> str:
    """Write a duration: ``45 s``, ``12 min``, ``3.4 h``, ``2.1 d``.

    >>> [duration(seconds) for seconds in (45, 99.4, 100, 5999, 6000, 172800)]
    ['45 s', '99 s', '2 min', '100 min', '1.7 h', '2.0 d']
    """
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} d"


def counted(number: int, noun: str) -> str:
    """Write a number with its noun.

    >>> counted(1, "trial"), counted(1200, "image")
    ('1 trial', '1,200 images')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def state_counts(counts: Mapping[str, int], taken_over: int = 0) -> str:
    """Write how many trials are in each state.

    Args:
        counts: state name -> number of trials.
        taken_over: how many of them another run has made.

    >>> state_counts({"PRUNED": 4, "COMPLETE": 8, "FAIL": 0}, taken_over=2)
    '8 complete, 4 stopped early (2 of them taken over)'
    """
    text = ", ".join(f"{counts[state]} {word}" for state, word in STATES.items() if counts.get(state)) or "none"
    return f"{text} ({taken_over} of them taken over)" if taken_over else text


def with_error(value: float | None, standard_error: float | None) -> str:
    """Write a value and its standard error, or a dash.

    >>> with_error(71.254, 1.096), with_error(71.254, None), with_error(None, None)
    ('71.25 ± 1.10', '71.25', '-')
    """
    if value is None:
        return "-"
    return f"{value:.2f}" if standard_error is None else f"{value:.2f} ± {standard_error:.2f}"


def settings_text(params: Mapping[str, Any]) -> str:
    """Write searched settings, four digits each.

    >>> settings_text({"lr": 0.0123456, "warmup_epochs": 3})
    'lr=0.01235 warmup_epochs=3'
    """
    return " ".join(
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in params.items()
    )
