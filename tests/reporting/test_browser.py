"""The pages in Chromium, driven by its own driver: `make test-browser` fails where it is missing, others skip."""

from __future__ import annotations

import base64
import json
import os
import random
import shutil
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
from label_tables import table_of
from report_runs import COMPLETE, MIXED, Asked, imagined, make_run, view

from tune_lnl.datasets.label_file import picture_labels
from tune_lnl.methods.label_verdicts import RELABEL
from tune_lnl.reporting.label_page import label_page
from tune_lnl.reporting.page import run_page
from tune_lnl.reporting.write import write_reports

pytestmark = [pytest.mark.browser, pytest.mark.slow]

AXE = Path(__file__).parents[2] / "build" / "axe" / "package" / "axe.min.js"
WIDTHS = {"a desk": 1400, "a phone": 390}
DRAWN = """
return Array.from(document.querySelectorAll('.plot')).map(plot => ({
  key: plot.dataset.key,
  width: Math.max(0, ...Array.from(plot.querySelectorAll('svg')).map(svg => svg.getBoundingClientRect().width)),
  marks: plot.querySelectorAll('svg path, svg rect, svg text').length,
  canvas: plot.querySelector('canvas') !== null,
}));
"""
LINKS = "return Array.from(document.querySelectorAll('a[href]')).map(link => link.href);"
OVERFLOW = "return document.documentElement.scrollWidth - document.documentElement.clientWidth;"
COLUMN = """
const [table, name] = arguments;
const headings = Array.from(document.querySelectorAll(`#${table} thead th`)).map(one => one.textContent.trim());
const rows = Array.from(document.querySelector(`#${table} tbody`).rows).filter(row => !row.hidden);
return rows.map(row => row.cells[headings.indexOf(name)].textContent.trim());
"""


def missing(what: str) -> None:
    if os.environ.get("TUNE_LNL_BROWSER") == "required":
        pytest.fail(f"make test-browser needs {what}")
    pytest.skip(f"needs {what}")


def many(count: int) -> list[Asked]:
    """Trials of every state, most of them complete."""
    draw = random.Random(1)
    states = ["PRUNED" if number % 3 == 2 else "COMPLETE" for number in range(count)]
    states[7], states[-1] = "FAIL", "RUNNING"
    epochs = {"COMPLETE": 6, "PRUNED": 3, "FAIL": 2, "RUNNING": 4}
    return [Asked(state, round(draw.uniform(45, 66), 2), epochs=epochs[state]) for state in states]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    results = folder / "results"
    for name, trials in (
        ("one", [COMPLETE]),
        ("thirty-six", many(36)),
        ("mixed", MIXED),
        ("failed", [Asked("FAIL", epochs=1)]),
    ):
        make_run(folder, trials, name=name)
    both = write_reports(["thirty-six", "mixed"], results)
    (one,), (failed,) = write_reports(["one"], results), write_reports(["failed"], results)
    long = view(folder, [COMPLETE], name="long", changes={"fixed": {"epochs": 150, "batch_size": 64}})
    five_hundred = results / "long" / "report.html"
    five_hundred.write_text(run_page(imagined(long, 500), datetime(2030, 1, 2)), encoding="utf-8")
    labels = results / "labels.html"
    labels.write_text(label_page(table_of(), "mixed", "labels.csv", datetime(2030, 1, 2)), encoding="utf-8")
    old = results / "old"
    shutil.copytree(Path(__file__).parents[1] / "data" / "run_of_0_1_0", old)
    (of_0_1_0,) = write_reports([old], results)
    return {
        "comparison": both[0],
        "36 trials": both[1],
        "1 trial": one,
        "500 trials": five_hundred,
        "all failed": failed,
        "labels": labels,
        "a run of 0.1.0": of_0_1_0,
    }


