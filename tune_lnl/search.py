"""``python -m tune_lnl.search SPACE``: search the settings of a method under label noise."""

from __future__ import annotations

import shlex
import sys

from tune_lnl.cli import Parser, guarded, search_options
from tune_lnl.tuning.plan.checks import check_folder
from tune_lnl.tuning.plan.options import FLAGS, refuse_removed


def parser() -> Parser:
    p = Parser(prog="python -m tune_lnl.search", description=__doc__)
    p.add_search_options()
    p.add_argument("--dry-run", action="store_true", help="print the settings of the search and its cost, and stop")
    p.add_argument("--list", action="store_true", help="list the named spaces, one line each")
    p.add_argument("--runs", action="store_true", help="list the runs in --results-dir: state, best and age")
    return p


@guarded
def main(argv: list[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else argv
    refuse_removed(words)
    arguments = parser().parse_args(words)
    if arguments.list:
        from tune_lnl.tuning.space.named import list_spaces

        print("\n".join(list_spaces()))
        return 0
    if arguments.runs:
        from tune_lnl.tuning.runs.listing import list_runs

        place = "results" if arguments.results_dir is None else arguments.results_dir
        print("\n".join(list_runs(FLAGS["results_dir"].value_of(place))))
        return 0
    if arguments.space is None:
        parser().error("SPACE is required; --list shows the named ones")
    options = search_options(arguments, command=shlex.join(["python", "-m", "tune_lnl.search", *words]))
    if arguments.dry_run:
        from tune_lnl.tuning.engine.dry_run import describe

        print(describe(options))
        return 0
    check_folder(options)  # first: the imports that follow take seconds
    from tune_lnl.api import search_and_report
    from tune_lnl.tuning.monitor.console import Console

    return search_and_report(options, Console(options.verbosity))


if __name__ == "__main__":
    sys.exit(main())
