"""Images per second of ACT's robust phase, with a plain pipeline and the machine's matrix peak in the same run.

    python benchmarks/throughput.py [--data-dir DIR] [--threads 2] [--batches 12] [--rounds 3] [--compile]
        [--output FILE.json]

Ours: a trial's own training step, loading and augmentation included. Plain: the same losses and network, written as
in most published code: torchvision transforms per PIL image in DataLoader workers, float32, boolean indexing of the
selected samples, ``.item()`` after every step. The arms alternate, so that a slower machine slows both. The
peak is the best product of square matrices, 1024 to 4096, on the same threads; an image costs 2.0 GFLOP in the robust
phase (three forward and three backward passes of the seven-layer CNN, counted by torch).
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from evidence import evidence, write_evidence
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torch.utils.flop_counter import FlopCounterMode
from torchvision import transforms

from tune_lnl.cli import Parser, guarded
from tune_lnl.config.trial import TrialConfig, build_config
from tune_lnl.models.registry import build_model
from tune_lnl.training.act import ActTraining
from tune_lnl.training.classification import Batch, ClassifierData
from tune_lnl.training.loop import Surroundings, has_bf16
from tune_lnl.training.networks import Totals
from tune_lnl.training.registry import start_training

BATCH = 128
ROBUST = 1
"""An epoch after the warm-up."""
SUBSET = 0.2
SIDES = (1024, 2048, 4096)


def parser() -> argparse.ArgumentParser:
    p = Parser(prog="benchmarks/throughput.py", description=__doc__)
    p.add_argument("--data-dir", type=Path)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--batches", type=int, default=12, help="batches of each arm in each round")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--compile", action="store_true", help="also with networks that torch compiles; needs g++")
    p.add_argument("--output", type=Path, metavar="FILE.json")
    return p


def trial_config(precision: str, threads: int) -> TrialConfig:
    sections = {
        "method": "act",
        "dataset": {"name": "cifar80no", "subset": SUBSET},
        "objective": {"average_last": 1},
        "fixed": {
            "epochs": 4,
            "warmup_epochs": ROBUST,
            "lr": 0.01,
            "lr1": 0.08,
            "batch_size": BATCH,
            "precision": precision,
            "threads": threads,
        },
    }
    return build_config(sections, "throughput")


# ---- the plain pipeline


class TwoViews(TorchDataset[tuple[Tensor, Tensor, int, int]]):
    """Weak and strong view of one PIL image at a time, as published."""

    def __init__(self, data: ClassifierData) -> None:
        self.images = np.asarray(data.noisy.train_images[data.noisy.rows[data.train]])
        self.labels = data.noisy.given_labels[data.train]
        normalise = [transforms.ToTensor(), transforms.Normalize(data.dataset.mean, data.dataset.std)]
        crop = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()]
        self.weak = transforms.Compose([*crop, *normalise])
        policy = transforms.AutoAugment(transforms.AutoAugmentPolicy.CIFAR10, fill=[128, 128, 128])
        self.strong = transforms.Compose([*crop, policy, *normalise])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, item: int) -> tuple[Tensor, Tensor, int, int]:
        image = Image.fromarray(self.images[item])
        return self.weak(image), self.strong(image), int(self.labels[item]), item


class Plain:
    """ACT's robust step, not optimised."""

    def __init__(self, data: ClassifierData, workers: int) -> None:
        self.loader = DataLoader(
            TwoViews(data), BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0
        )
        classes = data.noisy.num_classes
        self.networks = [build_model("cnn7", classes, data.dataset.image_shape) for _ in range(2)]
        self.optimizers = [
            torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4)
            for network in self.networks
        ]
        self.counts = torch.zeros(len(data.train))
        self.label_ema = F.one_hot(torch.from_numpy(data.noisy.given_labels[data.train]), classes).float()
        self.endless = self._endless()

    def _endless(self) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        while True:
            yield from self.loader

    def step(self) -> None:
        x, x_strong, labels, index = next(self.endless)
        rtm, ntm = self.networks
        for network in self.networks:
            network.train()
        z0, z1, zs = rtm(x), ntm(x), rtm(x_strong)
        right0, right1 = z0.argmax(1) == labels, z1.argmax(1) == labels
        a0, a1 = right0.float().mean().item(), right1.float().mean().item()
        mining = a0 > 0 and (a1 - a0) / a0 < 0.025
        selected = right1 if mining else right0 & right1
        chosen = selected.nonzero().flatten()
        self.counts[index[chosen]] += 1
        self.label_ema[index] = 0.8 * self.label_ema[index] + 0.2 * z0.detach().softmax(1)
        pseudo = torch.where(selected, labels, self.label_ema[index].argmax(1))
        loss0 = 0.2 * F.cross_entropy(zs, pseudo)
        if len(chosen):
            weights = self.counts[index[chosen]] / (ROBUST + 1)
            loss0 = loss0 + 0.8 * (weights * F.cross_entropy(z0[chosen], labels[chosen], reduction="none")).mean()
        loss1 = F.cross_entropy(z1, labels)
        for optimizer, loss in zip(self.optimizers, (loss0, loss1), strict=True):
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        self.last = loss0.item(), loss1.item()


