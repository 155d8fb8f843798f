"""A step of every method on tensors that claim to be on a GPU: it waits for nothing, mixes no devices, launches few."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from cifar_trees import tiny_cifar, write_parquet

from tune_lnl.config.registry import METHODS
from tune_lnl.datasets.images.cifar import Cifar80NO
from tune_lnl.training.loop import Surroundings
from tune_lnl.training.registry import start_training

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"

BUDGETS = {
    "act": {"warmup": 220, "robust": 400},
    "core": {"self_refine": 200, "co_refine": 210},
    "purifynet": {"refine": 100, "reweight": 90},
    "self_refine": {"train": 100},
    "reid_standard": {"train": 85},
    "co_teaching": {"train": 125},
    "jocor": {"train": 140},
    "standard": {"train": 60},
}
"""The most launches of a step on the dataset of :data:`DATASETS`; ACT's are of the seven-layer network."""
DATASETS = dict.fromkeys(("core", "purifynet", "self_refine", "reid_standard"), "sprites")


@pytest.fixture(scope="module", autouse=True)
def benchmarks() -> Iterator[None]:
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))


def test_every_method_has_a_budget() -> None:
    assert BUDGETS.keys() == METHODS.keys()


@pytest.mark.parametrize("method", sorted(set(BUDGETS) - {"act"}))
def test_the_step_of(method: str) -> None:
    from device_trace import config_of, trace

    phases = trace(config_of(method, DATASETS.get(method, "digits8no")), None)["phases"]
    assert {name: (row["waits"], row["mixes"]) for name, row in phases.items()} == dict.fromkeys(
        BUDGETS[method], (0, 0)
    )
    over = {name: row for name, row in phases.items() if row["launches"] > BUDGETS[method][name]}
    assert not over


def test_the_step_of_act(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from device_trace import main

    (tmp_path / "cifar100").mkdir()
    write_parquet(tmp_path / "cifar100", tiny_cifar(Cifar80NO, monkeypatch))
    written = tmp_path / "counts.json"
    words = ["act", "cifar80no", "--data-dir", str(tmp_path), "--json", str(written), "--set", "dataset.subset=1"]
    assert main([*words, "--set", "batch_size=32"]) == 0
    phases = json.loads(written.read_text())["phases"]
    assert list(phases) == ["warmup", "robust"]
    for name, row in phases.items():
        assert (row["waits"], row["mixes"]) == (0, 0)
        assert row["launches"] - sum(row["of_a_stretch"].values()) < row["launches"] <= BUDGETS["act"][name]


@pytest.mark.parametrize("method", ["co_teaching", "jocor", "act", "reid_standard"])
def test_a_whole_epoch_with_its_evaluation_mixes_no_devices(method: str) -> None:
    from device_trace import config_of, pretended_device

    with pretended_device() as counted:
        config = config_of(method, DATASETS.get(method, "digits8no"))
        training = start_training(config, Surroundings(device="cuda", test_from=0))
        counted.taken()
        report = training.run_epoch()
        assert not counted.taken().mixes
        assert training.diverged(report) is None
        state = training.state_dict()
        again = start_training(config, Surroundings(device="cuda"))
        again.load_state_dict(state)
        counted.taken()
        again.run_epoch()
        assert not counted.taken().mixes
    assert report[config.objective.metric] > 0


def test_what_waits_and_what_mixes_is_counted() -> None:
    from device_trace import pretended_device

    def waits_of(counted: Any, action: Any) -> tuple[float, float]:
        counted.taken()
        action()
        counts = counted.taken()
        return sum(counts.waits.values()), sum(counts.mixes.values())

    with pretended_device() as counted:
        there, here = torch.ones(4, device="cuda"), torch.ones(4)
        assert there.device.type == "cuda"
        assert waits_of(counted, lambda: there + there) == (0, 0)
        assert waits_of(counted, lambda: float(there.sum())) == (1, 0)
        assert waits_of(counted, lambda: there[there > 0]) == (1, 0)
        assert waits_of(counted, lambda: here.to("cuda")) == (1, 0)
        assert waits_of(counted, lambda: here.to("cuda", non_blocking=True)) == (0, 0)
        assert waits_of(counted, lambda: there.cpu()) == (1, 0)
        assert waits_of(counted, lambda: there + here) == (0, 1)
        assert waits_of(counted, lambda: there * 2.0) == (0, 0)
        assert waits_of(counted, lambda: torch.cuda.synchronize()) == (1, 0)
