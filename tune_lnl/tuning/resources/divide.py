"""The number of trials that run at once, and the share of each. Pure arithmetic over counts."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from tune_lnl.errors import InputError
from tune_lnl.tuning.resources.sharing import Sharing

SHARE_TOLERANCE = 1e-4
"""Six digits of 1/k, as the refusal of any other share prints them, are close enough."""
RAY_UNITS = 10_000
"""Ray counts resources in ten-thousandths."""


@dataclass(frozen=True)
class Node:
    """One machine of a cluster, as Ray counts it."""

    cpus: int
    gpus: int
    name: str = "here"
    ray_id: str = ""
    gpu_model: str | None = None
    """As Ray names it, ``H100``; ``None`` where Ray has no name."""


@dataclass(frozen=True)
class Machine:
    """The CPUs and GPUs that a search may use."""

    cpus: int
    """Of all nodes together."""
    gpus: int
    nodes: tuple[Node, ...] = ()
    """Of a cluster that was joined; empty: this machine alone."""

    @classmethod
    def of(cls, nodes: Sequence[Node]) -> Machine:
        return cls(sum(node.cpus for node in nodes), sum(node.gpus for node in nodes), tuple(nodes))

    @classmethod
    def here(cls) -> Machine:
        from tune_lnl.training.accelerator import gpu_count  # only here: the arithmetic of this module needs no torch

        return cls(
            len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
            gpu_count(),
        )

    def for_device(self, device: str) -> Machine:
        """Return the part of the machine that ``--device`` leaves to a search: ``cpu`` leaves the GPUs out.

        Raises:
            InputError: ``cuda`` without a GPU, or GPUs of this machine that cannot be used.
        """
        if device == "cpu":
            return replace(self, gpus=0, nodes=tuple(replace(node, gpus=0) for node in self.nodes))
        if not self.nodes:
            from tune_lnl.training.accelerator import obstacle

            found = obstacle()
            if found is not None:
                raise InputError(f"--device {device}: {found}")
        if device == "cuda" and self.gpus == 0:
            where = "the cluster has none" if self.nodes else "torch sees none here"
            raise InputError(f"--device cuda needs a CUDA GPU, and {where}; use --device auto or cpu")
        return self


@dataclass(frozen=True)
class Resources:
    """One trial's share, and how many shares there are."""

    cpus_per_trial: float
    gpus_per_trial: float
    concurrent: int
    threads: int
    """CPU threads of a trial: its whole cores, at least one."""
    sharing: Sharing | None = field(default=None, compare=False)
    """The measurement that decided the share; ``None``: the share was given."""

    @property
    def memory_fraction(self) -> float | None:
        """Return the part of its GPU's memory that a trial may take; ``None``: all of it, or there is no GPU."""
        if self.sharing is not None:
            return self.sharing.memory_fraction
        return self.gpus_per_trial if 0 < self.gpus_per_trial < 1 else None

    @property
    def device(self) -> str:
        return "cuda" if self.gpus_per_trial > 0 else "cpu"

    def fitting(self, node: Node) -> int:
        """Return the number of trials that run at once on this node."""
        return _fitting(node, self.cpus_per_trial, self.gpus_per_trial)

    def __str__(self) -> str:
        gpus = f", {self.gpus_per_trial:g} GPU" if self.gpus_per_trial else ""
        threads = f"{self.threads} thread{'' if self.threads == 1 else 's'}"
        return f"{self.concurrent} at once, each {self.cpus_per_trial:g} CPU{gpus}, {threads}"


def plan_resources(
    cpus: int,
    gpus: int,
    cpus_per_trial: float | None = None,
    gpus_per_trial: float | None = None,
    concurrent: int | None = None,
    nodes: Sequence[Node] = (),
) -> Resources:
    """Divide a machine, or the nodes of a cluster, among trials; a trial is always on one node.

    Args:
        cpus: cores of the machine, or of all nodes.
        gpus: CUDA devices of the machine, or of all nodes.
        cpus_per_trial: default one core, or the cores divided among the GPU shares, so that no share waits for a
            core.
        gpus_per_trial: 1 or 1/k; default a whole GPU where there is one.
        concurrent: trials at once; default as many as fit.
        nodes: of a cluster; default the machine alone.

    Raises:
        InputError: a share that does not tile a GPU, or more than the machine has.
    """
    usable = list(nodes) or [Node(cpus, gpus)]
    if gpus_per_trial is None:
        gpus_per_trial = 1.0 if gpus else 0.0
    _check_gpu_share(gpus_per_trial, gpus, "the cluster" if nodes else "this machine")
    if gpus_per_trial:
        shares = round(1 / gpus_per_trial)
        # Exactly 1/k: six times 0.166667, as typed, would not fit on one GPU.
        gpus_per_trial = 1 / shares
        usable = [node for node in usable if node.gpus and node.cpus]
        if cpus_per_trial is None:
            # The same share everywhere; the node with the fewest cores per GPU decides it, so that no GPU waits there.
            cpus_per_trial = min((_cpu_share(node.cpus, node.gpus * shares) for node in usable), default=1.0)
    else:
        cpus_per_trial = 1.0 if cpus_per_trial is None else cpus_per_trial
    if not (math.isfinite(cpus_per_trial) and cpus_per_trial > 0):
        raise InputError(f"--cpus-per-trial is above 0, got {cpus_per_trial:g}")
    largest = max((node.cpus for node in usable), default=0)
    if cpus_per_trial > largest:
        where = "on one node of the cluster" if nodes else "here"
        raise InputError(
            f"--cpus-per-trial {cpus_per_trial:g} asks for more than the {largest} CPUs {where}, "
            f"{cpus_per_trial - largest:g} too many; lower it"
        )
    fitting = sum(_fitting(node, cpus_per_trial, gpus_per_trial) for node in usable)
    if concurrent is not None:
        if concurrent < 1:
            raise InputError(f"--concurrent is at least 1, got {concurrent}")
        if concurrent > fitting:
            if nodes:
                raise InputError(_cluster_shortfall(concurrent, nodes, cpus_per_trial, gpus_per_trial))
            raise InputError(_shortfall(concurrent, cpus, gpus, cpus_per_trial, gpus_per_trial))
        fitting = concurrent
    return Resources(cpus_per_trial, gpus_per_trial, fitting, max(1, int(cpus_per_trial)))


