"""Memory of 1, 2 and 4 trials on one node: the packed dataset once, or a copy each.

    python benchmarks/memory_sharing.py [--data-dir DIR] [--output FILE]

Each trial is a process that sets up ACT on the whole CIFAR-80N and then reads every image of its training and
validation split, the way an epoch does. All of them wait for each other; then the kernel says (smaps_rollup) what is
resident and what is each process's proportional share, where a page that k processes map counts 1/k. The copy is what
trials hold where each loads the images into memory of its own. Linux only.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections import defaultdict
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from evidence import evidence, write_evidence

from tune_lnl.config.trial import build_config
from tune_lnl.errors import InputError
from tune_lnl.training.act import ActTraining
from tune_lnl.training.loop import Surroundings
from tune_lnl.training.registry import start_training

ROOT = Path(__file__).resolve().parents[1]
MEGABYTE = 1e6
SECTIONS: dict[str, Any] = {
    "method": "act",
    "dataset": {"name": "cifar80no"},
    "fixed": {"epochs": 20, "warmup_epochs": 1, "lr": 0.01, "lr1": 0.08},
}


def trial(link: Connection, data_dir: Path | None, copied: bool, seed: int) -> None:
    """Read the data of one trial, then hold the process in this state until the event is set."""
    sections = {**SECTIONS, "fixed": {**SECTIONS["fixed"], "seed": seed}}
    training = start_training(build_config(sections, "memory_sharing"), Surroundings(data_dir=data_dir))
    assert isinstance(training, ActTraining)
    if copied:
        noisy = training.data.noisy
        own = replace(noisy, train_images=np.array(noisy.train_images), test_images=np.array(noisy.test_images))
        training.data = replace(training.data, noisy=own)
    for batch in training.batches(0):
        assert len(batch.labels)
    rows = training.data.noisy.rows[training.data.validation]
    training.images(np.asarray(training.data.noisy.train_images), rows)
    link.send("ready")
    link.recv()


def rollup(pid: int) -> dict[str, float]:
    """Return megabytes of a process: resident, proportional share, private."""
    found = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, value = line.split()[:2]
        found[name.rstrip(":")] = int(value) * 1024 / MEGABYTE
    private = found["Private_Clean"] + found["Private_Dirty"]
    return {"resident": found["Rss"], "share": found["Pss"], "private": private}


def mapped(pid: int) -> dict[str, float]:
    """Return megabytes of the packed store in a process: resident and proportional share."""
    found: dict[str, float] = defaultdict(float)
    inside = False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        words = line.split()
        if not words[0].endswith(":"):
            inside = words[-1].endswith("_images.npy")
        elif inside and words[0] in ("Rss:", "Pss:"):
            found[words[0].rstrip(":")] += int(words[1]) * 1024 / MEGABYTE
    return {"resident": found["Rss"], "share": found["Pss"]}


def measure(count: int, data_dir: Path | None, copied: bool) -> dict[str, Any]:
    """Measure ``count`` trials at once."""
    context = multiprocessing.get_context("spawn")
    links, processes = [], []
    for number in range(count):
        ours, theirs = context.Pipe()
        process = context.Process(target=trial, args=(theirs, data_dir, copied, number))
        process.start()
        theirs.close()
        links.append(ours)
        processes.append(process)
    try:
        for link in links:
            assert link.recv() == "ready"
        pids = [process.pid for process in processes if process.pid is not None]
        whole = [rollup(pid) for pid in pids]
        store = [mapped(pid) for pid in pids]
    finally:
        for link in links:
            link.send("end")
        for process in processes:
            process.join()
    return {
        "trials": count,
        "images": "a copy each" if copied else "mapped",
        "MB resident, each": [round(each["resident"], 1) for each in whole],
        "MB private, each": [round(each["private"], 1) for each in whole],
        "MB of all trials together": round(sum(each["share"] for each in whole), 1),
        "MB of the packed images, resident in each": [round(each["resident"], 1) for each in store],
        "MB of the packed images, all trials together": round(sum(each["share"] for each in store), 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, help="holds cifar100; TUNE_LNL_DATA where not given")
    parser.add_argument("--trials", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "reference" / "memory_sharing.json")
    arguments = parser.parse_args()
    if not Path("/proc/self/smaps_rollup").exists():
        raise InputError(
            "memory_sharing reads /proc/PID/smaps_rollup, which this system does not have; run it on Linux"
        )
    rows = [measure(n, arguments.data_dir, copied) for copied in (False, True) for n in arguments.trials]
    print(f"{'trials':>6}  {'images':<12}{'resident, each':>15}{'private, each':>15}{'together':>10}{'images':>16}")
    for row in rows:
        each = [sum(row[name]) / row["trials"] for name in ("MB resident, each", "MB private, each")]
        images = row["MB of the packed images, all trials together"]
        print(
            f"{row['trials']:>6}  {row['images']:<12}{each[0]:>12.0f} MB{each[1]:>12.0f} MB"
            f"{row['MB of all trials together']:>7.0f} MB"
            + (f"{images:>13.0f} MB" if row["images"] == "mapped" else f"{'':>13}")
        )
    content = {
        "what": "memory of trials of ACT on CIFAR-80N, cnn7, after reading every training and validation image once",
        **evidence(("torch", "numpy")),
        "rows": rows,
    }
    write_evidence(arguments.output, content)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
