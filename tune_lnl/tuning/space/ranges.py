"""The ranges of searched settings, as written under ``search:`` in a space."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool, StrictFloat, StrictInt, StrictStr, TypeAdapter, ValidationError, model_validator

from tune_lnl.config.base import Settings
from tune_lnl.errors import InputError, nearest

GRID_TOLERANCE = 1e-9


class Uniform(Settings):
    """A real number, uniform in [low, high]; with ``step``, on the grid low, low + step, ..."""

    type: Literal["uniform"]
    low: float
    high: float
    step: float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _ordered(self) -> Uniform:
        _check_order(self.low, self.high)
        return self

    def contains(self, value: Any) -> bool:
        if not _is_number(value) or not self.low <= value <= self.high:
            return False
        return self.step is None or _on_grid(value, self.low, self.step)

    def extremes(self) -> list[Any]:
        return [self.low, self.high]


class LogUniform(Settings):
    """A positive real number, uniform in its logarithm, in [low, high]."""

    type: Literal["loguniform"]
    low: float
    high: float

    @model_validator(mode="after")
    def _ordered(self) -> LogUniform:
        if self.low <= 0:
            raise ValueError(f"a loguniform range lies above 0, got low {self.low}; raise low or use type: uniform")
        _check_order(self.low, self.high)
        return self

    def contains(self, value: Any) -> bool:
        return _is_number(value) and self.low <= value <= self.high

    def extremes(self) -> list[Any]:
        return [self.low, self.high]


class Int(Settings):
    """A whole number in [low, high] on the grid low, low + step, ...; with ``log``, uniform in its logarithm."""

    type: Literal["int"]
    low: StrictInt
    high: StrictInt
    step: int = Field(1, ge=1)
    log: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> Int:
        _check_order(self.low, self.high)
        if self.log and self.low < 1:
            raise ValueError(f"an int range with log lies above 0, got low {self.low}; raise low or drop log")
        if self.log and self.step != 1:
            raise ValueError(f"an int range has a step or log, not both, got step {self.step}")
        return self

    def contains(self, value: Any) -> bool:
        whole = isinstance(value, int) and not isinstance(value, bool)
        return whole and self.low <= value <= self.high and (value - self.low) % self.step == 0

    def extremes(self) -> list[Any]:
        return [self.low, self.high - (self.high - self.low) % self.step]


class Choice(Settings):
    """One of the listed values."""

    type: Literal["choice"]
    choices: list[StrictBool | StrictInt | StrictFloat | StrictStr | None] = Field(min_length=2)

    def contains(self, value: Any) -> bool:
        return any(value == choice and type(value) is type(choice) for choice in self.choices)

    def extremes(self) -> list[Any]:
        return list(self.choices)


Parameter = Uniform | LogUniform | Int | Choice

TYPES = ("uniform", "loguniform", "int", "choice")
_PARAMETER: TypeAdapter[Parameter] = TypeAdapter(Annotated[Parameter, Field(discriminator="type")])


def parse_parameter(value: Any, where: str) -> Parameter:
    """Read one entry of ``search:``.

    Args:
        where: the name of the entry, for messages.

    Raises:
        InputError: unknown type or key, a missing bound, or bounds out of order.
    """
    if not isinstance(value, dict):
        raise InputError(
            f"{where} is a range such as {{type: loguniform, low: 1.0e-3, high: 1.0e-1}}, got {value!r}; "
            "a single value belongs under fixed:"
        )
    kind = value.get("type")
    if kind not in TYPES:
        raise InputError(f"{where}.type is unknown: {kind!r}; {nearest(str(kind), TYPES)}")
    try:
        return _PARAMETER.validate_python(value)
    except ValidationError as error:
        complaints = error.errors()
        # A misspelt key is also a missing one; the message about the misspelt name helps more.
        item = next((one for one in complaints if one["type"] == "extra_forbidden"), complaints[0])
        place = ".".join(str(part) for part in item["loc"][1:])
        name = f"{where}.{place}" if place else where
        if item["type"] == "missing":
            raise InputError(f"{name} is required for type {kind}") from None
        if item["type"] == "extra_forbidden":
            valid = next(t for t in (Uniform, LogUniform, Int, Choice) if t.__name__.lower() == kind).model_fields
            raise InputError(f"{name}: unknown key; {nearest(place, valid)}") from None
        if item["type"] == "value_error":
            raise InputError(f"{name}: {str(item['msg']).removeprefix('Value error, ')}") from None
        raise InputError(f"{name}: {item['msg']}, got {item['input']!r}") from None


def _check_order(low: float, high: float) -> None:
    if low >= high:
        raise ValueError(f"low must be below high, got low {low} and high {high}; a single value belongs under fixed:")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _on_grid(value: float, low: float, step: float) -> bool:
    steps = (value - low) / step
    return abs(steps - round(steps)) < GRID_TOLERANCE * max(1.0, abs(steps))
