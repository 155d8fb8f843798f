"""The accuracy of the fast step: bf16, channels-last and masks against a plain float32 step, seed by seed.

    python benchmarks/parity.py [--data-dir DIR] [--subset 0.05] [--epochs 8] [--seeds 0,1,2,3,4] [--jobs 2 --threads 1]
        [--earlier FILE.json] [--output FILE.json]

Both arms train ACT on CIFAR-80N from the same weights, in the same order, on the same augmented views; they differ in
the computation of a step. The plain arm uses the usual memory order, float32 throughout, and selects samples of the
batch by index, as the published code does. The result is the difference of test accuracy between the arms, paired by
seed, with its 95% interval by Student's t.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from evidence import evidence, write_evidence
from scipy import stats
from torch import Tensor, nn

from tune_lnl.cli import Parser, guarded
from tune_lnl.config.act import ActSettings
from tune_lnl.config.overrides import parse_overrides
from tune_lnl.config.trial import build_config
from tune_lnl.errors import InputError
from tune_lnl.training.act import ActTraining
from tune_lnl.training.classification import Batch, ClassifierConfig
from tune_lnl.training.loop import Surroundings
from tune_lnl.training.networks import Totals

FIGURES = ("test_accuracy", "val_accuracy", "selection_precision", "selection_recall")


class PlainActTraining(ActTraining):
    """ACT's step as its formulas read, one sample set at a time; for comparison only."""

    def _build_network(self, suffix: str) -> nn.Module:
        return super()._build_network(suffix).to(memory_format=torch.contiguous_format)

    def normalised(self, images: Tensor) -> Tensor:
        return super().normalised(images).contiguous(memory_format=torch.contiguous_format)

    def train_step(self, batch: Batch, epoch: int, totals: Totals) -> None:
        rtm, ntm = self.networks[""], self.networks["_ntm"]
        x, labels, index = self.weak_view(batch.images), batch.labels, batch.index
        z0, z1 = rtm(x), ntm(x)
        ntm_loss = F.cross_entropy(z1, labels)
        if epoch < self.settings.warmup_epochs:
            self.state.counts[index] += 1
            p0 = z0.softmax(dim=1)
            rtm_loss = F.cross_entropy(z0, labels) + (p0 * p0.log()).sum(dim=1).mean()
        else:
            right0, right1 = z0.argmax(dim=1) == labels, z1.argmax(dim=1) == labels
            a0, a1 = 100.0 * right0.sum().item() / len(labels), 100.0 * right1.sum().item() / len(labels)
            mining = a0 != 0 and (a1 - a0) / a0 < self.settings.tau
            selected = right1 if mining else right0 & right1
            chosen = selected.nonzero().flatten()
            self.state.counts[index[chosen]] += 1
            self.state.label_ema[index] = 0.8 * self.state.label_ema[index] + 0.2 * z0.detach().softmax(dim=1)
            corrected = torch.where(selected, labels, self.state.label_ema[index].argmax(dim=1))
            rtm_loss = 0.2 * F.cross_entropy(rtm(self.strong_view(batch.images)), corrected)
            if len(chosen) > 0:
                weights = self.state.counts[index[chosen]] / (epoch + 1)
                every = F.cross_entropy(z0[chosen], labels[chosen], reduction="none")
                rtm_loss = rtm_loss + 0.8 * (weights * every).mean()
            totals.add("selected", selected.sum())
            totals.add("mined", (selected & ~right0).sum())
            totals.add("mining_batches", torch.tensor(float(mining)))
            totals.add("empty_selections", torch.tensor(float(len(chosen) == 0)))
            if self.clean is not None:
                totals.add("selected_clean", (selected & self.clean[index]).sum())
        self._update(batch, rtm_loss, ntm_loss, z0.detach(), z1.detach(), totals)


ARMS: dict[str, tuple[type[ActTraining], str]] = {
    "fast, bf16": (ActTraining, "bf16"),
    "fast, fp32": (ActTraining, "fp32"),
    "plain, fp32": (PlainActTraining, "fp32"),
}


def parser() -> argparse.ArgumentParser:
    p = Parser(prog="benchmarks/parity.py", description=__doc__)
    p.add_argument("--data-dir", type=Path)
    p.add_argument("--dataset", default="cifar80no")
    p.add_argument("--subset", type=float, default=0.05)
    p.add_argument("--epochs", type=int, default=8)
    p.add_argument("--warmup-epochs", type=int, default=3)
    p.add_argument("--average-last", type=int, default=3)
    p.add_argument("--threads", type=int, default=2, help="threads of each training")
    p.add_argument("--jobs", type=int, default=1, help="trainings at the same time")
    p.add_argument("--seeds", default="0,1,2,3,4")
    p.add_argument("--arms", default="fast, bf16;plain, fp32", help=f"of {'; '.join(ARMS)}; the last is the reference")
    p.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="fixed", help="a setting of both arms"
    )
    p.add_argument(
        "--earlier", type=Path, metavar="FILE.json", help="output of a run whose seeds need not be trained again"
    )
    p.add_argument("--output", type=Path, metavar="FILE.json")
    return p


