"""The page as a reader, a browser and a screen reader meet it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import pytest
from report_runs import COMPLETE, MIXED, SPACE, Asked, Page, imagined, view

from tune_lnl.reporting.page import comparison_page, figures_by_section, run_page

NOW = datetime(2030, 1, 2, 3, 4)
RUNS: dict[str, Sequence[Asked]] = {
    "half way": MIXED,
    "nothing yet": [],
    "just begun": [Asked("RUNNING", epochs=0)],
    "one trial": [COMPLETE],
    "all failed": [Asked("FAIL", epochs=epochs) for epochs in (0, 1, 2)],
    "all alike": [COMPLETE] * 6,
}


def check(text: str) -> Page:
    """What every page keeps to."""
    page = Page(text)
    assert not [a for a in page.addresses() if "://" in a or a.startswith("//")]
    assert not [key for _, attributes in page.elements for key in attributes if key.startswith("on")]
    assert not re.search(r"url\(|@import", "".join(re.findall(r"<style>(.*?)</style>", text, re.DOTALL)))
    policy = str(page.all("meta")[2]["content"])
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    for attributes, script in page.scripts:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert attributes.get("type") == "application/json" or f"'sha256-{digest}'" in policy
    # Plotly's script is there once, and only where there is something to draw.
    assert sum("plotly.js v" in script for _, script in page.scripts) == bool(page.plots)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    assert {address[1:] for address in page.addresses() if address.startswith("#")} <= set(ids)
    labels = [attributes["aria-labelledby"] for _, attributes in page.elements if "aria-labelledby" in attributes]
    assert set(labels) <= set(ids)
    regions = [attributes["aria-label"] for attributes in page.all("div") if attributes.get("role") == "region"]
    assert len(set(regions)) == len(regions)
    assert page.all("html")[0]["lang"] == "en"
    assert not re.search(r"\bnan\b|\binf\b|None", page.text)
    for plot in page.plots:
        assert not re.search(r"NaN|Infinity", json.dumps(plot))
    return page


@pytest.mark.parametrize("state", RUNS)
def test_a_page_for_every_state(tmp_path: Path, state: str) -> None:
    seen = view(tmp_path, RUNS[state])
    page = check(run_page(seen, NOW))
    for title in ("Search history", "Learning curves", "Timeline of trials over workers", "Failures by class"):
        assert title in page.text
    # One sentence instead of a row of empty pictures.
    assert ("Nothing to compare yet" in page.text) != ("Parallel coordinates" in page.text)
    assert ("Not finished" in page.text) == (not seen.finished)
    assert "2030-01-02 03:04" in page.text
    assert len(page.all("details")) >= len(page.plots)


CORE = {
    "method": "core",
    "dataset": {"name": "sprites"},
    "conditions": {},
    "objective": {"metric": "val_map", "mode": "max", "average_last": 1},
    "validation": {"fraction": 0.3},
    "fixed": {"epochs": 6, "batch_size": 16},
    "search": {
        "lr": {"type": "loguniform", "low": 0.002, "high": 0.05},
        "refine_epochs": {"type": "int", "low": 2, "high": 4},
    },
    "start": [{"lr": 0.01, "refine_epochs": 4}],
}


def test_another_task(tmp_path: Path) -> None:
    """Re-identification by CORE: its stage lengths, its metrics, and noise in words."""
    seen = view(tmp_path, [Asked("COMPLETE", 50.0 + number) for number in range(4)], changes=CORE)
    page = check(run_page(seen, NOW))
    assert "Bestval_map (%) 53.00, trial 3; 95% interval " in page.text
    assert "Slice: refine_epochs" in page.text
    assert "Slice: self_epochs" in page.text
    assert "Map of the two learning rates" not in page.text
    assert re.search(r"\d+\.\d% of the \d+ training images carry a wrong identity \(20\.0% asked for\)", page.text)
    assert "--set method=reid_standard" in page.text


@pytest.mark.slow
def test_five_hundred_trials_stay_light(tmp_path: Path) -> None:
    one = view(tmp_path, [COMPLETE], changes={"fixed": {"epochs": 150, "batch_size": 64}})
    text = run_page(imagined(one, 500), NOW)
    check(text)
    assert len(text.encode()) < 8e6


def test_every_picture_says_in_words_what_it_shows(tmp_path: Path) -> None:
    page = check(run_page(view(tmp_path), NOW))
    labels = [str(each["aria-label"]) for each in page.all("div") if each.get("role") == "group"]
    assert len(labels) == len(page.plots)
    assert any(label.startswith("Picture: Search history. 5 of 6 trials have ended.") for label in labels)
    assert all(label.rstrip().endswith(".") for label in labels)


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    evil = "</style></title><script>alert(1)</script><img src=x onerror=alert(1)>"
    page = check(run_page(view(tmp_path, description=evil, command=f"python {evil}"), NOW))
    assert evil in page.text
    assert "ValueError: <b>no</b> & more" in page.text
    assert not page.all("img")
    assert not page.all("b")


def test_hostile_names_of_settings_stay_text_in_pictures(tmp_path: Path) -> None:
    """Plotly reads tags in its texts, and the page's JSON stands inside a script element."""
    evil = "</script><b>&\ud800"
    search = {**SPACE["search"], "model": {"type": "choice", "choices": ["cnn_digits", "cnn7"]}}
    seen = view(tmp_path, [Asked("COMPLETE", 50.0 + number) for number in range(5)], changes={"search": search})
    object.__setattr__(seen.run.space.parameters["model"], "choices", (evil, None))
    for trial in seen.trials:
        object.__setattr__(trial.row, "params", {**trial.row.params, "model": evil})
    text = run_page(seen, NOW)
    text.encode()
    page = check(text)
    ticks = [plot["layout"]["xaxis"].get("ticktext") for plot in page.plots if "xaxis" in plot["layout"]]
    assert ["&lt;/script&gt;&lt;b&gt;&amp;\ud800", "null"] in ticks
    assert not page.all("b")