PAGES = ("1 trial", "36 trials", "500 trials", "all failed", "a run of 0.1.0", "labels", "comparison")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    try:
        from selenium import webdriver
    except ImportError:
        missing("selenium: pip install 'tune_lnl[browser]'")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        missing("a browser and its driver: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = str(chromium)
    for argument in (
        "--headless=new",
        "--no-sandbox",  # the sandbox does not start as root, which CI is
        "--disable-dev-shm-usage",
        "--enable-unsafe-swiftshader",  # WebGL without a graphics card
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={tmp_path_factory.mktemp('profile')}",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    made = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=str(driver)))
    made.set_script_timeout(120)
    yield made
    made.quit()


def requested(browser: Any) -> set[str]:
    """Return the addresses that the browser asked for since the last call, without those that hold their own data."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [each["params"]["request"]["url"] for each in messages if each["method"] == "Network.requestWillBeSent"]
    return {url for url in sent if not url.startswith(("data:", "blob:", "chrome:", "about:"))}


def opened(browser: Any, page: Path, width: int = 1400, scheme: str = "light") -> None:
    """Open a page and wait until its pictures are drawn."""
    media = {"media": "", "features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get("about:blank")
    requested(browser)
    browser.get_log("browser")
    browser.get(page.resolve().as_uri())
    until(browser, "return document.documentElement.dataset.drawn === 'yes'")


def until(browser: Any, condition: str) -> None:
    end = time.monotonic() + 90
    while not browser.execute_script(condition):
        assert time.monotonic() < end, f"never: {condition}"
        time.sleep(0.05)


def violations(browser: Any) -> list[str]:
    """Return what axe-core finds on the page as it is now, by its rules of every weight."""
    if not AXE.is_file():
        missing(f"axe-core in {AXE}: make test-browser fetches it from npm")
    browser.execute_script(AXE.read_text(encoding="utf-8"))
    found = browser.execute_async_script("axe.run().then(arguments[arguments.length - 1])")
    assert len(found["passes"]) > 15
    return [f"{one['id']}: {one['nodes'][0]['html'][:200]}" for one in found["violations"]]


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_drawn_without_errors_network_or_barriers(
    browser: Any, pages: dict[str, Path], name: str, scheme: str, width: int
) -> None:
    page = pages[name]
    assert page.stat().st_size < 8e6
    opened(browser, page, width, scheme)
    for picture in browser.execute_script(DRAWN):
        if picture["key"] != "parallel":  # drawn when it comes into sight
            assert picture["width"] > 200, picture
            assert picture["marks"] > 5, picture
    assert browser.execute_script(OVERFLOW) <= 0, f"{name} is wider than {width} pixels"
    assert browser.get_log("browser") == []
    assert requested(browser) == {page.resolve().as_uri()}
    if name != "500 trials" or (scheme, width) == ("light", 1400):  # axe takes half a minute for its thousands of cells
        assert violations(browser) == []


def test_links_lead_to_files_that_exist(browser: Any, pages: dict[str, Path]) -> None:
    for name, page in pages.items():
        if name == "500 trials":
            continue
        opened(browser, page)
        links = browser.execute_script(LINKS)
        assert len(links) > 2
        for link in links:
            parts = urlsplit(link)
            assert parts.scheme == "file", link
            assert Path(unquote(parts.path)).exists(), link
            if parts.path == urlsplit(page.resolve().as_uri()).path and parts.fragment:
                assert browser.execute_script("return document.getElementById(arguments[0]) !== null", parts.fragment)


# ---- the trials


def column(browser: Any, name: str) -> list[str]:
    return list(browser.execute_script(COLUMN, "trials-table", name))


def click_heading(browser: Any, name: str) -> None:
    for button in browser.find_elements("css selector", "#trials-table .sort"):
        if button.text.strip() == name:
            browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
            button.click()
            return
    raise AssertionError(name)


def test_the_trials_are_sorted_by_a_click(browser: Any, pages: dict[str, Path]) -> None:
    opened(browser, pages["36 trials"])
    for name in ("lr", "trial", "seconds"):
        click_heading(browser, name)
        values = [float(value) for value in column(browser, name) if value != "–"]
        assert len(values) >= 35
        assert values == sorted(values)
        click_heading(browser, name)
        assert [float(value) for value in column(browser, name) if value != "–"] == values[::-1]
    assert column(browser, "seconds")[-1] == "–"  # what is not known stays at the end
    click_heading(browser, "state")
    assert column(browser, "state") == sorted(column(browser, "state"))


def test_the_trials_are_filtered(browser: Any, pages: dict[str, Path]) -> None:
    opened(browser, pages["36 trials"])
    everything = [float(value) for value in column(browser, "lr")]
    field = browser.find_element("css selector", "form.filter input")
    field.send_keys("lr < 0.02")
    assert [float(value) for value in column(browser, "lr")] == [value for value in everything if value < 0.02]
    status = browser.find_element("css selector", "form.filter [role=status]").text
    assert status == f"{len(column(browser, 'lr'))} of 36 trials"
    field.clear()
    field.send_keys("failed")
    assert column(browser, "trial") == ["7"]
    field.clear()
    field.send_keys(" ")
    from selenium.webdriver.support.ui import Select

    Select(browser.find_element("name", "state")).select_by_visible_text("running")
    assert column(browser, "trial") == ["35"]


def test_two_trials_are_compared(browser: Any, pages: dict[str, Path]) -> None:
    from selenium.webdriver.support.ui import Select

    opened(browser, pages["36 trials"])
    Select(browser.find_element("name", "one")).select_by_value("7")
    Select(browser.find_element("name", "other")).select_by_value("0")
    lines = [line.text.split(" ") for line in browser.find_elements("css selector", "form.diff tbody tr")]
    found = {line[0]: line[1:] for line in lines}
    by_number = dict(zip(column(browser, "trial"), column(browser, "lr"), strict=True))
    assert found["lr"] == [by_number["7"], by_number["0"]]
    assert found["epochs"] == ["2", "6"]
    assert "trial" not in found
    Select(browser.find_element("name", "other")).select_by_value("7")
    assert browser.find_element("css selector", "form.diff tbody").text == "nothing – –"


def test_commands_are_copied_whole_and_do_not_break_at_hyphens(browser: Any, pages: dict[str, Path]) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    opened(browser, pages["36 trials"], WIDTHS["a phone"])
    button = browser.find_element("css selector", ".commands .copy")
    command = browser.execute_script("return arguments[0].parentElement.querySelector('code').textContent", button)
    assert command == "python -m tune_lnl.search tiny.yaml --trials 6"
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
    ActionChains(browser).move_to_element(button).click().perform()
    until(browser, "return Array.from(document.querySelectorAll('.copy')).some(one => /Copied/.test(one.textContent))")
    field = browser.find_element("css selector", "form.filter input")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", field)
    field.click()
    ActionChains(browser).key_down(Keys.CONTROL).send_keys("v").key_up(Keys.CONTROL).perform()
    assert field.get_attribute("value") == command
    broken = """
    return Array.from(document.querySelectorAll('.word'))
      .filter(word => word.offsetHeight > 2 * parseFloat(getComputedStyle(word).fontSize))
      .map(word => word.textContent).filter(text => text.length < 25);
    """
    assert browser.execute_script(broken) == []


# ---- the pictures


def in_sight(browser: Any, key: str) -> Any:
    plot = browser.find_element("css selector", f"[data-key={key}]")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", plot)
    return plot


def test_a_legend_hides_and_shows_and_the_pointer_names_a_trial(browser: Any, pages: dict[str, Path]) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    opened(browser, pages["36 trials"])
    plot = in_sight(browser, "history")
    names = [one.text for one in plot.find_elements("css selector", ".legendtext")]
    assert len(names) == len(set(names)) == 6
    plot.find_elements("css selector", ".legendtoggle")[1].click()
    until(browser, "return document.querySelector('[data-key=history]').data[1].visible === 'legendonly'")
    mark = plot.find_elements("css selector", ".scatterlayer .trace .points path")[-1]
    ActionChains(browser).move_to_element(mark).perform()
    until(
        browser, "return document.querySelector('[data-key=history] .hoverlayer').textContent.includes('lr_asymmetry')"
    )


def test_dragging_along_an_axis_chooses_trials(browser: Any, pages: dict[str, Path]) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    opened(browser, pages["36 trials"])
    plot = in_sight(browser, "parallel")
    until(browser, "return document.querySelector('[data-key=parallel] .axis-brush .background') !== null")
    time.sleep(1)  # Plotly takes the pointer once its lines are drawn
    axis = plot.find_elements("css selector", ".axis-brush .background")[0]
    ActionChains(browser).move_to_element_with_offset(axis, 0, -60).click_and_hold().move_by_offset(
        0, 40
    ).move_by_offset(0, 40).release().perform()
    until(browser, "return document.querySelector('[data-key=parallel]').data[0].dimensions[0].constraintrange")
    low, high = browser.execute_script(
        "return document.querySelector('[data-key=parallel]').data[0].dimensions[0].constraintrange"
    )
    assert -2.7 < low < high < -0.69  # inside the searched range of lr, as a power of ten


def test_pictures_follow_the_colour_scheme(browser: Any, pages: dict[str, Path]) -> None:
    paper = "return document.querySelector('[data-key=history]').layout.paper_bgcolor"
    body = "return getComputedStyle(document.body).backgroundColor"
    opened(browser, pages["1 trial"], scheme="dark")
    assert (browser.execute_script(paper), browser.execute_script(body)) == ("#14181d", "rgb(20, 24, 29)")
    media = {"features": [{"name": "prefers-color-scheme", "value": "light"}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    until(browser, f"{paper} === '#ffffff'")
    assert browser.execute_script(body) == "rgb(255, 255, 255)"


def test_pictures_keep_to_their_column(browser: Any, pages: dict[str, Path]) -> None:
    wider = (
        "return Array.from(document.querySelectorAll('.plot')).filter(plot => plot.dataset.key !== 'parallel' && "
        "Math.abs(plot.querySelector('svg').getBoundingClientRect().width - plot.clientWidth) > 2).length === 0"
    )
    opened(browser, pages["1 trial"])
    assert browser.execute_script(wider)
    for width in (700, 390, 1200):
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        until(browser, f"return document.documentElement.clientWidth <= {width}")
        until(browser, wider)


def test_a_page_is_printed_light_and_not_wider_than_paper(browser: Any, pages: dict[str, Path]) -> None:
    opened(browser, pages["36 trials"], scheme="dark")
    browser.execute_script(
        "window.seen = []; addEventListener('beforeprint', () => document.querySelectorAll('.plot').forEach(plot => "
        "window.seen.push([plot.dataset.key, plot.layout.paper_bgcolor, plot.layout.width])))"
    )
    made = browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})
    assert len(base64.b64decode(made["data"])) > 50_000
    seen = browser.execute_script("return window.seen")
    assert {colour for _, colour, _ in seen} == {"#ffffff"}
    assert {width for key, _, width in seen if key != "parallel"} == {680}
    until(browser, "return document.querySelector('[data-key=history]').layout.paper_bgcolor === '#14181d'")


# ---- the checks themselves


def test_the_checks_see_what_they_look_for(browser: Any, tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text("<!doctype html><html data-drawn=yes><img src='missing.png'><script>nothing.here</script></html>")
    opened(browser, page, 800)
    assert any("nothing is not defined" in entry["message"] for entry in browser.get_log("browser"))
    assert (tmp_path / "missing.png").as_uri() in requested(browser)
    if AXE.is_file():
        browser.execute_script(AXE.read_text(encoding="utf-8"))
        found = browser.execute_async_script("axe.run().then(arguments[arguments.length - 1])")
        assert {"image-alt", "document-title"} <= {one["id"] for one in found["violations"]}


def test_names_from_outside_do_not_run(browser: Any, tmp_path: Path) -> None:
    evil = "</script><script>window.ran = 1</script><img src=x onerror='window.ran = 2'>"
    seen = view(tmp_path, MIXED, description=evil, command=f"python {evil}")
    page = tmp_path / "evil.html"
    page.write_text(run_page(seen, datetime(2030, 1, 2)), encoding="utf-8")
    opened(browser, page)
    assert browser.execute_script("return window.ran") is None
    # The policy stops a script that got in all the same.
    browser.execute_script(
        "const made = document.createElement('script'); made.textContent = 'window.ran = 3'; document.body.append(made)"
    )
    assert browser.execute_script("return window.ran") is None
    assert any("Content Security Policy" in entry["message"] for entry in browser.get_log("browser"))


def test_corrections_are_accepted_or_kept_and_saved_as_a_label_file(browser: Any, tmp_path: Path) -> None:
    names = [f'photos/{number}, "a".png' if number % 7 else f"=photos/{number}.png" for number in range(400)]
    table = table_of(400, names)
    assert (table.judgement.verdict == RELABEL).sum() > 4, "there is something to decide"
    page = tmp_path / "labels.html"
    page.write_text(label_page(table, "run", "labels.csv", datetime(2026, 1, 1)), encoding="utf-8")
    opened(browser, page)
    browser.execute_script(
        "URL.createObjectURL = (blob) => { blob.text().then((text) => { window.saved = text; }); return '#'; };"
    )
    cards = browser.find_elements("css selector", "li[data-row]")
    rows = [int(card.get_attribute("data-row")) for card in cards]
    cards[0].find_element("css selector", "button[data-key=k]").click()
    browser.execute_script("arguments[0].focus()", cards[1])
    cards[1].send_keys("a")
    assert browser.switch_to.active_element == cards[2], "a key goes on to the next image"
    cards[2].send_keys("k")
    assert browser.find_element("id", "decided").text == f"3 of {len(cards)} decided"
    given = table.data.given_labels
    for others in (False, True):
        if others:
            browser.find_element("id", "others").click()
        browser.execute_script("window.saved = undefined; document.getElementById('save').click()")
        until(browser, "return window.saved !== undefined")
        decided = tmp_path / "labels.decided.csv"
        decided.write_text(browser.execute_script("return window.saved"), encoding="utf-8")
        found = picture_labels(decided, None, table.data.class_names, names)
        expected = np.where(others & (table.judgement.verdict == RELABEL), table.judgement.corrected, given)
        expected[[rows[0], rows[2]]] = given[[rows[0], rows[2]]]
        expected[rows[1]] = table.judgement.corrected[rows[1]]
        assert found.tolist() == expected.tolist()
