"""The cost of the engine without training: searches of trials that train nothing, 100 of them and 2,000.

    python benchmarks/engine_cost.py [--trials 100 2000] [--epochs 1] [--output FILE]

Each search runs in a process of its own, through the real engine: Ray, the journal on disk, checkpoints, the
tables, a line per trial. TPE proposes over four ranges, and the default stopping rule is asked after every epoch. The
cost of a trial is the wall time from the first trial's start to the last one's end, less the seconds of training shared
by the trials that run at once, over the number of trials; Ray's start and end are told apart. The parts are measured
in the driver's main thread, each without the parts inside it. A slope is a straight line through the mean of every
hundred trials, with the 95% interval of Student's t.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from evidence import evidence, write_evidence
from scipy import stats

ROOT = Path(__file__).resolve().parents[1]
TOY = ROOT / "benchmarks" / "toy"

CHUNK = 100
"""Trials whose mean is one point of the slope."""
PARTS = ("asking", "telling", "journal", "tables", "progress", "tidying")
SPACE: dict[str, Any] = {
    "description": "trials that train nothing",
    "method": "toy",
    "dataset": {"name": "digits8no"},
    "objective": {"metric": "val_accuracy", "mode": "max", "average_last": 1},
    "validation": {"fraction": 0.3},
    "search": {
        "x": {"type": "uniform", "low": 0.0, "high": 1.0},
        "pause": {"type": "loguniform", "low": 1.0e-9, "high": 1.0e-7},
        "batches": {"type": "int", "low": 1, "high": 4},
        "fault_epoch": {"type": "int", "low": 0, "high": 60, "step": 5},
    },
}


class Stopwatch:
    """Seconds that the main thread spends in each part, by how many trials have ended."""

    def __init__(self) -> None:
        self.ended: list[float] = []
        """When each trial ended, seconds of the monotonic clock."""
        self.seconds: dict[str, dict[int, float]] = {part: defaultdict(float) for part in PARTS}
        self._inside: list[float] = []

    def watch(self, part: str, owner: Any, *names: str) -> None:
        """Time these functions of a class or module as ``part``."""
        for name in names:
            setattr(owner, name, self._timed(part, getattr(owner, name)))

    def _timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **options: Any) -> Any:
            if threading.current_thread() is not threading.main_thread():
                return function(*args, **options)
            self._inside.append(0.0)
            began = time.perf_counter()
            try:
                return function(*args, **options)
            finally:
                whole = time.perf_counter() - began
                self.seconds[part][len(self.ended)] += whole - self._inside.pop()
                if self._inside:
                    self._inside[-1] += whole

        return timed

    def per_trial(self, part: str) -> list[float]:
        return [self.seconds[part].get(trial, 0.0) for trial in range(len(self.ended))]


def run_one(folder: Path, trials: int, epochs: int, profile: Path | None) -> dict[str, Any]:
    """Run one search in this process."""
    from tune_lnl.tuning.driver import search
    from tune_lnl.tuning.engine.listeners import Checkpoints, Tables
    from tune_lnl.tuning.monitor.console import Console
    from tune_lnl.tuning.monitor.progress import Progress
    from tune_lnl.tuning.monitor.prometheus import MetricsExport
    from tune_lnl.tuning.monitor.state import SearchState
    from tune_lnl.tuning.plan.options import SearchOptions
    from tune_lnl.tuning.runs.run import load_run
    from tune_lnl.tuning.study.journal import WholeLinesBackend
    from tune_lnl.tuning.study.study import SearchStudy
    from tune_lnl.tuning.study.trials import FINISHED, STARTED

    watch = Stopwatch()
    watch.watch("asking", SearchStudy, "ask")
    watch.watch("telling", SearchStudy, "report", "should_prune", "complete", "prune", "fail", "epochs")
    watch.watch("journal", WholeLinesBackend, "append_logs")
    watch.watch("tables", Tables, "on_end")
    watch.watch("progress", Progress, "on_epoch", "on_end")
    watch.watch("progress", SearchState, "on_epoch", "on_end")
    watch.watch("progress", MetricsExport, "refresh")
    watch.watch("tidying", Checkpoints, "on_end")
    on_end = Progress.on_end

    def counted(self: Progress, number: int) -> None:
        on_end(self, number)
        watch.ended.append(time.monotonic())

    Progress.on_end = counted  # type: ignore[method-assign]
    budget = {"trials": trials, "sampler": "tpe", "pruner": "asha"}
    space = folder / "noop.yaml"
    space.write_text(yaml.safe_dump({**SPACE, "fixed": {"epochs": epochs}, "budget": budget}, sort_keys=False))
    options = SearchOptions.of(str(space), results_dir=folder / "results", dashboard=False)
    profiler = cProfile.Profile() if profile is not None else None
    began = time.monotonic()
    if profiler is not None:
        profiler.enable()
    code = search(options, Console(write=lambda line: None))
    if profiler is not None:
        profiler.disable()
        profiler.dump_stats(str(profile))
    whole = time.monotonic() - began
    assert code == 0, code
    run = load_run(folder / "results" / "noop")
    assert len(run.trials) == trials
    attrs = [trial.user_attrs for trial in run.trials]
    trained = sum(report["seconds"] for trial in run.trials for report in run.epoch_reports(trial.number))
    return {
        "concurrent": run.settings["resources"]["concurrent"],
        "whole": whole,
        "busy": max(each[FINISHED] for each in attrs) - min(each[STARTED] for each in attrs),
        "trained": trained,
        "epochs": sum(len(trial.intermediate_values) for trial in run.trials),
        "states": dict(Counter(trial.state.name for trial in run.trials)),
        "journal bytes": run.files.study.stat().st_size,
        "ended": watch.ended,
        "parts": {part: watch.per_trial(part) for part in PARTS},
    }


# ---- reading it


def chunks(values: Sequence[float], middle: Callable[[Sequence[float]], float] = statistics.fmean) -> list[float]:
    """Mean of every hundred; of the last one a trial may be missing, since what lies between two ends is one less."""
    return [middle(values[i : i + CHUNK]) for i in range(0, len(values) - CHUNK + 2, CHUNK)]


def slope(values: Sequence[float]) -> dict[str, float] | None:
    """Return the milliseconds that a trial costs more after 1,000 further trials, with its 95% interval.

    Return None for fewer than four hundreds.
    """
    points = chunks(values)
    if len(points) < 4:
        return None
    fit = stats.linregress((np.arange(len(points)) + 0.5) * CHUNK, points)
    half = float(stats.t.ppf(0.975, len(points) - 2)) * fit.stderr
    return {
        "per 1000 trials": round(1e6 * fit.slope, 3),
        "low": round(1e6 * (fit.slope - half), 3),
        "high": round(1e6 * (fit.slope + half), 3),
    }


def summary(found: dict[str, Any]) -> dict[str, Any]:
    """Return milliseconds per trial, of the whole and of its parts."""
    trials = len(found["ended"])
    parts: dict[str, list[float]] = found["parts"]
    wall = np.diff(found["ended"]).tolist()
    others = [whole - sum(values[i + 1] for values in parts.values()) for i, whole in enumerate(wall)]
    rows = {"wall": wall, **parts, "all else (Ray, workers)": others}
    training = found["trained"] / found["concurrent"]
    return {
        "trials": trials,
        "epochs": found["epochs"],
        "states": found["states"],
        "trials at once": found["concurrent"],
        "seconds of the whole search": round(found["whole"], 1),
        "seconds from the first trial's start to the last one's end": round(found["busy"], 1),
        "seconds of training, all trials": round(found["trained"], 2),
        "seconds per trial beyond training": round((found["busy"] - training) / trials, 4),
        "the same with start and end": round((found["whole"] - training) / trials, 4),
        "journal bytes per trial": round(found["journal bytes"] / trials),
        "ms per trial": {
            name: {
                "mean": round(1e3 * statistics.fmean(values), 2),
                "median": round(1e3 * statistics.median(values), 2),
                "mean of every 100": [round(1e3 * value, 2) for value in chunks(values)],
                "median of every 100": [round(1e3 * value, 2) for value in chunks(values, statistics.median)],
                "slope": slope(values),
            }
            for name, values in rows.items()
        },
    }


def show(result: dict[str, Any]) -> str:
    lines = [
        f"{result['trials']} trials, {result['epochs']} epochs, {result['trials at once']} at once: "
        f"{result['seconds per trial beyond training']:.3f} s per trial beyond training "
        f"({result['the same with start and end']:.3f} with the start and end of Ray)",
        f"  {'ms per trial':<24}{'mean':>9}{'median':>9}{'first 100':>11}{'last 100':>10}   more after 1,000 trials",
    ]
    for name, row in result["ms per trial"].items():
        points, line = row["mean of every 100"], row["slope"]
        ends = f"{points[0]:>11.2f}{points[-1]:>10.2f}" if points else f"{'':>21}"
        tail = "" if line is None else f"   {line['per 1000 trials']:+.2f} [{line['low']:+.2f}, {line['high']:+.2f}]"
        lines.append(f"  {name:<24}{row['mean']:>9.2f}{row['median']:>9.2f}{ends}{tail}")
    return "\n".join(lines)


def measure(trials: int, epochs: int, profile: Path | None) -> dict[str, Any]:
    """Run a search in a fresh process."""
    with tempfile.TemporaryDirectory() as place:
        output = Path(place) / "found.json"
        command = [sys.executable, str(Path(__file__).resolve()), "--inside", place, "--output", str(output)]
        command += ["--trials", str(trials), "--epochs", str(epochs)]
        command += [] if profile is None else ["--profile", str(profile)]
        path = os.pathsep.join([str(TOY), *filter(None, [os.environ.get("PYTHONPATH")])])
        subprocess.run(command, check=True, cwd=place, env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"})
        return summary(json.loads(output.read_text()))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="+", default=[100, 2000])
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--profile", type=Path, metavar="FILE", help="cProfile of the driver's main thread")
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "reference" / "engine_cost.json")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside is not None:
        found = run_one(arguments.inside, arguments.trials[0], arguments.epochs, arguments.profile)
        arguments.output.write_text(json.dumps(found))
        return 0
    results = []
    for trials in arguments.trials:
        load = os.getloadavg()[0]
        result = {"load before": round(load, 2), **measure(trials, arguments.epochs, arguments.profile)}
        results.append(result)
        print(show(result), flush=True)
    content = {
        "what": "searches of trials that train nothing, through the whole engine",
        **evidence(("ray", "optuna", "torch")),
        "searches": results,
    }
    write_evidence(arguments.output, content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
