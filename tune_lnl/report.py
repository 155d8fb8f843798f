"""``python -m tune_lnl.report RUN [RUN]...``: write a page per run that works offline, and one that compares them."""

from __future__ import annotations

import sys

from tune_lnl.cli import Parser, guarded, open_page
from tune_lnl.steps import shown_steps
from tune_lnl.tuning.runs.finding import refuse_unknown


def parser() -> Parser:
    p = Parser(prog="python -m tune_lnl.report", description=__doc__)
    p.add_argument("runs", nargs="+", metavar="RUN", help="name of a run, or its path; several are compared")
    p.add_argument("--open", action="store_true", help="show the page in a browser")
    p.add_results_dir()
    return p


@guarded
def main(argv: list[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    refuse_unknown(arguments.runs, arguments.results_dir)
    with shown_steps("writing the report ..."):
        from tune_lnl.reporting.write import write_reports

        written = write_reports(arguments.runs, arguments.results_dir)
    if len(written) == 1:
        print(written[0])
    else:
        print(f"comparison: {written[0]}")
        for path in written[1:]:
            print(f"{path.parent.name}: {path}")
    if arguments.open:
        open_page(written[0])
    return 0


if __name__ == "__main__":
    sys.exit(main())
