"""Write tasks of LCBench as tables for ``benchmarks/scoreboard.py --tables``, from the surrogate of YAHPO Gym.

    python benchmarks/testbeds/lcbench.py FOLDER OUTPUT [--tasks 9] [--rows 500]

FOLDER holds ``model.onnx``, ``encoding.json`` and ``config_space.json`` (slds-lmu/yahpo_data, lcbench/, Apache-2.0;
Pfisterer et al. 2022, after Zimmer et al. 2021). A row is a setting drawn alike over the ranges, logarithmic where they
are; ``valid_loss`` is the predicted validation error, in percent, after each of 52 epochs. It needs onnxruntime.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tune_lnl.cli import Parser, guarded
from tune_lnl.errors import InputError

TASK, EPOCH = "OpenML_task_id", "epoch"
ORDER = (
    EPOCH,
    "batch_size",
    "learning_rate",
    "momentum",
    "weight_decay",
    "num_layers",
    "max_units",
    "max_dropout",
)
"""Columns of the model's input, which no file names: the only order in which curves rise and level off and the
training time grows with the epoch."""
ACCURACY = 1
"""Column of the validation accuracy (percent) among what the model predicts."""
LEAST = 0.01
"""In place of a lower end of 0: tables are searched on logarithmic axes."""


def parser() -> argparse.ArgumentParser:
    p = Parser(prog="benchmarks/testbeds/lcbench.py", description=__doc__)
    p.add_argument("folder", type=Path, metavar="FOLDER")
    p.add_argument("output", type=Path, metavar="OUTPUT")
    p.add_argument("--tasks", type=int, default=9, metavar="N")
    p.add_argument("--rows", type=int, default=500, metavar="N")
    return p


@guarded
def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    try:
        from onnxruntime import InferenceSession

        model = InferenceSession(str(args.folder / "model.onnx"))
        spec = json.loads((args.folder / "config_space.json").read_text(encoding="utf-8"))["hyperparameters"]
        codes = json.loads((args.folder / "encoding.json").read_text(encoding="utf-8"))[TASK]
    except ImportError:
        raise InputError("onnxruntime is not installed; pip install onnxruntime") from None
    except Exception as error:
        raise InputError(f"{args.folder} cannot be read as LCBench's surrogate: {error}") from None
    axes = {one["name"]: one for one in spec if one["name"] not in (TASK, EPOCH)}
    epochs = next(one["upper"] for one in spec if one["name"] == EPOCH)
    stream = np.random.default_rng(0)
    settings = {}
    for name, one in axes.items():
        low, high = max(float(one["lower"]), LEAST if not one["lower"] else 0.0), float(one["upper"])
        share = stream.random(args.rows)
        drawn = low * (high / low) ** share if one["log"] else low + (high - low) * share
        settings[name] = drawn.round() if one["type"] == "uniform_int" else drawn
    args.output.mkdir(parents=True, exist_ok=True)
    for task in next(one["choices"] for one in spec if one["name"] == TASK)[: args.tasks]:
        losses = np.empty((args.rows, epochs))
        for epoch in range(epochs):
            columns = settings | {EPOCH: np.full(args.rows, epoch + 1.0)}
            numbers = np.column_stack([columns[name] for name in ORDER]).astype(np.float32)
            given = {"x_cat": np.full((args.rows, 1), codes[task], dtype=np.int32), "x_cont": numbers}
            losses[:, epoch] = 100.0 - np.asarray(model.run(None, given)[0])[:, ACCURACY]
        pq.write_table(pa.table({**settings, "valid_loss": losses.tolist()}), args.output / f"lcbench_{task}.parquet")
        print(f"{task}: {losses[:, -1].min():.1f} to {losses[:, -1].max():.1f}, median {np.median(losses[:, -1]):.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
