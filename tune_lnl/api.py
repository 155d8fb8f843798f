"""From Python and notebooks: ``from tune_lnl import run_search, load_run``. The same as the commands."""

from __future__ import annotations

import shlex
from dataclasses import fields
from pathlib import Path
from typing import Any

from tune_lnl.cli import flags
from tune_lnl.errors import InputError, nearest
from tune_lnl.reporting.write import search_and_report
from tune_lnl.search import parser
from tune_lnl.tuning.driver import EXIT_CODES
from tune_lnl.tuning.monitor.console import Console
from tune_lnl.tuning.plan.plan import SearchOptions
from tune_lnl.tuning.runs.location import location
from tune_lnl.tuning.runs.results import Run, load_run
from tune_lnl.tuning.space.named import find_space

__all__ = ["load_run", "run_search"]


def run_search(space: str | Path, *, quiet: bool = False, **options: Any) -> Run:
    """Run a search; the same as ``python -m tune_lnl.search SPACE ...``, its report included.

    Interrupted (Ctrl-C, or a notebook's stop button), it keeps what is done; called again with ``resume=True`` it goes
    on from there.

    Args:
        space: a named space or the path of one.
        quiet: print nothing.
        **options: fields of :class:`tune_lnl.tuning.plan.plan.SearchOptions`: ``name``, ``trials``, ``epochs``,
            ``condition``, ``overrides`` (a list of ``"KEY=VALUE"``), ``resume``, ``confirm``, ...

    Returns:
        the run, as :func:`load_run` gives it.

    Raises:
        InputError: the search cannot be run as asked; nothing was started and nothing written.
        RuntimeError: it ran, and no trial completed, or something stopped it (a full disk, one bug after another).
        KeyboardInterrupt: it was interrupted.
    """
    known = [field.name for field in fields(SearchOptions)]
    for name in options:
        if name not in known:
            raise InputError(f"run_search has no option {name!r}; {nearest(name, known)}")
    asked = _options(str(space), options)
    if asked.all_conditions:
        raise InputError("run_search runs one condition at a time; give condition=NAME, and call it once for each")
    code = search_and_report(asked, (lambda line: None) if quiet else Console(asked.verbosity))
    if code == EXIT_CODES["interrupted"]:
        raise KeyboardInterrupt
    name = asked.name or find_space(asked.space).stem
    run = load_run(name, asked.results_dir)
    if code:
        what = "ran and no trial completed" if run.best is None else "did not run to its end"
        raise RuntimeError(f"search {name!r} {what}; see {location(run.files.root)}")
    return run


def _options(space: str, given: dict[str, Any]) -> SearchOptions:
    """What was given, in the types that the command line gives, and with the command line that asks for the same."""
    values = dict(given)
    if values.get("data_dir") is not None:
        values["data_dir"] = Path(values["data_dir"])
    if values.get("results_dir") is not None:
        values["results_dir"] = str(values["results_dir"])
    if values.get("trials") is not None:
        values["trials"] = str(values["trials"])
    return SearchOptions(space, **{"command": shlex.join(command_line(space, values)), **values})


def command_line(space: str, options: dict[str, Any]) -> list[str]:
    """The command that asks for the same search, as words.

    >>> shlex.join(command_line("act_digits8no", {"trials": "4", "resume": True, "dashboard": False}))
    'python -m tune_lnl.search act_digits8no --trials 4 --resume --no-dashboard'
    """
    return ["python", "-m", "tune_lnl.search", space, *flags(parser(), options)]
