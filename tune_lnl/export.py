"""``python -m tune_lnl.export RUN``: take the best configs of a run away."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tune_lnl.doors import Parser, guarded


def parser() -> argparse.ArgumentParser:
    p = Parser(prog="python -m tune_lnl.export", description=__doc__)
    p.add_argument("run", metavar="RUN", help="name of a run, or its path")
    p.add_argument("--top", type=int, default=1, metavar="K", help="how many trials, best first (default 1)")
    p.add_argument(
        "--format",
        choices=["yaml", "json", "csv", "args"],
        default="yaml",
        help="args: the argument line of the published script",
    )
    p.add_argument("--output", type=Path, metavar="FILE", help="write there instead of to stdout")
    p.add_argument("--results-dir", type=Path, default=Path("results"), metavar="DIR")
    return p


@guarded
def main(argv: list[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    from tune_lnl.tuning.exporting import export_run, save_export
    from tune_lnl.tuning.results import load_run

    export = export_run(load_run(arguments.run, arguments.results_dir), arguments.top, arguments.format)
    for remark in export.remarks:
        print(f"note: {remark}", file=sys.stderr)
    if arguments.output is None:
        print(export.text, end="")
    else:
        save_export(export, arguments.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