def _fitting(node: Node, cpus_per_trial: float, gpus_per_trial: float) -> int:
    fed = int(node.cpus / cpus_per_trial + 1e-9)
    return min(node.gpus * round(1 / gpus_per_trial), fed) if gpus_per_trial else fed


def shared_resources(
    sharing: Sharing,
    cpus: int,
    gpus: int,
    cpus_per_trial: float | None = None,
    concurrent: int | None = None,
    nodes: Sequence[Node] = (),
) -> Resources:
    """Divide a machine, or the nodes of a cluster, by a measurement.

    Args:
        sharing: of the smallest GPU; without GPUs of the CPUs (in a cluster: of the smallest node).
        cpus: cores of the machine, or of all nodes.
        gpus: CUDA devices of the machine, or of all nodes.
        cpus_per_trial: as asked for; default the cores divided among the shares.
        concurrent: upper bound on trials at once.
        nodes: of a cluster; default the machine alone.

    Raises:
        InputError: more than the machine has.
    """
    if gpus:
        resources = plan_resources(cpus, gpus, cpus_per_trial, 1 / sharing.trials, nodes=nodes)
        most = resources.concurrent
    else:
        smallest = min((node.cpus for node in nodes if node.cpus), default=cpus)
        share = _cpu_share(smallest, sharing.trials) if cpus_per_trial is None else cpus_per_trial
        resources = plan_resources(cpus, 0, share, nodes=nodes)
        most = resources.concurrent if nodes else min(sharing.trials, resources.concurrent)
    if concurrent is not None and concurrent < 1:
        raise InputError(f"--concurrent is at least 1, got {concurrent}")
    return replace(resources, concurrent=most if concurrent is None else min(most, concurrent), sharing=sharing)


def _cpu_share(cpus: int, slots: int) -> float:
    """Return whole cores where there are enough; else a part of one, rounded down to Ray's units."""
    return float(cpus // slots) if cpus >= slots else max(1, cpus * RAY_UNITS // slots) / RAY_UNITS


def _shortfall(concurrent: int, cpus: int, gpus: int, cpus_per_trial: float, gpus_per_trial: float) -> str:
    """Return the refusal of more trials at once than this machine holds, with the missing resources."""
    wanted = [
        (concurrent * gpus_per_trial, gpus, "GPU", gpus_per_trial),
        (concurrent * cpus_per_trial, cpus, "CPU", cpus_per_trial),
    ]
    short = [
        f"{total:g} {unit}s ({concurrent} x {share:g}), {total - here:g} more than the {here} here"
        for total, here, unit, share in wanted
        if total > here + 1e-9
    ]
    lower = "--gpus-per-trial or --cpus-per-trial" if gpus_per_trial else "--cpus-per-trial"
    return f"--concurrent {concurrent} does not fit: it needs {' and '.join(short)}; lower it, or {lower}"


def _cluster_shortfall(concurrent: int, nodes: Sequence[Node], cpus_per_trial: float, gpus_per_trial: float) -> str:
    """Return the refusal for a cluster, node by node: a trial is on one node, so sums alone would not explain it."""
    held = [(node, _fitting(node, cpus_per_trial, gpus_per_trial)) for node in nodes]
    total = sum(count for _, count in held)
    share = f"{gpus_per_trial:g} GPU and {cpus_per_trial:g} CPU" if gpus_per_trial else f"{cpus_per_trial:g} CPU"
    by_node = ", ".join(f"{node.name} {count}" for node, count in held[:8]) + (", ..." if len(held) > 8 else "")
    lower = "--gpus-per-trial or --cpus-per-trial" if gpus_per_trial else "--cpus-per-trial"
    return (
        f"--concurrent {concurrent} does not fit: the cluster holds {total} trials of {share} each ({by_node}), "
        f"{concurrent - total} too few; lower it, or {lower}"
    )


def _check_gpu_share(share: float, gpus: int, where: str) -> None:
    if share == 0 and gpus == 0:
        return
    if not 0 < share <= 1 or not math.isclose(1 / share, round(1 / share), rel_tol=SHARE_TOLERANCE):
        below, above = _nearest_shares(share)
        raise InputError(
            f"--gpus-per-trial is 1 or 1/k (so that shares tile a GPU), got {share:g}; nearest: {below:g} and {above:g}"
        )
    if gpus == 0:
        raise InputError(f"--gpus-per-trial {share:g} needs a GPU, and {where} has none; leave it out to use CPUs")


def _nearest_shares(share: float) -> tuple[float, float]:
    if not 0 < share < 1:
        return 0.5, 1.0
    k = math.floor(1 / share)
    return 1 / (k + 1), 1 / k
