"""Joining a cluster, and who is in it: nodes and their answers are the test's, no Ray runs."""

from __future__ import annotations

import json
import logging
import socket
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny_search import tiny_plan

from tune_lnl.errors import InputError
from tune_lnl.tuning.engine import cluster as cluster_module
from tune_lnl.tuning.engine.cluster import (
    Cluster,
    Members,
    Pulse,
    Site,
    Wants,
    check_reachable,
    head_address,
    messages_to_log,
    node_of,
    settle_token,
    travelling,
    why_not,
)
from tune_lnl.tuning.engine.node_check import Answer, look_around
from tune_lnl.tuning.monitor.console import Console
from tune_lnl.tuning.plan.plan import Plan
from tune_lnl.tuning.resources.divide import Machine, Node, Resources

A, B, C = Node(2, 0, "a", "aa"), Node(4, 0, "b", "bb"), Node(1, 0, "c", "cc")
SHARE = Resources(1.0, 0.0, 6, 1)


# ---- where it is


@pytest.mark.parametrize(
    ("given", "environment", "here", "expected"),
    [
        ("10.0.0.1:6380", {}, None, "10.0.0.1:6380"),
        ("head", {}, None, "head:6379"),
        ("10.0.0.1:6380", {"RAY_ADDRESS": "10.0.0.9:1"}, "10.0.0.8:1", "10.0.0.1:6380"),
        ("auto", {"RAY_ADDRESS": "10.0.0.9:6379"}, "10.0.0.8:1", "10.0.0.9:6379"),
        ("auto", {"RAY_ADDRESS": "auto"}, "10.0.0.8:1", "10.0.0.8:1"),
        ("auto", {}, "10.0.0.8:6379", "10.0.0.8:6379"),
    ],
)
def test_which_cluster_is_meant(given: str, environment: dict[str, str], here: str | None, expected: str) -> None:
    assert head_address(given, environment, lambda: here) == expected


@pytest.mark.parametrize(
    ("given", "environment", "told"),
    [
        ("auto", {}, "no Ray cluster was started on this machine; give its address"),
        (
            "ray://head:10001",
            {},
            "got 'ray://head:10001'; the search runs on .* ray job submit",
        ),
        ("auto", {"RAY_ADDRESS": "http://head:8265"}, "RAY_ADDRESS is host:port .* ray job submit"),
        ("head:port", {}, "--address is auto, or host:port"),
        ("head:0", {}, "--address is auto, or host:port"),
        (":6379", {}, "--address is auto, or host:port"),
    ],
)
def test_an_address_that_is_none(given: str, environment: dict[str, str], told: str) -> None:
    with pytest.raises(InputError, match=told):
        head_address(given, environment, lambda: None)


def test_nobody_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        with pytest.raises(InputError, match=r"no Ray cluster answers there .*; check the address"):
            check_reachable(f"127.0.0.1:{taken.getsockname()[1]}")


def test_somebody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        check_reachable(f"127.0.0.1:{server.getsockname()[1]}")


MISMATCH = """Version mismatch: The cluster was started with:
    Ray: 2.49.0
    Python: 3.12.1
This process on node 10.0.0.1 was started with:
    Ray: 2.60.0
    Python: 3.11.7
"""


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RuntimeError(MISMATCH), r"other versions there than here \(Ray: 2.49.0 Python: 3.12.1 Ray: 2.60.0"),
        (RuntimeError("No node info found matching attributes: ''"), "no node of that cluster runs on this machine"),
        (OSError("something new\nat length"), "it cannot be joined: something new$"),
    ],
)
def test_why_it_cannot_be_joined(error: Exception, told: str) -> None:
    with pytest.raises(InputError, match=told):
        raise InputError(why_not("10.0.0.1:6379", error))


@pytest.mark.parametrize(
    ("cluster_has", "here", "mode", "told"),
    [
        ("right", None, None, "asks for a token, and there is none here; put the cluster's into ~/.ray/auth_token"),
        ("right", "wrong", None, "does not accept this machine's token"),
        ("right", "wrong", "token", "does not accept this machine's token"),
        (None, "right", "token", "asks for no token, and cannot reach .* unset RAY_AUTH_MODE here"),
    ],
)
def test_tokens_that_do_not_go_together(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    cluster_has: str | None,
    here: str | None,
    mode: str | None,
    told: str,
) -> None:
    settle(monkeypatch, tmp_path, here, mode)
    with pytest.raises(InputError, match=told) as refused:
        settle_token("10.0.0.1:6379", lambda target, token: wanted(cluster_has, token))
    assert "wrong" not in str(refused.value), "no token is ever shown"


