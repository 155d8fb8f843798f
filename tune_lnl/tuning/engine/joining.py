"""Joining a running Ray cluster with ``--address``."""

from __future__ import annotations

import inspect
import logging
import os
import secrets
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import psutil
import ray
from ray.util import placement_group

from tune_lnl.datasets.paths import CACHE_VARIABLE, DATA_VARIABLE
from tune_lnl.errors import InputError
from tune_lnl.tuning.engine.auth import read_token, token_place
from tune_lnl.tuning.engine.cluster import Cluster
from tune_lnl.tuning.engine.messages import Output
from tune_lnl.tuning.engine.ray_compat import (
    AUTH_VARIABLE,
    cluster_of_this_machine,
    is_refusal_of_token,
    job_environment,
    job_named,
    no_node_here,
    other_versions,
    use_token,
)
from tune_lnl.tuning.engine.runner import keeping_sigterm
from tune_lnl.tuning.engine.start import join_ray, limited_start

DEFAULT_PORT = 6379
"""Ray's own."""
CONNECT_SECONDS = 4.0
ADDRESS_VARIABLE = "RAY_ADDRESS"
TRAVELS = (DATA_VARIABLE, CACHE_VARIABLE)
"""The variables of this process that workers need. No more: a cluster shows them to all who can see its dashboard."""
ELSEWHERE = (
    "the search runs on a machine of the cluster; from any other, send it there with "
    "ray job submit --address URL -- python -m tune_lnl.search SPACE --address auto --results-dir DIR"
)


@contextmanager
def joined(address: str, run: str, output: Output, seconds: float | None = None) -> Iterator[Cluster]:
    """Be part of a cluster while the context lasts.

    The cluster belongs to somebody else: the search starts and stops nothing in it but its own tasks and actors.

    Args:
        address: ``host:port`` of its head, or ``auto``: that of ``RAY_ADDRESS``, or the cluster of this machine.
        run: name of the search in the cluster's dashboard.
        seconds: time budget of the search; joining is given up when it is used up.

    Raises:
        InputError: there is none, or it cannot be joined from here.
        RayStartError: joining took too long, or failed several times.
    """
    target = head_address(address, os.environ, cluster_of_this_machine)
    check_reachable(target)
    if "bundle_label_selector" not in inspect.signature(placement_group).parameters:
        raise InputError(f"--address needs a Ray that can choose nodes; this is {ray.__version__}: update it")
    if not any(process.name() == "raylet" for process in psutil.process_iter()):
        # Ray would look for one for a minute.
        raise InputError(f"--address {target}: no node of a Ray cluster runs on this machine; {ELSEWHERE}")
    if not os.environ.get(AUTH_VARIABLE) and read_token() is not None:
        use_token()  # Ray does the same by itself, but only for address="auto"

    def leave(code: int, message: str) -> None:
        output(message)
        os._exit(code)

    with keeping_sigterm(), limited_start(seconds, leave, f"the same command (--address {target})"):
        context = join_ray(
            _why_not,
            output.tell,
            address=target,
            job_config=job_named(run),
            namespace=f"tune_lnl-{secrets.token_hex(4)}",
            runtime_env={"env_vars": travelling(os.environ)},
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    try:
        yield Cluster(target, context.dashboard_url or "", output)
    finally:
        ray.shutdown()


def _why_not(error: Exception, printed: str) -> str | None:
    """Return the reason for an error of ``ray.init``, and the next step; ``None``: it may go away by itself.

    Args:
        printed: by Ray while it tried.
    """
    if isinstance(error, ray.exceptions.AuthenticationError) or is_refusal_of_token(printed):
        if read_token() is None:
            return f"the cluster asks for a token, and there is none here; put the cluster's into {token_place()}"
        mode = os.environ.get(AUTH_VARIABLE, "")
        if mode.lower() != "token":
            return f"the cluster asks for a token, and {AUTH_VARIABLE}={mode} turns it off here; unset {AUTH_VARIABLE}"
        return f"the cluster does not accept this machine's token; put the cluster's into {token_place()}"
    if no_node_here(error):
        return f"no node of that cluster runs on this machine; {ELSEWHERE}"
    return other_versions(error)


def head_address(address: str, environment: Mapping[str, str], here: Callable[[], str | None]) -> str:
    """Return ``host:port`` of a cluster's head.

    Args:
        address: as the user gave it.
        environment: of this process.
        here: gives the address of the cluster that was started on this machine (``ray start``), if any.

    Raises:
        InputError: there is none, or the address is one for Ray's client.
    """
    given, source = address.strip(), "--address"
    if given == "auto":
        given, source = environment.get(ADDRESS_VARIABLE, ""), ADDRESS_VARIABLE
        if given in ("", "auto"):
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


def check_reachable(target: str) -> None:
    """Check that something listens at ``host:port``; Ray itself would try for minutes.

    Raises:
        InputError: nothing does.
    """
    host, _, port = target.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise InputError(
            f"--address {target}: no Ray cluster answers there ({error.strerror or error}); "
            "check the address, and that the cluster is up (ray status)"
        ) from None


def travelling(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that go to the workers, but for those that the job of this process sends already."""
    sent = job_environment(environment)
    return {name: environment[name] for name in TRAVELS if name in environment and name not in sent}
