"""``python -m tune_lnl.search SPACE``: search the settings of a method under label noise."""

from __future__ import annotations

import shlex
import sys
from contextlib import nullcontext

from tune_lnl import runs, spaces
from tune_lnl.cli import Parser, guarded, search_options
from tune_lnl.object_storage import masked
from tune_lnl.steps import shown_steps, step
from tune_lnl.tuning.plan.checks import check_folder
from tune_lnl.tuning.plan.options import refuse_removed
from tune_lnl.version import __version__

FOLDER_SPACE = "act_folder"
"""SPACE where only ``--data`` is given."""


def parser() -> Parser:
    p = Parser(prog="python -m tune_lnl.search", description=__doc__)
    p.add_search_options()
    p.add_argument("--dry-run", action="store_true", help="print the settings of the search and its cost, and stop")
    p.add_argument("--json", action="store_true", help="with --dry-run or --runs: print JSON")
    p.add_argument("--list", action="store_true", help="the same as tune-lnl spaces")
    p.add_argument("--runs", action="store_true", help="the same as tune-lnl runs, for the runs in --results-dir")
    return p


@guarded
def main(argv: list[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else argv
    refuse_removed(words)
    arguments = parser().parse_args(words)
    if arguments.json and not (arguments.dry_run or arguments.runs):
        parser().error("--json only with --dry-run or --runs")
    if arguments.list:
        return spaces.main([])
    if arguments.runs:
        place = [] if arguments.results_dir is None else ["--results-dir", arguments.results_dir]
        return runs.main([*place, *(["--json"] if arguments.json else [])])
    if arguments.space is None and arguments.data is not None:
        arguments.space = FOLDER_SPACE
    if arguments.space is None:
        parser().error("SPACE is required; --list shows the named ones")
    options = search_options(arguments, command=shlex.join(["python", "-m", "tune_lnl.search", *words]))
    if not arguments.dry_run:
        check_folder(options)  # first: the imports that follow take seconds
    with nullcontext() if options.verbosity == "quiet" else shown_steps():
        step(f"tune_lnl {__version__}: starting {masked(str(options.space))} ...")
        if arguments.dry_run:
            from tune_lnl.tuning.engine.dry_run import describe

            text = describe(options, as_json=arguments.json)
            step("")
            print(text)
            return 0
        from tune_lnl.api import search_and_report
        from tune_lnl.tuning.monitor.console import Console

        return search_and_report(options, Console(options.verbosity))


if __name__ == "__main__":
    sys.exit(main())
