"""The part of ``gpu_visit.py`` that trains in several processes at once."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from typing import Any

import torch
from gpu_parts import ROBUST, ROOT, Visit, stretch

from tune_lnl.training.accelerator import cap_memory
from tune_lnl.training.failures import classify


def packing(visit: Visit) -> None:
    """Images per second of k processes together, plain and under MPS; their memory; and what beyond a cap is told."""
    for k in (1, 2) if visit.quick else (1, 2, 4, 8):
        visit.put(**{f"{k} processes": together(visit, k, {})})
    if not visit.gpu:
        return
    cap_memory("cuda", 0.05)
    try:
        torch.empty(torch.cuda.get_device_properties(0).total_memory // 10, dtype=torch.uint8, device="cuda")
        visit.put(cap="not enforced")
    except torch.OutOfMemoryError as error:
        visit.put(cap=classify(error)[0])
    control = shutil.which("nvidia-cuda-mps-control")
    if control is None:
        visit.put(mps="nvidia-cuda-mps-control is not here")
        return
    pipes = visit.file.with_suffix(".mps")
    pipes.mkdir(exist_ok=True)
    own = {name: str(pipes) for name in ("CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY")}
    subprocess.run([control, "-d"], env=os.environ | own, check=True, timeout=20)
    try:
        for k in (2, 4, 8):
            visit.put(**{f"{k} processes, MPS": together(visit, k, own)})
    finally:
        subprocess.run([control], input="quit\n", text=True, env=os.environ | own, timeout=20)


def together(visit: Visit, k: int, environment: dict[str, str]) -> dict[str, Any]:
    """Return the figures of k processes that train at the same time."""
    go = visit.file.with_suffix(f".{k}.go")
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu_visit.py"), "--device", visit.device, "--worker", str(go)]
    command += ["--quick"] * visit.quick
    command += [] if visit.data_dir is None else ["--data-dir", str(visit.data_dir)]
    workers = [
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | environment
        )
        for _ in range(k)
    ]
    ready = [worker.stdout.readline() for worker in workers if worker.stdout is not None]
    go.touch()
    said = [worker.communicate()[0] for worker in workers]
    go.unlink()
    if "" in ready or any(worker.returncode for worker in workers):
        return {"failed": [worker.returncode for worker in workers]}
    figures = [json.loads(text) for text in said]
    return {
        "images/s": round(sum(each["images/s"] for each in figures), 1),
        "peak MB of each": [each["peak MB"] for each in figures],
        "MB used on the card": [each["MB used on the card"] for each in figures][-1],
    }


def work(visit: Visit) -> None:
    """Be one of the processes of :func:`together`: train for some seconds once ``visit.file`` exists."""
    training = visit.start("act", *[f"precision={name}" for name in visit.precisions if name == "bf16"])
    list(stretch(training, ROBUST))
    print("ready", flush=True)
    while not visit.file.exists():
        time.sleep(0.002)
    visit.wait()
    began, images = time.perf_counter(), 0
    while time.perf_counter() - began < visit.seconds:
        images += sum(stretch(training, ROBUST))
        visit.wait()
    free, whole = torch.cuda.mem_get_info() if visit.gpu else (0, 0)
    figures = {
        "images/s": images / (time.perf_counter() - began),
        "peak MB": torch.cuda.max_memory_allocated() // 10**6 if visit.gpu else None,
        "MB used on the card": (whole - free) // 10**6,
    }
    print(json.dumps(figures), flush=True)
