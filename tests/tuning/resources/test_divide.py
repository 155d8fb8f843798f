from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tune_lnl.errors import InputError
from tune_lnl.tuning.resources.divide import Node, Resources, plan_resources


@pytest.mark.parametrize(
    ("cpus", "gpus", "asked", "expected"),
    [
        (2, 0, {}, Resources(1.0, 0.0, 2, 1)),
        (1, 0, {}, Resources(1.0, 0.0, 1, 1)),
        (16, 0, {}, Resources(1.0, 0.0, 16, 1)),
        (16, 0, {"cpus_per_trial": 3.0}, Resources(3.0, 0.0, 5, 3)),
        (2, 0, {"cpus_per_trial": 0.5}, Resources(0.5, 0.0, 4, 1)),
        (16, 0, {"concurrent": 3}, Resources(1.0, 0.0, 3, 1)),
        (16, 0, {"gpus_per_trial": 0.0}, Resources(1.0, 0.0, 16, 1)),
        (16, 1, {}, Resources(16.0, 1.0, 1, 16)),
        (16, 2, {}, Resources(8.0, 1.0, 2, 8)),
        (16, 8, {}, Resources(2.0, 1.0, 8, 2)),
        (4, 8, {}, Resources(0.5, 1.0, 8, 1)),
        (16, 1, {"gpus_per_trial": 0.5}, Resources(8.0, 0.5, 2, 8)),
        (16, 2, {"gpus_per_trial": 0.25}, Resources(2.0, 0.25, 8, 2)),
        (16, 8, {"gpus_per_trial": 1 / 3}, Resources(0.6666, 1 / 3, 24, 1)),
        (16, 1, {"gpus_per_trial": 0.25, "cpus_per_trial": 1.0}, Resources(1.0, 0.25, 4, 1)),
        (16, 1, {"gpus_per_trial": 0.25, "concurrent": 2}, Resources(4.0, 0.25, 2, 4)),
    ],
)
def test_shares(cpus: int, gpus: int, asked: dict[str, Any], expected: Resources) -> None:
    assert plan_resources(cpus, gpus, **asked) == expected


def test_the_device_follows_the_share() -> None:
    assert plan_resources(2, 0).device == "cpu"
    assert plan_resources(2, 1).device == "cuda"
    assert "2 at once, each 8 CPU, 0.5 GPU, 8 threads" in str(plan_resources(16, 1, gpus_per_trial=0.5))


