"""``python -m tune_lnl.export RUN``: print the best configs of a run, or (--labels) write its verdict on each label."""

from __future__ import annotations

import sys
from pathlib import Path

from tune_lnl.cli import Parser, guarded, printed, whole
from tune_lnl.steps import HELD_SHORT, shown_steps
from tune_lnl.tuning.runs.finding import refuse_unknown

TRIAL_FLAGS = {"top": "--top", "format": "--format", "output": "--output"}
LABEL_FLAGS = {
    "folds": "--folds",
    "epochs": "--epochs",
    "overrides": "--set",
    "data_dir": "--data-dir",
    "device": "--device",
}


def parser() -> Parser:
    p = Parser(prog="python -m tune_lnl.export", description=__doc__)
    p.add_argument("run", metavar="RUN", help="name of a run, or its path")
    p.add_argument(
        "--top", type=count_or_all, default=1, metavar="K|all", help="how many trials, best first (default 1), or all"
    )
    p.add_argument(
        "--format",
        choices=["yaml", "json", "csv", "args"],
        default="yaml",
        help="args: the argument line of the published script",
    )
    p.add_argument("--output", type=Path, metavar="FILE", help="write there instead of to stdout")
    p.add_argument(
        "--labels",
        type=Path,
        metavar="FILE",
        help="judge every training label by the best config, and write a .csv or .parquet file and a page beside it",
    )
    p.add_argument("--folds", type=whole, metavar="K", help="with --labels: folds of the cross-validation (default 5)")
    p.add_argument("--epochs", type=whole, metavar="N", help="with --labels: train at another length")
    p.add_argument(
        "--set",
        action="append",
        metavar="KEY=VALUE",
        dest="overrides",
        help="with --labels: override a setting by its dotted name; may be repeated",
    )
    p.add_argument("--data-dir", type=Path, metavar="DIR", help="with --labels: where datasets lie")
    p.add_argument("--device", choices=["auto", "cpu", "cuda"], help="with --labels (default auto)")
    p.add_results_dir()
    return p


def count_or_all(text: str) -> int | None:
    """Read a number; ``all`` is ``None``."""
    return None if text == "all" else int(text)


@guarded
def main(argv: list[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    given = {name: getattr(arguments, name) for name in LABEL_FLAGS if getattr(arguments, name) is not None}
    if arguments.labels is not None:
        unread = [flag for name, flag in TRIAL_FLAGS.items() if getattr(arguments, name) != parser().get_default(name)]
        if unread:
            parser().error(f"{', '.join(unread)} not with --labels FILE, which has its own format")
        refuse_unknown([arguments.run], arguments.results_dir)
        with shown_steps(f"reading run {arguments.run} ..."):
            from tune_lnl.reporting.label_export import LabelOptions, export_labels

            options = LabelOptions(arguments.run, arguments.results_dir, arguments.labels, **given)
            return export_labels(options, printed)
    if given:
        parser().error(f"{', '.join(LABEL_FLAGS[name] for name in given)} only with --labels FILE")
    with shown_steps(f"reading run {arguments.run} ...", held=HELD_SHORT):
        from tune_lnl.tuning.runs.export import export_run, save_export
        from tune_lnl.tuning.runs.run import load_run

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
