"""Pages from templates: one file each, which loads nothing from the network and runs only its own scripts."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

FLAG = re.compile(r"(?<![\w-])--[a-z][\w-]*(?: \d\S*)?")
"""A flag in a sentence, with its value where that begins with a digit."""
FOOTER = "Made by tune_lnl from the study and the epoch files; works offline."


def render(
    template: str,
    *,
    title: str,
    contents: Sequence[tuple[str, str]],
    pictures: bool,
    script: str | None = None,
    **values: Any,
) -> str:
    """Return a page as the text of an HTML file. Every value is escaped.

    Args:
        template: file name in ``templates/``.
        contents: id and name of each section.
        pictures: the page holds figures, and needs Plotly's script, which makes up most of its size.
        script: file name in ``templates/`` of a script of this page alone.
    """
    scripts = [*([plotly_script()] if pictures else []), part("page.js")]
    own = [] if script is None else [part(script)]
    return (
        environment()
        .get_template(template)
        .render(
            title=title,
            contents=contents,
            style=Markup(part("style.css")),
            scripts=[Markup(script) for script in scripts],
            last_scripts=[Markup(text) for text in own],
            policy=content_policy([*scripts, *own], pictures),
            palette=Markup(json.dumps(exchanged_colours())),
            **{"footer": FOOTER, **values},
        )
    )


@cache
def environment() -> Environment:
    made = Environment(
        loader=PackageLoader("tune_lnl.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"prose": prose, "url": lambda address: quote(address)}
    return made


def printable(value: Any) -> Any:
    """Return a value without control characters and half surrogate pairs, which would make the page no valid text."""
    if isinstance(value, Markup):
        return value
    return "".join(sign if sign.isprintable() or sign in "\n\t" else "\N{REPLACEMENT CHARACTER}" for sign in str(value))


def safe(text: object) -> Markup:
    """Return any value as markup: names of classes, parameters and files come from outside."""
    return escape(printable(text))


def prose(text: str) -> Markup:
    """Return a sentence whose flags do not break at their hyphens."""
    made, end = Markup(""), 0
    for flag in FLAG.finditer(text):
        made += safe(text[end : flag.start()]) + Markup('<code class="word">{}</code>').format(flag[0])
        end = flag.end()
    return made + safe(text[end:])


@cache
def part(name: str) -> str:
    return files("tune_lnl.reporting").joinpath("templates", name).read_text(encoding="utf-8")


@cache
def plotly_script() -> str:
    """Return Plotly's own script, as its Python package ships it."""
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs()).replace("\r\n", "\n")


def content_policy(scripts: Sequence[str], pictures: bool) -> str:
    """Return the page's Content-Security-Policy: its own scripts by their hashes, nothing from elsewhere.

    Parallel coordinates are drawn by WebGL programs that Plotly compiles as it draws, which needs ``unsafe-eval``. A
    script that a name brought into the page would still not run: it has no hash.
    """
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join([*(f"'sha256-{digest}'" for digest in digests), *(["'unsafe-eval'"] if pictures else [])])
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def exchanged_colours() -> dict[str, str]:
    """Return light colour -> dark colour, for the script of the page."""
    from tune_lnl.reporting.plots import PALETTE

    return dict(PALETTE.values())