# ---- measuring


def images_per_second(step: Callable[[], object], batches: int) -> float:
    began = time.perf_counter()
    for _ in range(batches):
        step()
    return batches * BATCH / (time.perf_counter() - began)


def our_step(training: ActTraining) -> Callable[[], object]:
    """Train on the next batch of an endless robust phase: order, loading, augmentation, losses, updates."""

    def batches() -> Iterator[Batch]:
        while True:
            training._begin_epoch(ROBUST)
            yield from (batch for batch in training.batches(ROBUST) if len(batch.labels) == BATCH)

    ahead, totals = batches(), Totals()
    return lambda: training.train_step(next(ahead), ROBUST, totals)


def augmentation_share(training: ActTraining, batches: int) -> float:
    """Return seconds of loading and augmentation, both views, over seconds of the whole step."""
    order = torch.randperm(training.images_per_epoch())[: BATCH * batches]
    training._begin_epoch(ROBUST)
    whole = BATCH * batches / images_per_second(our_step(training), batches)
    began = time.perf_counter()
    for index in torch.split(order, BATCH):
        batch = training._batch(index)
        training.weak_view(batch.images)
        training.strong_view(batch.images)
    return (time.perf_counter() - began) / whole


def evaluation_share(training: ActTraining, robust_speed: float) -> dict[str, float]:
    """Return the time of scoring both networks on the validation split, and on the test set, over that of an epoch.

    Both splits of the full dataset are as this subset's times the same factor; the test set is never cut.
    """
    data = training.data
    rows = data.noisy.rows[data.validation]
    training._score_all("val", data.noisy.train_images, rows[:BATCH], data.validation_labels[:BATCH])
    began = time.perf_counter()
    training._score_all("val", data.noisy.train_images, rows, data.validation_labels)
    image_seconds = (time.perf_counter() - began) / len(rows)
    epoch_seconds = len(data.train) / SUBSET / robust_speed
    return {
        "images/s, both networks": round(1 / image_seconds, 1),
        "validation, share of a robust epoch": round(len(rows) / SUBSET * image_seconds / epoch_seconds, 4),
        "test set, share of a robust epoch": round(len(data.noisy.test_rows) * image_seconds / epoch_seconds, 4),
    }


def start_up(config: TrialConfig, data_dir: Path | None) -> dict[str, float]:
    """Return seconds from a config to the end of its first step, in a process that has trained before."""
    began = time.perf_counter()
    training = start_training(config, Surroundings(data_dir=data_dir))
    assert isinstance(training, ActTraining)
    started = time.perf_counter()
    training._begin_epoch(0)
    training.train_step(next(training.batches(0)), 0, Totals())
    ended = time.perf_counter()
    return {"to be ready": round(started - began, 2), "first step": round(ended - started, 2)}


def matrix_peak(dtype: torch.dtype) -> float:
    """Return GFLOP/s of the best square product."""
    best = 0.0
    for side in SIDES:
        a, b = (torch.randn(side, side).to(dtype) for _ in range(2))
        a @ b
        for _ in range(3):
            began = time.perf_counter()
            a @ b
            best = max(best, 2 * side**3 / (time.perf_counter() - began) / 1e9)
    return best


