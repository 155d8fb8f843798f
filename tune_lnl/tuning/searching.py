"""A whole search: plan every study, then run them one after another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tune_lnl.errors import InputError
from tune_lnl.tuning.console import Console
from tune_lnl.tuning.named_spaces import find_space
from tune_lnl.tuning.planning import Machine, SearchOptions, plan_search
from tune_lnl.tuning.probing import measure_sharing
from tune_lnl.tuning.results import Run, load_run
from tune_lnl.tuning.runner import Outcome, run_plan

EXIT_CODES: dict[Outcome, int] = {"done": 0, "failed": 1, "interrupted": 130}


def search(options: SearchOptions, say: Callable[[str], None]) -> int:
    """Run what was asked for; one study per condition.

    Args:
        say: prints a line; with a :class:`Console` a terminal shows a table as well.

    Returns:
        the exit code: 0 done, 1 it ran and failed, 130 interrupted.

    Raises:
        InputError: nothing was started and nothing written.
    """
    console = say if isinstance(say, Console) else Console(options.verbosity, say)
    plans = plan_search(options, Machine.here(), lambda question: measure_sharing(question, console.tell))
    more = int(options.trials[1:]) if options.trials is not None and options.trials.startswith("+") else 0
    codes = []
    for plan in plans:
        outcome = run_plan(plan, options.resume, more, console)
        if outcome == "interrupted":
            return EXIT_CODES[outcome]
        codes.append(EXIT_CODES[outcome])
    return max(codes)


def run_search(space: str | Path, *, quiet: bool = False, **options: Any) -> Run:
    """Run a search from Python; the same as ``python -m tune_lnl.search SPACE ...``.

    Args:
        space: a named space or the path of one.
        quiet: print nothing.
        **options: fields of :class:`tune_lnl.tuning.planning.SearchOptions`, e.g. ``name``, ``trials``, ``epochs``.

    Returns:
        the run, as :func:`load_run` gives it.

    Raises:
        InputError: the search cannot be run as asked.
        RuntimeError: it ran, and no trial completed.
        KeyboardInterrupt: it was interrupted.
    """
    unknown = sorted(options.keys() - SearchOptions.__dataclass_fields__.keys())
    if unknown:
        raise InputError(
            f"run_search has no option {unknown[0]!r}; valid: {', '.join(SearchOptions.__dataclass_fields__)}"
        )
    if options.get("trials") is not None:
        options["trials"] = str(options["trials"])
    for name in ("results_dir", "data_dir"):
        if options.get(name) is not None:
            options[name] = Path(options[name])
    asked = SearchOptions(str(space), **options)
    if asked.all_conditions:
        raise InputError("run_search runs one condition at a time; give condition=NAME")
    code = search(asked, (lambda line: None) if quiet else Console(asked.verbosity))
    if code == EXIT_CODES["interrupted"]:
        raise KeyboardInterrupt
    name = asked.name or find_space(asked.space).stem
    if code:
        raise RuntimeError(f"search {name!r} ran and no trial completed; see {asked.results_dir / name}")
    return load_run(asked.results_dir / name)
