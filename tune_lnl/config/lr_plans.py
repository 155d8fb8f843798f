"""Learning-rate plans: one value per epoch, from a published plan string or from ``{shape, end}``.

The strings are those of the released ACT code (repository shtdusb/ACT at commit 1411130, ``util.py`` lines 155-269).
E epochs, of which the first E_w are warm-up at ``warmup_lr``:

==================================== ==============================================================================
baseline                             lr, times 0.1 at epochs 60, 120 and 150; has no warm-up
step                                 the same, its first E_w epochs at the warm-up lr
step30                               lr, times 0.1 at epochs 50, 80 and 100, its first E_w at the warm-up lr
linear                               warm-up, lr until 60, then a line down to 1e-5 lr at the last epoch
cosine                               warm-up, lr until 60, then a cosine towards 0
cosineRestart                        warm-up, lr until 60, a cosine towards 0 (30 epochs), lr (30), a cosine to the end
cosineNew                            warm-up, lr until 60, 27 epochs of a cosine over 30, then a cosine from its 28th
step:m1,m2,...[,f]                   lr times f for every milestone passed; a last item of 1 or more is a milestone, and
                                     f is then 0.1
linear:s[,end] or linear:s,x,stop    warm-up, lr until s, a line to ``end`` (1e-5 lr) at ``stop`` (E), then constant; of
                                     three items the middle one is ignored
cosine:s[,end[,stop]]                warm-up, lr until s, a cosine towards ``end`` (0) over s..stop (E), then constant
halfcosine:s[,end[,stop]]            the same with the second half of a cosine twice as long: starts at (lr + end) / 2
==================================== ==============================================================================

A published cosine of n epochs has the values ``end + (lr - end) (1 + cos(π i / n)) / 2`` for i = 0..n-1: it never
quite reaches its end. Parts are appended rather than placed: where the warm-up is longer than s, the decay starts
after the warm-up and the list grows past E. Here it is cut to E values; the released code just never reads the rest.
A ``stop`` that is not above s counts as E.

Stricter than the released code, which would take them: numbers that are negative, not finite or too many, a decay
factor of 0, a last milestone that is not whole, and an ignored middle item that is not a number. ``linear`` asked to
start after the last epoch fails there inside numpy, here with a sentence; the cosine plans then never decay, as there.

``{shape, end}`` runs from the end of the warm-up to the last epoch, so it follows ``epochs`` and ``warmup_epochs``
when they change. With n epochs after the warm-up and i = 0..n-1 the factor of lr is 1 at i = 0 and exactly ``end`` at
i = n-1 (1 where n = 1): ``cosine`` is ``end + (1 - end) (1 + cos(π i / (n-1))) / 2``, ``linear`` a line, ``constant``
stays at 1 and takes no end but 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from tune_lnl.errors import InputError, nearest

PlanSpec = str | Mapping[str, object]
"""A published plan string, or ``{"shape": "cosine" | "linear" | "constant", "end": share of lr in [0, 1]}``."""

Shape = Literal["cosine", "linear", "constant"]
Curve = Literal["cosine", "halfcosine", "linear"]

_MOST_EPOCHS = 1_000_000
SHAPES: tuple[Shape, ...] = ("cosine", "linear", "constant")
_FORMS = {
    "step:": "step:M1,M2,...[,FACTOR]",
    "linear:": "linear:START[,END] or linear:START,X,STOP",
    "cosine:": "cosine:START[,END[,STOP]]",
    "halfcosine:": "halfcosine:START[,END[,STOP]]",
}


class Plan(Protocol):
    """A plan that has been read and found well-formed."""

    def values(self, lr: float, epochs: int, warmup_epochs: int, warmup_lr: float) -> list[float]:
        """Return the learning rate of each of ``epochs`` epochs."""


@dataclass(frozen=True)
class StepPlan:
    """Multiplies lr by ``factor`` at each milestone (epochs); the warm-up overwrites the beginning."""

    milestones: tuple[int, ...]
    factor: float = 0.1
    has_warmup: bool = True

    def values(self, lr: float, epochs: int, warmup_epochs: int, warmup_lr: float) -> list[float]:
        def value(epoch: int) -> float:
            if self.has_warmup and epoch < warmup_epochs:
                return warmup_lr
            return lr * self.factor ** sum(epoch >= milestone for milestone in self.milestones)

        return [value(epoch) for epoch in range(epochs)]


@dataclass(frozen=True)
class DecayPlan:
    """Warm-up, lr until epoch ``start``, then ``curve`` to ``end`` at epoch ``stop``, then constant.

    ``end`` is an absolute lr; None is the curve's default. ``stop`` None is the last epoch.
    """

    curve: Curve
    start: int
    end: float | None = None
    stop: int | None = None

    def values(self, lr: float, epochs: int, warmup_epochs: int, warmup_lr: float) -> list[float]:
        stop = self.stop if self.stop is not None and self.stop > self.start else epochs
        length = stop - self.start
        decay = self._decay(lr, length)
        begin = max(self.start, warmup_epochs)  # the decay is appended to the warm-up, never cut into by it
        return _with_head(lr, epochs, warmup_epochs, warmup_lr, begin, lambda i: decay(min(i, length - 1)))

    def _decay(self, lr: float, length: int) -> Callable[[int], float]:
        if self.curve == "linear":
            if length < 0:
                raise InputError(
                    f"a linear plan must start within the run: this one starts at epoch {self.start} of "
                    f"{self.start + length}\nwrite linear:START with an earlier start, or {{shape: linear, end: SHARE}}"
                )
            return _line(lr, length, 1e-5 * lr if self.end is None else self.end)
        end = 0.0 if self.end is None else self.end
        if self.curve == "cosine":
            return _cosine(lr, length, end)
        whole = _cosine(lr, 2 * length, end)
        return lambda i: whole(length + i)


@dataclass(frozen=True)
class CosineRestartPlan:
    """Two cosines to 0: over epochs 60..89, and from 120 to the end; lr in between."""

    def values(self, lr: float, epochs: int, warmup_epochs: int, warmup_lr: float) -> list[float]:
        first, second = _cosine(lr, 30, 0.0), _cosine(lr, epochs - 120, 0.0)

        def decay(i: int) -> float:
            if i < 30:
                return first(i)
            return lr if i < 60 else second(i - 60)

        return _with_head(lr, epochs, warmup_epochs, warmup_lr, max(60, warmup_epochs), decay)


@dataclass(frozen=True)
class CosineNewPlan:
    """A fast cosine from epoch 60 that turns into a slow one after 27 of its 30 epochs."""

    def values(self, lr: float, epochs: int, warmup_epochs: int, warmup_lr: float) -> list[float]:
        fast = _cosine(lr, 30, 0.0)
        slow = _cosine(fast(27), epochs - 87, 0.0)

        def decay(i: int) -> float:
            return fast(i) if i < 27 else slow(i - 27)

        return _with_head(lr, epochs, warmup_epochs, warmup_lr, max(60, warmup_epochs), decay)


@dataclass(frozen=True)
class ShapedPlan:
    """From the end of the warm-up to the last epoch, down to ``end`` times lr."""

    shape: Shape
    end: float = 1.0

    def values(self, lr: float, epochs: int, warmup_epochs: int, warmup_lr: float) -> list[float]:
        last = epochs - warmup_epochs - 1

        def decay(i: int) -> float:
            if self.shape == "constant" or i == 0:
                return lr
            if i == last:  # exactly, where the formula would round
                return lr * self.end
            left = (1 + math.cos(math.pi * i / last)) / 2 if self.shape == "cosine" else 1 - i / last
            return lr * (self.end + (1 - self.end) * left)

        return _with_head(lr, epochs, warmup_epochs, warmup_lr, warmup_epochs, decay)


_NAMED: dict[str, Plan] = {
    "baseline": StepPlan((60, 120, 150), has_warmup=False),
    "step": StepPlan((60, 120, 150)),
    "step30": StepPlan((50, 80, 100)),
    "linear": DecayPlan("linear", 60),
    "cosine": DecayPlan("cosine", 60),
    "cosineRestart": CosineRestartPlan(),
    "cosineNew": CosineNewPlan(),
}


def lr_plan(spec: PlanSpec, lr: float, epochs: int, warmup_epochs: int, warmup_lr: float | None) -> list[float]:
    """Return the learning rate of every epoch, a list of exactly ``epochs`` values.

    All are finite and above 0, except that a plan whose own end is 0 may finish there.

    Args:
        spec: a published plan string, or ``{shape, end}``; see the module's table.
        lr: the network's own learning rate, per step; above 0.
        epochs: E, at least 1, warm-up included.
        warmup_epochs: E_w, at least 0.
        warmup_lr: learning rate of the warm-up, above 0; None is ``lr``.

    Raises:
        InputError: the plan cannot be read, a number is out of range, or the plan has no such values: a cosine
            that would rise (its end is not below ``lr``), a line that starts after the last epoch.
    """
    plan = parse_plan(spec)
    _require_lr("lr", lr)
    if warmup_lr is not None:
        _require_lr("warmup_lr", warmup_lr)
    _require_count("epochs", epochs, 1)
    _require_count("warmup_epochs", warmup_epochs, 0)
    return plan.values(lr, epochs, warmup_epochs, lr if warmup_lr is None else warmup_lr)


def parse_plan(spec: PlanSpec) -> Plan:
    """Read a plan. It needs no learning rate, so that a bad plan is refused before anything starts.

    Raises:
        InputError: the plan is not one of the valid forms, which the message lists, or a number in it is out of range.
    """
    if isinstance(spec, str):
        return _parse_string(spec)
    if isinstance(spec, Mapping):
        return _parse_mapping(spec)
    raise InputError(f"an lr plan is a plan string or {{shape, end}}, got {spec!r}\n{_written_out()}")


def scale_count(count: int, factor: float) -> int:
    """Return ``count * factor`` rounded half up, at least 1; 0 (none at all) stays 0."""
    # Rounding away the last digits first keeps 45 * (70 / 100) a tie, as it is on paper.
    return 0 if count == 0 else max(1, math.floor(round(count * factor, 9) + 0.5))


def scale_plan(spec: PlanSpec, factor: float) -> PlanSpec:
    """Return the same plan for a run ``factor`` times as long.

    The epochs inside a plan string (milestones, start, stop) are multiplied and rounded half up, to at least 1; a 0
    stays 0. Learning rates, factors and the ignored item of ``linear:s,x,stop`` stay as written. Plain names, whose
    epochs are part of their definition, and mappings, which follow the run anyway, come back unchanged.

    Raises:
        InputError: the plan cannot be read, or ``factor`` is not a finite number above 0.
    """
    plan = parse_plan(spec)
    if not math.isfinite(factor) or factor <= 0:
        raise InputError(f"the factor of a plan must be a finite number above 0, got {factor!r}")
    if not isinstance(spec, str) or ":" not in spec:
        return spec
    name, _, text = spec.partition(":")
    items = [item.strip() for item in text.split(",")]
    epochs_at = range(len(plan.milestones)) if isinstance(plan, StepPlan) else (0, 2)
    scaled = [str(scale_count(int(float(item)), factor)) if at in epochs_at else item for at, item in enumerate(items)]
    return f"{name}:{','.join(scaled)}"


def reads_warmup_lr(spec: PlanSpec) -> bool:
    """Return whether the plan trains its warm-up at ``warmup_lr``; False for ``baseline`` alone.

    Raises:
        InputError: the plan cannot be read.
    """
    plan = parse_plan(spec)
    return not isinstance(plan, StepPlan) or plan.has_warmup


def _with_head(
    lr: float, epochs: int, warmup_epochs: int, warmup_lr: float, begin: int, decay: Callable[[int], float]
) -> list[float]:
    """Return the warm-up, then lr until epoch ``begin``, then the values of ``decay``."""

    def value(epoch: int) -> float:
        if epoch < warmup_epochs:
            return warmup_lr
        return lr if epoch < begin else decay(epoch - begin)

    return [value(epoch) for epoch in range(epochs)]


def _cosine(start: float, length: int, end: float) -> Callable[[int], float]:
    """Return the released code's cosine over ``length`` epochs: ``start`` at i = 0, above ``end`` at the last i."""
    if not end < start:
        raise InputError(
            f"plan ends must lie below their start: this cosine goes from {start:g} to {end:g}\n"
            "lower its end, raise lr, or write {shape: cosine, end: SHARE}, whose end is a share of lr"
        )
    return lambda i: end + (start - end) * (1 + math.cos(math.pi * i / length)) / 2


