"""Ray clusters of several nodes on this machine, for tests.

:class:`RayCluster` is started in a process of its own and led by lines of JSON; run as a program this file is that
process. :class:`TwoNetworks` has its two nodes in network namespaces, and a path between them that can be cut.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

PATIENT = {
    # Each is a limit on how long a start may take, and a loaded machine takes longer.
    "RAY_raylet_start_wait_time_s": "120",
    "RAY_worker_register_timeout_seconds": "240",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
}


class RayCluster:
    """Nodes by the order in which they were added; the first is the head.

    Args:
        folder: for Ray's own files; a short one is made elsewhere, since sockets have paths of at most 107 signs.
        cpus: of each node.
        environment: of the cluster's processes, beside this process's own.
    """

    def __init__(self, *cpus: int, environment: dict[str, str] | None = None, gpus: dict[int, int] | None = None):
        self.folder = Path(f"/tmp/rc-{secrets.token_hex(3)}")
        self.folder.mkdir()
        environment = {**os.environ, **PATIENT, "RAY_AUTH_MODE": "disabled", **(environment or {})}
        environment.pop("RAY_ADDRESS", None)
        self._log = (self.folder / "leader.log").open("w")
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(self.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=environment,
        )
        self.nodes: list[dict[str, Any]] = []
        self._gpus = gpus or {}
        try:
            for count in cpus:
                self.add(count)
        except BaseException:
            self.close()
            raise

    @property
    def address(self) -> str:
        return str(self.nodes[0]["address"])

    def add(self, cpus: int, **more: Any) -> int:
        """Another node; its number."""
        gpus = self._gpus.get(len(self.nodes), 0)
        self.nodes.append(self._ask({"do": "add", "cpus": cpus, "gpus": gpus, **more}))
        return len(self.nodes) - 1

    def kill(self, number: int) -> None:
        """All of a node's processes at once, as when its machine goes down."""
        self._ask({"do": "kill", "number": number})

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the cluster failed: {(self.folder / 'leader.log').read_text()[-3000:]}")
        found: dict[str, Any] = json.loads(line)
        return found

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()
        shutil.rmtree(self.folder, ignore_errors=True)


class NoNetworksError(Exception):
    """This machine, or this user, can have no network namespaces."""


