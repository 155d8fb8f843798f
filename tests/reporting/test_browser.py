"""The pages of a run in Chromium, driven by its own driver; skipped where either is missing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from report_runs import MIXED, make_run

from tune_lnl.reporting.write import write_reports

webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium: pip install 'tune_lnl[browser]'")

CHROMIUM = shutil.which("chromium")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None,
    reason="needs a browser and its driver: apt-get install chromium chromium-driver",
)
WIDTHS = {"a desk": 1280, "a telephone": 400}
FIGURES = """
for (const details of document.querySelectorAll('details')) details.open = true;
return Array.from(document.querySelectorAll('figure')).map(figure => {
  const shown = Array.from(figure.querySelectorAll('svg')).filter(svg => svg.getBoundingClientRect().width > 0);
  const marks = shown.flatMap(svg => Array.from(svg.querySelectorAll('path, circle, rect, line, polyline, polygon')));
  const drawn = marks.filter(mark => { const box = mark.getBBox(); return box.width > 0 || box.height > 0; });
  return {
    name: figure.textContent.trim().slice(0, 60),
    pictures: figure.querySelectorAll('svg').length,
    width: Math.max(0, ...shown.map(svg => svg.getBoundingClientRect().width)),
    height: Math.max(0, ...shown.map(svg => svg.getBoundingClientRect().height)),
    marks: drawn.length,
  };
});
"""
LINKS = "return Array.from(document.querySelectorAll('a[href]')).map(link => link.href);"
OVERFLOW = "return document.documentElement.scrollWidth - document.documentElement.clientWidth;"


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Write the report of two runs and the page that compares them; the comparison is the first."""
    folder = tmp_path_factory.mktemp("pages")
    for name in ("tiny", "other"):
        make_run(folder, MIXED, name=name)
    return write_reports(["tiny", "other"], folder / "results")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    profile = tmp_path_factory.mktemp("profile")
    for argument in (
        "--headless",
        "--no-sandbox",  # the sandbox does not start as root, which CI is
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={profile}",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=DRIVER))
    yield driver
    driver.quit()


def requested(browser: Any) -> set[str]:
    """Return the addresses that the browser asked for since the last call, without those that hold their own data."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [each["params"]["request"]["url"] for each in messages if each["method"] == "Network.requestWillBeSent"]
    return {url for url in sent if not url.startswith(("data:", "chrome:", "about:"))}


def opened(browser: Any, page: Path, width: int) -> None:
    browser.set_window_size(width, 900)
    browser.get("about:blank")
    requested(browser)
    browser.get_log("browser")
    browser.get(page.resolve().as_uri())


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_each_page_is_drawn_without_errors_and_without_a_network(browser: Any, pages: list[Path], width: int) -> None:
    assert len(pages) == 3
    for page in pages:
        opened(browser, page, width)
        figures = browser.execute_script(FIGURES)
        assert len(figures) >= 2
        for figure in figures:
            if figure["pictures"]:
                assert figure["width"] > 100, figure
                assert figure["height"] > 20, figure
                assert figure["marks"] > 0, figure
        assert sum(figure["pictures"] > 0 for figure in figures) >= 2
        assert browser.execute_script(OVERFLOW) <= 0, f"{page.name} is wider than {width} pixels"
        assert browser.get_log("browser") == []
        assert requested(browser) == {page.resolve().as_uri()}


def test_links_lead_to_files_that_exist(browser: Any, pages: list[Path]) -> None:
    for page in pages:
        opened(browser, page, WIDTHS["a desk"])
        for link in browser.execute_script(LINKS):
            parts = urlsplit(link)
            assert parts.scheme == "file", link
            assert Path(unquote(parts.path)).exists(), link
            if parts.path == urlsplit(page.resolve().as_uri()).path and parts.fragment:
                assert browser.execute_script("return document.getElementById(arguments[0]) !== null", parts.fragment)


def test_the_console_would_show_an_error(browser: Any, tmp_path: Path) -> None:
    """The three checks above see a script that fails and a picture that is fetched."""
    page = tmp_path / "bad.html"
    page.write_text("<!doctype html><img src='missing.png'><script>nothing.here</script>")
    opened(browser, page, 800)
    assert any("nothing is not defined" in entry["message"] for entry in browser.get_log("browser"))
    assert (tmp_path / "missing.png").as_uri() in requested(browser)
