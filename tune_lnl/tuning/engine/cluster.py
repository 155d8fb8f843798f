"""A running Ray cluster that a search joins with ``--address``: its nodes, which of them run trials, and its end.

The cluster is somebody else's: nothing here starts, changes or stops any of it but the search's own tasks and actors.
"""

from __future__ import annotations

import inspect
import json
import logging
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from tune_lnl.datasets.paths import CACHE_VARIABLE, DATA_VARIABLE
from tune_lnl.errors import InputError
from tune_lnl.tuning.engine.node_check import (
    Answer,
    look_around,
    other_data,
    prepare_data,
    question,
    token_in,
    wrong_reply,
)
from tune_lnl.tuning.engine.token import read_token, token_place
from tune_lnl.tuning.monitor.console import Console
from tune_lnl.tuning.plan.plan import Plan
from tune_lnl.tuning.resources.divide import Machine, Node, Resources

logger = logging.getLogger(__name__)

DEFAULT_PORT = 6379
"""Ray's own."""
CONNECT_SECONDS = 4.0
ANSWER_SECONDS = 240.0
"""Within which a node must have started a process that says what it sees; importing torch alone can take a minute."""
LOOK_SECONDS = 2.0
"""Between looks at who has joined and left."""
LOST_AFTER = 20.0
"""Seconds without the cluster's head after which it counts as lost; one that restarts is back before."""
ADDRESS_VARIABLE = "RAY_ADDRESS"
AUTH_VARIABLE = "RAY_AUTH_MODE"
ANY_QUESTION = "/ray.rpc.NodeInfoGcsService/GetClusterId"
"""Harmless, and answered to whoever may ask."""
JOB_CONFIG_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"
TRAVELS = (DATA_VARIABLE, CACHE_VARIABLE)
"""What workers need of this process's environment. No more: a cluster shows it to all who can see its dashboard."""
ELSEWHERE = (
    "the search runs on a machine of the cluster; from any other, send it there with "
    "ray job submit --address URL -- python -m tune_lnl.search SPACE --address auto --results-dir DIR"
)


# ---- joining


@contextmanager
def joined(address: str, say: Console) -> Iterator[Cluster]:
    """Be part of a cluster while the context lasts.

    Args:
        address: ``host:port`` of its head, or ``auto``: that of ``RAY_ADDRESS``, or the one started on this machine.

    Raises:
        InputError: there is none, or it cannot be joined from here.
    """
    target = head_address(address, os.environ, _address_of_this_machine)
    check_reachable(target)
    import ray
    from ray.util import placement_group

    if "bundle_label_selector" not in inspect.signature(placement_group).parameters:
        raise InputError(f"--address needs a newer Ray, which can choose nodes; this is {ray.__version__}: update it")
    on_sigterm = signal.getsignal(signal.SIGTERM)
    loggers = [logging.getLogger(name) for name in ("ray", "ray.tune")]
    levels = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.ERROR)
    try:
        settle_token(target)
        _check_raylet_here()
        context = _init(target)
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)  # Ray has put its own in site
    try:
        with messages_to_log():
            yield Cluster(target, context.dashboard_url or "", say)
    finally:
        ray.shutdown()


@contextmanager
def messages_to_log() -> Iterator[None]:
    """Ray prints what a cluster says of itself, a node lost for instance, between the lines of the search, and has no
    switch for it."""
    from ray._private import worker

    own = getattr(worker, "print_to_stdstream", None)
    if own is None:
        yield
        return

    def log(data: Mapping[str, Any], ignore_prefix: bool = False) -> None:
        logger.warning("%s", "\n".join(data["lines"]))

    worker.print_to_stdstream = log
    try:
        yield
    finally:
        worker.print_to_stdstream = own


