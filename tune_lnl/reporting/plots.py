"""How pictures look: one palette for light and dark pages, one layout, one mark per state of a trial."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from tune_lnl.reporting.texts import setting, shortened
from tune_lnl.wording import STATES

PALETTE: Mapping[str, tuple[str, str]] = {
    "page": ("#ffffff", "#14181d"),
    "text": ("#1b1f24", "#e8ecf1"),
    "soft": ("#4b5563", "#b3bdc9"),
    "rule": ("#d5dae1", "#3a434e"),
    "best": ("#c2410c", "#ff9a5c"),
    "start": ("#7a3e9d", "#d9a8f5"),
    "complete": ("#0b63a8", "#6db7f2"),
    "pruned": ("#6b7280", "#9aa5b2"),
    "fail": ("#b0122b", "#ff8596"),
    "running": ("#00705a", "#4fd1ab"),
    "waiting": ("#8a6100", "#e3b341"),
    "shade0": ("#a9c4de", "#37587a"),
    "shade1": ("#5c90c1", "#6390bb"),
    "shade2": ("#1f558e", "#abcbec"),
    "shade3": ("#08306b", "#dcebfb"),
    "none": ("#f3f6fa", "#1b222a"),
}
"""Name -> colour on a light page, on a dark one. Pictures are made for a light page; the script of the page exchanges
the colours where the reader's system is dark, so no light colour may stand here twice."""

SYMBOLS: Mapping[str, str] = {
    "COMPLETE": "circle",
    "PRUNED": "triangle-down-open",
    "FAIL": "x-thin-open",
    "RUNNING": "diamond",
    "WAITING": "diamond-open",
}
"""The mark of each state: states differ in shape, not in colour alone."""
DASHES: Mapping[str, str] = {
    "COMPLETE": "solid",
    "PRUNED": "dot",
    "FAIL": "dash",
    "RUNNING": "dashdot",
    "WAITING": "longdashdot",
}
SERIES = (("complete", "solid", "circle"), ("best", "dash", "square"), ("running", "dot", "triangle-up"),
          ("start", "dashdot", "diamond"), ("fail", "longdash", "x"), ("text", "longdashdot", "star"))  # fmt: skip
"""(colour, dash, symbol) of lines that differ in nothing but their name."""
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', sans-serif"
FEW = 13
"""Whole numbers on an axis, up to which each is written."""
TWO_AND_FIVE = 2.3
"""Decades of an axis, up to which the 2 and the 5 of each are written: more overlap on a phone."""
HEIGHT = 380
"""Pixels of a picture that does not say otherwise."""


def colour(name: str) -> str:
    """Return a colour of the palette, as on a light page."""
    return PALETTE[name][0]


def state_colour(state: str) -> str:
    return colour(state.lower())


SHADES = [(step / 3, colour(f"shade{step}")) for step in range(4)]
"""From the worst to the best: the further, the stronger its contrast with the page."""


def plain(text: object) -> str:
    """Return text that Plotly shows as it is: it would read tags and entities in labels."""
    return html.escape(str(text), quote=False)


@dataclass(frozen=True)
class Axis:
    """How the values of a setting lie on an axis.

    Attributes:
        log: equal ratios are equal distances.
        choices: a place for each, in this order; empty for numbers.
        low, high: ends of the axis, in the values' unit; None: as the values are.
    """

    log: bool = False
    whole: bool = False
    choices: Sequence[Any] = ()
    low: float | None = None
    high: float | None = None

    def place(self, value: Any) -> float:
        """Return where a value lies: itself, or the index of a choice."""
        if not self.choices:
            return float(value)
        # 1 == True in Python, but they are different settings.
        return float(next(i for i, one in enumerate(self.choices) if one == value and type(one) is type(value)))

    def settings(self, title: str) -> dict[str, Any]:
        """Return the axis in Plotly's words."""
        made: dict[str, Any] = {"title": {"text": plain(title)}}
        if self.choices:
            texts = [plain(shortened(setting(choice), 14)) for choice in self.choices]
            made |= {"tickvals": list(range(len(texts))), "ticktext": texts, "range": [-0.5, len(texts) - 0.5]}
        elif self.low is not None and self.high is not None:
            made["range"] = self._range(self.low, self.high)
        if self.log:
            made |= {"type": "log", "dtick": "D2" if self._decades() < TWO_AND_FIVE else 1, "exponentformat": "power"}
            made["tickformat"] = "~g"
        elif self.whole:
            made |= {"tickformat": "d", "dtick": self.step}
        return made

    @property
    def step(self) -> int | None:
        """Between whole numbers on the axis; None: as many as have room."""
        return 1 if self.low is not None and self.high is not None and self.high - self.low < FEW else None

    def _range(self, low: float, high: float) -> list[float]:
        if self.log:
            low, high = math.log10(low), math.log10(high)
        room = 0.04 * (high - low)
        return [low - room, high + room]

    def _decades(self) -> float:
        return math.log10(self.high / self.low) if self.low and self.high else 1.0


