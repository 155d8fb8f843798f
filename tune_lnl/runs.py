"""``tune-lnl runs``: list the runs under a results folder: state, trials, best value, method, dataset and age."""

from __future__ import annotations

import sys

from tune_lnl.cli import Parser, guarded
from tune_lnl.steps import HELD_SHORT, shown_steps
from tune_lnl.tuning.plan.options import FLAGS


def parser() -> Parser:
    p = Parser(prog="python -m tune_lnl.runs", description=__doc__)
    p.add_results_dir()
    p.add_argument("--json", action="store_true", help="print the list as JSON")
    return p


@guarded
def main(argv: list[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    with shown_steps("reading the runs ...", held=HELD_SHORT):
        from tune_lnl.tuning.runs.listing import list_runs, runs_as_json

        place = FLAGS["results_dir"].value_of(arguments.results_dir)
        listing = runs_as_json(place) if arguments.json else "\n".join(list_runs(place))
    print(listing)
    return 0


if __name__ == "__main__":
    sys.exit(main())