def _init(target: str) -> Any:
    import ray

    try:
        return ray.init(
            address=target,
            namespace=f"tune_lnl-{secrets.token_hex(4)}",
            runtime_env={"env_vars": travelling(os.environ)},
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except Exception as error:
        # Ray has no common type for what can go wrong here.
        raise InputError(why_not(target, error)) from error


def head_address(address: str, environment: Mapping[str, str], here: Callable[[], str | None]) -> str:
    """``host:port`` of a cluster's head.

    Args:
        address: what the user gave.
        environment: of this process.
        here: the address of the cluster that was started on this machine (``ray start``), if any.

    Raises:
        InputError: none is meant, or it is one for Ray's client.
    """
    given, source = address.strip(), "--address"
    if given == "auto":
        given, source = environment.get(ADDRESS_VARIABLE, ""), ADDRESS_VARIABLE
        if given in ("", "auto"):
            # Not Ray's own way of finding one: it would also find the Ray that another search has for itself.
            given, source = here() or "", "the cluster of this machine"
        if not given:
            raise InputError(
                "--address auto: no Ray cluster was started on this machine; give its address, host:port, or start "
                "one with ray start --head"
            )
    if "://" in given:
        raise InputError(f"{source} is host:port of a cluster's head, got {given!r}; {ELSEWHERE}")
    host, _, port = given.rpartition(":") if ":" in given else (given, "", str(DEFAULT_PORT))
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise InputError(f"{source} is auto, or host:port of a cluster's head, got {given!r}")
    return f"{host}:{port}"


def _address_of_this_machine() -> str | None:
    from ray._private.utils import read_ray_address

    found = read_ray_address()
    return str(found) if found else None


def check_reachable(target: str) -> None:
    """Raises InputError where nothing listens; Ray itself would try for minutes."""
    host, _, port = target.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise InputError(
            f"--address {target}: no Ray cluster answers there ({error.strerror or error}); "
            "check the address, and that the cluster is up (ray status)"
        ) from None


def _check_raylet_here() -> None:
    """Ray would look for one on this machine for a minute."""
    from ray._private import services

    find = getattr(services, "find_node_ids", None)
    if find is not None and not find():
        raise InputError(f"--address: no node of a Ray cluster runs on this machine; {ELSEWHERE}")


Wants = Literal["no token", "a token", "another token", "unknown"]


def settle_token(target: str, wants: Callable[[str, str | None], Wants] | None = None) -> None:
    """Ask for a token here exactly where the cluster does: one that has none cannot reach a process that wants one.

    Args:
        wants: what the cluster says to a token, or to none.

    Raises:
        InputError: there is none here, or another.
    """
    wants = wants or _wanted_by
    mode = os.environ.get(AUTH_VARIABLE, "").lower()
    answer = wants(target, None)
    if answer == "no token" and mode == "token":
        raise InputError(
            f"--address {target}: this cluster asks for no token, and cannot reach a process that asks for one: "
            f"start it with {AUTH_VARIABLE}=token, or unset {AUTH_VARIABLE} here"
        )
    if answer != "a token":
        return
    token = read_token()
    if token is None:
        raise InputError(
            f"--address {target}: the cluster asks for a token, and there is none here; put the cluster's into "
            f"{token_place()}"
        )
    if wants(target, token) == "another token":
        raise InputError(
            f"--address {target}: the cluster does not accept this machine's token; put the cluster's into "
            f"{token_place()}"
        )
    if mode != "token":
        _use_token()


def _wanted_by(target: str, token: str | None) -> Wants:
    """Asked without Ray, which would go on trying for a quarter of a minute, and tell."""
    import grpc

    headers = () if token is None else (("authorization", f"Bearer {token}"),)
    with grpc.insecure_channel(target) as channel:
        try:
            channel.unary_unary(ANY_QUESTION)(b"", timeout=CONNECT_SECONDS, metadata=headers)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.UNAUTHENTICATED:
                return "a token" if token is None else "another token"
            return "unknown"
    return "no token" if token is None else "a token"


def _use_token() -> None:
    """As Ray does for the cluster of this machine; for one given by its address it would not."""
    from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available

    os.environ.pop(AUTH_VARIABLE, None)
    maybe_enable_token_auth_if_token_available(warn_if_disabled=False)


def _said(error: BaseException) -> str:
    """An error's text, and those of what it came from."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    return "\n".join(str(each) for each in chain)


def travelling(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that go to the workers; what the job that this process runs in sends already is left to it."""
    job = json.loads(environment.get(JOB_CONFIG_VARIABLE) or "{}")
    sent = ((job.get("runtime_env") or {}).get("env_vars") or {}) if isinstance(job, dict) else {}
    return {name: environment[name] for name in TRAVELS if name in environment and name not in sent}


def why_not(target: str, error: Exception) -> str:
    """What to do about an error of ``ray.init``."""
    text = _said(error)
    low = text.lower()
    if "version mismatch" in low:
        found = " ".join(line.strip() for line in text.splitlines() if line.strip().startswith(("Ray:", "Python:")))
        return f"--address {target}: other versions there than here ({found}); install the same Ray and Python"
    if "no node info found" in low or "raylet" in low:
        return f"--address {target}: no node of that cluster runs on this machine; {ELSEWHERE}"
    first = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
    return f"--address {target}: it cannot be joined: {first}"


# ---- a joined cluster


def node_of(info: Mapping[str, Any]) -> Node:
    """One of ``ray.nodes()``."""
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
    """Those that are alive, by name."""
    import ray

    known = ray.nodes()  # type: ignore[no-untyped-call]
    return sorted((node_of(info) for info in known if info["Alive"]), key=lambda node: (node.name, node.ray_id))


Ask = Callable[[Callable[[str], str], Mapping[str, Mapping[str, Any]], float | None], dict[str, Answer]]
"""Runs a function on nodes, given by id with a question each, within so many seconds; their answers by id."""


def ask_nodes(
    function: Callable[[str], str],
    questions: Mapping[str, Mapping[str, Any]],
    seconds: float | None,
    leaving: threading.Event,
) -> dict[str, Answer]:
    """See :data:`Ask`. A node that is gone meanwhile gives no answer.

    Raises:
        RuntimeError: this process is leaving the cluster; whoever asks Ray after that ends the process.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(num_cpus=0, max_retries=0)(function)
    asked = {
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(json.dumps(what)): (
            node
        )
        for node, what in questions.items()
    }
    began = time.monotonic()
    ready: list[Any] = []
    late = list(asked)
    while late and (seconds is None or time.monotonic() - began < seconds):
        ready, late = ray.wait(list(asked), num_returns=len(asked), timeout=0.5)
        if leaving.is_set():
            raise RuntimeError("the search is over")
    answers: dict[str, Answer] = {asked[each]: {"reason": f"says nothing for {seconds:.0f} s"} for each in late}
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
        say: Console,
        nodes: Callable[[], list[Node]] = nodes_now,
        ask: Ask | None = None,
    ) -> None:
        self.address = address
        self.dashboard = dashboard
        self._say = say
        self._nodes = nodes
        self.leaving = threading.Event()
        self._ask = ask or (lambda function, questions, seconds: ask_nodes(function, questions, seconds, self.leaving))
        self._warned = False
        self.alive = Pulse([lambda: _listens(address), own_raylet_answers], LOST_AFTER)

    def nodes(self) -> list[Node]:
        return self._nodes()

    def machine(self) -> Machine:
        """What there is to share out."""
        return Machine.of(self.nodes())

    def admit(self, plan: Plan) -> Site:
        """Make sure that every node that has room for a trial can run one.

        Raises:
            InputError: some cannot; nothing is left written.
        """
        nodes = [node for node in plan.machine.nodes if plan.resources.fitting(node)]
        self._say.tell(f"  cluster {self.address}: checking {len(nodes)} node(s)")
        faults, fit = self.faults(plan, nodes)
        if faults:
            raise InputError(_refusal(faults, len(nodes)))
        if not fit:
            raise InputError(f"--address {self.address}: all nodes left while they were asked; look at the cluster")
        return Site(self, plan, Members(plan.resources, plan.options.concurrent, fit))

    def faults(self, plan: Plan, nodes: Sequence[Node]) -> tuple[dict[str, list[Node]], list[Node]]:
        """(what is wrong: the nodes where it is; the nodes where nothing is). A node that leaves is in neither."""
        by_id = {node.ray_id: node for node in nodes}
        with token_in(plan.files.root) as token:
            questions = {each: question(plan, token, each) for each in by_id}
            seen = self._ask(look_around, questions, ANSWER_SECONDS)
            reasons = {each: answer["reason"] for each, answer in seen.items()}
            if plan.files.url is None:
                reasons = {each: reason or wrong_reply(token, each) for each, reason in reasons.items()}
        self._warn_where_open(seen)
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

    def _warn_where_open(self, seen: Mapping[str, Answer]) -> None:
        if not self._warned and any(answer.get("open") for answer in seen.values()):
            self._warned = True
            self._say(
                "  warning: this cluster asks for no token: whoever reaches it over the network can run code on it; "
                "start it with RAY_AUTH_MODE=token"
            )


def _refusal(faults: Mapping[str, Sequence[Node]], asked: int) -> str:
    lines = []
    for reason, nodes in list(faults.items())[:3]:
        names = ", ".join(node.name for node in nodes[:8]) + (", ..." if len(nodes) > 8 else "")
        lines.append(f"{len(nodes)} of {asked} nodes ({names}): {reason}")
    return "--address: " + "\n".join(lines)


def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
    except OSError:
        return False
    return True


class Pulse:
    """Whether all probes answer; a silence counts only once it has lasted.

    Args:
        patience: seconds of it.
    """

    def __init__(
        self, probes: Sequence[Callable[[], bool]], patience: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._probes = probes
        self._patience = patience
        self._clock = clock
        self._silent_since: float | None = None

    def __call__(self) -> bool:
        if all(probe() for probe in self._probes):
            self._silent_since = None
            return True
        if self._silent_since is None:
            self._silent_since = self._clock()
        return self._clock() - self._silent_since < self._patience


# ---- who runs trials


@dataclass
class Members:
    """The nodes that trials of a run may be placed on. Any thread may ask."""

    resources: Resources
    at_most: int | None
    """Trials at once."""
    nodes: Sequence[Node] = ()

    def room(self) -> int:
        """Trials at once that there is room for now."""
        fitting = sum(self.resources.fitting(node) for node in self.nodes)
        return fitting if self.at_most is None else min(self.at_most, fitting)

    def ids(self) -> str:
        """As Ray's label selectors take them."""
        return ",".join(sorted(node.ray_id for node in self.nodes))

    def join(self, nodes: Sequence[Node]) -> None:
        self.nodes = (*self.nodes, *nodes)

    def leave(self, nodes: Sequence[Node]) -> None:
        gone = {node.ray_id for node in nodes}
        self.nodes = tuple(node for node in self.nodes if node.ray_id not in gone)


@dataclass
class Site:
    """Where a run's trials go: a cluster, and those of its nodes that are fit for them."""

    cluster: Cluster
    plan: Plan
    members: Members
    refused: set[str] = field(default_factory=set)

    def look(self, say: Callable[[str], None]) -> None:
        """Take note of who has left, and let those in who have joined, if they can run trials."""
        members, resources = self.members, self.plan.resources
        there = {node.ray_id: node for node in self.cluster.nodes()}
        gone = [node for node in members.nodes if node.ray_id not in there]
        if gone:
            members.leave(gone)
            names = ", ".join(node.name for node in gone)
            say(f"left the cluster: {names}; trials go on elsewhere, {members.room()} at once")
        known = self.refused | {node.ray_id for node in members.nodes}
        new = [node for each, node in there.items() if each not in known and resources.fitting(node)]
        if not new:
            return
        faults, fit = self.cluster.faults(self.plan, new)
        for reason, nodes in faults.items():
            self.refused |= {node.ray_id for node in nodes}
            say(f"warning: {', '.join(node.name for node in nodes)} joined and gets no trials: {reason}")
        if fit:
            members.join(fit)
            say(f"joined the cluster: {', '.join(node.name for node in fit)}; {members.room()} trials at once")


class Roll(threading.Thread):
    """Calls the roll of a cluster every few seconds, until it is told to rest."""

    def __init__(self, site: Site, say: Callable[[str], None]) -> None:
        super().__init__(name="roll", daemon=True)
        self._site = site
        self._say = say
        self._rest = threading.Event()

    def run(self) -> None:
        while not self._rest.wait(LOOK_SECONDS):
            try:
                self._site.look(self._say)
            except Exception as error:
                # The head may be away for a moment; whether it is lost is the watchman's to say.
                if not self._rest.is_set():
                    logger.warning("the cluster's nodes cannot be asked: %s", error)

    def rest(self) -> None:
        """Also in the middle of a question: Ray ends a process that asks it anything after it was left."""
        self._rest.set()
        self._site.cluster.leaving.set()
        self.join()
        self._site.cluster.leaving.clear()


def own_raylet_answers() -> bool:
    """Whether the node that this process is connected to listens on its socket; Ray has no public way to ask."""
    from ray._private import worker

    if worker._global_node is None:
        return True
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(worker._global_node.raylet_socket_name)
        except OSError:
            return False
    return True
