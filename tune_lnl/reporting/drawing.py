"""Charts as inline SVG: axes, lines, markers. Colours are classes of the page's style, so that it decides on light and
dark; every series differs in shape or dash as well."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tune_lnl.reporting.markup import Html, el, joined
from tune_lnl.reporting.scales import Scale

FONT = 15.0
CHARACTER = 0.56 * FONT
"""Width of a digit or letter of the page's font, about."""
LINE = 18.0
"""Height of a line of text."""

Point = tuple[Any, Any]


@dataclass(frozen=True)
class Size:
    """Units of the drawing; on a page of this width they are pixels."""

    width: float
    height: float


SMALL = Size(360, 290)
"""On a phone, and in a column of print."""
COLUMN = Size(560, 330)
"""In one of two columns of a wide page."""
WIDE = Size(1140, 380)
"""Over both."""


@dataclass(frozen=True)
class Axis:
    scale: Scale
    label: str


class Chart:
    """A plot under construction, from the back to the front."""

    def __init__(self, size: Size, x: Axis, y: Axis) -> None:
        self.size, self.x, self.y = size, x, y
        # Label y from above: a turned word is hard to read.
        self.top, self.bottom = 10.0 + LINE, size.height - 2.6 * LINE
        y_ticks = y.scale.ticks(max(2, int((self.bottom - self.top) / 44)))
        self.left = 12.0 + CHARACTER * max([len(text) for _, text in y_ticks] + [1])
        self.right = size.width - 14.0
        self._parts: list[Html] = []
        self._frame(y_ticks)

    def _frame(self, y_ticks: Sequence[tuple[Any, str]]) -> None:
        self._parts.append(text(0, LINE - 4, self.y.label, class_="label"))
        for value, label in y_ticks:
            y = self.at_y(value)
            self._parts.append(line([(self.left, y), (self.right, y)], "gridline"))
            self._parts.append(text(self.left - 6, y + 5, label, anchor="end"))
        self._parts.append(line([(self.left, self.bottom), (self.right, self.bottom)], "axis"))
        taken = -math.inf
        for value, label in self.x.scale.ticks(max(2, int((self.right - self.left) / 64))):
            half = CHARACTER * len(label) / 2
            x = self.at_x(value)
            self._parts.append(line([(x, self.bottom), (x, self.bottom + 5)], "axis"))
            middle = min(max(x, half), self.size.width - half)
            if middle - half > taken:
                self._parts.append(text(middle, self.bottom + LINE + 3, label, anchor="middle"))
                taken = middle + half + CHARACTER
        middle = (self.left + self.right) / 2
        self._parts.append(text(middle, self.size.height - 5, self.x.label, anchor="middle", class_="label"))

    def at_x(self, value: Any) -> float:
        return self.left + (self.right - self.left) * self.x.scale.place(value)

    def at_y(self, value: Any) -> float:
        return self.bottom - (self.bottom - self.top) * self.y.scale.place(value)

    def line(self, points: Iterable[Point], class_: str, tooltip: str | None = None) -> None:
        places = [(self.at_x(x), self.at_y(y)) for x, y in points]
        self._parts.append(line(places, class_, tooltip))

    def steps(self, points: Sequence[Point], class_: str) -> None:
        """A line that holds each value until the next."""
        held: list[Point] = []
        for x, y in points:
            if held:
                held.append((x, held[-1][1]))
            held.append((x, y))
        self.line(held, class_)

    def upright(self, x: Any, class_: str, label: str | None = None) -> None:
        """A line over the whole height, with its name at the top."""
        place = self.at_x(x)
        self._parts.append(line([(place, self.top), (place, self.bottom)], class_))
        if label is not None:
            near_end = place + CHARACTER * len(label) + 4 > self.size.width
            anchor, shift = ("end", -4) if near_end else ("start", 4)
            self._parts.append(text(place + shift, self.top + FONT - 2, label, anchor=anchor, class_="halo"))

    def mark(self, x: Any, y: Any, shape: str, class_: str, tooltip: str | None = None, size: float = 5.0) -> None:
        self._parts.append(marker(self.at_x(x), self.at_y(y), shape, class_, tooltip, size))

    def interval(self, x: Any, low: float, high: float, class_: str) -> None:
        place = self.at_x(x)
        self._parts.append(line([(place, self.at_y(low)), (place, self.at_y(high))], class_))

    def across(self, y: Any, low: float, high: float, class_: str) -> None:
        """A horizontal interval."""
        place = self.at_y(y)
        self._parts.append(line([(self.at_x(low), place), (self.at_x(high), place)], class_))

    def name(self, x: Any, y: Any, label: str, above: bool = True) -> None:
        """Write text next to a point, kept inside the drawing."""
        half = CHARACTER * len(label) / 2
        place = min(max(self.at_x(x), self.left + half), self.size.width - half - 2)
        height = self.at_y(y) + (-11 if above else 21)
        if height < self.top:
            height = self.at_y(y) + 21
        self._parts.append(text(place, height, label, anchor="middle", class_="halo strong"))

    def add(self, part: Html) -> None:
        self._parts.append(part)

    def svg(self) -> Html:
        return joined(self._parts)


