"""A step of every method on a pretended GPU can be captured as a CUDA graph, and repeats where it is asked to."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tune_lnl.config.registry import METHODS
from tune_lnl.training.loop import Surroundings
from tune_lnl.training.networks import NetworkTraining
from tune_lnl.training.registry import start_training

DATASETS = dict.fromkeys(("core", "purifynet", "self_refine", "reid_standard"), "sprites")
IN_OTHER_EPOCHS = {("act", 0), ("act", 3), ("standard", 3), ("core", 3), ("purifynet", 3), ("reid_standard", 3)}
"""Method and epoch of which one graph serves the whole phase. In others numbers of Python change with the epoch."""
NOT_REPEATABLE = {
    *("_adaptive_avg_pool2d_backward", "adaptive_max_pool2d_backward", "avg_pool3d_backward", "histc", "put_"),
    *(
        "grid_sampler_2d_backward",
        "upsample_bilinear2d_backward",
        "upsample_bicubic2d_backward",
        "median",
        "scatter_reduce",
    ),
    *("reflection_pad2d_backward", "nll_loss2d_forward", "kthvalue"),
}
"""Operations that ``torch.use_deterministic_algorithms`` refuses on a GPU."""


@pytest.fixture(scope="module", autouse=True)
def benchmarks() -> Iterator[None]:
    folder = str(Path(__file__).resolve().parents[2] / "benchmarks")
    sys.path.insert(0, folder)
    yield
    sys.path.remove(folder)


def started(method: str, **settings: Any) -> NetworkTraining[Any, Any, Any, Any]:
    from device_trace import config_of

    overrides = [f"{name}={value}" for name, value in settings.items()]
    config = config_of(method, DATASETS.get(method, "digits8no"), overrides)
    training = start_training(config, Surroundings(device="cuda"))
    assert isinstance(training, NetworkTraining)
    return training


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_graph_of_one_step_is_the_next(method: str) -> None:
    from device_trace import EPOCHS, PHASES, pretended_device
    from static_step import compared

    epochs = {0, EPOCHS - 1} if method in PHASES else {EPOCHS - 1}
    with pretended_device() as counted:
        training = started(method, batch_size=16)
        for epoch in sorted(epochs):
            found = compared(training, (epoch, epoch), counted)
            assert found["difference"] is None
            assert not {name.removeprefix("aten::") for name in found["names"]} & NOT_REPEATABLE
            if (method, epoch) in IN_OTHER_EPOCHS:
                pair = (0, 1) if epoch == 0 else (epoch - 1, epoch)
                assert compared(training, pair, counted)["difference"] is None


def test_static_buffers_train_as_the_loop_does() -> None:
    from device_trace import pretended_device
    from static_step import StaticStep

    with pretended_device():
        plain, static = started("act", warmup_epochs=0), started("act", warmup_epochs=0)
        for epoch in range(2):
            report = plain.train_epoch(epoch)
            static._begin_epoch(epoch)
            batches = list(static.batches(epoch))
            *whole, last = batches
            assert len(last.labels) < len(whole[0].labels)
            step = StaticStep(static, whole[0], epoch)
            for batch in whole[1:]:
                step.load(batch)
                step.run()
            static.train_step(last, epoch, static.totals)
            sums = static.totals.means(static.images_per_epoch())
            assert {name: value for name, value in sums.items() if name in report} == {
                name: report[name] for name in report if name in sums
            }
            assert len(sums.keys() & report.keys()) >= 7
        for one, other in zip(plain.networks.values(), static.networks.values(), strict=True):
            expected = dict(one.state_dict())
            assert all(torch.equal(value, expected[name]) for name, value in other.state_dict().items())


@pytest.mark.parametrize("fault", ["a new tensor", "another number", "a value of the host"])
def test_what_a_graph_would_get_wrong_is_found(fault: str) -> None:
    from device_trace import pretended_device
    from static_step import StaticStep, compared

    steps = iter(range(10))

    def run(step: StaticStep) -> None:
        step._training.train_step(step.batch, step._epoch, step._training.totals)
        if fault == "a new tensor":
            return  # the sums then add the values of this step in the next one
        if fault == "another number":
            step._training.mean.mul(1.0 + next(steps))
        else:
            step._training.mean.add(torch.ones(3, 1, 1).to("cuda", non_blocking=True))
        step._training.totals.flush()

    with pretended_device() as counted, pytest.MonkeyPatch.context() as patch:
        patch.setattr(StaticStep, "run", run)
        found = compared(started("standard"), (3, 3), counted)["difference"]
    assert found is not None
