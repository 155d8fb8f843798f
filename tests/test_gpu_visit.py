"""The script for ten minutes on a GPU, tried on a CPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


def visited(output: Path, *words: str) -> tuple[int, dict[str, Any], str]:
    """Return the exit code, the JSON of every part by its name, and the text."""
    command = [sys.executable, str(BENCHMARKS / "gpu_visit.py"), "--device", "cpu", "--quick", "--output", str(output)]
    ran = subprocess.run([*command, *words], capture_output=True, text=True, timeout=290)
    files = {path.stem.split("-")[1]: json.loads(path.read_text()) for path in sorted(output.glob("*.json"))}
    return ran.returncode, files, ran.stdout + ran.stderr


def test_a_part_that_runs_out_of_time_says_so_and_the_rest_goes_on(tmp_path: Path) -> None:
    code, files, text = visited(tmp_path, "--part", "machine", "--part", "steps", "--limit", "0.3")
    assert code == 1
    assert {name: found["failed"] for name, found in files.items()} == dict.fromkeys(
        ("machine", "steps"), "out of time after 0.3 s"
    )
    assert "steps" in text


def test_a_part_that_fails_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu_visit

    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert gpu_visit.main(["--device", "cpu", "--part", "machine", "--part", "curve", "--output", str(tmp_path)]) == 1
    found = [json.loads(path.read_text())["failed"] for path in sorted(tmp_path.glob("*.json"))]
    assert found == ["ended with code 1; see 1-machine.log", "ended with code 1; see 7-curve.log"]


@pytest.mark.slow
def test_every_part_gives_its_figures(tmp_path: Path) -> None:
    code, files, text = visited(tmp_path, "--limit", "200", "--minutes", "20")
    assert (code, [name for name, found in files.items() if found["failed"]]) == (0, []), text
    assert list(files) == ["machine", "steps", "profile", "graph", "packing", "repeat", "curve"]
    assert files["machine"]["product_fp32_TFLOPs"] > 0
    assert files["profile"]["act robust fp32"]["ms a step"] > 0
    assert files["graph"]["robust fp32"]["in stretches, loss"] > 0
    assert files["graph"]["robust fp32"]["as a graph, whole epoch"] == "failed: a CUDA graph needs a GPU"
    assert files["packing"]["2 processes"]["images/s"] > 0
    for kind in ("plain", "deterministic"):  # of a CPU both repeat
        assert (files["repeat"][kind]["two runs"], files["repeat"][kind]["continued and unbroken"]) == (0.0, 0.0)
    assert len({*files["repeat"]["checkpoint_scores"].values()}) == 1
    assert [report["epoch"] for report in files["curve"]["reports"]] == [0.0, 1.0]
