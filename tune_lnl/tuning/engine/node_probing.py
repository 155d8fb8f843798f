"""Measuring a share on a cluster: once per GPU model, since one share is dealt out on all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from tune_lnl.errors import InputError
from tune_lnl.tuning.resources.divide import Node
from tune_lnl.tuning.resources.measure import Question, measure_sharing
from tune_lnl.tuning.resources.probe import ProbeError
from tune_lnl.tuning.resources.sharing import Sharing

WITHIN = 900.0
"""Seconds in which a node must have had the room for it, and have measured."""


def measure_on_nodes(
    question: Question,
    nodes: Sequence[Node],
    say: Callable[[str], None] = lambda line: None,
    measure: Callable[[Node, Question], Sharing] | None = None,
) -> Sharing:
    """How many trials share one device of a cluster: what the model that bears fewest bears, or its smallest node.

    Args:
        question: of the whole cluster.
        say: is told that it takes a minute, and what other models would bear.
        measure: takes the measurement on a node.

    Raises:
        InputError: one trial alone does not fit somewhere, or it cannot be measured.
    """
    kinds = representatives(nodes, on_gpus=question.gpus > 0)
    say(f"measuring how many trials share a device on {', '.join(node.name for node in kinds)}; this takes a minute")
    measure = measure or _on_node
    found = {node.name: (node, measure(node, _for_node(question, node, nodes))) for node in kinds}
    chosen = min((sharing for _, sharing in found.values()), key=lambda sharing: (sharing.trials, sharing.total))
    if len(found) > 1:
        borne = ", ".join(f"{sharing.device} {sharing.trials}" for _, sharing in found.values())
        say(f"trials that a device bears: {borne}; one share for all, so {chosen.trials} on each")
    return chosen


def representatives(nodes: Sequence[Node], on_gpus: bool) -> list[Node]:
    """The nodes to measure on: of each GPU model that with the fewest cores for a GPU; without GPUs the smallest."""
    if not on_gpus:
        return [min((node for node in nodes if node.cpus), key=lambda node: node.cpus)]
    kinds: dict[str | None, Node] = {}
    for node in sorted((n for n in nodes if n.gpus and n.cpus), key=lambda n: n.cpus / n.gpus):
        kinds.setdefault(node.gpu_model, node)
    return list(kinds.values())


def _for_node(question: Question, node: Node, nodes: Sequence[Node]) -> Question:
    """The part of the question that one device of that node answers."""
    if question.gpus:
        wanted = -(-question.wanted // max(1, sum(each.gpus for each in nodes)))
        return replace(question, cpus=max(1, node.cpus // node.gpus), gpus=1, wanted=wanted)
    return replace(question, cpus=node.cpus, wanted=-(-question.wanted // max(1, sum(n.cpus > 0 for n in nodes))))


def _on_node(node: Node, question: Question) -> Sharing:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

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
    """On the node: the measurement, or why there is none."""
    try:
        return measure_sharing(question)
    except InputError as error:
        return str(error)
