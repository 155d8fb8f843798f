from __future__ import annotations

import pytest
from markupsafe import Markup
from report_runs import Page

from tune_lnl.reporting.figure import Cell, Figure, Link, Table
from tune_lnl.reporting.plots import picture
from tune_lnl.reporting.rendering import environment, prose


def parts(call: str, **values: object) -> str:
    """Return what one of the parts of every page makes of some values."""
    source = "{% from 'parts.html.j2' import cell, table, figure, copied %}{{ " + call + " }}"
    return environment().from_string(source).render(values)


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("<script>alert(1)</script>", "&lt;script&gt;alert(1)&lt;/script&gt;"),
        ("\"a\" & 'b'", "&#34;a&#34; &amp; &#39;b&#39;"),
        ("a\x00b\ud800c\x1b[0m", "a\ufffdb\ufffdc\ufffd[0m"),
        (Markup("<b>x</b>"), "<b>x</b>"),
        (3.5, "3.5"),
    ],
)
def test_everything_but_markup_is_escaped(text: object, escaped: str) -> None:
    assert environment().from_string("{{ text }}").render(text=text) == escaped


def test_flags_do_not_break_at_their_hyphens() -> None:
    assert prose("Give --confirm 3x5 or --set lr=1, <b>") == (
        'Give <code class="word">--confirm 3x5</code> or <code class="word">--set</code> lr=1, &lt;b&gt;'
    )
    assert prose("well-known, a--b") == "well-known, a--b"


def test_a_command_breaks_between_words_alone_and_is_copied_as_it_is() -> None:
    page = Page(parts("copied('a --b <c>', ['a', '--b', '<c>'])"))
    assert [each["class"] for each in page.all("span")] == ["word", "word", "word", "for-readers"]
    assert "".join(page.words).strip().startswith("a --b <c>")


def test_a_table_can_be_read_without_eyes() -> None:
    rows: list[list[Cell]] = [["a", "1.50", "1 of 2"], ["b", "–", "x" * 40], [Link("c", "x/y z.txt"), "2", "t"]]
    page = Page(parts("table(data)", data=Table(["what", "value", "told"], rows, "Two things")))
    (region,) = page.all("div")
    assert (region["tabindex"], region["role"], region["aria-label"]) == ("0", "region", "Table: Two things")
    assert [attributes["scope"] for attributes in page.all("th")] == ["col"] * 3 + ["row"] * 3
    classes = ["number", "short", "number", None, "number", "short"]
    assert [attributes.get("class") for attributes in page.all("td")] == classes
    assert page.addresses() == ["x/y%20z.txt"]
    assert "Two things" in page.text


def test_a_figure_is_its_sentence_its_picture_and_its_table() -> None:
    table = Table(["x", "y"], [["1", "2"]], "Numbers")
    page = Page(parts("figure(one)", one=Figure("k", "Title", "It says.", picture([]), table, ["A note."])))
    assert page.text.index("It says.") < page.text.index("A note.") < page.text.index("Numbers")
    assert len(page.plots) == 1
    empty = Page(parts("figure(one)", one=Figure("k", "Title", "Nothing to draw.")))
    assert (empty.plots, empty.all("details")) == ([], [])
    assert "wide" in str(empty.all("figure")[0]["class"])
