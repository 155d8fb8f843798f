"""CITATION.cff has the structure of Citation File Format 1.2.0, and agrees with the package."""

from __future__ import annotations

import datetime
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import tune_lnl

ROOT = Path(__file__).parents[1]
CITATION: dict[str, Any] = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
TOP = {
    "abstract", "authors", "cff-version", "commit", "contact", "date-released", "doi", "identifiers", "keywords",
    "license", "license-url", "message", "preferred-citation", "references", "repository", "repository-artifact",
    "repository-code", "title", "type", "url", "version",
}  # fmt: skip
"""Every key that the format's schema allows at the top."""
REFERENCE = {
    "type", "title", "authors", "notes", "journal", "collection-title", "conference", "volume", "issue", "start", "end",
    "year", "month", "date-published", "doi", "url", "publisher",
}  # fmt: skip
"""Those of a reference, as far as they are used here."""
PERSON = {"family-names", "given-names", "name-particle", "name-suffix", "alias", "affiliation", "email", "orcid"}
DOI = re.compile(r"10\.\d{4,9}(\.\d+)?/[A-Za-z0-9:/_;\-\.\(\)\[\]\\]+")


def works() -> list[dict[str, Any]]:
    return [CITATION, *CITATION["references"]]


def test_the_top_has_what_is_required_and_nothing_unknown() -> None:
    assert {"cff-version", "message", "title", "authors"} <= set(CITATION) <= TOP
    assert CITATION["cff-version"] == "1.2.0"
    assert CITATION["type"] in ("software", "dataset")
    assert len(set(CITATION["keywords"])) == len(CITATION["keywords"])


def test_it_is_of_this_version_and_licence() -> None:
    assert str(CITATION["version"]) == tune_lnl.__version__
    assert CITATION["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text()


@pytest.mark.parametrize("work", works(), ids=lambda work: work["title"])
def test_authors_are_people_or_named_groups(work: dict[str, Any]) -> None:
    assert work["authors"]
    for author in work["authors"]:
        assert set(author) <= PERSON or set(author) == {"name"}
        assert all(isinstance(value, str) and value for value in author.values())


@pytest.mark.parametrize("reference", CITATION["references"], ids=lambda reference: reference["title"])
def test_references_are_complete(reference: dict[str, Any]) -> None:
    assert {"type", "title", "authors"} <= set(reference) <= REFERENCE
    assert reference["type"] in ("article", "conference-paper")
    assert "journal" in reference or "collection-title" in reference
    assert isinstance(reference["year"], int)
    if "date-published" in reference:
        assert datetime.date.fromisoformat(reference["date-published"]).year == reference["year"]
    assert "doi" not in reference or DOI.fullmatch(reference["doi"])


def test_both_methods_have_their_paper() -> None:
    titles = " ".join(reference["title"] for reference in CITATION["references"])
    assert "Asymmetric Co-Training" in titles
    assert "Collaborative Refining for Person Re-Identification" in titles