def config_of(arguments: argparse.Namespace, precision: str, seed: int) -> ClassifierConfig[ActSettings]:
    sections = {
        "method": "act",
        "dataset": {"name": arguments.dataset, "subset": arguments.subset},
        "objective": {"average_last": arguments.average_last},
        "fixed": {
            "epochs": arguments.epochs,
            "warmup_epochs": arguments.warmup_epochs,
            "lr": 0.01,
            "lr1": 0.08,
            "precision": precision,
            "threads": arguments.threads,
            "seed": seed,
            **parse_overrides(arguments.fixed),
        },
    }
    return cast(ClassifierConfig[ActSettings], build_config(sections, "parity"))


def trained(arguments: argparse.Namespace, arm: str, seed: int) -> dict[str, float]:
    """Train, and return the mean of each figure over the last epochs."""
    training_type, precision = ARMS[arm]
    config = config_of(arguments, precision, seed)
    first = arguments.epochs - arguments.average_last
    training = training_type(config, Surroundings(data_dir=arguments.data_dir, test_from=first))
    reports = [training.run_epoch() for _ in range(arguments.epochs)][first:]
    found = {name: statistics.fmean(report[name] for report in reports if name in report) for name in FIGURES}
    return found | {"seconds": statistics.fmean(report["train_seconds"] for report in reports)}


def earlier_rows(arguments: argparse.Namespace) -> dict[tuple[str, int], dict[str, float]]:
    """Return rows by arm and seed of an earlier run, which must have the config of this one."""
    if arguments.earlier is None:
        return {}
    content = json.loads(arguments.earlier.read_text())
    config = config_of(arguments, "bf16", content["seeds"][0]).flat()
    unlike = sorted(name for name, value in config.items() if content["config"].get(name) != value)
    if unlike:
        raise InputError(f"--earlier is of another config: {', '.join(unlike)}; leave it out, or give the same flags")
    return {
        (arm, seed): row
        for arm, found in content["arms"].items()
        for seed, row in zip(content["seeds"], found, strict=True)
    }


def interval(differences: list[float]) -> tuple[float, float]:
    """Return the 95% interval of the mean, by Student's t."""
    mean = statistics.fmean(differences)
    half = stats.t.ppf(0.975, len(differences) - 1) * statistics.stdev(differences) / math.sqrt(len(differences))
    return mean - half, mean + half


@guarded
def main(argv: list[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    arms = arguments.arms.split(";")
    unknown = [arm for arm in arms if arm not in ARMS]
    if unknown:
        raise InputError(f"--arms names arms divided by ';', of {'; '.join(ARMS)}; got {unknown[0]!r}")
    if arguments.jobs < 1:
        raise InputError(f"--jobs is at least 1, got {arguments.jobs}")
    # The longest first, so that no process trains alone at the end.
    rows = earlier_rows(arguments)
    planned = [(arm, seed) for arm in reversed(arms) for seed in seeds if (arm, seed) not in rows]
    print(f"{'seed':<6}{'arm':<14}{'test':>8}{'val':>8}{'sel. prec.':>12}{'recall':>8}{'s/epoch':>9}", flush=True)
    with ProcessPoolExecutor(arguments.jobs, mp_context=get_context("spawn")) as pool:
        running = {pool.submit(trained, arguments, arm, seed): (arm, seed) for arm, seed in planned}
        for done in as_completed(running):
            if done.exception() is not None:
                pool.shutdown(cancel_futures=True)
            (arm, seed), row = running[done], done.result()
            rows[arm, seed] = row
            figures = [row[name] for name in FIGURES]
            print(
                f"{seed:<6}{arm:<14}{figures[0]:>8.2f}{figures[1]:>8.2f}{figures[2]:>12.2f}{figures[3]:>8.2f}"
                f"{row['seconds']:>9.1f}",
                flush=True,
            )
    found = {arm: [rows[arm, seed] for seed in seeds] for arm in arms}
    reference = found[arms[-1]]
    differences = {}
    for arm in arms[:-1]:
        values = [a["test_accuracy"] - b["test_accuracy"] for a, b in zip(found[arm], reference, strict=True)]
        low, high = interval(values)
        differences[arm] = {"mean": statistics.fmean(values), "low": low, "high": high, "values": values}
        print(
            f"{arm} minus {arms[-1]}: {differences[arm]['mean']:+.2f} points of test accuracy [{low:+.2f}, {high:+.2f}]"
        )
    if arguments.output is not None:
        content = {
            "what": "ACT's fast step against a plain float32 step: figures of each seed, means of the last epochs, "
            "percent; differences of test accuracy paired by seed, 95% interval by Student's t",
            **evidence(("torch", "numpy", "scipy"), f"cpu, {platform.machine()}, {arguments.threads} threads"),
            "trainings beside each other": arguments.jobs,
            "config": config_of(arguments, "bf16", seeds[0]).flat(),
            "seeds": seeds,
            "arms": found,
            "differences": differences,
        }
        write_evidence(arguments.output, content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
