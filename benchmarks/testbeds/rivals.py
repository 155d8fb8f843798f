"""Search engines of other packages, each in a virtual environment of its own, over a line of JSON a call.

    python benchmarks/testbeds/rivals.py

makes the environments that are missing, in ``.venv-rivals/`` or ``$TUNE_LNL_RIVALS``, and names those that it cannot
make. ``rival_server.py`` beside this file is what runs in them, and describes the protocol.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from testbeds.engines import Engine
from testbeds.tables import Table

from tune_lnl.errors import InputError

HERE = Path(__file__).resolve().parent
PACKAGES = {"smac": "smac==2.4.1", "dehb": "dehb==0.1.2", "syne_tune": "syne-tune[extra]==0.16"}
"""By environment."""
RIVALS = {"smac": "smac", "dehb": "dehb", "asha_cqr": "syne_tune"}
"""Environment of each engine."""


def python_of(name: str) -> Path:
    """Return the interpreter of an engine's environment, which may be missing."""
    root = Path(os.environ.get("TUNE_LNL_RIVALS", HERE.parents[1] / ".venv-rivals"))
    return root / RIVALS[name] / "bin" / "python"


def require_environment(name: str) -> None:
    """Raise :class:`InputError` where the environment of an engine is missing."""
    if not python_of(name).exists():
        raise InputError(
            f"--engines {name}: no environment at {python_of(name).parents[1]}; make it with "
            "python benchmarks/testbeds/rivals.py"
        )


class RivalEngine(Engine):
    """A search by another package.

    A training that goes on from where it was stopped costs only the further reports, as with checkpoints. The answer
    has the lowest loss among the longest trainings.
    """

    def __init__(self, name: str, table: Table, seed: int) -> None:
        super().__init__(table)
        require_environment(name)
        self.server = subprocess.Popen(
            [python_of(name), HERE / "rival_server.py", name],
            env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.call({"axes": len(table.ranges), "reports": table.reports, "seed": seed})
        self.rows: dict[tuple[float, ...], int] = {}
        self.done: dict[tuple[float, ...], int] = {}
        """Reports of each point so far."""

    def call(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        line = self.server.stdout.readline()
        assert line, f"the rival ended with code {self.server.wait()}"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def start(self) -> int:
        while True:
            self.point = tuple(self.call({"ask": None})["point"])
            if self.point not in self.rows:
                self.rows[self.point] = self.take(np.array(self.point))
            row, self.first = self.rows[self.point], self.done.get(self.point, 0)
            # What it has had already costs nothing.
            goes_on = self.first == 0 or self.tell(self.first, float(self.table.losses[row, self.first - 1]))
            if goes_on and self.first < self.table.reports:
                return row

    def tell(self, report: int, loss: float) -> bool:
        return bool(self.call({"report": report, "loss": loss if math.isfinite(loss) else None})["continue"])

    def report(self, epoch: int, loss: float) -> bool:
        self.done[self.point] = epoch + 1
        return self.tell(epoch + 1, loss)

    def answer(self) -> int | None:
        ends = [(-reports, float(self.table.losses[self.rows[p], reports - 1]), p) for p, reports in self.done.items()]
        best = min((end for end in ends if math.isfinite(end[1])), default=None)
        return None if best is None else self.rows[best[2]]

    def close(self) -> None:
        assert self.server.stdin is not None
        self.server.stdin.close()
        self.server.wait()


def main() -> int:
    for name, package in PACKAGES.items():
        python = next(python_of(engine) for engine, environment in RIVALS.items() if environment == name)
        if python.exists():
            continue
        print(f"installing {package} into {python.parents[1]} ...", flush=True)
        venv.create(python.parents[1], with_pip=True)
        command = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", package]
        if subprocess.run(command, check=False).returncode:
            python.unlink()
            print(f"{name} is skipped: {package} cannot be installed", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
