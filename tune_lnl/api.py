"""The Python interface of the commands: ``from tune_lnl import run_search, load_run``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tune_lnl.errors import InputError
from tune_lnl.reporting.write import report_after_search
from tune_lnl.tuning.driver import EXIT_CODES, search
from tune_lnl.tuning.monitor.console import Console
from tune_lnl.tuning.plan.checks import run_name
from tune_lnl.tuning.plan.options import SearchOptions
from tune_lnl.tuning.runs.location import location
from tune_lnl.tuning.runs.run import Run, load_run

__all__ = ["load_run", "run_search"]


def run_search(space: str | Path, *, quiet: bool = False, **options: Any) -> Run:
    """Run a search; the same as ``python -m tune_lnl.search SPACE ...``, its report included.

    Interrupted (Ctrl-C, or a notebook's stop button), it keeps the finished work; call it again with ``resume=True`` to
    continue.

    Args:
        space: a named space or the path of one.
        quiet: print nothing.
        **options: fields of :class:`tune_lnl.tuning.plan.options.SearchOptions`: ``name``, ``trials``, ``epochs``,
            ``condition``, ``overrides`` (a list of ``"KEY=VALUE"``), ``resume``, ``confirm``, ...

    Returns:
        the run, as :func:`load_run` returns it.

    Raises:
        InputError: the search cannot be run as asked; nothing was started and nothing written.
        RuntimeError: it ran, and no trial completed, or it was stopped (a full disk, repeated bugs).
        KeyboardInterrupt: it was interrupted.
    """
    asked = SearchOptions.of(space, **options)
    if asked.all_conditions:
        raise InputError("run_search runs one condition at a time; give condition=NAME, and call it once for each")
    code = search_and_report(asked, Console(asked.verbosity, (lambda line: None) if quiet else None))
    if code == EXIT_CODES["interrupted"]:
        raise KeyboardInterrupt
    name = run_name(asked)
    try:
        run = load_run(name, asked.results_dir)
    except InputError as error:
        if code:  # it ended before there was a run
            raise RuntimeError(f"search {name!r} did not run to its end: {error}") from None
        raise
    if code:
        outcome = "ran and no trial completed" if run.best is None else "did not run to its end"
        raise RuntimeError(f"search {name!r} {outcome}; see {location(run.files.root)}")
    return run


def search_and_report(options: SearchOptions, console: Console) -> int:
    """Run a search to its end and write its report; not after an interruption, which has to be quick.

    Returns:
        the exit code of the search.
    """
    code = search(options, console)
    if code != EXIT_CODES["interrupted"]:
        report_after_search(run_name(options), options.results_dir, console)
    return code
