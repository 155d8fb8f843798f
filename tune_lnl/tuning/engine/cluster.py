"""A joined Ray cluster: its nodes, those of them that train jobs, and the changes of both while a search runs."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from tune_lnl.errors import InputError
from tune_lnl.tuning.engine.auth import ray_dashboard_line
from tune_lnl.tuning.engine.messages import Output
from tune_lnl.tuning.engine.node_check import (
    Answer,
    NodeQuestion,
    look_around,
    marker_in,
    other_data,
    prepare_data,
    question,
    wrong_reply,
)
from tune_lnl.tuning.engine.runner import Runner, logging_to_run
from tune_lnl.tuning.plan.plan import Plan
from tune_lnl.tuning.resources.divide import Machine, Node

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 4.0
ANSWER_SECONDS = 240.0
"""Seconds within which a node must have started a process and answered; importing torch alone can take a minute."""
LOOK_SECONDS = 2.0
"""Seconds between looks at the list of nodes."""
LOST_AFTER = 20.0
"""Seconds without the cluster's head after which it counts as lost; a head that restarts is back before."""


# ---- asking nodes


def node_of(info: Mapping[str, Any]) -> Node:
    """Read an entry of ``ray.nodes()``."""
    resources = info.get("Resources", {})
    prefix = "accelerator_type:"
    models = [name.removeprefix(prefix) for name in resources if name.startswith(prefix)]
    ray_id = str(info["NodeID"])
    return Node(
        int(resources.get("CPU", 0)),
        int(resources.get("GPU", 0)),
        f"{info.get('NodeManagerAddress', '?')} ({ray_id[:6]})",
        ray_id,
        models[0] if models else None,
    )


def nodes_now() -> list[Node]:
    """Return the nodes that are alive, by name."""
    known = ray.nodes()  # type: ignore[no-untyped-call]
    return sorted((node_of(info) for info in known if info["Alive"]), key=lambda node: (node.name, node.ray_id))


Ask = Callable[[Callable[[str], str], Mapping[str, NodeQuestion], float | None], dict[str, Answer]]
"""Runs a function on nodes and returns their answers by id. Arguments: the function, a question per node id, a limit in
seconds."""


def ask_nodes(
    function: Callable[[str], str],
    questions: Mapping[str, NodeQuestion],
    seconds: float | None,
    leaving: threading.Event,
) -> dict[str, Answer]:
    """See :data:`Ask`. A node that is gone meanwhile gives no answer.

    Raises:
        RuntimeError: this process is leaving the cluster; a question to Ray after that would end the process.
    """
    task = ray.remote(num_cpus=0, max_retries=0)(function)
    asked = {
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(
            json.dumps(asdict(asked_there))
        ): node
        for node, asked_there in questions.items()
    }
    began = time.monotonic()
    ready: list[Any] = []
    late = list(asked)
    while late and (seconds is None or time.monotonic() - began < seconds):
        ready, late = ray.wait(list(asked), num_returns=len(asked), timeout=0.5)
        if leaving.is_set():
            raise RuntimeError("the search is over")
    answers: dict[str, Answer] = {asked[each]: {"reason": f"gives no answer for {seconds:.0f} s"} for each in late}
    for reference in late:
        ray.cancel(reference, force=True)
    for reference in ready:
        try:
            answers[asked[reference]] = json.loads(ray.get(reference))
        except (ray.exceptions.NodeDiedError, ray.exceptions.TaskUnschedulableError):
            continue
        except ray.exceptions.RayError as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            answers[asked[reference]] = {"reason": f"cannot run tune_lnl: {lines[-1] if lines else error!r}"}
    return answers


class Cluster:
    """The cluster that this process is part of."""

    def __init__(
        self,
        address: str,
        dashboard: str,
        output: Output,
        nodes: Callable[[], list[Node]] = nodes_now,
        ask: Ask | None = None,
    ) -> None:
        self.address = address
        self.dashboard = dashboard
        self.nodes = nodes
        self._output = output
        self.leaving = threading.Event()
        self._ask = ask or (lambda function, questions, seconds: ask_nodes(function, questions, seconds, self.leaving))
        self._warned = False

    def machine(self) -> Machine:
        """Return the CPUs and GPUs of all nodes."""
        return Machine.of(self.nodes())

    def admit(self, plan: Plan) -> JoinedCluster:
        """Check that every node with room for a job can run one; return the runner for the plan.

        Raises:
            InputError: some cannot; nothing is left written.
        """
        nodes = [node for node in plan.machine.nodes if plan.resources.fitting(node)]
        self._output.tell(f"  cluster {self.address}: checking {len(nodes)} node(s)")
        faults, fit = self.faults(plan, nodes)
        if faults:
            lines = []
            for reason, those in list(faults.items())[:3]:
                names = ", ".join(node.name for node in those[:8]) + (", ..." if len(those) > 8 else "")
                lines.append(f"{len(those)} of {len(nodes)} nodes ({names}): {reason}")
            raise InputError("--address: " + "\n".join(lines))
        if not fit:
            raise InputError(f"--address {self.address}: all nodes left while they were asked; look at the cluster")
        return JoinedCluster(self, plan, fit)

    def faults(self, plan: Plan, nodes: Sequence[Node]) -> tuple[dict[str, list[Node]], list[Node]]:
        """Ask nodes whether they can run the jobs of a plan.

        Returns:
            (fault: the nodes that have it; the nodes without a fault). A node that leaves meanwhile is in neither.
        """
        by_id = {node.ray_id: node for node in nodes}
        with marker_in(plan.files.root) as marker:
            questions = {each: question(plan, marker, each) for each in by_id}
            seen = self._ask(look_around, questions, ANSWER_SECONDS)
            reasons = {each: answer["reason"] for each, answer in seen.items()}
            if plan.files.url is None:
                reasons = {each: reason or wrong_reply(marker, each) for each, reason in reasons.items()}
        if not self._warned and any(answer.get("open") for answer in seen.values()):
            self._warned = True
            self._output(
                "  warning: this cluster asks for no token: whoever reaches it over the network can run code on it; "
                "start it with RAY_AUTH_MODE=token"
            )
        sound = {each: questions[each] for each, reason in reasons.items() if reason is None}
        if len(sound) == len(reasons) and sound:
            prepared = self._ask(prepare_data, sound, None)
            reasons = {
                each: answer["reason"] or other_data(plan.fingerprints, answer["fingerprints"])
                for each, answer in prepared.items()
            }
        faults: dict[str, list[Node]] = {}
        for each, reason in reasons.items():
            if reason is not None:
                faults.setdefault(reason, []).append(by_id[each])
        return faults, [by_id[each] for each, reason in reasons.items() if reason is None]