def _line(start: float, length: int, end: float) -> Callable[[int], float]:
    """Return ``length`` evenly spaced values, both ends included; a single value is the start."""
    last = length - 1
    return lambda i: start if i == 0 else end if i == last else start + i * ((end - start) / last)


def _parse_string(spec: str) -> Plan:
    if spec in _NAMED:
        return _NAMED[spec]
    name, colon, text = spec.partition(":")
    readers: dict[str, Callable[[str, list[str]], Plan]] = {
        "step": _read_step,
        "linear": _read_linear,
        "cosine": _read_cosine,
        "halfcosine": _read_cosine,
    }
    if not colon or name not in readers:
        raise InputError(f"unknown lr plan {spec!r}: {nearest(name + colon, [*_NAMED, *_FORMS])}\n{_written_out()}")
    try:
        return readers[name](name, [item.strip() for item in text.split(",")])
    except _BadItemError as bad:
        raise InputError(f"lr plan {spec!r} is not of the form {_FORMS[name + ':']}: {bad}") from None


class _BadItemError(Exception):
    """One item of a plan string is not valid."""


def _read_step(name: str, items: list[str]) -> StepPlan:
    *first, last = items
    milestones = [_epoch(item) for item in first]
    number = _number(last)
    if number >= 1:
        # The released code reads this item as a float, so it alone may be written 8e1.
        return StepPlan((*milestones, _epoch(f"{number:.0f}" if number.is_integer() else last)))
    if number == 0:
        raise _BadItemError("the factor must be above 0, got 0")
    return StepPlan(tuple(milestones), number)


