"""``python -m tune_lnl.data``: which datasets there are, whether one is sound, and packing one ahead of a search."""

from __future__ import annotations

import sys
from pathlib import Path

from tune_lnl.cli import Parser, guarded, printed, whole
from tune_lnl.steps import shown_steps


def parser() -> Parser:
    p = Parser(prog="python -m tune_lnl.data", description=__doc__)
    add = p.add_command("list", "names, whether the data is here, and what it is")
    _add_data_dir(add)
    add = p.add_command("check", "counts, classes, fingerprints, measured against requested noise")
    add.add_argument(
        "name", metavar="NAME|PATH", nargs="?", help="a dataset, or a folder of class folders or a table of your own"
    )
    _add_data(add)
    _add_data_dir(add)
    add.add_argument(
        "--set",
        dest="settings",
        metavar="dataset.KEY=VALUE",
        action="append",
        default=[],
        help="a dataset setting, value in YAML; may be repeated",
    )
    add = p.add_command("prepare", "pack the dataset into the cache and say where")
    add.add_argument(
        "name", metavar="NAME|PATH", nargs="?", help="a dataset, or a folder of class folders or a table of your own"
    )
    _add_data(add)
    _add_data_dir(add)
    add.add_argument(
        "--patterned",
        action="store_true",
        help="re-ID: train a network on the true identities and save its predictions, which patterned noise needs",
    )
    add.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="with --patterned (default auto)"
    )
    add.add_argument(
        "--epochs",
        type=whole,
        metavar="N",
        help="with --patterned: length of that training (default: the published 60)",
    )
    add.add_argument(
        "--set",
        dest="settings",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="with --patterned: a setting of that training, value in YAML; may be repeated",
    )
    return p


def _add_data(p: Parser) -> None:
    p.add_argument(
        "--data", metavar="PATH", help="your own images, the same as --set dataset.root=PATH; NAME is then folder"
    )


def _add_data_dir(p: Parser) -> None:
    p.add_argument(
        "--data-dir",
        type=Path,
        metavar="DIR",
        help="holds one folder per dataset, or is that folder; only read (default: TUNE_LNL_DATA, then the cache)",
    )


@guarded
def main(argv: list[str] | None = None) -> int:
    """Exit code: 0 done, 1 ``check`` found faults, 2 bad input, 130 interrupted."""
    arguments = parser().parse_args(argv)
    if arguments.command != "list" and arguments.name is None and arguments.data is None:
        parser().error(f"NAME or a folder is needed: data {arguments.command} ./photos; data list shows the names")
    what = "the list of datasets" if arguments.command == "list" else arguments.name or arguments.data
    with shown_steps(f"reading {what} ..."):
        from tune_lnl.datasets import check  # numpy and pydantic: not needed for --help

        if arguments.command == "list":
            printed("\n".join(check.list_datasets(arguments.data_dir)))
            return 0
        name, settings = check.named_data(arguments.name, arguments.data, arguments.settings)
        if arguments.command == "prepare" and arguments.patterned:
            from tune_lnl.training.patterned import save_clean_predictions

            path = save_clean_predictions(
                name, arguments.data_dir, arguments.device, arguments.epochs, settings, printed
            )
            printed(f"predictions: {path}")
            return 0
        if arguments.command == "prepare":
            printed("\n".join(check.prepare_dataset(name, arguments.data_dir, settings)))
            return 0
        report = check.check_dataset(name, arguments.data_dir, settings)
        for line in [*report.lines, *(f"FAULT: {fault}" for fault in report.faults)]:
            printed(line)
    return 1 if report.faults else 0


if __name__ == "__main__":
    sys.exit(main())
