"""A search of 500 toy trials in which 50 workers are killed at random moments, beside the same search left alone.

python benchmarks/kill_workers.py [--trials 500] [--kills 50] [--seed 0] [--output FILE]
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from evidence import evidence, write_evidence

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tests" / "support"))

from toy_runs import Driver, check_whole, write_toy  # noqa: E402

from tune_lnl.tuning.resources.divide import Machine  # noqa: E402
from tune_lnl.tuning.runs.run import load_run  # noqa: E402
from tune_lnl.tuning.study.trials import FINISHED, STARTED  # noqa: E402

EPOCHS = 5
PAUSE = 0.003
"""Seconds per batch, four batches an epoch: 0.06 s a trial."""
PATIENCE = 1500.0


def search(folder: Path, trials: int, kills: int, seed: int) -> dict[str, Any]:
    """Run one search and return its outcome."""
    folder.mkdir()
    space = write_toy(folder, [], epochs=EPOCHS, trials=trials, fixed={"pause": PAUSE}, pruner="none")
    driver = Driver(folder, space)
    began = time.monotonic()
    try:
        driver.start()
        killed = kill_workers(driver, trials, kills, random.Random(seed))
        code = driver.finish(PATIENCE)
        seconds = time.monotonic() - began
        left = driver.left()
    finally:
        driver.close()
    check_whole(driver, trials, EPOCHS)
    run = load_run(driver.files.root)
    rows = run.rows()
    times = [trial.user_attrs for trial in run.trials]
    busy = max(t[FINISHED] for t in times) - min(t[STARTED] for t in times)
    trained = sum(report["seconds"] for row in rows for report in run.epoch_reports(row.number))
    return {
        "exit code": code,
        "trials": len(rows),
        "workers killed": killed,
        "states": dict(Counter(row.state for row in rows)),
        "trials by number of attempts": {str(n): c for n, c in sorted(Counter(row.attempts for row in rows).items())},
        "processes left": len(left),
        "driver seconds": round(seconds, 1),
        "seconds from the first trial's start to the last one's end": round(busy, 1),
        "seconds of training": round(trained, 1),
        "slot-seconds beyond training, per trial": round((busy * slots() - trained) / trials, 3),
    }


def kill_workers(driver: Driver, trials: int, kills: int, rng: random.Random) -> int:
    """Kill a random worker a random while after each of ``kills`` random numbers of trials has ended."""
    killed = 0
    for ended in sorted(rng.sample(range(trials - 5), kills)):
        wait_for_trial(driver, ended)
        driver.rest(rng.uniform(0.0, 0.3))
        driver.wait(lambda: kill_one(driver, rng), "a worker", PATIENCE)
        killed += driver.running
    return killed


def kill_one(driver: Driver, rng: random.Random) -> bool:
    workers = driver.trained_workers()
    if workers:
        rng.choice(workers).kill()
    return bool(workers)


def wait_for_trial(driver: Driver, ended: int) -> None:
    driver.wait(lambda: ended_trials(driver) >= ended, f"trial {ended}", PATIENCE)


def ended_trials(driver: Driver) -> int:
    return sum(line.startswith("[") for line in driver.text.splitlines())


def slots() -> int:
    return Machine.here().cpus


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=500)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "reference" / "kill_workers.json")
    arguments = parser.parse_args()
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as place:
        for name, kills in (("left alone", 0), ("workers killed", arguments.kills)):
            found[name] = search(Path(place) / name.split()[0], arguments.trials, kills, arguments.seed)
            print(f"{name}:")
            print("\n".join(f"  {key}: {value}" for key, value in found[name].items()), flush=True)
    content = {
        **evidence(("ray", "optuna", "torch")),
        "searches": found,
    }
    write_evidence(arguments.output, content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
