"""Measure a folder of many small files: time and memory to list and pack it, and time to the first training step.

    python benchmarks/large_folder.py FOLDER [--files 100000] [--classes 100] [--output FILE.json]

FOLDER is first filled (unless it is full already) with different JPEG files of 32 x 32 pixels in class folders. Each
figure is measured in a new process with an empty cache; memory is its peak resident set, next to that of a process that
only imports the same modules.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from evidence import evidence, write_evidence
from PIL import Image

from tune_lnl.cli import Parser, guarded
from tune_lnl.config.trial import TrialConfig, build_config
from tune_lnl.training.loop import Surroundings, Training
from tune_lnl.training.networks import Totals
from tune_lnl.training.registry import start_training

SIDE = 32


def parser() -> argparse.ArgumentParser:
    p = Parser(prog="benchmarks/large_folder.py", description=__doc__)
    p.add_argument("folder", type=Path, metavar="FOLDER")
    p.add_argument("--files", type=int, default=100_000)
    p.add_argument("--classes", type=int, default=100)
    p.add_argument("--output", type=Path, metavar="FILE.json")
    p.add_argument("--measure", choices=["imports", "packed", "decoded"], help=argparse.SUPPRESS)
    return p


def fill(folder: Path, files: int, classes: int) -> float:
    """Write the files, made different by a comment in each; return the seconds."""
    if (folder / "done").exists():
        return 0.0
    began = time.perf_counter()
    stream = np.random.RandomState(0)
    patterns = []
    for _ in range(256):
        memory = io.BytesIO()
        Image.fromarray(stream.randint(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)).save(memory, "JPEG")
        patterns.append(memory.getvalue())
    for number in range(files):
        inside = folder / f"class_{number % classes:03d}"
        if number < classes:
            inside.mkdir(parents=True, exist_ok=True)
        (inside / f"{number:06d}.jpg").write_bytes(_with_comment(patterns[number % 256], number))
    (folder / "done").touch()
    return time.perf_counter() - began


def _with_comment(jpeg: bytes, number: int) -> bytes:
    text = f"{number:08d}".encode()
    return jpeg[:2] + b"\xff\xfe" + (len(text) + 2).to_bytes(2, "big") + text + jpeg[2:]


def config_of(folder: Path, cache_budget: float) -> TrialConfig:
    sections = {
        "method": "act",
        "dataset": {"name": "folder", "root": str(folder), "cache_budget": cache_budget},
        "validation": {"fraction": 0.1},
        "objective": {"average_last": 1},
        "fixed": {"epochs": 2, "warmup_epochs": 1, "lr": 0.01, "lr1": 0.02, "batch_size": 64},
    }
    return build_config(sections, "large_folder")


def measure(folder: Path, cache_budget: float) -> dict[str, float]:
    """Return the seconds to a ready training without and with a packed store, and to its first step."""
    config = config_of(folder, cache_budget)
    began = time.perf_counter()
    start_training(config, Surroundings())
    first = time.perf_counter() - began
    began = time.perf_counter()
    training = start_training(config, Surroundings())
    again = time.perf_counter() - began
    return {"first_start_seconds": first, "next_start_seconds": again, "first_step_seconds": _first_step(training)}


def _first_step(training: Training) -> float:
    from tune_lnl.training.act import ActTraining

    assert isinstance(training, ActTraining)
    began = time.perf_counter()
    training._begin_epoch(0)
    training.train_step(next(iter(training.batches(0))), 0, Totals())
    return time.perf_counter() - began


def _own_process(arguments: argparse.Namespace, what: str) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as cache:
        command = [sys.executable, __file__, str(arguments.folder), "--measure", what]
        output = subprocess.run(
            command, env=os.environ | {"TUNE_LNL_CACHE": cache}, check=True, stdout=subprocess.PIPE, text=True
        ).stdout
        figures: dict[str, float] = json.loads(output)
        figures["cache_mib"] = sum(path.stat().st_size for path in Path(cache).rglob("*") if path.is_file()) / 2**20
    return figures


@guarded
def main(argv: list[str] | None = None) -> int:
    a = parser().parse_args(argv)
    if a.measure is not None:
        found = {} if a.measure == "imports" else measure(a.folder, 20.0 if a.measure == "packed" else 0.0)
        found["peak_memory_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(found))
        return 0
    written = fill(a.folder, a.files, a.classes)
    rows: dict[str, Any] = {name: _own_process(a, name) for name in ("imports", "packed", "decoded")}
    for name, row in rows.items():
        print(f"{name:<8} " + ", ".join(f"{key} {value:.2f}" for key, value in row.items()), flush=True)
    if a.output is not None:
        content = {
            "what": f"{a.files} JPEG files of {SIDE} x {SIDE} pixels in {a.classes} class folders; packed into the "
            "cache, and decoded on every request (cache_budget 0)",
            **evidence(("torch", "numpy", "pillow")),
            "writing_seconds": written,
            "rows": rows,
        }
        write_evidence(a.output, content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