@pytest.mark.parametrize(
    ("cpus", "gpus", "asked", "told"),
    [
        (2, 0, {"gpus_per_trial": 0.3}, r"is 1 or 1/k .*got 0\.3; nearest: 0\.25 and 0\.333333"),
        (2, 1, {"gpus_per_trial": 0.7}, r"got 0\.7; nearest: 0\.5 and 1"),
        (2, 1, {"gpus_per_trial": 2.0}, r"got 2; nearest: 0\.5 and 1"),
        (2, 1, {"gpus_per_trial": -1.0}, r"got -1; nearest: 0\.5 and 1"),
        (2, 1, {"gpus_per_trial": 0.0}, r"got 0; nearest"),
        (2, 1, {"gpus_per_trial": math.nan}, r"got nan; nearest"),
        (2, 0, {"gpus_per_trial": 0.5}, r"needs a GPU, and this machine has none; leave it out"),
        (2, 0, {"cpus_per_trial": 0.0}, r"--cpus-per-trial is above 0, got 0"),
        (2, 0, {"cpus_per_trial": math.nan}, r"--cpus-per-trial is above 0, got nan"),
        (2, 0, {"gpus_per_trial": 0.15}, r"is 1 or 1/k .*got 0\.15; nearest: 0\.142857 and 0\.166667"),
        (2, 1, {"gpus_per_trial": 1.5}, r"got 1\.5; nearest: 0\.5 and 1"),
        (2, 0, {"cpus_per_trial": 3.0}, r"asks for more than the 2 CPUs here, 1 too many; lower it"),
        (2, 0, {"concurrent": 0}, r"--concurrent is at least 1, got 0"),
        (
            2,
            0,
            {"concurrent": 3},
            r"--concurrent 3 does not fit: it needs 3 CPUs \(3 x 1\), 1 more than the 2 here; low",
        ),
        (
            16,
            2,
            {"gpus_per_trial": 0.25, "concurrent": 9, "cpus_per_trial": 1.0},
            r"2\.25 GPUs \(9 x 0\.25\), 0\.25 more",
        ),
        (16, 1, {"concurrent": 2}, r"needs 2 GPUs \(2 x 1\), 1 more than the 1 here and 32 CPUs \(2 x 16\), 16 more"),
    ],
)
def test_refused(cpus: int, gpus: int, asked: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        plan_resources(cpus, gpus, **asked)


@pytest.mark.parametrize("k", range(1, 33))
def test_a_share_typed_with_six_digits_tiles_a_gpu(k: int) -> None:
    resources = plan_resources(64, 2, gpus_per_trial=float(f"{1 / k:g}"))
    assert resources.gpus_per_trial == 1 / k
    assert resources.concurrent == 2 * k


@given(share=st.floats(0.03, 1.0))
def test_the_shares_that_a_refusal_names_are_accepted(share: float) -> None:
    try:
        plan_resources(64, 1, gpus_per_trial=share)
    except InputError as error:
        below, above = (float(word) for word in str(error).partition("nearest: ")[2].split(" and "))
        assert below < share < above
        for named in (below, above):
            assert plan_resources(64, 1, gpus_per_trial=named).gpus_per_trial == pytest.approx(named, rel=1e-4)


@given(cpus=st.integers(1, 128), gpus=st.integers(0, 8), k=st.integers(1, 8))
def test_what_runs_at_once_fits(cpus: int, gpus: int, k: int) -> None:
    resources = plan_resources(cpus, gpus, gpus_per_trial=1 / k if gpus else None)
    assert resources.concurrent == (gpus * k if gpus else cpus)  # no share of a GPU waits for a core
    assert resources.concurrent * resources.cpus_per_trial <= cpus + 1e-9
    assert resources.concurrent * resources.gpus_per_trial <= gpus + 1e-9
    assert 1 <= resources.threads <= max(1, resources.cpus_per_trial)


# ---- several nodes


def on_nodes(*nodes: tuple[int, int], **asked: Any) -> Resources:
    found = [Node(cpus, gpus, f"n{index}", f"id{index}") for index, (cpus, gpus) in enumerate(nodes)]
    return plan_resources(sum(n.cpus for n in found), sum(n.gpus for n in found), nodes=found, **asked)


@pytest.mark.parametrize(
    ("nodes", "asked", "expected"),
    [
        ([(2, 0), (4, 0), (1, 0)], {}, Resources(1.0, 0.0, 7, 1)),
        ([(2, 0), (4, 0), (1, 0)], {"cpus_per_trial": 2.0}, Resources(2.0, 0.0, 3, 2)),
        ([(3, 0), (3, 0)], {"cpus_per_trial": 2.0}, Resources(2.0, 0.0, 2, 2)),  # the sums would hold three
        ([(4, 0), (0, 0)], {}, Resources(1.0, 0.0, 4, 1)),
        ([(8, 0), (16, 2), (64, 8)], {}, Resources(8.0, 1.0, 10, 8)),  # a head without GPUs runs no trials
        ([(8, 2), (64, 2)], {}, Resources(4.0, 1.0, 4, 4)),  # one share for all: the scarcest cores decide
        ([(8, 2), (64, 2)], {"gpus_per_trial": 0.5}, Resources(2.0, 0.5, 8, 2)),
        ([(8, 1), (0, 1)], {}, Resources(8.0, 1.0, 1, 8)),
        ([(2, 0), (4, 0)], {"concurrent": 5}, Resources(1.0, 0.0, 5, 1)),
    ],
)
def test_shares_of_a_cluster(nodes: list[tuple[int, int]], asked: dict[str, Any], expected: Resources) -> None:
    assert on_nodes(*nodes, **asked) == expected


@pytest.mark.parametrize(
    ("nodes", "asked", "told"),
    [
        (
            [(3, 0), (3, 0)],
            {"cpus_per_trial": 2.0, "concurrent": 3},
            r"--concurrent 3 does not fit: the cluster holds 2 trials of 2 CPU each \(n0 1, n1 1\), 1 too few",
        ),
        (
            [(8, 0), (16, 2)],
            {"concurrent": 5},
            r"holds 2 trials of 1 GPU and 8 CPU each \(n0 0, n1 2\), 3 too few; lower it, or --gpus-per-trial or",
        ),
        ([(3, 0), (2, 0)], {"cpus_per_trial": 4.0}, r"more than the 3 CPUs on one node of the cluster, 1 too many"),
        ([(3, 0), (2, 0)], {"gpus_per_trial": 0.5}, r"0\.5 needs a GPU, and the cluster has none"),
        ([(0, 0)], {}, r"asks for more than the 0 CPUs on one node"),
    ],
)
def test_more_than_the_cluster_has(nodes: list[tuple[int, int]], asked: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        on_nodes(*nodes, **asked)


@given(nodes=st.lists(st.tuples(st.integers(0, 64), st.integers(0, 8)), min_size=1, max_size=6), k=st.integers(1, 8))
def test_what_runs_at_once_fits_on_the_nodes(nodes: list[tuple[int, int]], k: int) -> None:
    gpus = any(gpus and cpus for cpus, gpus in nodes)
    assume(gpus or (any(cpus for cpus, _ in nodes) and not any(here for _, here in nodes)))
    resources = on_nodes(*nodes, gpus_per_trial=1 / k if gpus else None)
    for cpus, here in nodes:
        held = resources.fitting(Node(cpus, here))
        assert held * resources.cpus_per_trial <= cpus + 1e-9
        assert held * resources.gpus_per_trial <= here + 1e-9
    if gpus:
        assert resources.concurrent == k * sum(here for cpus, here in nodes if cpus)
