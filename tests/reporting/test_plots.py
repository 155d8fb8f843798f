from __future__ import annotations

import math
import re

import pytest

from tune_lnl.reporting import plots
from tune_lnl.reporting.parallel import log_ticks
from tune_lnl.reporting.plots import DASHES, PALETTE, SYMBOLS, Axis, picture, plain, rounded, uprights
from tune_lnl.reporting.slices import axis_of
from tune_lnl.reporting.texts import number, setting, shortened
from tune_lnl.tuning.space.ranges import parse_parameter
from tune_lnl.wording import STATES


def test_every_light_colour_has_one_dark_one() -> None:
    """The script of the page exchanges them by value."""
    light = [one for one, _ in PALETTE.values()]
    assert len(set(light)) == len(light)
    assert all(re.fullmatch("#[0-9a-f]{6}", colour) for pair in PALETTE.values() for colour in pair)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_marks_and_words_stand_out_from_the_page(scheme: int) -> None:
    """3 to 1 for marks, 4.5 to 1 for words (WCAG 2.2, 1.4.11 and 1.4.3)."""

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    page = luminance(PALETTE["page"][scheme])
    for name, colours in PALETTE.items():
        least = {"text": 4.5, "soft": 4.5}.get(name, 3.0)
        if name not in ("page", "rule", "none", "shade0"):
            low, high = sorted([page, luminance(colours[scheme])])
            assert (high + 0.05) / (low + 0.05) >= least, name


def test_every_state_has_a_mark_a_dash_and_a_colour_of_its_own() -> None:
    for known in (SYMBOLS, DASHES):
        assert set(known) == set(STATES)
        assert len(set(known.values())) == len(STATES)
    assert {state.lower() for state in STATES} <= set(PALETTE)


def test_names_are_no_markup() -> None:
    assert plain('<b>a</b> & "c"') == '&lt;b&gt;a&lt;/b&gt; &amp; "c"'


def test_a_picture_merges_what_all_have_with_its_own() -> None:
    made = picture([], xaxis={"title": {"text": "epoch"}}, **uprights([3, 5], "compared"))
    assert made.layout.xaxis.title.text == "epoch"
    assert made.layout.xaxis.automargin
    assert made.layout.template.layout.to_plotly_json() == {}  # its colours are its own, in a notebook, too
    assert [(shape.x0, shape.x1) for shape in made.layout.shapes] == [(3, 3), (5, 5)]
    assert [(note.x, note.text) for note in made.layout.annotations] == [(3, "compared")]


def test_trials_and_epochs_are_not_counted_in_halves() -> None:
    few, many = (picture([], xaxis={"tickformat": "d", "range": [0, last]}) for last in (2, 150))
    assert (few.layout.xaxis.dtick, many.layout.xaxis.dtick) == (1, None)


def test_true_and_one_are_different_choices() -> None:
    axis = Axis(choices=[True, 1, "x<", None])
    assert [axis.place(value) for value in (True, 1, "x<", None)] == [0, 1, 2, 3]
    assert axis.settings("s")["ticktext"] == ["true", "1", "x&lt;", "null"]


def test_each_kind_of_range_has_its_axis() -> None:
    def of(**spec: object) -> Axis:
        return axis_of(parse_parameter(spec, "search.x"))

    assert of(type="uniform", low=0.0, high=1.0) == Axis(low=0.0, high=1.0)
    assert of(type="loguniform", low=0.1, high=10.0) == Axis(log=True, low=0.1, high=10.0)
    assert of(type="int", low=1, high=9) == Axis(whole=True, low=1, high=9)
    assert of(type="int", low=1, high=9, log=True) == Axis(log=True, whole=True, low=1, high=9)
    assert of(type="choice", choices=["a", "b"]) == Axis(choices=["a", "b"])
    ends = of(type="loguniform", low=0.1, high=10.0).settings("lr")["range"]
    assert ends == pytest.approx([-1.08, 1.08])  # powers of ten, with 4% of room at both ends
    assert of(type="int", low=1, high=9).settings("n")["dtick"] == 1
    assert of(type="int", low=1, high=90).settings("n")["dtick"] is None


def test_ticks_of_a_log_axis() -> None:
    assert log_ticks(0.002, 0.2) == pytest.approx([0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2])
    assert [math.log10(tick) for tick in log_ticks(1e-6, 1.0)] == pytest.approx([-6, -5, -4, -3, -2, -1, 0])
    assert log_ticks(0.3, 0.4) == [0.3, 0.4]


def test_numbers_are_as_short_as_can_be_seen() -> None:
    assert [rounded(value) for value in (0.123456789, 1234567.0, None)] == [0.123457, 1234570.0, None]
    assert plots.rounded(12.3456789, 3) == 12.3


def test_texts() -> None:
    assert [number(value) for value in (0.002, 1e-5, 12.0, 0.123456)] == ["0.002", "1e-05", "12", "0.123"]
    assert [setting(value) for value in (None, True, 0.123456, 7, "a")] == ["null", "true", "0.1235", "7", "a"]
    assert setting([{"lr": 0.01, "mining": True}, {"lr": 0.02}]) == "lr 0.01, mining true, lr 0.02"
    assert (shortened("abc", 3), shortened("abcd", 3)) == ("abc", "ab…")
