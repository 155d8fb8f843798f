"""``tune-lnl spaces``: list the named search spaces, one line each, with their conditions and presets."""

from __future__ import annotations

import sys

from tune_lnl.cli import Parser, guarded
from tune_lnl.steps import HELD_SHORT, shown_steps


def parser() -> Parser:
    return Parser(prog="python -m tune_lnl.spaces", description=__doc__)


@guarded
def main(argv: list[str] | None = None) -> int:
    parser().parse_args(argv)
    with shown_steps("reading the search spaces ...", held=HELD_SHORT):
        from tune_lnl.tuning.space.named import list_spaces

        listing = "\n".join(list_spaces())
    print(listing)
    return 0


if __name__ == "__main__":
    sys.exit(main())