@pytest.mark.parametrize(
    ("cluster_has", "here", "mode", "used"),
    [
        (None, None, None, False),
        (None, "right", None, False),
        ("right", "right", "token", False),
        ("right", "right", None, True),
        ("right", "right", "disabled", True),
    ],
)
def test_a_token_is_used_where_the_cluster_asks_for_it(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    cluster_has: str | None,
    here: str | None,
    mode: str | None,
    used: bool,
) -> None:
    settle(monkeypatch, tmp_path, here, mode)
    switched: list[bool] = []
    monkeypatch.setattr(cluster_module, "_use_token", lambda: switched.append(True))
    settle_token("10.0.0.1:6379", lambda target, token: wanted(cluster_has, token))
    assert switched == [True] * used


def settle(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, token: str | None, mode: str | None) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, value in (("RAY_AUTH_TOKEN", token), ("RAY_AUTH_TOKEN_PATH", None), ("RAY_AUTH_MODE", mode)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)


def wanted(cluster_has: str | None, token: str | None) -> Wants:
    if cluster_has is None:
        return "no token"
    return "another token" if token not in (None, cluster_has) else "a token"


def test_only_what_workers_need_travels() -> None:
    environment = {"TUNE_LNL_DATA": "/data", "TUNE_LNL_CACHE": "/cache", "PASSWORD": "secret", "RAY_ADDRESS": "x:1"}
    assert travelling(environment) == {"TUNE_LNL_DATA": "/data", "TUNE_LNL_CACHE": "/cache"}
    # Ray refuses to be told twice: what the job sends stays the job's.
    job = {"runtime_env": {"env_vars": {"TUNE_LNL_DATA": "/other"}}}
    assert travelling({**environment, "RAY_JOB_CONFIG_JSON_ENV_VAR": json.dumps(job)}) == {"TUNE_LNL_CACHE": "/cache"}


def test_a_node_as_ray_describes_it() -> None:
    resources = {"CPU": 16.0, "GPU": 2.0, "accelerator_type:H100": 1.0, "memory": 1e9}
    info = {"NodeID": "abcdef0123", "NodeManagerAddress": "10.0.0.2", "Alive": True, "Resources": resources}
    assert node_of(info) == Node(16, 2, "10.0.0.2 (abcdef)", "abcdef0123", "H100")
    assert node_of({"NodeID": "ab", "Resources": {}}) == Node(0, 0, "? (ab)", "ab", None)


# ---- whether its nodes can run trials


def cluster_plan(tmp_path: Path, nodes: list[Node], **options: Any) -> Plan:
    return tiny_plan(tmp_path, machine=Machine.of(nodes), **options)


def honest(function: Callable[[str], str], questions: Mapping[str, Mapping[str, Any]], seconds: float | None) -> Any:
    """Nodes that see what this machine sees."""
    answers = {each: json.loads(function(json.dumps(what))) for each, what in questions.items()}
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

    def ask(self, function: Callable[[str], str], questions: Mapping[str, Mapping[str, Any]], seconds: Any) -> Any:
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
    site = a_cluster(Nodes([A, B])).admit(plan)
    assert site.members.room() == 6
    assert site.members.ids() == "aa,bb"
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
    site = a_cluster(Nodes([A, B], gone=("bb",))).admit(cluster_plan(tmp_path, [A, B]))
    assert site.members.ids() == "aa"
    with pytest.raises(InputError, match="all nodes left"):
        a_cluster(Nodes([A], gone=("aa",))).admit(cluster_plan(tmp_path, [A]))


def test_other_data_on_a_node(tmp_path: Path) -> None:
    plan = cluster_plan(tmp_path, [A])

    def ask(function: Callable[[str], str], questions: Mapping[str, Mapping[str, Any]], seconds: Any) -> Any:
        found = honest(function, questions, seconds)
        if function is not look_around:
            found["aa"]["fingerprints"]["source"] = "another"
        return found

    cluster = Cluster("10.0.0.1:6379", "", Console("quiet"), lambda: [A], ask)
    with pytest.raises(InputError, match=r"has other data \(source differ\)"):
        cluster.admit(plan)