@dataclass(frozen=True)
class Drawing:
    """A finished picture."""

    size: Size
    content: Html

    @classmethod
    def of(cls, chart: Chart) -> Drawing:
        return cls(chart.size, chart.svg())

    def html(self, description: str, class_: str = "") -> Html:
        return el(
            "svg",
            self.content,
            viewBox=f"0 0 {self.size.width:g} {self.size.height:g}",
            role="img",
            aria_label=description,
            class_=f"chart {class_}".strip(),
        )


Draw = Callable[[Size], Drawing]


# ---- parts


def text(x: float, y: float, content: str, anchor: str | None = None, class_: str | None = None) -> Html:
    return el("text", content, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor, class_=class_)


def line(points: Iterable[tuple[float, float]], class_: str, tooltip: str | None = None) -> Html:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return el("polyline", _title(tooltip), points=path, class_=class_)


def box(x: float, y: float, width: float, height: float, class_: str, tooltip: str | None = None) -> Html:
    return el(
        "rect", _title(tooltip), x=f"{x:.1f}", y=f"{y:.1f}", width=f"{width:.1f}", height=f"{height:.1f}", class_=class_
    )


def _title(tooltip: str | None) -> Html | None:
    return None if tooltip is None else el("title", tooltip)


def marker(x: float, y: float, shape: str, class_: str, tooltip: str | None = None, size: float = 5.0) -> Html:
    """``circle``, ``triangle`` (points down), ``cross``, ``square``, ``diamond`` or ``star``."""
    if shape == "circle":
        return el("circle", _title(tooltip), cx=f"{x:.1f}", cy=f"{y:.1f}", r=f"{size:g}", class_=class_)
    return el("path", _title(tooltip), d=_path(x, y, shape, size), class_=class_)


def _path(x: float, y: float, shape: str, size: float) -> str:
    if shape == "cross":
        return f"M{x - size:.1f} {y - size:.1f}l{2 * size:g} {2 * size:g}m0 {-2 * size:g}l{-2 * size:g} {2 * size:g}"
    corners = {
        "triangle": [(-1.1, -0.8), (1.1, -0.8), (0.0, 1.1)],
        "square": [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
        "diamond": [(0.0, -1.2), (1.2, 0.0), (0.0, 1.2), (-1.2, 0.0)],
        "star": [
            (
                (1.7 if i % 2 == 0 else 0.7) * math.sin(i * math.pi / 5),
                (-1.7 if i % 2 == 0 else -0.7) * math.cos(i * math.pi / 5),
            )
            for i in range(10)
        ],
    }[shape]
    return "M" + "L".join(f"{x + size * dx:.1f} {y + size * dy:.1f}" for dx, dy in corners) + "Z"


# ---- what stands around a picture


@dataclass(frozen=True)
class Key:
    """An entry of a legend."""

    label: str
    class_: str
    shape: str = "line"

    def html(self) -> Html:
        inner = (
            line([(1, 9), (27, 9)], self.class_)
            if self.shape == "line"
            else box(1, 2, 26, 14, self.class_)
            if self.shape == "box"
            else marker(14, 9, self.shape, self.class_)
        )
        sample = el("svg", inner, viewBox="0 0 28 18", class_="sample", aria_hidden="true")
        return el("li", sample, " ", self.label)


@dataclass(frozen=True)
class Figure:
    """A picture with what it says in words, and its numbers."""

    key: str
    title: str
    takeaway: str
    draw: Draw | None
    """``None`` where there is nothing to draw; the takeaway then says why."""
    details: Sequence[Html] = ()
    legend: Sequence[Key] = field(default=())
    wide: bool = False
    """Uses both columns of a wide page."""
    notes: Sequence[str] = ()

    def html(self) -> Html:
        name = f"figure-{self.key}"
        return el(
            "figure",
            el("h3", self.title, id=name),
            el("p", self.takeaway, class_="takeaway"),
            *self._pictures(),
            el("ul", *(key.html() for key in self.legend), class_="legend") if self.legend and self.draw else None,
            *(el("p", note, class_="note") for note in self.notes),
            *self.details,
            class_="figure wide" if self.wide else "figure",
            aria_labelledby=name,
        )

    def _pictures(self) -> list[Html]:
        if self.draw is None:
            return []
        description = f"{self.title}. {self.takeaway}"
        # Twice, of which a page shows one: scaled to a phone, the text of a large picture could not be read.
        return [
            self.draw(WIDE if self.wide else COLUMN).html(description, "large"),
            self.draw(SMALL).html(description, "small"),
        ]
