"""Measuring a share on a cluster: once per GPU model; the smallest result becomes the share on all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from tune_lnl.errors import InputError
from tune_lnl.tuning.resources.divide import Node
from tune_lnl.tuning.resources.measure import Question, measure_sharing
from tune_lnl.tuning.resources.probe import ProbeError
from tune_lnl.tuning.resources.sharing import Sharing

WITHIN = 900.0
"""Seconds within which a node must have found room for the measurement and finished it."""


def measure_on_nodes(
    question: Question,
    nodes: Sequence[Node],
    say: Callable[[str], None] = lambda line: None,
    measure: Callable[[Node, Question], Sharing] | None = None,
) -> Sharing:
    """Measure how many trials share one device of a cluster: the fewest over its GPU models, or over its nodes.

    Args:
        question: of the whole cluster.
        say: prints a line: that it takes a minute, and the results of all models.
        measure: takes the measurement on a node.

    Raises:
        InputError: one trial alone does not fit on some node, or a node cannot measure.
    """
    kinds = representatives(nodes, on_gpus=question.gpus > 0)
    say(f"measuring how many trials share a device on {', '.join(node.name for node in kinds)}; this takes a minute")
    measure = measure or _on_node
    found = {node.name: (node, measure(node, _for_node(question, node, nodes))) for node in kinds}
    chosen = min((sharing for _, sharing in found.values()), key=lambda sharing: (sharing.trials, sharing.total))
    if len(found) > 1:
        fitting = ", ".join(f"{sharing.device} {sharing.trials}" for _, sharing in found.values())
        say(f"trials that fit on a device: {fitting}; one share for all, so {chosen.trials} on each")
    return chosen


def representatives(nodes: Sequence[Node], on_gpus: bool) -> list[Node]:
    """Return the nodes to measure on: per GPU model that with the fewest cores per GPU; without GPUs the smallest."""
    if not on_gpus:
        return [min((node for node in nodes if node.cpus), key=lambda node: node.cpus)]
    kinds: dict[str | None, Node] = {}
    for node in sorted((n for n in nodes if n.gpus and n.cpus), key=lambda n: n.cpus / n.gpus):
        kinds.setdefault(node.gpu_model, node)
    return list(kinds.values())


def _for_node(question: Question, node: Node, nodes: Sequence[Node]) -> Question:
    """Return the part of the question that concerns one device of that node."""
    if question.gpus:
        wanted = -(-question.wanted // max(1, sum(each.gpus for each in nodes)))
        return replace(question, cpus=max(1, node.cpus // node.gpus), gpus=1, wanted=wanted)
    return replace(question, cpus=node.cpus, wanted=-(-question.wanted // max(1, sum(n.cpus > 0 for n in nodes))))


def _on_node(node: Node, question: Question) -> Sharing:
    task = ray.remote(num_cpus=question.cpus, num_gpus=question.gpus, max_retries=0)(_measured)
    reference = task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node.ray_id, soft=False)).remote(
        question
    )
    try:
        found = ray.get(reference, timeout=WITHIN)
    except ray.exceptions.GetTimeoutError:
        ray.cancel(reference, force=True)
        raise ProbeError(f"{node.name} had no room to measure within {WITHIN:.0f} s (is it used by others?)") from None
    except ray.exceptions.RayError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ProbeError(f"{node.name} cannot measure: {lines[-1] if lines else error!r}") from None
    if isinstance(found, str):
        raise InputError(f"{found} (on {node.name})")
    assert isinstance(found, Sharing)
    return found


def _measured(question: Question) -> Sharing | str:
    """Measure on the node; return the reason if that is impossible."""
    try:
        return measure_sharing(question)
    except InputError as error:
        return str(error)
