"""Joining a cluster without one: where it is, and why it cannot be joined."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from ray.exceptions import AuthenticationError

from tune_lnl.errors import InputError
from tune_lnl.tuning.engine import joining, start
from tune_lnl.tuning.engine.joining import check_reachable, head_address, joined, travelling
from tune_lnl.tuning.engine.start import RayStartError, join_ray
from tune_lnl.tuning.monitor.console import Console


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


def test_only_what_workers_need_travels() -> None:
    environment = {"TUNE_LNL_DATA": "/data", "TUNE_LNL_CACHE": "/cache", "PASSWORD": "secret", "RAY_ADDRESS": "x:1"}
    assert travelling(environment) == {"TUNE_LNL_DATA": "/data", "TUNE_LNL_CACHE": "/cache"}
    # Ray refuses to be told twice: what the job sends stays the job's.
    job = {"runtime_env": {"env_vars": {"TUNE_LNL_DATA": "/other"}}}
    assert travelling({**environment, "RAY_JOB_CONFIG_JSON_ENV_VAR": json.dumps(job)}) == {"TUNE_LNL_CACHE": "/cache"}


def test_ray_is_not_asked_before_the_address_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's own attempt takes a minute; the refusal takes none."""
    monkeypatch.setattr(joining, "join_ray", lambda *arguments, **options: pytest.fail("Ray was asked"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(InputError, match="no Ray cluster answers"), joined(address, "mine", Console("quiet")):
            pass


def test_ray_is_not_asked_on_a_machine_without_a_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "join_ray", lambda *arguments, **options: pytest.fail("Ray was asked"))
    monkeypatch.setattr(psutil, "process_iter", lambda: iter([psutil.Process()]))
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with (
            pytest.raises(InputError, match=r"no node of a Ray cluster .* ray job submit"),
            joined(address, "mine", Console("quiet")),
        ):
            pass


@pytest.mark.parametrize(
    ("token", "mode", "error", "printed", "told"),
    [
        (
            None,
            None,
            ConnectionError("x"),
            "Unauthenticated: x",
            "asks for a token, and there is none here; put .* into",
        ),
        (
            "right",
            "disabled",
            ConnectionError("x"),
            "Unauthenticated: x",
            "RAY_AUTH_MODE=disabled turns it off here",
        ),
        ("wrong", "token", ConnectionError("x"), "Unauthenticated: x", "does not accept this machine's token"),
        (None, "token", AuthenticationError("x"), "", "asks for a token, and there is none here"),
        (None, None, RuntimeError("No node info found matching attributes"), "", "no node of that .* ray job submit"),
    ],
)
def test_the_reason_of_a_failure(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    token: str | None,
    mode: str | None,
    error: Exception,
    printed: str,
    told: str,
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, value in (("RAY_AUTH_TOKEN", token), ("RAY_AUTH_TOKEN_PATH", None), ("RAY_AUTH_MODE", mode)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)

    def init(**options: Any) -> None:
        os.write(2, printed.encode())
        raise error

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(InputError, match=told) as refused:
        join_ray(joining._why_not, pytest.fail, address="10.0.0.1:6379")
    assert "wrong" not in str(refused.value), "no token is ever shown"


def test_joining_is_tried_again_unless_the_error_will_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    told: list[str] = []

    def init(**options: Any) -> str:
        asked.append(options["address"])
        if len(asked) % 4:
            raise OSError("something new\nat length")
        return "joined"

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(start, "PAUSE_SECONDS", 0.0)
    with pytest.raises(RayStartError, match=r"the cluster at a:1 cannot be joined: something new \(load "):
        join_ray(joining._why_not, told.append, address="a:1")
    assert len(asked) == 3
    assert len(told) == 2
    assert told[0].endswith("; trying again")
    assert join_ray(joining._why_not, told.append, address="a:1") == "joined"
