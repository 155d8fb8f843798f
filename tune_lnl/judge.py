"""``python -m tune_lnl.judge RUN``: judge held-out images by hand, and choose the trial that agrees best with them."""

from __future__ import annotations

import sys
from pathlib import Path

from tune_lnl.cli import Parser, guarded, open_page, printed, whole
from tune_lnl.steps import shown_steps
from tune_lnl.tuning.runs.finding import refuse_unknown


def parser() -> Parser:
    p = Parser(prog="python -m tune_lnl.judge", description=__doc__)
    p.add_argument("run", metavar="RUN", help="name of a run, or its path")
    p.add_argument(
        "--images", type=whole, default=30, metavar="N", help="how many held-out images to draw (default 30)"
    )
    one_of = p.add_mutually_exclusive_group()
    form = one_of.add_argument(
        "--form", type=Path, metavar="FILE.csv", help="write a form (id,path,answer) to fill in, instead of the page"
    )
    answers = one_of.add_argument(
        "--answers", type=Path, metavar="FILE.csv", help="read such a form; answers are a class, none or unknown"
    )
    p.arguments.extend([form, answers])
    p.add_argument("--open", action="store_true", help="show the page in a browser")
    p.add_argument("--data-dir", type=Path, metavar="DIR", help="where datasets lie (default: as in the search)")
    p.add_results_dir()
    return p


@guarded
def main(argv: list[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    refuse_unknown([arguments.run], arguments.results_dir)
    with shown_steps(f"reading run {arguments.run} ..."):
        from tune_lnl.reporting.judging import JudgeOptions, judge

        options = JudgeOptions(
            arguments.run,
            arguments.results_dir,
            arguments.images,
            arguments.form,
            arguments.answers,
            arguments.data_dir,
            open_page if arguments.open else None,
        )
        judge(options, printed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
