"""The Python interface of the commands: ``from tune_lnl import run_search, load_run``."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from tune_lnl.errors import InputError
from tune_lnl.reporting.write import REPORT, report_after_search
from tune_lnl.steps import shown_steps, step
from tune_lnl.tuning.driver import EXIT_CODES, search
from tune_lnl.tuning.monitor.console import Console
from tune_lnl.tuning.monitor.on_end import STATES, tell_end
from tune_lnl.tuning.plan.checks import run_name
from tune_lnl.tuning.plan.options import SearchOptions
from tune_lnl.tuning.runs.location import local_folder, location
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
    with nullcontext() if quiet or asked.verbosity == "quiet" else shown_steps():
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
    """Run a search to its end, write its report, and do what ``--on-end`` asks for.

    The report is written after an interruption, too, where the run has begun. A second interruption ends that.

    Returns:
        the exit code of the search.
    """
    try:
        code = search(options, console)
    except InputError:
        raise  # nothing was started
    except BaseException as error:
        _tell_end(options, 130 if isinstance(error, KeyboardInterrupt) else 1, console)
        raise
    run = run_name(options)
    if code != EXIT_CODES["interrupted"] or _has_begun(options):
        report_after_search(run, options.results_dir, console)
    _tell_end(options, code, console)
    return code


def _has_begun(options: SearchOptions) -> bool:
    root = local_folder(options.results_dir) / run_name(options)
    return any(root.glob("run.yaml")) or any(root.glob("*/run.yaml"))


def _tell_end(options: SearchOptions, code: int, console: Console) -> None:
    if options.on_end is None:
        return
    name = run_name(options)
    root = local_folder(options.results_dir) / name
    facts: dict[str, Any] = {"run": name, "path": str(root.resolve()), "state": STATES[code], "exit_code": code}
    facts |= dict.fromkeys(("metric", "value", "standard_error", "trial"))
    page = root.resolve() / REPORT
    facts["report"] = str(page) if page.is_file() else None
    if (root / "run.yaml").is_file():
        try:
            run = load_run(root)
        except InputError as error:
            console(f"  {error}")
        else:
            facts["metric"] = run.metric
            if run.best is not None:
                facts |= {"value": run.best.value, "standard_error": run.best.standard_error, "trial": run.best.number}
    step("running --on-end ...")
    tell_end(options.on_end, facts, console)
