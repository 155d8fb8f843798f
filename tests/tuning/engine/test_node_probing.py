"""Which nodes of a cluster are measured on, and what follows from it; the measurements are the test's."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_search import tiny_plan

from tune_lnl.tuning.engine.node_probing import measure_on_nodes, representatives
from tune_lnl.tuning.resources.divide import Machine, Node
from tune_lnl.tuning.resources.measure import Question
from tune_lnl.tuning.resources.sharing import Reading, Sharing

HEAD = Node(4, 0, "head", "h")
LARGE, LARGER = Node(64, 8, "large", "l", "H100"), Node(128, 8, "larger", "L", "H100")
SMALL = Node(8, 2, "small", "s", "T4")


def sharing(trials: int, device: str, total: int = 80, on_gpu: bool = True) -> Sharing:
    return Sharing(trials, (Reading(1, 100.0, 4, 1),), device, total, total, on_gpu)


def test_each_model_is_measured_once_where_it_has_the_fewest_cores() -> None:
    assert representatives([HEAD, LARGER, SMALL, LARGE], on_gpus=True) == [SMALL, LARGE]
    assert representatives([Node(0, 0, "n"), LARGE, SMALL, HEAD], on_gpus=False) == [HEAD]


def test_the_share_is_one_that_every_model_bears(tmp_path: Path) -> None:
    asked: dict[str, Question] = {}
    said: list[str] = []

    def measure(node: Node, question: Question) -> Sharing:
        asked[node.name] = question
        return sharing(2, "T4", 16) if node is SMALL else sharing(8, "H100")

    question = Question((), None, 204, 18, wanted=36)
    chosen = measure_on_nodes(question, [HEAD, LARGE, LARGER, SMALL], said.append, measure)
    assert (chosen.trials, chosen.device) == (2, "T4")
    assert {name: (q.cpus, q.gpus, q.wanted) for name, q in asked.items()} == {"small": (4, 1, 2), "large": (8, 1, 2)}
    assert any("T4 2, H100 8; one share for all, so 2 on each" in line for line in said)


def test_without_gpus_the_smallest_node_decides(tmp_path: Path) -> None:
    asked: list[tuple[Node, int, int]] = []

    def measure(node: Node, question: Question) -> Sharing:
        asked.append((node, question.cpus, question.wanted))
        return sharing(2, "CPU", on_gpu=False)

    nodes = [HEAD, Node(16, 0, "b", "b")]
    assert measure_on_nodes(Question((), None, 20, 0, wanted=8), nodes, measure=measure).trials == 2
    assert asked == [(HEAD, 4, 4)]


@pytest.mark.parametrize(("on", "concurrent", "cpus"), [([SMALL, LARGE], 20, 2.0), ([HEAD, Node(16, 0, "b")], 10, 2.0)])
def test_the_plan_deals_it_out_on_every_node(tmp_path: Path, on: list[Node], concurrent: int, cpus: float) -> None:
    measured = sharing(2, "the smallest", on_gpu=on[0].gpus > 0)
    machine = Machine.of(on)
    plan = tiny_plan(tmp_path, machine=machine, measure=lambda question: measured, gpus_per_trial="auto")
    assert (plan.resources.concurrent, plan.resources.cpus_per_trial) == (concurrent, cpus)
