"""Speed on the CPU, all of it in one run, as one table: the numbers that the project sets out to reach.

    python benchmarks/bench.py [--data-dir DIR] [--output FILE]

Runs throughput.py, engine_cost.py, memory_sharing.py and ranking.py, each in a process of its own, and times the
commands that only print something. Details go to results/reference/, a file each. Run it on an otherwise idle machine;
it takes seven minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from evidence import evidence, write_evidence

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "results" / "reference"
PARTS = ("throughput", "engine_cost", "memory_sharing", "ranking")
WITH_DATA = ("throughput", "memory_sharing")
DOORS = {"--help": ["-m", "tune_lnl.search", "--help"], "--list": ["-m", "tune_lnl.search", "--list"]}
REPEATS = 5


def seconds_of_doors() -> dict[str, float]:
    """Return the median seconds of the commands that answer at once."""
    found = {}
    for name, arguments in DOORS.items():
        times = []
        for _ in range(REPEATS):
            began = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
            times.append(time.perf_counter() - began)
        found[name] = round(statistics.median(times), 2)
    return found


def run_part(name: str, data_dir: Path | None) -> dict[str, Any]:
    """Run one script and return its measurements."""
    output = REFERENCE / f"{name}.json"
    command = [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), "--output", str(output)]
    if data_dir is not None and name in WITH_DATA:
        command += ["--data-dir", str(data_dir)]
    print(f"== {name}", flush=True)
    subprocess.run(command, check=True)
    content: dict[str, Any] = json.loads(output.read_text())
    return content


def rows(parts: Mapping[str, Any], doors: Mapping[str, float]) -> Iterator[tuple[str, float, str, str]]:
    """Yield (quantity, measured value, unit, goal)."""
    speed = parts["throughput"]
    arms = speed["arms"]
    ours = next(name for name in ("ours, bf16", "ours, fp32") if name in arms)
    precision = ours.removeprefix("ours, ")
    yield f"ACT robust phase, {precision}", arms[ours]["images/s"], "images/s", ""
    yield (
        "the same by a plain pipeline",
        max(v["images/s"] for k, v in arms.items() if "plain" in k),
        "images/s",
        ">= 60",
    )
    yield "times the plain pipeline", arms[ours]["times plain"], "", ">= 2.2"
    yield f"share of the {precision} matrix peak", arms[ours]["share of the matrix peak"], "", ">= 0.75"
    share = speed["loading and augmentation, share of the step"][precision]
    yield "loading and augmentation, share of a step", share, "", "<= 0.05"
    evaluation = speed["evaluation"][precision]
    yield "validation, share of an epoch", evaluation["validation, share of a robust epoch"], "", "<= 0.1"
    yield "test set, share of an epoch that scores it", evaluation["test set, share of a robust epoch"], "", "<= 0.1"
    yield "a further trial's first step", sum(speed["seconds to start another trial"].values()), "s", "<= 2"
    for name, seconds in doors.items():
        yield f"search {name}", seconds, "s", "<= 0.5"
    for search in parts["engine_cost"]["searches"]:
        what = f"engine, a trial of {search['trials']:,}"
        yield what, search["seconds per trial beyond training"], "s", "<= 0.1"
        asking = search["ms per trial"]["asking"]["mean of every 100"][-1]
        yield f"asking, the last hundred of {search['trials']:,}", asking, "ms", "<= 50"
    for row in parts["memory_sharing"]["rows"]:
        what = f"memory of {row['trials']} trials, images {row['images']}"
        yield what, row["MB of all trials together"], "MB", ""
    ranking = parts["ranking"]
    yield "ranking a re-ID test set", ranking["seconds"]["together"], "s", ""
    yield "the same, peak memory", ranking["peak_memory_gb"]["ranking"], "GB", ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, help="holds cifar100; TUNE_LNL_DATA where not given")
    parser.add_argument("--output", type=Path, default=REFERENCE / "bench.json")
    arguments = parser.parse_args()
    found = evidence(("torch", "torchvision", "ray", "optuna", "numpy"))
    doors = seconds_of_doors()
    parts = {name: run_part(name, arguments.data_dir) for name in PARTS}
    table = list(rows(parts, doors))
    print(f"\n{'what':<46}{'measured':>12} {'':<10}goal")
    for what, value, unit, goal in table:
        print(f"{what:<46}{value:>12,.4g} {unit:<10}{goal}")
    lines = [{"what": w, "measured": round(v, 4), "unit": u, "goal": g} for w, v, u, g in table]
    write_evidence(arguments.output, {"what": "speed on the CPU, one run", **found, "table": lines})
    return 0


if __name__ == "__main__":
    sys.exit(main())
