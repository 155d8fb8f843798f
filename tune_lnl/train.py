"""``python -m tune_lnl.train CONFIG.yaml``: train one config, under one seed or several, and score it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tune_lnl.cli import Parser, guarded, printed, whole
from tune_lnl.steps import shown_steps
from tune_lnl.version import __version__


def parser() -> Parser:
    p = Parser(prog="python -m tune_lnl.train", description=__doc__)
    p.add_argument("config", metavar="CONFIG.yaml", help="a config, such as a run's best.yaml: a path or a URL")
    p.add_argument("--seeds", metavar="0,1,2", help="training seeds (default: the config's)")
    p.add_argument("--epochs", type=whole, metavar="N", help="train at another length; everything in epochs scales")
    p.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    p.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="override a setting by its dotted name; may be repeated",
    )
    p.add_argument("--data", metavar="PATH", help="your own images, the same as --set dataset.root=PATH")
    p.add_argument("--data-dir", type=Path, metavar="DIR", help="where datasets lie (only read)")
    p.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="where results go; continues an unfinished training (default: results/train/CONFIG)",
    )
    return p


@guarded
def main(argv: list[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    given = vars(arguments)
    root = given.pop("data")
    if root is not None:
        given["overrides"].insert(0, f"dataset.root={json.dumps(root)}")
    with shown_steps(f"tune_lnl {__version__}: starting {arguments.config} ..."):
        from tune_lnl.training.seeds import train

        return train(**given, say=printed)


if __name__ == "__main__":
    sys.exit(main())