class TwoNetworks:
    """Two nodes of one CPU, each in a network namespace, joined by a veth pair; a token is asked for.

    The namespaces have one file system and one table of processes, as a cluster with a shared disk has the first.
    Whatever runs in them was started here, and ends with this.

    Raises:
        NoNetworksError: there are none to be had; says why.
    """

    ADDRESSES = ("10.199.0.1", "10.199.0.2")
    PORT = 6379
    """A network of its own has all its ports free."""
    NOTICE: ClassVar = {
        # The head asks a node once a second how it is; four silences of at most five seconds, and it is lost.
        "RAY_health_check_initial_delay_ms": "1000",
        "RAY_health_check_period_ms": "1000",
        "RAY_health_check_timeout_ms": "5000",
        "RAY_health_check_failure_threshold": "4",
        # The node that is cut off does not end itself while the test looks: it is the path that is gone.
        "RAY_gcs_rpc_server_reconnect_timeout_s": "3600",
    }

    def __init__(self) -> None:
        name = f"lnl{secrets.token_hex(3)}"
        self.spaces = [f"{name}-1", f"{name}-2"]
        self.links = [f"{name}v1", f"{name}v2"]
        self.token = secrets.token_hex(32)
        self.address = f"{self.ADDRESSES[0]}:{self.PORT}"
        self.folder = Path(f"/tmp/rn-{secrets.token_hex(3)}")  # not under pytest's: sockets have short paths
        self.output = self.folder / "output.txt"
        self.processes: list[subprocess.Popen[bytes]] = []
        if os.geteuid() != 0:
            raise NoNetworksError("only root can make network namespaces")
        if shutil.which("ip") is None:
            raise NoNetworksError("there is no ip (of iproute2) here to make network namespaces with")
        self.folder.mkdir()
        try:
            self._make()
        except BaseException as error:
            self.close()
            if isinstance(error, subprocess.CalledProcessError):
                raise NoNetworksError(f"{' '.join(error.cmd)}: {error.stderr.strip()}") from error
            raise

    def _make(self) -> None:
        for space in self.spaces:
            _ip("netns", "add", space)
        ends = [("name", link, "netns", space) for link, space in zip(self.links, self.spaces, strict=True)]
        _ip("link", "add", *ends[0], "type", "veth", "peer", *ends[1])
        for space, link, address in zip(self.spaces, self.links, self.ADDRESSES, strict=True):
            _ip("-n", space, "address", "add", f"{address}/24", "dev", link)
            for each in ("lo", link):
                _ip("-n", space, "link", "set", each, "up")

    def within(self, number: int) -> list[str]:
        """The beginning of a command that runs in a node's network."""
        return ["ip", "netns", "exec", self.spaces[number]]

    @property
    def credentials(self) -> dict[str, str]:
        """What the environment of a process needs, so that the cluster listens to it."""
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token}

    def within_second(self) -> list[str]:
        """As :meth:`within`, where the second node has its own table of processes."""
        starter = self.processes[1].pid
        first = Path(f"/proc/{starter}/task/{starter}/children").read_text().split()[0]
        return ["nsenter", f"--target={first}", "--pid", "--mount", "--net"]

    def start(self, environment: dict[str, str], own_table: bool = False) -> None:
        """Both nodes. Returns when each has begun; whoever joins the cluster waits for the rest.

        Args:
            own_table: the second node has a table of processes of its own. Ray looks there for the node of a program:
                without, one in the second network would take the first node for its own.
        """
        environment = {**environment, **PATIENT, **self.NOTICE, **self.credentials}
        environment.pop("RAY_ADDRESS", None)
        first = ("--head", f"--port={self.PORT}", "--include-dashboard=false")
        for number, words in enumerate([first, (f"--address={self.address}",)]):
            table = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"] if own_table and number else []
            start = [*self.within(number), *table, str(Path(sys.executable).with_name("ray")), "start", "--block"]
            place = [f"--node-ip-address={self.ADDRESSES[number]}", f"--temp-dir={self.folder / str(number)}"]
            with self.output.open("a") as output:
                self.processes.append(
                    subprocess.Popen(
                        [*start, *place, *words, "--num-cpus=1", "--num-gpus=0"],
                        env=environment,
                        stdout=output,
                        stderr=subprocess.STDOUT,
                    )
                )
            self._wait_for("Ray runtime started", number + 1)

    def _wait_for(self, words: str, times: int) -> None:
        until = time.monotonic() + 300.0
        while self.output.read_text(errors="replace").count(words) < times:
            assert all(process.poll() is None for process in self.processes), self.output.read_text(errors="replace")
            assert time.monotonic() < until, self.output.read_text(errors="replace")
            time.sleep(0.2)

    def cut(self) -> None:
        """The path between the two; every process goes on."""
        _ip("-n", self.spaces[1], "link", "set", self.links[1], "down")

    def pids(self, number: int) -> list[int]:
        """Of all processes in a node's network."""
        return [int(pid) for pid in _ip("netns", "pids", self.spaces[number]).split()]

    def close(self) -> None:
        made = [space for space in self.spaces if Path("/run/netns", space).exists()]
        for space in made:
            number = self.spaces.index(space)
            until = time.monotonic() + 60.0
            while (pids := self.pids(number)) and time.monotonic() < until:
                for pid in pids:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                time.sleep(0.1)
            _ip("netns", "delete", space)
        for process in self.processes:
            process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def _ip(*words: str) -> str:
    return subprocess.run(["ip", *words], capture_output=True, text=True, check=True).stdout


def lead(folder: Path, answers: Any) -> None:
    # Ray writes the newest address below this folder; the default, /tmp/ray, is shared and may be missing.
    os.environ["RAY_TMPDIR"] = str(folder)
    (folder / "ray").mkdir(exist_ok=True)
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    nodes: list[Any] = []

    def workers_of(node: Any) -> list[int]:
        raylets = {info.process.pid for info in node.all_processes.get("raylet", [])}
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                try:
                    text = (entry / "stat").read_text()
                except OSError:
                    continue
                if int(text[text.rindex(")") + 2 :].split()[1]) in raylets:
                    found.append(int(entry.name))
        return found

    for line in sys.stdin:
        asked = json.loads(line)
        if asked.pop("do") == "add":
            head = {} if nodes else {"include_dashboard": asked.pop("dashboard", False)}
            node = cluster.add_node(
                num_cpus=asked.pop("cpus"), num_gpus=asked.pop("gpus"), temp_dir=str(folder), **head, **asked
            )
            nodes.append(node)
            answer = {"address": cluster.address, "node_id": node.node_id, "ip": node.node_ip_address}
        else:
            node = nodes[asked["number"]]
            pids = workers_of(node)
            for infos in list(node.all_processes.values()):
                pids += [info.process.pid for info in infos]
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            answer = {"killed": len(pids)}
        print(json.dumps(answer), file=answers, flush=True)
    for node in reversed(nodes):
        node.kill_all_processes(check_alive=False, allow_graceful=False, wait=True)


if __name__ == "__main__":
    own = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    lead(Path(sys.argv[1]), own)
