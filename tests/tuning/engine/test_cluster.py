"""Who is in a cluster: nodes and their answers are the test's, no Ray runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny_search import tiny_plan

from tune_lnl.errors import InputError
from tune_lnl.tuning.engine import cluster as cluster_module
from tune_lnl.tuning.engine.cluster import Cluster, node_of
from tune_lnl.tuning.engine.node_check import Answer, NodeQuestion, look_around
from tune_lnl.tuning.monitor.console import Console
from tune_lnl.tuning.plan.plan import Plan
from tune_lnl.tuning.resources.divide import Machine, Node

A, B, C = Node(2, 0, "a", "aa"), Node(4, 0, "b", "bb"), Node(1, 0, "c", "cc")


def test_a_node_as_ray_describes_it() -> None:
    resources = {"CPU": 16.0, "GPU": 2.0, "accelerator_type:H100": 1.0, "memory": 1e9}
    info = {"NodeID": "abcdef0123", "NodeManagerAddress": "10.0.0.2", "Alive": True, "Resources": resources}
    assert node_of(info) == Node(16, 2, "10.0.0.2 (abcdef)", "abcdef0123", "H100")
    assert node_of({"NodeID": "ab", "Resources": {}}) == Node(0, 0, "? (ab)", "ab", None)


# ---- whether its nodes can run trials


def cluster_plan(tmp_path: Path, nodes: list[Node], **options: Any) -> Plan:
    return tiny_plan(tmp_path, machine=Machine.of(nodes), **options)


def honest(function: Callable[[str], str], questions: Mapping[str, NodeQuestion], seconds: float | None) -> Any:
    """Nodes that see what this machine sees."""
    answers = {each: json.loads(function(json.dumps(asdict(what)))) for each, what in questions.items()}
    return {each: {**answer, "open": False} for each, answer in answers.items()}


class Nodes:
    """Nodes of which some have something against trials."""

    def __init__(self, there: list[Node], against: dict[str, str] | None = None, gone: tuple[str, ...] = ()) -> None:
        self.there = there
        self.against = against or {}
        self.gone = gone
        self.asked: list[str] = []

    def list(self) -> list[Node]:
        return self.there

    def ask(self, function: Callable[[str], str], questions: Mapping[str, NodeQuestion], seconds: Any) -> Any:
        self.asked += questions
        answers: dict[str, Answer] = honest(function, questions, seconds)
        return {
            each: {**answer, "reason": self.against.get(each, answer["reason"])}
            for each, answer in answers.items()
            if each not in self.gone
        }


def a_cluster(nodes: Nodes, said: list[str] | None = None) -> Cluster:
    return Cluster("10.0.0.1:6379", "", Console(write=(said if said is not None else []).append), nodes.list, nodes.ask)


def test_nodes_that_see_the_same_are_taken(tmp_path: Path) -> None:
    plan = cluster_plan(tmp_path, [A, B])
    runner = a_cluster(Nodes([A, B])).admit(plan)
    assert runner.room() == 6
    assert runner.nodes() == "aa,bb"
    assert not plan.files.root.exists()


def test_nodes_that_cannot_are_named_together(tmp_path: Path) -> None:
    plan = cluster_plan(tmp_path, [A, B, C])
    with pytest.raises(InputError, match=r"2 of 3 nodes \(b, c\): does not see /x") as refused:
        a_cluster(Nodes([A, B, C], {"bb": "does not see /x", "cc": "does not see /x"})).admit(plan)
    assert len(str(refused.value).splitlines()) == 1
    assert not plan.files.root.exists()


def test_a_node_without_room_for_a_trial_is_not_asked(tmp_path: Path) -> None:
    head = Node(0, 0, "head", "hh")
    nodes = Nodes([head, A])
    a_cluster(nodes).admit(cluster_plan(tmp_path, [head, A]))
    assert set(nodes.asked) == {"aa"}


def test_a_node_that_leaves_while_it_is_asked_is_no_fault(tmp_path: Path) -> None:
    runner = a_cluster(Nodes([A, B], gone=("bb",))).admit(cluster_plan(tmp_path, [A, B]))
    assert runner.nodes() == "aa"
    with pytest.raises(InputError, match="all nodes left"):
        a_cluster(Nodes([A], gone=("aa",))).admit(cluster_plan(tmp_path, [A]))


def test_other_data_on_a_node(tmp_path: Path) -> None:
    plan = cluster_plan(tmp_path, [A])

    def ask(function: Callable[[str], str], questions: Mapping[str, NodeQuestion], seconds: Any) -> Any:
        found = honest(function, questions, seconds)
        if function is not look_around:
            found["aa"]["fingerprints"]["source"] = "another"
        return found

    cluster = Cluster("10.0.0.1:6379", "", Console("quiet"), lambda: [A], ask)
    with pytest.raises(InputError, match=r"has other data \(source differ\)"):
        cluster.admit(plan)


def test_an_open_cluster_is_warned_of_once(tmp_path: Path) -> None:
    said: list[str] = []

    def ask(function: Callable[[str], str], questions: Mapping[str, NodeQuestion], seconds: Any) -> Any:
        return {each: {**answer, "open": True} for each, answer in honest(function, questions, seconds).items()}

    cluster = Cluster("10.0.0.1:6379", "", Console(write=said.append), lambda: [A, B], ask)
    plan = cluster_plan(tmp_path, [A, B])
    cluster.admit(plan)
    cluster.admit(plan)
    assert sum("asks for no token" in line for line in said) == 1


# ---- who comes and goes


def test_room_is_what_fits_now(tmp_path: Path) -> None:
    nodes = Nodes([A, B])
    runner = a_cluster(nodes).admit(cluster_plan(tmp_path, [A, B], concurrent=5))
    assert runner.room() == 5, "no more than asked for"
    nodes.there = [A, C]
    runner.look(lambda line: None)
    assert (runner.room(), runner.nodes()) == (3, "aa,cc")


def test_no_trial_has_parts_of_two_nodes(tmp_path: Path) -> None:
    assert a_cluster(Nodes([A, B])).admit(cluster_plan(tmp_path, [A, B], cpus_per_trial=3.0)).room() == 1


def test_a_node_that_joins_is_asked_first(tmp_path: Path) -> None:
    said: list[str] = []
    nodes = Nodes([A], {"cc": "does not see /x"})
    plan = cluster_plan(tmp_path, [A])
    runner = a_cluster(nodes).admit(plan)
    nodes.there = [A, B, C]
    runner.look(said.append)
    assert runner.nodes() == "aa,bb"
    assert any(line.startswith("warning: c joined and gets no trials: does not see /x") for line in said)
    assert any("joined the cluster: b; 6 trials at once" in line for line in said)
    nodes.asked.clear()
    runner.look(said.append)
    assert nodes.asked == [], "who was refused is not asked again"


def test_a_node_that_leaves(tmp_path: Path) -> None:
    said: list[str] = []
    nodes = Nodes([A, B])
    runner = a_cluster(nodes).admit(cluster_plan(tmp_path, [A, B]))
    nodes.there = [A]
    runner.look(said.append)
    assert runner.nodes() == "aa"
    assert said == ["left the cluster: b; trials go on elsewhere, 2 at once"]
    nodes.there = [A, Node(4, 0, "b", "b2")]
    runner.look(said.append)
    assert runner.nodes() == "aa,b2"


@pytest.mark.parametrize("silent", ["listens", "own_node_is_alive"])
def test_a_silence_counts_once_it_has_lasted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, silent: str) -> None:
    now, answers = [1000.0], {"listens": True, "own_node_is_alive": True}
    monkeypatch.setattr(cluster_module, "listens", lambda address: answers["listens"])
    monkeypatch.setattr(cluster_module, "own_node_is_alive", lambda: answers["own_node_is_alive"])
    monkeypatch.setattr(cluster_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    runner = a_cluster(Nodes([A])).admit(cluster_plan(tmp_path, [A]))

    def alive_after(seconds: float, answer: bool) -> bool:
        now[0] += seconds
        answers[silent] = answer
        return runner.alive()

    assert alive_after(100.0, True)
    assert alive_after(19.0, False)
    assert alive_after(0.5, True)
    assert alive_after(19.0, False)
    assert not alive_after(1.5, False)
