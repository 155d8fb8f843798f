"""Writing the pages: ``report.html`` into each run's folder, and one page that compares where there are several."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from tune_lnl.errors import InputError
from tune_lnl.files import is_disk_full, replace_given
from tune_lnl.object_storage import StorageError
from tune_lnl.reporting.page import comparison_page, run_page
from tune_lnl.reporting.run_data import RunView, load_runs, view_run
from tune_lnl.steps import step
from tune_lnl.tuning.runs.finding import conditions_folder
from tune_lnl.tuning.runs.folder import RunFolder
from tune_lnl.tuning.runs.location import ResultsDir, nearby

logger = logging.getLogger(__name__)

REPORT = "report.html"
LONGEST_NAME = 120


def write_reports(runs: Sequence[ResultsDir], results_dir: ResultsDir) -> list[Path]:
    """Write the report of every run named, and one that compares them where there are several.

    A folder with one run per condition stands for all of them; its comparison is its ``report.html``. Runs named one by
    one are compared in ``report-A-vs-B.html``, next to the first.

    Args:
        runs: names under ``results_dir``, paths or URLs.

    Returns:
        what was written, the page to open first.

    Raises:
        InputError: no such run, the same one twice, or a folder that cannot be written to.
    """
    found = [run for name in runs for run in load_runs(name, results_dir)]
    roots = [run.files.root.resolve() for run in found]
    twice = next((root for index, root in enumerate(roots) if root in roots[:index]), None)
    if twice is not None:
        raise InputError(f"each run can be named once, got {twice} twice; name different runs")
    now = datetime.now()
    views = [view_run(run) for run in found]
    own = [root / REPORT for root in roots]
    for view, path in zip(views, own, strict=True):
        _write(path, run_page(view, now))
    if len(views) == 1:
        return own
    together = _comparison_path(runs, results_dir, views)
    links = [Path(os.path.relpath(path, together.parent)).as_posix() for path in own]
    _write(together, comparison_page(views, links, now))
    return [together, *own]


def report_after_search(run: str, results_dir: ResultsDir, say: Callable[[str], None]) -> None:
    """Write the report of a search that has ended, and print its path.

    An error is printed and not raised: the search itself is whole, and the page can be written again.
    """
    step("writing the report ...")
    try:
        say(f"  report: {nearby(write_reports([run], results_dir)[0])}")
    except InputError as error:
        say(f"  no report: {error}")
    except Exception as error:
        if is_disk_full(error):
            say("  no report: the disk is full; make room, then: python -m tune_lnl.report RUN")
            return
        logger.exception("the report of %s could not be made", run)
        say(f"  no report: {type(error).__name__}: {error}; it is a bug of the report alone, the run is whole")


def _comparison_path(runs: Sequence[ResultsDir], results_dir: ResultsDir, views: Sequence[RunView]) -> Path:
    folder = conditions_folder(runs[0], results_dir)
    if len(runs) == 1:
        assert folder is not None, "one name stands for several runs only where it is a folder of conditions"
        return folder.resolve() / REPORT
    first = (folder or views[0].run.files.root).resolve()
    names = "-vs-".join(Path(run).name for run in runs)[:LONGEST_NAME]
    return first.parent / f"report-{names}.html"


def _write(path: Path, page: str) -> None:
    try:
        if path.is_symlink() or (path.exists() and not path.is_file()):
            replace_given(path, page)
        else:
            RunFolder.at(path.parent).write(path, page)
    except StorageError as error:
        raise InputError(f"{error}\nthe page is in {path}") from None
    except OSError as error:
        if is_disk_full(error):
            raise
        raise InputError(f"{path} cannot be written: {error.strerror}; make its folder writable") from None
