"""YAML as users write it."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tune_lnl.config.yaml import dump_yaml, load_yaml, read_mapping
from tune_lnl.errors import InputError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E5", 100000.0),
        ("-2e+3", -2000.0),
        ("1.5e-3", 0.0015),
        (".5e1", 5.0),
        ("2.", 2.0),
        ("0o17", 15),
        ("0x1F", 31),
        ("010", 10),
        ("-.inf", -math.inf),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("1:30.5", "1:30.5"),
        ("0b1", "0b1"),
        ("0.1", 0.1),
        ("12", 12),
        ("true", True),
        ("null", None),
        ("", None),
        ("'1e-3'", "1e-3"),
        ("e3", "e3"),
        ("1e", "1e"),
        ("cosine:20,5e-4,100", "cosine:20,5e-4,100"),
        ("[1e-3, a]", [0.001, "a"]),
        ("{type: loguniform, low: 1e-3}", {"type": "loguniform", "low": 0.001}),
    ],
)
def test_values(text: str, value: Any) -> None:
    read = load_yaml(text, "here")
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("text", "place", "why"),
    [
        ("a: b: c", "line 1, column 5", "mapping values"),
        ("a: 1\nb: [1, 2\nc: 3", "line 3, column 2", "expected ',' or ']'"),
        ("a: 1\nb: 2\na: 3", "line 3, column 1", "key 'a' is given twice"),
        ("a:\n  x: 1\n  x: 1", "line 3, column 3", "key 'x' is given twice"),
        ("a: 1\n2: 3", "line 2, column 1", "keys are names, got 2"),
        ("? [1]\n: 2", "line 1, column 3", "keys are names"),
        ("a: 2001-99-99", "line 1, column 4", "'2001-99-99' is not a valid timestamp"),
        ("a: !!int x", "line 1, column 4", "'x' is not a valid int"),
        ("a: !!bool maybe", "line 1, column 4", "'maybe' is not a valid bool"),
        ("a: !!timestamp x", "line 1, column 4", "'x' is not a valid timestamp"),
        ("a: !!python/object/apply:os.system [ls]", "line 1, column 4", "could not determine a constructor"),
        ("a: *nobody", "line 1, column 4", "undefined alias"),
    ],
)
def test_broken_yaml_is_told_with_its_place(text: str, place: str, why: str) -> None:
    with pytest.raises(InputError) as caught:
        load_yaml(text, "my.yaml")
    assert str(caught.value).startswith(f"my.yaml, {place}: not valid YAML: ")
    assert why in str(caught.value)


@pytest.mark.parametrize("text", ["a: \x00", "[" * 1000])
def test_broken_yaml_without_a_place_names_the_file(text: str) -> None:
    with pytest.raises(InputError, match=r"^my\.yaml: not valid YAML: "):
        load_yaml(text, "my.yaml")


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60))
def test_any_text_reads_or_is_refused_in_words(text: str) -> None:
    with contextlib.suppress(InputError):
        load_yaml(text, "here")


# Control characters and exotic line ends are beyond PyYAML's own round trip, and no setting has them.
TEXT = st.text(st.characters(exclude_categories=("C", "Zl", "Zp")), max_size=8)
LIKE_A_NUMBER = st.from_regex(r"[-+]?[0-9]{1,9}(\.[0-9_]{0,3})?[eE][-+]?[0-9]{1,9}", fullmatch=True)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT | LIKE_A_NUMBER


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(
        TEXT,
        st.recursive(SCALARS, lambda i: st.lists(i, max_size=3) | st.dictionaries(TEXT, i, max_size=3), max_leaves=4),
        max_size=4,
    )
)
def test_what_is_written_reads_back_equal(value: dict[str, Any]) -> None:
    read = load_yaml(dump_yaml(value), "here")
    assert read == value
    assert str(read) == str(value)  # 1 == 1.0 == True


def test_text_that_looks_like_a_number_stays_text() -> None:
    texts = {
        "git_commit": "12e4567",
        "column": "1e5",
        "padded": "08",
        "octal": "0o17",
        "time": "1:30",
        "grouped": "1_0",
    }
    assert load_yaml(dump_yaml(texts), "here") == texts


def test_written_yaml_keeps_the_order_and_has_no_anchors() -> None:
    shared = {"x": 1}
    assert dump_yaml({"b": shared, "a": shared}) == "b:\n  x: 1\na:\n  x: 1\n"


# ---- files


def test_a_mapping_is_read(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("# a comment\nmethod: act\nfixed: {lr: 1e-2, name: é}\n", encoding="utf-8")
    assert read_mapping(path) == {"method": "act", "fixed": {"lr": 0.01, "name": "é"}}


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "found nothing"),
        (b"- act\n- standard\n", "found list"),
        (b"act", "found str"),
        (b"\xff\xfe\xfa", "cannot be read as UTF-8 text"),
    ],
)
def test_what_is_no_mapping_is_refused(content: bytes, why: str, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=why) as caught:
        read_mapping(path)
    assert str(path) in str(caught.value)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_mapping(tmp_path)
