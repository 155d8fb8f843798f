"""``tune-lnl spaces``: list the named search spaces, one line each, with their conditions and presets."""

from __future__ import annotations

import sys

from tune_lnl.cli import Parser, guarded


def parser() -> Parser:
    return Parser(prog="python -m tune_lnl.spaces", description=__doc__)


@guarded
def main(argv: list[str] | None = None) -> int:
    parser().parse_args(argv)
    from tune_lnl.tuning.space.named import list_spaces

    print("\n".join(list_spaces()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