def test_the_whole_config_is_there(tmp_path: Path) -> None:
    seen = view(tmp_path)
    page = Page(run_page(seen, NOW))
    assert "# Train it: python -m tune_lnl.train THIS_FILE" in page.text
    assert "method: act" in page.text


def test_a_comparison(tmp_path: Path) -> None:
    views = [view(tmp_path, name="one"), view(tmp_path, [COMPLETE], name="two"), view(tmp_path, [], name="three")]
    page = check(comparison_page(views, ["one/report.html", "two/report.html", None], NOW))
    assert sum(each.get("id") == "figure-spent-0" for each in page.all("h3")) == 1
    assert "They train" not in page.text
    assert "one/report.html" in page.addresses()
    assert "three" in page.text


def test_the_style_asks_for_nothing_and_prints_light() -> None:
    import tune_lnl.reporting.page as module

    style = (Path(module.__file__).parent / "templates" / "style.css").read_text()
    assert style.count("{") == style.count("}")
    assert "</" not in style
    assert "prefers-color-scheme: dark" in style
    assert "@media print" in style
    size = re.search(r"html \{ font-size: (\d+)px", style)
    assert size is not None
    assert int(size[1]) >= 16


def test_every_colour_is_given_for_both_schemes_and_print() -> None:
    import tune_lnl.reporting.page as module

    style = (Path(module.__file__).parent / "templates" / "style.css").read_text()
    blocks = [set(re.findall(r"(--[\w-]+):", block)) for block in re.findall(r":root \{(.*?)\}", style, re.DOTALL)]
    assert len(blocks) == 3
    assert blocks[0] == blocks[1] == blocks[2]
    assert set(re.findall(r"var\((--[\w-]+)\)", style)) <= blocks[0]


def test_few_trials_are_one_sentence(tmp_path: Path) -> None:
    few = figures_by_section(view(tmp_path))["settings"]
    assert [figure.key for figure in few] == ["parallel", "importances", "lr-map", "slices"]
    assert few[-1].plot is None
    assert few[-1].takeaway.startswith("Fewer than four trials are complete: too few to say where lr, ")
    (none,) = figures_by_section(view(tmp_path, [Asked("FAIL", epochs=0)], name="none"))["settings"]
    assert none.plot is None