def _read_linear(name: str, items: list[str]) -> DecayPlan:
    _require_at_most_three(items)
    start = _epoch(items[0])
    end = _number(items[1]) if len(items) > 1 else None
    if len(items) == 3:
        return DecayPlan("linear", start, None, _epoch(items[2]))
    return DecayPlan("linear", start, end)


def _read_cosine(name: str, items: list[str]) -> DecayPlan:
    _require_at_most_three(items)
    return DecayPlan(
        "cosine" if name == "cosine" else "halfcosine",
        _epoch(items[0]),
        _number(items[1]) if len(items) > 1 else None,
        _epoch(items[2]) if len(items) > 2 else None,
    )


def _require_at_most_three(items: list[str]) -> None:
    if len(items) > 3:
        raise _BadItemError(f"at most three items, got {len(items)}")


def _epoch(item: str) -> int:
    try:
        epoch = int(item)
    except ValueError:
        raise _BadItemError(f"epochs are whole numbers, got {item!r}") from None
    if not 0 <= epoch <= _MOST_EPOCHS:
        raise _BadItemError(f"epochs lie in 0..{_MOST_EPOCHS}, got {item!r}")
    return epoch


def _number(item: str) -> float:
    try:
        number = float(item)
    except ValueError:
        raise _BadItemError(f"{item!r} is not a number") from None
    if not math.isfinite(number) or number < 0:
        raise _BadItemError(f"numbers must be finite and not negative, got {item!r}")
    return number


