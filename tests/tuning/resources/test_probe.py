"""A measured trial, in this process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import pytest
import torch

from tune_lnl.config.trial import build_config
from tune_lnl.training.act import ActTraining
from tune_lnl.training.failures import OUT_OF_MEMORY
from tune_lnl.tuning.resources import probe as probing
from tune_lnl.tuning.resources.probe import (
    Answer,
    MeasuredTrial,
    Probe,
    ProbeError,
    Task,
    gpus_here,
    list_gpus,
    process_memory,
    serve,
)

MB, GB = 10**6, 10**9


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    threads, cores = torch.get_num_threads(), os.sched_getaffinity(0)
    yield
    torch.set_num_threads(threads)
    os.sched_setaffinity(0, cores)


def task(device: str = "cpu", **fixed: Any) -> Task:
    sections = {
        "method": "act",
        "dataset": {"name": "digits8no", "subset": 0.3},
        "objective": {"average_last": 1},
        "validation": {"fraction": 0.3},
        "fixed": {"epochs": 4, "warmup_epochs": 2, "batch_size": 64, "lr": 0.01, "lr1": 0.08, **fixed},
    }
    return Task(build_config(sections, "a test"), None, device, [])


def answers(asked: Task, *requests: tuple[int, float]) -> list[Answer]:
    found: list[Answer] = []
    left = list(requests)

    def receive() -> tuple[int, float]:
        if not left:
            raise EOFError
        return left.pop(0)

    serve(asked, receive, found.append)
    return found


def test_it_answers_every_request() -> None:
    ready, first, second = answers(task(), (1, 0.0), (1, 0.0))
    assert ready.overhead > 50 * MB  # Python with torch
    assert 0 <= ready.peak <= first.peak <= second.peak
    assert (ready.images_per_second, ready.failure) == (0.0, None)
    assert first.images_per_second > 0


def test_a_reading_counts_the_images_it_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that shows 1 s after the first batch and 4 s when it is read again."""
    measured = MeasuredTrial(task(batch_size=32))
    trained = []
    step = ActTraining.train_step

    def counted(self: ActTraining, batch: Any, *rest: Any) -> None:
        trained.append(len(batch.labels))
        step(self, batch, *rest)

    monkeypatch.setattr(ActTraining, "train_step", counted)
    ticks = iter([0.0, 1.0, 4.0])
    monkeypatch.setattr(probing, "time", type("Clock", (), {"perf_counter": lambda: next(ticks)}))
    found = measured.reading(threads=1, seconds=0.5)
    assert len(trained) == 1
    assert found.images_per_second == pytest.approx(sum(trained) / 4.0)


def test_an_epoch_of_one_batch_counts_as_it_is() -> None:
    measured = MeasuredTrial(task(batch_size=4096))
    training = measured.training
    assert training.images_per_epoch() < 4096
    found = measured.reading(threads=1, seconds=0.0)
    assert 0 < found.images_per_second < 1e7


def test_it_trains_with_the_threads_of_the_request() -> None:
    MeasuredTrial(task()).reading(threads=2, seconds=0.0)
    assert torch.get_num_threads() == 2


def test_it_stays_on_its_cores() -> None:
    core = min(os.sched_getaffinity(0))
    MeasuredTrial(replace(task(), cores=[core]))
    assert os.sched_getaffinity(0) == {core}


def test_it_scores_a_few_batches_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tune_lnl.training.classification.evaluation_batch", lambda shape: 8)
    scored = []
    images = ActTraining.images

    def counted(self: ActTraining, pixels: Any, rows: Any) -> Any:
        if not self.networks[""].training:
            scored.append(len(rows))
        return images(self, pixels, rows)

    monkeypatch.setattr(ActTraining, "images", counted)
    MeasuredTrial(task())
    assert scored == [8] * probing.EVALUATION_BATCHES


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory")])
def test_out_of_memory_is_an_answer(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fails(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(ActTraining, "train_step", fails)
    (answer,) = answers(task())
    assert answer.failure == "out of memory"


def test_any_other_failure_is_one_with_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: object) -> None:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(ActTraining, "train_step", fails)
    (answer,) = answers(task())
    assert answer.failure == "bug"
    assert answer.message.startswith("ZeroDivisionError: by zero (test_probe.py:")


def test_a_process_that_the_system_kills_ran_out_of_memory() -> None:
    probe = Probe(task())
    (process,) = active_children()
    process.kill()
    assert probe.answer() == Answer(failure=OUT_OF_MEMORY)
    probe.ask(1, 0.0)  # nothing reads it
    probe.stop()


def test_a_process_that_ends_before_it_answers() -> None:
    probe = Probe(task())
    (process,) = active_children()
    process.terminate()
    with pytest.raises(ProbeError, match="ended with exit code -15 before it answered"):
        probe.answer()
    probe.stop()
    assert not active_children()


def test_memory_of_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert process_memory("VmHWM") >= process_memory("VmRSS") > 50 * MB
    status = tmp_path / "status"
    status.write_text("Name:\tx\nVmHWM:\t  70 kB\nVmRSS:\t  60 kB\n")
    monkeypatch.setattr(probing, "STATUS", status)
    assert (process_memory("VmHWM"), process_memory("VmRSS")) == (71680, 61440)
    monkeypatch.setattr(probing, "STATUS", tmp_path / "absent")
    assert process_memory("VmRSS") > 50 * MB


@pytest.mark.slow
def test_gpus_are_listed_from_another_process() -> None:
    assert [gpu.name for gpu in gpus_here()] == [gpu.name for gpu in list_gpus()]


@pytest.mark.gpu
def test_on_a_gpu() -> None:
    (gpu, *_) = list_gpus()
    assert 0 < gpu.free <= gpu.total
    ready, reading = answers(replace(task("cuda"), free=gpu.free), (1, 0.5))
    assert 0 < ready.peak <= reading.peak < gpu.total
    assert ready.overhead < 4 * GB
    assert reading.images_per_second > 0
