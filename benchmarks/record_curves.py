"""Full training curves of a space's configs, for replaying searches on them without training.

    python benchmarks/record_curves.py [--space act_digits8no] [--configs 512] [--processes 2] [--output FILE.parquet]

Configs are the first points of a scrambled Sobol sequence over the searched ranges (log where the range is log), so any
number of them covers the space evenly. Each is trained to its full length under the space's seeds, without Ray and
without stopping. Finished configs are kept line by line in FILE.jsonl next to the output; a second call continues.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.stats import qmc

from tune_lnl.cli import Parser, guarded
from tune_lnl.metrics.classification import mean_and_std
from tune_lnl.training.loop import Report, Surroundings, objective_so_far
from tune_lnl.training.registry import start_training
from tune_lnl.tuning.space.ranges import Choice, Int, LogUniform, Parameter, Uniform
from tune_lnl.tuning.space.space import SearchSpace, load_space

SOBOL_SEED = 20240
OUTPUT = Path(__file__).parent / "data" / "act_digits8no_curves.parquet"


def parser() -> argparse.ArgumentParser:
    p = Parser(prog="benchmarks/record_curves.py", description=__doc__)
    p.add_argument("--space", default="act_digits8no")
    p.add_argument("--configs", type=int, default=512, metavar="N")
    p.add_argument("--processes", type=int, default=2, metavar="N")
    p.add_argument("--output", type=Path, default=OUTPUT, metavar="FILE.parquet")
    return p


def sobol_params(space: SearchSpace, count: int) -> list[dict[str, Any]]:
    """Return the first ``count`` settings of the sequence."""
    cube = qmc.Sobol(len(space.parameters), scramble=True, seed=SOBOL_SEED).random_base2((count - 1).bit_length())
    return [
        {name: at_quantile(range_, float(u)) for (name, range_), u in zip(space.parameters.items(), row, strict=True)}
        for row in cube[:count]
    ]


def at_quantile(parameter: Parameter, u: float) -> Any:
    """Return the value of ``parameter`` at ``u`` in [0, 1) of its range; grids and choices get equal shares."""
    match parameter:
        case LogUniform():
            return float(np.exp(np.log(parameter.low) + u * np.log(parameter.high / parameter.low)))
        case Uniform(step=None):
            return float(parameter.low + u * (parameter.high - parameter.low))
        case Uniform() | Int():
            step = parameter.step or 1
            steps = round((parameter.extremes()[-1] - parameter.low) / step)
            return parameter.low + step * int(u * (steps + 1))
        case Choice():
            return parameter.choices[int(u * len(parameter.choices))]


@cache
def _space(name: str) -> SearchSpace:
    return load_space(name)


def train_curve(space_name: str, number: int, params: dict[str, Any]) -> dict[str, Any]:
    """Train one config to its end.

    Returns:
        its settings and per epoch the validation accuracy and the objective so far (percent), the test accuracy as the
        mean of the last ``average_last`` epochs (percent), and the seconds it took.
    """
    config = _space(space_name).config(params)
    objective = config.objective
    first_tested = config.settings.epochs - objective.average_last
    training = start_training(config, Surroundings(test_from=first_tested))
    reports: list[Report] = []
    while not training.finished:
        reports.append(training.run_epoch())
    return {
        "number": number,
        **params,
        "val_accuracy": [report[objective.metric] for report in reports],
        "objective": [
            objective_so_far(objective.metric, objective.average_last, reports[: count + 1])
            for count in range(len(reports))
        ],
        "test_last10": mean_and_std([report["test_accuracy"] for report in reports[first_tested:]])[0],
        "seconds": sum(report["seconds"] for report in reports),
        "fingerprints": training.fingerprints,
    }


def finished_lines(path: Path) -> dict[int, dict[str, Any]]:
    """Return finished configs by number; drop a line that a killed run left torn."""
    if not path.exists():
        return {}
    text = path.read_text()
    whole = text[: text.rfind("\n") + 1]
    if len(whole) < len(text):
        path.write_text(whole)
    rows = [json.loads(line) for line in whole.splitlines()]
    return {row["number"]: row for row in rows}


def write_table(path: Path, rows: Sequence[dict[str, Any]], space: SearchSpace) -> None:
    """Write one row per config, by number; curves as float32 lists."""
    rows = sorted(rows, key=lambda row: int(row["number"]))
    columns: dict[str, pa.Array] = {"number": pa.array([row["number"] for row in rows], pa.int32())}
    for name in space.parameters:
        columns[name] = pa.array([row[name] for row in rows])
    for name in ("val_accuracy", "objective"):
        columns[name] = pa.array([row[name] for row in rows], pa.list_(pa.float32()))
    for name in ("test_last10", "seconds"):
        columns[name] = pa.array([row[name] for row in rows], pa.float32())
    about = {
        "space": space.to_dict(),
        "condition": space.condition,
        "sobol_seed": SOBOL_SEED,
        "fingerprints": rows[0]["fingerprints"],
    }
    table = pa.table(columns).replace_schema_metadata({"about": json.dumps(about)})
    pq.write_table(table, path, compression="zstd", compression_level=19)


@guarded
def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    space = load_space(args.space)
    lines = args.output.with_suffix(".jsonl")
    lines.parent.mkdir(parents=True, exist_ok=True)
    done = finished_lines(lines)
    waiting = {n: p for n, p in enumerate(sobol_params(space, args.configs)) if n not in done}
    print(f"{len(done)} of {args.configs} configs are recorded already; training {len(waiting)}", flush=True)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(args.processes, mp_context=context) as pool, lines.open("a") as file:
        futures = [pool.submit(train_curve, args.space, number, params) for number, params in waiting.items()]
        for future in as_completed(futures):
            row = future.result()
            done[row["number"]] = row
            file.write(json.dumps(row) + "\n")
            file.flush()
            if len(done) % 20 == 0:
                print(f"{len(done)} of {args.configs}", flush=True)
    write_table(args.output, [done[number] for number in range(args.configs)], space)
    print(f"{args.output}: {args.configs} configs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
