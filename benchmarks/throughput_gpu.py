"""ACT's robust phase on a CUDA device: images per second, seconds an epoch, peak memory, share of the matrix peak.

    python benchmarks/throughput_gpu.py [--data-dir DIR] [--batches 40] [--rounds 3] [--output FILE]

A trial's own training step on CIFAR-80N, loading and augmentation included, in every precision that the card has, with
the networks uncompiled, compiled by torch, and compiled into CUDA graphs, to decide whether trials should use the last
two. The peak is the best product of square matrices in the same precision; an image costs
three forward and three backward passes of the seven-layer CNN, counted by torch. Evaluation is both networks on the
validation split.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any, cast

import torch
from evidence import evidence, write_evidence
from torch.utils.flop_counter import FlopCounterMode

from tune_lnl.cli import Parser, guarded
from tune_lnl.config.act import ActSettings
from tune_lnl.config.trial import build_config
from tune_lnl.errors import InputError
from tune_lnl.models.registry import build_model
from tune_lnl.training.act import ActTraining
from tune_lnl.training.classification import Batch, ClassifierConfig
from tune_lnl.training.loop import Surroundings, has_bf16
from tune_lnl.training.networks import Totals

ROOT = Path(__file__).resolve().parents[1]
ROBUST = 1
"""An epoch after the warm-up."""
SET_UP = 4
"""Batches before anything is timed; CUDA graphs are recorded in the second step."""
EVALUATION = "validation of both networks, share of an epoch"
SIDES = (4096, 8192, 16384)
COMPILED = {"": None, ", compiled": "default", ", CUDA graphs": "reduce-overhead"}
"""Modes of ``torch.compile``."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def parser() -> argparse.ArgumentParser:
    p = Parser(prog="benchmarks/throughput_gpu.py", description=__doc__)
    p.add_argument("--data-dir", type=Path)
    p.add_argument("--batches", type=int, default=40, help="batches of each round")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--output", type=Path, default=ROOT / "results" / "reference" / "throughput_gpu.json")
    return p


class CompiledActTraining(ActTraining):
    """ACT with its networks compiled; for comparison only."""

    def compile(self, mode: str) -> None:
        for network in self.networks.values():
            # Batches of one shape: the last batch of an epoch, which may be smaller, is not measured.
            network.compile(mode=mode, dynamic=False)

    def train_step(self, batch: Batch, epoch: int, totals: Totals) -> None:
        # From here on, the outputs of the previous step's graphs may be overwritten.
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        super().train_step(batch, epoch, totals)


def started(precision: str, compiled: str | None, data_dir: Path | None) -> ActTraining:
    sections = {
        "method": "act",
        "dataset": {"name": "cifar80no"},
        "objective": {"average_last": 1},
        "fixed": {
            "epochs": 4,
            "warmup_epochs": ROBUST,
            "lr": 0.01,
            "lr1": 0.08,
            "precision": precision,
        },
    }
    config = cast(ClassifierConfig[ActSettings], build_config(sections, "throughput_gpu"))
    surroundings = Surroundings(data_dir=data_dir, device="cuda")
    if compiled is None:
        return ActTraining(config, surroundings)
    training = CompiledActTraining(config, surroundings)
    training.compile(compiled)
    return training


def matrix_peak(dtype: torch.dtype) -> float:
    """Return TFLOP/s of the best square product."""
    best = 0.0
    for side in SIDES:
        a, b = (torch.randn(side, side, device="cuda").to(dtype) for _ in range(2))
        for _ in range(4):
            torch.cuda.synchronize()
            began = time.perf_counter()
            a @ b
            torch.cuda.synchronize()
            best = max(best, 2 * side**3 / (time.perf_counter() - began) / 1e12)
    return best


def gflop_per_image(training: ActTraining) -> float:
    """Return the GFLOP of three forward and three backward passes of the network."""
    height, width, channels = training.form.image_shape
    network = build_model("cnn7", training.data.noisy.num_classes, training.form.image_shape)
    with FlopCounterMode(display=False) as counter:
        network(torch.randn(8, channels, height, width)).sum().backward()
    return 3 * cast(float, counter.get_total_flops()) / 8 / 1e9


def seconds_to_evaluate(training: ActTraining) -> float:
    training.evaluate(ROBUST)  # pays for what is set up once
    torch.cuda.synchronize()
    began = time.perf_counter()
    training.evaluate(ROBUST)
    torch.cuda.synchronize()
    return time.perf_counter() - began


def measure(precision: str, compiled: str | None, data_dir: Path | None, batches: int, rounds: int) -> dict[str, Any]:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    torch.compiler.reset()
    began = time.perf_counter()
    training = started(precision, compiled, data_dir)
    training.seconds_per_epoch(ROBUST, SET_UP)
    set_up = time.perf_counter() - began
    epochs = [training.seconds_per_epoch(ROBUST, batches) for _ in range(rounds)]
    seconds = statistics.median(epochs)
    speed = training.images_per_epoch() / seconds
    achieved = speed * gflop_per_image(training) / 1e3
    return {
        "images/s": round(speed, 1),
        "seconds of a robust epoch": round(seconds, 2),
        "each round": [round(each, 2) for each in epochs],
        "seconds until all was set up": round(set_up, 1),
        **({} if compiled else {EVALUATION: round(seconds_to_evaluate(training) / seconds, 4)}),
        "TFLOP/s": round(achieved, 2),
        "share of the matrix peak": round(achieved / matrix_peak(DTYPES[precision]), 4),
        "peak memory, MB": round(torch.cuda.max_memory_allocated() / 1e6, 1),
    }


@guarded
def main(argv: list[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    if not torch.cuda.is_available():
        raise InputError("this benchmark needs a CUDA device, and torch sees none; make bench measures the CPU")
    precisions = ["fp32", *(["bf16"] if has_bf16("cuda") else []), "fp16"]
    found, failed = {}, {}
    for name in precisions:
        for how, mode in COMPILED.items():
            try:
                found[name + how] = measure(name, mode, arguments.data_dir, arguments.batches, arguments.rounds)
            except (InputError, RuntimeError) as error:
                # The machine may lack what compiling needs; the other figures do not depend on it.
                if mode is None:
                    raise
                failed[name + how] = (str(error).splitlines() or [type(error).__name__])[0]
    print(f"{'':<19}{'images/s':>10}{'s/epoch':>9}{'evaluation':>12}{'of peak':>9}{'memory':>11}")
    for name, row in found.items():
        evaluation = f"{row[EVALUATION]:.3f}" if EVALUATION in row else ""
        print(
            f"{name:<19}{row['images/s']:>10.0f}{row['seconds of a robust epoch']:>9.2f}"
            f"{evaluation:>12}{row['share of the matrix peak']:>9.3f}"
            f"{row['peak memory, MB']:>8.0f} MB"
        )
    for name, reason in failed.items():
        print(f"{name}: {reason}")
    content = {
        "what": "ACT's robust phase on CIFAR-80N, cnn7, batch 128, loading and augmentation included",
        **evidence(("torch", "numpy"), torch.cuda.get_device_name()),
        "cuda": torch.version.cuda,
        "precisions": found,
        "failed": failed,
    }
    write_evidence(arguments.output, content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