# ---- training on it


class JoinedCluster(Runner):
    """A cluster, and those of its nodes that train the jobs of a plan.

    Args:
        fit: nodes that have been checked.
    """

    def __init__(self, cluster: Cluster, plan: Plan, fit: Sequence[Node]) -> None:
        self.working_folder = str(Path.cwd())
        self.lost = f"the cluster at {cluster.address} is gone, or cannot be reached any more"
        self._cluster = cluster
        self._plan = plan
        self._fit = tuple(fit)
        self._refused: set[str] = set()
        self._answered = time.monotonic()

    def room(self) -> int:
        fitting, most = sum(self._plan.resources.fitting(node) for node in self._fit), self._plan.options.concurrent
        return fitting if most is None else min(most, fitting)

    def nodes(self) -> str:
        return ",".join(sorted(node.ray_id for node in self._fit))

    def alive(self) -> bool:
        """Return whether the head listens and its node table still lists this machine's node as alive.

        A silence counts after :data:`LOST_AFTER` seconds: a head may restart.
        """
        if listens(self._cluster.address) and own_node_is_alive():
            self._answered = time.monotonic()
        return time.monotonic() - self._answered < LOST_AFTER

    @contextmanager
    def started(self, plan: Plan, folder: Path, output: Output) -> Iterator[None]:
        with logging_to_run(plan.files):
            if plan.options.dashboard and self._cluster.dashboard:
                job = ray.get_runtime_context().get_job_id()
                output.tell(ray_dashboard_line(self._cluster.dashboard, job=job))
            self._answered = time.monotonic()
            watch = NodeWatch(self, self._cluster.leaving, output)
            watch.start()
            try:
                yield
            finally:
                watch.stop()

    def look(self, output: Callable[[str], None]) -> None:
        """Remove nodes that have left, and admit those that have joined if they can run jobs."""
        there = {node.ray_id: node for node in self._cluster.nodes()}
        gone = [node for node in self._fit if node.ray_id not in there]
        if gone:
            self._fit = tuple(node for node in self._fit if node.ray_id in there)
            names = ", ".join(node.name for node in gone)
            output(f"left the cluster: {names}; trials go on elsewhere, {self.room()} at once")
        known = self._refused | {node.ray_id for node in self._fit}
        new = [node for each, node in there.items() if each not in known and self._plan.resources.fitting(node)]
        if not new:
            return
        faults, fit = self._cluster.faults(self._plan, new)
        for reason, nodes in faults.items():
            self._refused |= {node.ray_id for node in nodes}
            output(f"warning: {', '.join(node.name for node in nodes)} joined and gets no trials: {reason}")
        if fit:
            self._fit = (*self._fit, *fit)
            output(f"joined the cluster: {', '.join(node.name for node in fit)}; {self.room()} trials at once")


class NodeWatch(threading.Thread):
    """A thread that calls :meth:`JoinedCluster.look` every few seconds, until :meth:`stop`."""

    def __init__(self, runner: JoinedCluster, leaving: threading.Event, output: Callable[[str], None]) -> None:
        super().__init__(name="nodes", daemon=True)
        self._runner = runner
        self._leaving = leaving
        self._output = output
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            try:
                self._runner.look(self._output)
            except Exception as error:
                # The head may be away for a moment; the watchdog decides whether it is lost.
                if not self._over.is_set():
                    logger.warning("the cluster's nodes cannot be asked: %s", error)

    def stop(self) -> None:
        """Stop, even in the middle of a question: a question to Ray after leaving would end the process."""
        self._over.set()
        self._leaving.set()
        self.join()
        self._leaving.clear()


def listens(address: str) -> bool:
    """Return whether something accepts connections at ``host:port``."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
    except OSError:
        return False
    return True


def own_node_is_alive() -> bool:
    """Return whether the cluster answers within :data:`CONNECT_SECONDS` that the node of this process is alive.

    In a thread: a question to a cluster that is gone may never return.
    """
    answer: list[bool] = []

    def ask() -> None:
        # An error is no answer, too: the head is away, or this process is just leaving the cluster.
        with suppress(Exception):
            own = ray.get_runtime_context().get_node_id()
            known = ray.nodes()  # type: ignore[no-untyped-call]
            answer.append(any(info["NodeID"] == own and info["Alive"] for info in known))

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(timeout=CONNECT_SECONDS)
    return answer == [True]
