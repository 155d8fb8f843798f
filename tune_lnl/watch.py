"""``tune-lnl watch RUN``: show a running or finished search: its table, a page that refreshes itself, its study."""

from __future__ import annotations

import argparse
import sys

from tune_lnl.cli import Parser, guarded, open_page, whole
from tune_lnl.steps import shown_steps
from tune_lnl.tuning.plan.options import FLAGS
from tune_lnl.tuning.runs.finding import find_run, refuse_unknown


def parser() -> Parser:
    p = Parser(prog="python -m tune_lnl.watch", description=__doc__)
    p.add_argument("run", metavar="RUN", help="name of a run, or its path; a search may be running it, or not")
    p.add_argument(
        "--open",
        action=argparse.BooleanOptionalAction,
        help="show the page in a browser, or not (default: where standard output is a terminal)",
    )
    p.add_argument(
        "--port", type=whole, default=0, metavar="N", help="of the page, on this machine (default: a free one)"
    )
    p.add_argument("--status-every", metavar="5m", help="without a terminal, print a line this often (default: 5m)")
    p.add_results_dir()
    return p


@guarded
def main(argv: list[str] | None = None) -> int:
    """Exit code: 0 the watching was ended (Ctrl-C), 2 bad input."""
    arguments = parser().parse_args(argv)
    flag = FLAGS["status_every"]
    every = flag.value_of(arguments.status_every if arguments.status_every is not None else "5m")
    refuse_unknown([arguments.run], arguments.results_dir)
    with shown_steps(f"reading run {arguments.run} ..."):
        root = find_run(arguments.run, arguments.results_dir)
        from tune_lnl.reporting.watching import watch

        wants = sys.stdout.isatty() if arguments.open is None else arguments.open
        return watch(root, open_page if wants else None, arguments.port, every)


if __name__ == "__main__":
    sys.exit(main())
