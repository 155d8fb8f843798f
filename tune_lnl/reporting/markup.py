"""HTML and SVG as text that cannot be unescaped by accident: whatever is not :class:`Html` is escaped."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

NUMBER = re.compile(r"[-+]?\d[\d.,]*(e[-+]?\d+)?|–")
SHORT = 32
"""Cells up to this length are not broken into lines."""
VOID = {"meta", "br", "img"}


class Html(str):
    """Text that is markup already."""

    __slots__ = ()

    def __html__(self) -> str:
        return self


Child = str | Html | None


def safe(text: object) -> Html:
    """Any value as markup: names of classes, parameters and files come from outside."""
    if isinstance(text, Html):
        return text
    # A control character or half a surrogate pair would make the page no valid text.
    plain = "".join(sign if sign.isprintable() or sign in "\n\t" else "\N{REPLACEMENT CHARACTER}" for sign in str(text))
    return Html(html.escape(plain, quote=True))


def el(name: str, /, *children: Child, **attributes: object) -> Html:
    """An element; ``class_="x"`` gives class, ``data_x`` gives data-x, ``None`` leaves a child or attribute out."""
    given = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{safe(value)}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    if name in VOID:
        return Html(f"<{name}{given}>")
    return Html(f"<{name}{given}>{joined(children)}</{name}>")


def joined(children: Iterable[Child]) -> Html:
    return Html("".join(safe(child) for child in children if child is not None))


@dataclass(frozen=True)
class Table:
    """A data table with the numbers of its figure."""

    header: Sequence[str]
    rows: Sequence[Sequence[str | Html]]

    def html(self, caption: str) -> Html:
        numbers = [all(NUMBER.fullmatch(row[column]) for row in self.rows) for column in range(len(self.header))]
        body = [
            el(
                "tr",
                el("th", row[0], scope="row"),
                *(
                    el("td", cell, class_="number" if is_number else "short" if len(cell) <= SHORT else None)
                    for cell, is_number in zip(row[1:], numbers[1:], strict=True)
                ),
            )
            for row in self.rows
        ]
        head = el(
            "tr",
            *(
                el("th", name, scope="col", class_="number" if is_number and column else None)
                for column, (name, is_number) in enumerate(zip(self.header, numbers, strict=True))
            ),
        )
        table = el("table", el("caption", caption, class_="for-readers"), el("thead", head), el("tbody", joined(body)))
        # A region that scrolls must be reachable by keyboard.
        return el("div", table, class_="scroll", tabindex="0", role="region", aria_label=f"Table: {caption}")


def folded(summary: str, *children: Child) -> Html:
    """Something that is there for who wants it."""
    return el("details", el("summary", summary), *children)
