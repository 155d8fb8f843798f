from __future__ import annotations

from pathlib import Path

import pytest
from report_runs import COMPLETE, Page, make_run

from tune_lnl.errors import InputError
from tune_lnl.reporting import write as writing
from tune_lnl.reporting.write import report_after_search, write_reports


def test_one_run(tmp_path: Path) -> None:
    make_run(tmp_path, [COMPLETE])
    before = {path.name for path in (tmp_path / "results" / "tiny").iterdir()}
    (written,) = write_reports(["tiny"], tmp_path / "results")
    assert written == tmp_path / "results" / "tiny" / "report.html"
    assert "tiny" in Page(written.read_text(encoding="utf-8")).text
    assert {path.name for path in written.parent.iterdir()} == {*before, "report.html"}


def test_two_runs_are_compared_beside_the_first(tmp_path: Path) -> None:
    make_run(tmp_path, [COMPLETE], name="a")
    make_run(tmp_path, [COMPLETE], name="b")
    results = tmp_path / "results"
    together, *own = write_reports([results / "b", "a"], results)
    assert together == results / "report-b-vs-a.html"
    assert own == [results / "b" / "report.html", results / "a" / "report.html"]
    addresses = Page(together.read_text(encoding="utf-8")).addresses()
    assert all((results / name / "report.html").exists() for name in "ab")
    assert {"b/report.html", "a/report.html"} <= set(addresses)


def test_a_folder_of_conditions(tmp_path: Path) -> None:
    for condition in ("asym40", "asym20"):
        make_run(tmp_path, [COMPLETE], name=f"both/{condition}", condition=condition)
    root = tmp_path / "results" / "both"
    together, *own = write_reports(["both"], tmp_path / "results")
    assert together == root / "report.html"
    assert own == [root / "asym20" / "report.html", root / "asym40" / "report.html"]
    assert "asym20/report.html" in Page(together.read_text(encoding="utf-8")).addresses()


def test_refusals(tmp_path: Path) -> None:
    make_run(tmp_path, [COMPLETE])
    results = tmp_path / "results"
    with pytest.raises(InputError, match=r"each run can be named once, got .* twice"):
        write_reports(["tiny", results / "tiny"], results)
    with pytest.raises(InputError, match="no run 'tinny'"):
        write_reports(["tiny", "tinny"], results)
    assert not (results / "tiny" / "report.html").exists()


def test_after_a_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path, [COMPLETE])
    said: list[str] = []
    results = tmp_path / "results"
    report_after_search("tiny", results, said.append)
    assert said == [f"  report: {results / 'tiny' / 'report.html'}"]
    report_after_search("other", results, said.append)
    assert said[1].startswith("  no report: no run 'other'")

    def broken(view: object, now: object) -> str:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(writing, "run_page", broken)
    report_after_search("tiny", results, said.append)
    assert said[2].startswith("  no report: ZeroDivisionError: by zero; it is a bug of the report alone")


def test_a_page_that_cannot_be_written(tmp_path: Path) -> None:
    root = make_run(tmp_path, [COMPLETE]).files.root
    (root / "report.html").mkdir()
    with pytest.raises(InputError, match=r"report\.html cannot be written"):
        write_reports(["tiny"], tmp_path / "results")
