"""``python -m tune_lnl.predict MODEL PATH...``: classify image files and folders of them with a trained model."""

from __future__ import annotations

import sys
from pathlib import Path

from tune_lnl.cli import Parser, guarded, whole
from tune_lnl.steps import shown_steps, step


def parser() -> Parser:
    p = Parser(prog="python -m tune_lnl.predict", description=__doc__)
    p.add_argument("model", metavar="MODEL", help="a model.pt or its URL, or the folder in which train wrote one")
    p.add_argument("paths", type=Path, nargs="*", metavar="PATH", help="images, or folders: every image in and below")
    p.add_argument("--output", type=Path, metavar="FILE", help="FILE.csv or FILE.parquet instead of CSV on stdout")
    p.add_argument("--top", type=whole, default=1, metavar="K", help="name the K most probable classes (default 1)")
    p.add_argument("--batch-size", type=whole, metavar="N", help="images at a time (default: by their size)")
    p.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    p.add_argument(
        "--onnx", type=Path, metavar="FILE.onnx", help="write the network in ONNX, too (needs the extra tune_lnl[onnx])"
    )
    return p


@guarded
def main(argv: list[str] | None = None) -> int:
    """Exit code: 0 done, 1 no file could be read, 2 bad input, 130 interrupted."""
    arguments = parser().parse_args(argv)
    with shown_steps(f"reading {arguments.model} ..."):
        from tune_lnl.training.predict import predict_command

        return predict_command(
            arguments.model,
            arguments.paths,
            arguments.output,
            arguments.top,
            arguments.batch_size,
            arguments.device,
            arguments.onnx,
            note=_noted,
        )


def _noted(line: str) -> None:
    step("")
    print(line, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
