"""Scales: from values to positions on an axis, and the values written along it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

from tune_lnl.tuning.space.ranges import Choice, Int, LogUniform, Parameter

Tick = tuple[Any, str]


class Scale(Protocol):
    """Values to [0, 1]."""

    def place(self, value: Any) -> float: ...

    def ticks(self, count: int) -> list[Tick]:
        """At most about ``count`` (value, text) pairs."""
        ...


@dataclass(frozen=True)
class Linear:
    """Equal steps, equal distances."""

    low: float
    high: float

    @classmethod
    def around(cls, values: Sequence[float], margin: float = 0.06) -> Self:
        """The range of ``values`` with a margin; some range where they are all alike, or none."""
        low, high = (min(values), max(values)) if values else (0.0, 1.0)
        room = (high - low) * margin or max(abs(high) * margin, 1e-9)
        return cls(low - room, high + room)

    def held(self, value: float) -> float:
        """The value, or the end of the range beyond which it lies."""
        return min(max(value, self.low), self.high)

    def place(self, value: Any) -> float:
        return (float(value) - self.low) / ((self.high - self.low) or 1.0)

    def ticks(self, count: int) -> list[Tick]:
        step = nice_step((self.high - self.low) / max(1, count))
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        return [(index * step, f"{index * step:.{digits}f}") for index in range(first, last + 1)]


@dataclass(frozen=True)
class Whole(Linear):
    """Counts: trials, epochs."""

    def ticks(self, count: int) -> list[Tick]:
        step = max(1, round(nice_step((self.high - self.low) / max(1, count))))
        first = max(0, math.ceil(self.low / step))
        return [(index * step, str(index * step)) for index in range(first, math.floor(self.high / step) + 1)]


@dataclass(frozen=True)
class Blank(Linear):
    """Places without numbers: what stands there is named in the drawing."""

    def ticks(self, count: int) -> list[Tick]:
        return []


@dataclass(frozen=True)
class Log:
    """Equal ratios, equal distances; ``low`` above 0."""

    low: float
    high: float

    @classmethod
    def around(cls, values: Sequence[float], margin: float = 0.06) -> Self:
        low, high = (min(values), max(values)) if values else (0.1, 1.0)
        room = (high / low) ** margin if high > low else 1.5
        return cls(low / room, high * room)

    def place(self, value: Any) -> float:
        return math.log(float(value) / self.low) / (math.log(self.high / self.low) or 1.0)

    def ticks(self, count: int) -> list[Tick]:
        exponents = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for factors in ((1, 2, 5), (1, 3), (1,)):
            values = [f * 10.0**e for e in exponents for f in factors]
            inside = [value for value in values if self.low * (1 - 1e-9) <= value <= self.high * (1 + 1e-9)]
            if len(inside) <= count:
                break
        every = max(1, math.ceil(len(inside) / max(1, count)))
        return [(value, number(value)) for value in inside[::every]]


@dataclass(frozen=True)
class Categories:
    """A place for each of a few values, in their order."""

    values: Sequence[Any]

    def place(self, value: Any) -> float:
        return (self._index(value) + 0.5) / len(self.values)

    def ticks(self, count: int) -> list[Tick]:
        return [(value, shortened(setting(value), 14)) for value in self.values]

    def _index(self, value: Any) -> int:
        # 1 == True in Python, but they are different settings.
        return next(i for i, known in enumerate(self.values) if known == value and type(known) is type(value))


def scale_of(parameter: Parameter) -> Scale:
    """The axis of a searched range."""
    if isinstance(parameter, Choice):
        return Categories(parameter.choices)
    low, high = parameter.extremes()[0], parameter.extremes()[-1]
    if isinstance(parameter, LogUniform) or (isinstance(parameter, Int) and parameter.log):
        return Log.around([low, high], 0.03)
    room = 0.03 * (high - low)
    return (Whole if isinstance(parameter, Int) else Linear)(low - room, high + room)


def nice_step(rough: float) -> float:
    """1, 2 or 5 times a power of ten, the first at or above ``rough``."""
    power = 10.0 ** math.floor(math.log10(max(rough, 1e-300)))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))


def number(value: float, digits: int = 3) -> str:
    """``0.002``, ``1e-05``, ``12``: as short as ``digits`` significant digits allow."""
    return f"{value:.{digits}g}"


def setting(value: Any) -> str:
    """A setting's value as a person writes it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return number(value, 4) if isinstance(value, float) else str(value)


def shortened(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
