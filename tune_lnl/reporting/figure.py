"""A figure of a page: its picture, the sentence that it shows, and the table of its numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import plotly.graph_objects as go

NUMBER = re.compile(r"[-+]?\d[\d.,]*(e[-+]?\d+)?|–")
SHORT = 32
"""Cells up to this length are not broken into lines."""


@dataclass(frozen=True)
class Link:
    """A cell that leads to a file next to the page, by its relative address."""

    text: str
    address: str

    def __str__(self) -> str:
        return self.text


Cell = str | Link


@dataclass(frozen=True)
class Table:
    """A data table; the first cell of a row names it."""

    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""

    def kinds(self) -> list[str]:
        """Return the class of each column: ``number`` where all its cells are numbers or dashes, else empty."""
        return [
            "number" if self.rows and all(NUMBER.fullmatch(str(row[column])) for row in self.rows) else ""
            for column in range(len(self.header))
        ]


@dataclass(frozen=True)
class Figure:
    """A picture with its sentence and its numbers.

    Attributes:
        key: unique on a page; letters, digits and hyphens.
        takeaway: the sentence above the picture; without a picture, the reason.
        plot: the picture; None where there is nothing to draw.
        table: the numbers of the picture.
        notes: how to read it, below the picture.
        wide: uses the whole width of a wide page.
        open: the table is shown at once, not folded.
        least_width: pixels below which the picture scrolls sideways; None where it fits any screen.
    """

    key: str
    title: str
    takeaway: str
    plot: go.Figure | None = None
    table: Table | None = None
    notes: Sequence[str] = ()
    wide: bool = False
    open: bool = False
    least_width: int | None = None

    def json(self) -> str:
        """Return data and layout of the picture as JSON that may stand inside a script element."""
        assert self.plot is not None
        text: str = self.plot.to_json(validate=False, engine="json")
        return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