def _parse_mapping(spec: Mapping[str, object]) -> ShapedPlan:
    unknown = [key for key in spec if key not in ("shape", "end")]
    if unknown:
        raise InputError(f"unknown key {unknown[0]!r} in lr plan: {nearest(str(unknown[0]), ('shape', 'end'))}")
    shape, end = spec.get("shape"), spec.get("end")
    known = next((name for name in SHAPES if name == shape), None)
    if known is None:
        raise InputError(f"unknown shape {shape!r} of an lr plan: {nearest(str(shape), SHAPES)}")
    if known == "constant":
        if end is not None and end != 1:
            raise InputError(f"a constant lr plan stays at lr, got end {end!r}: leave it out or use another shape")
        return ShapedPlan(known)
    if isinstance(end, bool) or not isinstance(end, int | float) or not 0 <= end <= 1:
        raise InputError(
            f"the end of a {known} lr plan must be a share of lr from 0 to 1, got {end!r}\n"
            f"write for example {{shape: {known}, end: 0.05}}"
        )
    return ShapedPlan(known, float(end))


def _written_out() -> str:
    return f"written out: {', '.join(_FORMS.values())}, {{shape: {'|'.join(SHAPES)}, end: SHARE}}"


def _require_lr(name: str, value: float) -> None:
    if not math.isfinite(value) or value <= 0:
        raise InputError(f"{name} must be a finite number above 0, got {value!r}")


def _require_count(name: str, value: int, least: int) -> None:
    if not isinstance(value, int) or value < least:
        raise InputError(f"{name} must be a whole number of at least {least}, got {value!r}")
