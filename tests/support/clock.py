"""A clock that a test sets."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Clock:
    """Seconds, as :func:`time.time` gives them."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now
