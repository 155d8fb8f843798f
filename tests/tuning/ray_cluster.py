"""A Ray cluster of several nodes on this machine, for tests: started in a process of its own and led by lines of JSON.

Run as a program it is that process; imported it gives :class:`RayCluster`, which starts and leads it.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

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

    def __enter__(self) -> RayCluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

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


def lead(folder: Path, answers: Any) -> None:
    import signal

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