def picture(traces: Sequence[Any], height: int = HEIGHT, **layout: Any) -> go.Figure:
    """Return a figure in the style of all of them.

    Args:
        height: pixels.
        **layout: in Plotly's words; ``xaxis`` and ``yaxis`` are merged with what every axis has.
    """
    axis = {
        "gridcolor": colour("rule"),
        "linecolor": colour("soft"),
        "zeroline": False,
        "automargin": True,
        "tickfont": {"size": 13},
        "title": {"font": {"size": 14}, "standoff": 8},
    }
    axes = {name: _merged(axis, layout.pop(name, {})) for name in ("xaxis", "yaxis")}
    for one in axes.values():
        if one.get("tickformat") == "d" and "range" in one and one["range"][1] - one["range"][0] <= FEW:
            one.setdefault("dtick", 1)  # Plotly would count trials and epochs in halves
    shared: dict[str, Any] = {
        "template": go.layout.Template(),
        "height": height,
        "paper_bgcolor": colour("page"),
        "plot_bgcolor": colour("page"),
        "font": {"family": FONT, "size": 14, "color": colour("text")},
        "margin": {"l": 8, "r": 12, "t": 38, "b": 8},
        "hovermode": "closest",
        "hoverlabel": {"align": "left", "bgcolor": colour("page"), "bordercolor": colour("soft"),
                       "font": {"size": 14, "color": colour("text")}},
        "legend": {"orientation": "h", "x": 0, "yref": "container", "y": 0, "yanchor": "bottom",
                   "bgcolor": colour("page")},
        "modebar": {"bgcolor": colour("page"), "color": colour("soft"), "activecolor": colour("complete")},
    }  # fmt: skip
    return go.Figure(list(traces), _merged(shared, {**axes, **layout}))


def _merged(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    made = dict(one)
    for name, value in other.items():
        known = made.get(name)
        made[name] = _merged(known, value) if isinstance(known, dict) and isinstance(value, dict) else value
    return made


def mark(state: str, size: float = 9) -> dict[str, Any]:
    """Return the mark of a state, in Plotly's words."""
    return {
        "symbol": SYMBOLS[state],
        "color": state_colour(state),
        "size": size,
        "line": {"width": 2 if SYMBOLS[state].endswith("open") else 0.8, "color": state_colour(state)},
    }


BEST = {"symbol": "star", "size": 15, "color": colour("best"), "line": {"width": 1, "color": colour("page")}}
START = {"symbol": "square-open", "size": 13, "color": colour("start"), "line": {"width": 2.4}}


def uprights(places: Sequence[float], name: str) -> dict[str, Any]:
    """Return dotted lines over the whole height at ``places``, the first with its name, for the layout of a figure."""
    line = {"width": 1.3, "dash": "dot", "color": colour("soft")}
    over = {"type": "line", "xref": "x", "yref": "y domain", "y0": 0, "y1": 1, "line": line}
    label = {"xref": "x", "yref": "y domain", "y": 1, "xanchor": "left", "yanchor": "top", "xshift": 3}
    label |= {"text": plain(name), "showarrow": False, "bgcolor": colour("page")}
    return {
        "shapes": [over | {"x0": place, "x1": place} for place in places],
        "annotations": [label | {"x": place} for place in places[:1]],
    }


def levels(values: Sequence[tuple[float, str]], also: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return dotted lines over the whole width at (value, name), each with its name, for the layout of a figure.

    Args:
        also: of :func:`uprights`, for the same figure.
    """
    line = {"width": 1.3, "dash": "dot", "color": colour("soft")}
    over = {"type": "line", "xref": "x domain", "yref": "y", "x0": 0, "x1": 1, "line": line}
    label = {"xref": "x domain", "yref": "y", "x": 1, "xanchor": "right", "yanchor": "bottom"}
    label |= {"showarrow": False}  # without a ground of its own, which would hide the marks below it
    others = also or {"shapes": [], "annotations": []}
    return {
        "shapes": [*others["shapes"], *(over | {"y0": value, "y1": value} for value, _ in values)],
        "annotations": [
            *others["annotations"],
            *(label | {"y": value, "text": plain(f"{name}, about {value:.4g}")} for value, name in values),
        ],
    }


def rounded(value: float | None, digits: int = 6) -> float | None:
    """Return a value with so many significant digits: more cannot be seen, and make the page heavy."""
    return None if value is None else float(f"{value:.{digits}g}")


def state_name(state: str) -> str:
    """Return the name of a state in a legend of values."""
    at = {"COMPLETE": "", "PRUNED": ", at its last value", "FAIL": ", at its last value"}
    return STATES[state] + at.get(state, ", at its latest value")