def gflop_per_image(data: ClassifierData) -> float:
    """Return the GFLOP of three forward and three backward passes of the network."""
    network: nn.Module = build_model("cnn7", data.noisy.num_classes, data.dataset.image_shape)
    height, width, channels = data.dataset.image_shape
    with FlopCounterMode(display=False) as counter:
        network(torch.randn(8, channels, height, width)).sum().backward()
    return 3 * cast(float, counter.get_total_flops()) / 8 / 1e9


def started(precision: str, threads: int, data_dir: Path | None, compiled: bool = False) -> ActTraining:
    training = start_training(trial_config(precision, threads), Surroundings(data_dir=data_dir))
    assert isinstance(training, ActTraining)
    if compiled:
        for network in training.networks.values():
            network.compile()
    return training


def measure(data_dir: Path | None, threads: int, batches: int, rounds: int, compiled: bool) -> dict[str, Any]:
    torch.set_num_threads(threads)
    precisions = ("bf16", "fp32") if has_bf16("cpu") else ("fp32",)
    ours = {name: started(name, threads, data_dir) for name in precisions}
    data = ours["fp32"].data
    arms: dict[str, Callable[[], object]] = {f"ours, {name}": our_step(training) for name, training in ours.items()}
    if compiled:
        arms |= {f"ours, {name}, compiled": our_step(started(name, threads, data_dir, True)) for name in precisions}
    arms |= {f"plain, {workers} workers": Plain(data, workers).step for workers in (0, 2)}
    speeds: dict[str, list[float]] = {name: [] for name in arms}
    set_up = {}
    for name, step in arms.items():
        set_up[name] = 2 * BATCH / images_per_second(step, 2)  # pays for what is set up once
    for _ in range(rounds):
        for name, step in arms.items():
            speeds[name].append(images_per_second(step, batches))
    means = {name: statistics.median(values) for name, values in speeds.items()}
    plain = max(value for name, value in means.items() if name.startswith("plain"))
    gflop = gflop_per_image(data)
    peaks = {"bf16": matrix_peak(torch.bfloat16), "fp32": matrix_peak(torch.float32)}
    table = {}
    for name, speed in means.items():
        precision = "bf16" if "bf16" in name else "fp32"
        table[name] = {
            "images/s": round(speed, 1),
            "each round": [round(value, 1) for value in speeds[name]],
            "times plain": round(speed / plain, 2),
            "seconds of the first two steps": round(set_up[name], 1),
            "GFLOP/s": round(speed * gflop, 1),
            "share of the matrix peak": round(speed * gflop / peaks[precision], 3),
        }
    shares = {name: round(augmentation_share(training, batches), 3) for name, training in ours.items()}
    return {
        "GFLOP per image": round(gflop, 3),
        "matrix peak, GFLOP/s": {name: round(value, 1) for name, value in peaks.items()},
        "arms": table,
        "loading and augmentation, share of the step": shares,
        "evaluation": {name: evaluation_share(training, means[f"ours, {name}"]) for name, training in ours.items()},
        "seconds to start another trial": start_up(trial_config("bf16", threads), data_dir),
    }


@guarded
def main(argv: list[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    found = measure(arguments.data_dir, arguments.threads, arguments.batches, arguments.rounds, arguments.compile)
    print(f"matrix peak {found['matrix peak, GFLOP/s']} GFLOP/s, {found['GFLOP per image']} GFLOP an image")
    print(f"{'ACT, robust phase':<22}{'images/s':>10}{'times plain':>13}{'of the peak':>13}")
    for name, row in found["arms"].items():
        shown = (row["images/s"], row["times plain"], row["share of the matrix peak"])
        print(f"{name:<22}{shown[0]:>10.1f}{shown[1]:>13.2f}{shown[2]:>13.3f}")
    print(f"loading and augmentation, share of the step: {found['loading and augmentation, share of the step']}")
    for name, shares in found["evaluation"].items():
        print(f"evaluation, {name}: " + ", ".join(f"{what} {value}" for what, value in shares.items()))
    print(f"seconds to start another trial: {found['seconds to start another trial']}")
    if arguments.output is not None:
        content = {
            "what": "ACT's robust phase on CIFAR-80N, seven-layer CNN, batch 128; medians over rounds, arms in turn",
            **evidence(
                ("torch", "torchvision", "numpy", "pillow"), f"cpu, {platform.machine()}, {arguments.threads} threads"
            ),
            **found,
        }
        write_evidence(arguments.output, content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
