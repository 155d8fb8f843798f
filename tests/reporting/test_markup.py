from __future__ import annotations

import pytest
from report_runs import Page

from tune_lnl.reporting.markup import Html, Table, el, folded, safe


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("<script>alert(1)</script>", "&lt;script&gt;alert(1)&lt;/script&gt;"),
        ("\"a\" & 'b'", "&quot;a&quot; &amp; &#x27;b&#x27;"),
        ("a\x00b\ud800c\x1b[0m", "a\ufffdb\ufffdc\ufffd[0m"),
        (Html("<b>x</b>"), "<b>x</b>"),
        (3.5, "3.5"),
    ],
)
def test_everything_but_markup_is_escaped(text: object, escaped: str) -> None:
    assert safe(text) == escaped


def test_an_element() -> None:
    made = el("p", "a<b", None, el("b", "c"), class_="x", aria_label='"', tabindex=None, open=True, hidden=False)
    assert made == '<p class="x" aria-label="&quot;" open>a&lt;b<b>c</b></p>'
    assert el("meta", name="viewport", http_equiv="x") == '<meta name="viewport" http-equiv="x">'


def test_a_table_can_be_read_without_eyes() -> None:
    page = Page(Table(["what", "value", "told"], [["a", "1.50", "1 of 2"], ["b", "–", "x" * 40]]).html("Two things"))
    (region,) = page.all("div")
    assert (region["tabindex"], region["role"], region["aria-label"]) == ("0", "region", "Table: Two things")
    assert [attributes["scope"] for attributes in page.all("th")] == ["col"] * 3 + ["row"] * 2
    assert [attributes.get("class") for attributes in page.all("td")] == ["number", "short", "number", None]
    assert "Two things" in page.text


def test_folded_text_needs_no_script() -> None:
    assert folded("More <", el("p", "x")) == "<details><summary>More &lt;</summary><p>x</p></details>"
