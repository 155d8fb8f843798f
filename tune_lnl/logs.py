"""``python -m tune_lnl.logs RUN NUMBER [-f]``: print the log of a trial, its epochs as a table."""

from __future__ import annotations

import sys

from tune_lnl.cli import Parser, guarded
from tune_lnl.steps import HELD_SHORT, shown_steps


def parser() -> Parser:
    p = Parser(prog="python -m tune_lnl.logs", description=__doc__)
    p.add_argument("run", metavar="RUN", help="name of the run, or its path")
    p.add_argument("number", metavar="NUMBER", help="number of the trial")
    p.add_argument("-f", "--follow", action="store_true", help="keep printing until the trial ends")
    p.add_argument(
        "--all",
        action="store_true",
        dest="every_figure",
        help="every figure of every epoch, name=value, as the log has them (programs read epochs.csv)",
    )
    p.add_results_dir()
    return p


@guarded
def main(argv: list[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    with shown_steps(f"reading run {arguments.run} ...", held=HELD_SHORT):
        from tune_lnl.tuning.runs.log import trial_log

        pieces = trial_log(
            arguments.run, arguments.number, arguments.results_dir, arguments.follow, arguments.every_figure
        )
    for piece in pieces:
        print(piece, end="", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
