"""Everything to learn from a GPU in ten minutes, a JSON for each part.

    python benchmarks/gpu_visit.py [--data-dir DIR] [--output FOLDER] [--part NAME]... [--minutes 10]
    python benchmarks/gpu_visit.py --device cpu --quick

Each part runs in a process of its own with a limit of its own, and writes its figures at once. One that fails, or runs
out of time, says so in its JSON and keeps what it has; the others go on. Training needs neither Ray nor Optuna, so
neither does this. Without ``--data-dir`` and CIFAR in its usual place the built-in digits are trained on.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import gpu_packing
import gpu_parts
import torch
from evidence import public
from gpu_parts import Visit

from tune_lnl.cli import Parser, guarded
from tune_lnl.errors import InputError
from tune_lnl.files import replace_text
from tune_lnl.training.accelerator import obstacle


@dataclass(frozen=True)
class Part:
    run: Callable[[Visit], None]
    seconds: float


PARTS = {
    "machine": Part(gpu_parts.machine, 40),
    "steps": Part(gpu_parts.steps, 80),
    "profile": Part(gpu_parts.profiles, 90),
    "graph": Part(gpu_parts.graph, 110),
    "packing": Part(gpu_packing.packing, 120),
    "repeat": Part(gpu_parts.repeat, 50),
    "curve": Part(gpu_parts.curve, 180),
}
"""In the order in which they run; the limits are sums of what each measures on a card that has never been seen."""
WORKER_SECONDS = {False: 5.0, True: 0.5}


def parser() -> Parser:
    p = Parser(prog="benchmarks/gpu_visit.py", description=__doc__)
    p.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: to try the script (default: cuda)")
    p.add_argument("--quick", action="store_true", help="few steps on the built-in digits")
    p.add_argument("--data-dir", type=Path, metavar="DIR", help="where datasets lie (only read)")
    p.add_argument("--output", type=Path, metavar="FOLDER", default=Path("build/gpu_visit"), help="for the JSON files")
    p.add_argument("--part", action="append", choices=PARTS, dest="parts", help="only this one; may be repeated")
    p.add_argument("--minutes", type=float, default=10.0, metavar="M", help="for all parts together (default: 10)")
    p.add_argument("--limit", type=float, metavar="S", help="seconds of each part, instead of its own")
    p.add_argument("--child", choices=PARTS, help="run this part in this process")
    p.add_argument("--worker", type=Path, metavar="FILE", help="be one of the processes of the part packing")
    return p


def run_part(arguments: Any, name: str, limit: float) -> dict[str, Any]:
    """Run a part in a process group of its own, and complete its JSON."""
    file = file_of(arguments.output, name)
    file.unlink(missing_ok=True)
    own = [sys.executable, __file__, *sys.argv[1:], "--child", name, "--limit", str(limit)]
    began = time.monotonic()
    with file.with_suffix(".log").open("w", encoding="utf-8") as log:
        child = subprocess.Popen(own, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            code = child.wait(limit)
            failed = None if code == 0 else f"ended with code {code}; see {file.with_suffix('.log').name}"
        except subprocess.TimeoutExpired:
            failed = f"out of time after {limit:.3g} s"
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    about = {
        "command": " ".join(["python benchmarks/gpu_visit.py", *public(sys.argv[1:])]),
        "date": datetime.now(UTC).date().isoformat(),
        "seconds": round(time.monotonic() - began, 1),
        "failed": failed,
    }
    replace_text(file, json.dumps(about | found, indent=1) + "\n")
    return about


def file_of(folder: Path, name: str) -> Path:
    return folder / f"{list(PARTS).index(name) + 1}-{name}.json"


@guarded
def main(argv: list[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    here = (arguments.device, arguments.quick, arguments.data_dir)
    if arguments.worker is not None:
        gpu_packing.work(Visit(*here, arguments.worker, WORKER_SECONDS[arguments.quick]))
        return 0
    if arguments.child is not None:
        PARTS[arguments.child].run(Visit(*here, file_of(arguments.output, arguments.child), arguments.limit))
        return 0
    if arguments.device == "cuda" and not torch.cuda.is_available():  # this process takes no memory of it
        found = obstacle() or "torch sees no CUDA GPU here"
        raise InputError(f"--device cuda: {found}\ntry the script with --device cpu --quick")
    arguments.output.mkdir(parents=True, exist_ok=True)
    ends = time.monotonic() + 60 * arguments.minutes
    failed = 0
    for name in arguments.parts or PARTS:
        limit = min(arguments.limit or PARTS[name].seconds, ends - time.monotonic())
        if limit <= 0:
            print(f"{name:<10} not begun: the {arguments.minutes:g} minutes are over")
            failed += 1
            continue
        about = run_part(arguments, name, limit)
        failed += about["failed"] is not None
        print(f"{name:<10}{about['seconds']:>7.1f} s  {about['failed'] or 'done'}", flush=True)
    print(f"figures: {arguments.output}")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