def test_an_open_cluster_is_warned_of_once(tmp_path: Path) -> None:
    said: list[str] = []

    def ask(function: Callable[[str], str], questions: Mapping[str, Mapping[str, Any]], seconds: Any) -> Any:
        return {each: {**answer, "open": True} for each, answer in honest(function, questions, seconds).items()}

    cluster = Cluster("10.0.0.1:6379", "", Console(write=said.append), lambda: [A, B], ask)
    plan = cluster_plan(tmp_path, [A, B])
    cluster.admit(plan)
    cluster.admit(plan)
    assert sum("asks for no token" in line for line in said) == 1


# ---- who comes and goes


def test_room_is_what_fits_now() -> None:
    members = Members(SHARE, None, (A, B))
    assert members.room() == 6
    members.leave([B])
    assert members.room() == 2
    members.join([C])
    assert (members.room(), members.ids()) == (3, "aa,cc")
    assert Members(SHARE, 4, (A, B)).room() == 4
    assert Members(Resources(3.0, 0.0, 1, 3), None, (A, B)).room() == 1, "no trial has parts of two nodes"


def test_a_node_that_joins_is_asked_first(tmp_path: Path) -> None:
    said: list[str] = []
    nodes = Nodes([A], {"cc": "does not see /x"})
    plan = cluster_plan(tmp_path, [A])
    site = a_cluster(nodes).admit(plan)
    nodes.there = [A, B, C]
    site.look(said.append)
    assert site.members.ids() == "aa,bb"
    assert any(line.startswith("warning: c joined and gets no trials: does not see /x") for line in said)
    assert any("joined the cluster: b; 6 trials at once" in line for line in said)
    nodes.asked.clear()
    site.look(said.append)
    assert nodes.asked == [], "who was refused is not asked again"


def test_a_node_that_leaves(tmp_path: Path) -> None:
    said: list[str] = []
    nodes = Nodes([A, B])
    site: Site = a_cluster(nodes).admit(cluster_plan(tmp_path, [A, B]))
    nodes.there = [A]
    site.look(said.append)
    assert site.members.ids() == "aa"
    assert said == ["left the cluster: b; trials go on elsewhere, 2 at once"]
    nodes.there = [A, Node(4, 0, "b", "b2")]
    site.look(said.append)
    assert site.members.ids() == "aa,b2"


def test_a_silence_counts_once_it_has_lasted() -> None:
    now, answers = [0.0], [True]
    alive = Pulse([lambda: answers[0]], 20.0, lambda: now[0])
    assert alive()
    answers[0] = False
    assert alive()
    now[0] = 19.0
    assert alive()
    answers[0] = True
    assert alive()
    answers[0] = False
    assert alive()
    now[0] = 39.5
    assert not alive()


def test_no_name_of_ray_is_looked_for_before_the_address_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's own attempt takes a minute; the refusal takes none."""
    monkeypatch.setattr(cluster_module, "_init", lambda target: pytest.fail("Ray was asked"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with (
            pytest.raises(InputError, match="no Ray cluster answers"),
            cluster_module.joined(f"127.0.0.1:{taken.getsockname()[1]}", Console("quiet")),
        ):
            pass


def test_what_ray_would_print_goes_to_the_log(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    import ray
    from ray._private.worker import listen_error_messages

    over = threading.Event()

    def poll() -> tuple[None, dict[str, Any]]:
        over.set()
        return None, {"job_id": None, "error_message": "a node has been marked dead"}

    driver: Any = SimpleNamespace(
        gcs_error_subscriber=SimpleNamespace(subscribe=lambda: None, poll=poll), current_job_id=ray.JobID.nil()
    )
    with caplog.at_level(logging.WARNING), messages_to_log():
        listen_error_messages(driver, over)
    assert capsys.readouterr() == ("", "")
    assert "a node has been marked dead" in caplog.text
    over.clear()
    listen_error_messages(driver, over)
    assert "a node has been marked dead" in capsys.readouterr().out
