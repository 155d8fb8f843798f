"""``python -m tune_lnl.search SPACE``: search the settings of a method under label noise."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from tune_lnl.cli import Parser, guarded


def parser() -> argparse.ArgumentParser:
    p = Parser(prog="python -m tune_lnl.search", description=__doc__)
    p.add_argument("space", nargs="?", metavar="SPACE", help="a named space or the path of a YAML file")
    p.add_argument("--runs", action="store_true", help="the runs in --results-dir: state, best and age")
    p.add_argument("--list", action="store_true", help="named spaces, one line each")
    p.add_argument("--name", metavar="RUN", help="name of the run (default: the space's)")
    p.add_argument("--trials", metavar="N|+N", help="number of trials; with --resume, +N adds to it")
    p.add_argument("--epochs", type=int, metavar="N", help="length of a trial; everything counted in epochs scales")
    p.add_argument("--seed", type=int, metavar="S", help="seed of the sampler and of every trial's training")
    p.add_argument("--condition", metavar="NAME", help="noise condition of the space (default: its first)")
    p.add_argument("--conditions", choices=["all"], help="run every condition, a study each")
    p.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="override a setting by its dotted name; may be repeated",
    )
    p.add_argument(
        "--results-dir",
        default="results",
        metavar="DIR|URL",
        help="where runs lie: a folder (default: results), or object storage such as s3://bucket/prefix",
    )
    p.add_argument("--data-dir", type=Path, metavar="DIR", help="where datasets lie (only read)")
    p.add_argument("--resume", action="store_true", help="continue the run")
    p.add_argument(
        "--storage",
        metavar="URL",
        help="keep the study in a database, postgresql://USER@HOST/DATABASE or mysql://...; the password comes from "
        "TUNE_LNL_STORAGE_PASSWORD (default: the study is a file of the run)",
    )
    p.add_argument("--concurrent", type=int, metavar="N", help="trials at once (default: as many as fit)")
    p.add_argument(
        "--gpus-per-trial",
        type=_share,
        metavar="auto|F",
        help="1 or 1/k, or auto: measured (default: 1 where there is a GPU)",
    )
    p.add_argument(
        "--cpus-per-trial", type=float, metavar="F", help="cores per trial (default: 1, or a GPU's share of the cores)"
    )
    p.add_argument("--sampler", metavar="NAME", help="tpe, random, qmc, cmaes or gp")
    p.add_argument("--pruner", metavar="NAME", help="asha, hyperband, median or none")
    p.add_argument("--time-budget", metavar="2h", help="stop resumably after this time, exit 0")
    p.add_argument("--disk-budget", default="20GB", metavar="20GB", help="most that the run may occupy (default: 20GB)")
    p.add_argument(
        "--confirm",
        metavar="KxS",
        help="then re-train the top K on S fresh splits, seeds and noises, and the winner on all the data",
    )
    p.add_argument(
        "--warm-start",
        metavar="RUN",
        help="take over the trials of a comparable run, or try the best configs of any other first",
    )
    p.add_argument(
        "--dashboard", action=argparse.BooleanOptionalAction, default=True, help="Ray's dashboard, and the study's"
    )
    p.add_argument(
        "--address",
        metavar="ADDR|auto",
        help="join a running Ray cluster, host:port of its head; auto: the one of this machine",
    )
    p.add_argument("--tensorboard", action="store_true", help="event files per trial, in RUN/tensorboard")
    loud = p.add_mutually_exclusive_group()
    loud.add_argument(
        "--quiet", action="store_const", const="quiet", dest="verbosity", help="only how it ended, and what went wrong"
    )
    loud.add_argument(
        "--verbose", action="store_const", const="verbose", dest="verbosity", help="a line per epoch, too"
    )
    p.set_defaults(verbosity="normal")
    p.add_removed(
        "--replay", "study.log keeps every suggestion, report and end in the order of their arrival, a line each"
    )
    p.add_removed(
        "--submit",
        "submit the search with Ray's own command, ray job submit --address URL -- python -m tune_lnl.search SPACE "
        "--address auto --results-dir DIR",
    )
    p.add_argument("--dry-run", action="store_true", help="print what would be run, and its cost, and stop")
    return p


def _share(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


@guarded
def main(argv: list[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    from tune_lnl.tuning.space.named import list_spaces

    if arguments.list:
        print("\n".join(list_spaces()))
        return 0
    if arguments.runs:
        from tune_lnl.tuning.runs.listing import list_runs

        print("\n".join(list_runs(arguments.results_dir)))
        return 0
    if arguments.space is None:
        parser().error("SPACE is required; --list shows the named ones")
    from tune_lnl.reporting.write import search_and_report
    from tune_lnl.tuning.engine.dry_run import describe
    from tune_lnl.tuning.monitor.console import Console
    from tune_lnl.tuning.plan.plan import SearchOptions

    values = vars(arguments)
    dry_run = values.pop("dry_run")
    options = SearchOptions(
        all_conditions=values.pop("conditions") == "all",
        command=shlex.join(["python", "-m", "tune_lnl.search", *(sys.argv[1:] if argv is None else argv)]),
        **{key: value for key, value in values.items() if key not in ("list", "runs")},
    )
    if dry_run:
        print(describe(options))
        return 0
    return search_and_report(options, Console(options.verbosity))


if __name__ == "__main__":
    sys.exit(main())
