"""What ``gpu_visit.py`` measures, a function for each part. A part puts a figure into its JSON as soon as it has it."""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from device_trace import EPOCHS, PHASES, config_of, where
from static_step import AnyTraining, StaticStep
from torch.profiler import ProfilerActivity, profile

from tune_lnl.config.registry import METHODS
from tune_lnl.errors import InputError, first_line
from tune_lnl.files import replace_text
from tune_lnl.training.accelerator import driver_version
from tune_lnl.training.checkpoint import content_of, load_checkpoint, write_whole
from tune_lnl.training.loop import Surroundings, has_bf16, has_tf32
from tune_lnl.training.networks import NetworkTraining
from tune_lnl.training.registry import start_training

ROOT = Path(__file__).resolve().parents[1]
ROBUST = EPOCHS - 1
"""An epoch after the warm-up."""
REID = ("core", "purifynet", "self_refine", "reid_standard")
RESNET = ("model=resnet50",)
TOP_KERNELS = 20
SET_UP = 3
"""Steps before a capture."""


@dataclass(frozen=True)
class Visit:
    """What all parts are given.

    Attributes:
        file: the part's JSON.
        seconds: its time.
    """

    device: str
    quick: bool
    data_dir: Path | None
    file: Path
    seconds: float

    @cached_property
    def gpu(self) -> bool:
        return self.device == "cuda"

    @cached_property
    def dataset(self) -> str:
        """CIFAR-80N where it lies here; else the built-in digits."""
        if self.quick:
            return "digits8no"
        try:
            start_training(config_of("act", "cifar80no"), Surroundings(self.data_dir, "cpu"))
        except InputError:
            return "digits8no"
        return "cifar80no"

    @property
    def precisions(self) -> list[str]:
        if not self.gpu:
            return ["fp32"]
        return ["fp32", *["tf32"] * has_tf32(), *["bf16"] * has_bf16("cuda"), "fp16"]

    def start(self, method: str = "act", *overrides: str, dataset: str | None = None) -> AnyTraining:
        name = dataset or ("sprites" if method in REID else self.dataset)
        whole = ["dataset.subset=1"] if name.startswith("cifar") else []
        config = config_of(method, name, [*whole, *overrides])
        training = start_training(config, Surroundings(self.data_dir, self.device))
        assert isinstance(training, NetworkTraining)
        return training

    def wait(self) -> None:
        if self.gpu:
            torch.cuda.synchronize()

    def timed(self, action: Callable[[], Any]) -> float:
        """Return the seconds of a call, its work on the device included."""
        self.wait()
        began = time.perf_counter()
        action()
        self.wait()
        return time.perf_counter() - began

    def put(self, **figures: Any) -> None:
        """Write figures into the part's JSON, beside those that it has."""
        found = json.loads(self.file.read_text()) if self.file.exists() else {}
        replace_text(self.file, json.dumps(found | figures, indent=1) + "\n")


def machine(visit: Visit) -> None:
    """Device, driver, versions, memory of a process's own context, the best product and the best copy."""
    visit.put(torch=torch.__version__, cuda=torch.version.cuda, python=sys.version.split()[0], dataset=visit.dataset)
    if visit.gpu:
        about = torch.cuda.get_device_properties(0)
        visit.put(device=about.name, capability=[about.major, about.minor], memory_MB=about.total_memory // 10**6)
        visit.put(driver=driver_version(), nvidia_smi=said("nvidia-smi"))
        torch.ones(1, device="cuda")
        apps = said("nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader")
        visit.put(context=[line for line in apps.splitlines() if line.startswith(f"{os.getpid()},")])
    side = 512 if visit.quick else 8192
    for name in visit.precisions:
        torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(name, torch.float32)
        a, b = (torch.randn(side, side, device=visit.device).to(dtype) for _ in range(2))
        best = min(visit.timed(lambda a=a, b=b: a @ b) for _ in range(5))  # type: ignore[misc]
        visit.put(**{f"product_{name}_TFLOPs": round(2 * side**3 / best / 1e12, 2)})
    copied = torch.empty(side, side, 8, device=visit.device)
    visit.put(copy_TBs=round(2 * 4 * copied.numel() / min(visit.timed(copied.clone) for _ in range(5)) / 1e12, 3))


def said(*command: str) -> str:
    """Return what a command prints, or why it cannot."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        return first_line(error)


def steps(visit: Visit) -> None:
    """The tests marked gpu that need no Ray, then a step of every method: waits by line, to compare with the counts of
    ``device_trace.py``."""
    if visit.gpu:
        folders = [f"tests/{name}" for name in ("training", "datasets", "methods")]
        ran = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-m", "gpu", *folders], cwd=ROOT, capture_output=True, text=True
        )
        visit.put(tests=ran.returncode, tests_said=ran.stdout.splitlines()[-20:])
    for method in ("act", "standard") if visit.quick else sorted(METHODS):
        training = visit.start(method)
        for name, epoch in phases(method):
            list(stretch(training, epoch))
            with waits(visit) as lines:
                list(islice(training.steps(epoch), 2))  # the first makes the views of a stretch, too
            visit.put(**{f"{method} {name}": {"waits by line": dict(lines)}})


def phases(method: str) -> list[tuple[str, int]]:
    names = PHASES.get(method, ("train",))
    return list(zip(names, (0, ROBUST)[-len(names) :], strict=True))


@contextmanager
def waits(visit: Visit) -> Iterator[Counter[str]]:
    """Count the waits of the host for a GPU by line of the library, as torch tells them."""
    lines: Counter[str] = Counter()
    if not visit.gpu:
        yield lines
        return
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda *_, **__: lines.update([where()])
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield lines
        finally:
            torch.cuda.set_sync_debug_mode("default")


def profiles(visit: Visit) -> None:
    """The steps of a stretch by torch's profiler: kernels, busy share of the device, the dearest kernels; the choice of
    kernels on and off; then CORE with a ResNet-50, evaluation, and a checkpoint."""
    for precision in visit.precisions:
        training = visit.start("act", f"precision={precision}")
        for name, epoch in phases("act"):
            found = {"ms a step": ms_a_step(visit, training, epoch)}
            if visit.gpu:
                torch.backends.cudnn.benchmark = False
                found["ms a step, kernels not chosen"] = ms_a_step(visit, training, epoch)
                torch.backends.cudnn.benchmark = True
            visit.put(**{f"act {name} {precision}": found | profiled(visit, training, epoch)})
    checkpoint = visit.file.with_suffix(".pt")
    visit.put(
        evaluation_ms=round(1e3 * visit.timed(lambda: training.evaluate(ROBUST)), 1),
        checkpoint_copied_ms=round(1e3 * visit.timed(lambda: content_of(training, [])), 1),
        checkpoint_written_ms=round(1e3 * visit.timed(lambda: write_whole(checkpoint, content_of(training, []))), 1),
        checkpoint_MB=round(checkpoint.stat().st_size / 1e6, 1),
    )
    checkpoint.unlink()
    core = visit.start("core", *(() if visit.quick else RESNET))
    for name, epoch in phases("core"):
        visit.put(**{f"core {name}": {"ms a step": ms_a_step(visit, core, epoch)}})


def stretch(training: AnyTraining, epoch: int) -> Iterator[int]:
    """Train on the batches whose images are augmented together, from the first of an epoch."""
    return islice(training.steps(epoch), max(4, training.stretch_batches()))


def ms_a_step(visit: Visit, training: AnyTraining, epoch: int, rounds: int = 3) -> float:
    """Return the median over rounds of a stretch, after one that pays for what is set up once."""
    count = len(list(stretch(training, epoch)))
    seconds = [visit.timed(lambda: list(stretch(training, epoch))) for _ in range(1 if visit.quick else rounds)]
    return round(1e3 * statistics.median(seconds) / count, 3)


def profiled(visit: Visit, training: AnyTraining, epoch: int) -> dict[str, Any]:
    activities = [ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * visit.gpu]
    with profile(activities=activities) as profiler:
        count = 0

        def run() -> None:
            nonlocal count
            count = len(list(stretch(training, epoch)))

        seconds = visit.timed(run)
    rows = profiler.key_averages()
    if not visit.gpu:
        return {"operations a step": round(sum(row.count for row in rows if row.key.startswith("aten::")) / count)}
    kernels = [row for row in rows if row.device_type.name == "CUDA"]
    busy = sum(row.self_device_time_total for row in kernels) / 1e6
    dearest = sorted(kernels, key=lambda row: -row.self_device_time_total)[:TOP_KERNELS]
    return {
        "kernels a step": round(sum(row.count for row in kernels) / count, 1),
        "ms of kernels a step": round(1e3 * busy / count, 3),
        "busy share while profiled": round(busy / seconds, 3),
        "dearest, ms a step": {row.key[:90]: round(row.self_device_time_total / 1e3 / count, 4) for row in dearest},
    }


def graph(visit: Visit) -> None:
    """Seconds an epoch with each batch augmented on its own, in stretches, and with a CUDA graph of the step; the mean
    losses of the last two, which begin alike."""
    for precision in visit.precisions:
        for name, epoch in phases("act"):
            training = visit.start("act", f"precision={precision}")
            found: dict[str, float | str] = {"in stretches": seconds_an_epoch(visit, training, epoch)}
            training.stretch_batches = lambda: 1  # type: ignore[method-assign]
            found["each batch on its own"] = seconds_an_epoch(visit, training, epoch)
            visit.put(**{f"{name} {precision}": found})
            for form, captured in (("in stretches", False), ("as a graph", True)):
                try:
                    seconds, loss = whole_epoch(visit, visit.start("act", f"precision={precision}"), epoch, captured)
                    found |= {f"{form}, whole epoch": seconds, f"{form}, loss": loss}
                except (InputError, RuntimeError) as error:
                    found[f"{form}, whole epoch"] = f"failed: {first_line(error)}"
                visit.put(**{f"{name} {precision}": found})


def seconds_an_epoch(visit: Visit, training: AnyTraining, epoch: int) -> float:
    return round(training.seconds_per_epoch(epoch, 4 if visit.quick else 32), 3)


def whole_epoch(visit: Visit, training: AnyTraining, epoch: int, captured: bool) -> tuple[float, float]:
    """Return (seconds of an epoch, its mean loss) after some steps, by a step on static buffers that is captured once
    and replayed, or without. The last batch, which is smaller, is left out."""
    if captured and not visit.gpu:
        raise InputError("a CUDA graph needs a GPU")
    batches = begun(training, epoch)
    if captured:
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # torch asks for some steps on another stream before a capture
            step = StaticStep(training, next(batches), epoch)
            for _ in range(SET_UP - 1):
                step.load(next(batches))
                step.run()
        torch.cuda.current_stream().wait_stream(side)
        recorded = torch.cuda.CUDAGraph()
        with torch.cuda.graph(recorded, capture_error_mode="thread_local"):
            step.run()
    else:
        for batch in islice(batches, SET_UP):
            training.train_step(batch, epoch, training.totals)
    images = 0

    def run() -> None:
        nonlocal images
        for batch in begun(training, epoch):
            if captured:
                step.load(batch)
                recorded.replay()
            else:
                training.train_step(batch, epoch, training.totals)
                training.totals.flush()
            images += len(batch.labels)

    seconds = visit.timed(run) * training.images_per_epoch()
    return round(seconds / images, 3), sum_of(training, "train_loss") / images


def begun(training: AnyTraining, epoch: int) -> Iterator[Any]:
    """Begin an epoch; return its whole batches."""
    training._begin_epoch(epoch)
    return (batch for batch in training.batches(epoch) if len(batch.labels) == training.settings.batch_size)


def sum_of(training: AnyTraining, name: str) -> float:
    """Return a sum of the steps so far; a replayed one does not name what it adds."""
    return sum(float(values[names.index(name)]) for names, values in training.totals._sums.items() if name in names)


def repeat(visit: Visit) -> None:
    """Largest differences of weights of two runs, and of a continued and an unbroken one, plain and deterministic, with
    the seconds of both; and a checkpoint of the GPU on the CPU."""
    small = ["dataset.subset=0.1"] if visit.dataset.startswith("cifar") else []
    for deterministic in (True, False):  # in this order: cuBLAS reads its setting when it starts
        words = [*small, f"deterministic={str(deterministic).lower()}", "warmup_epochs=1"]
        runs = [visit.start("act", *words) for _ in range(2)]
        seconds = [visit.timed(lambda run=run: [run.run_epoch() for _ in range(2)]) for run in runs]  # type: ignore[misc]
        found: dict[str, Any] = {"seconds": [round(each, 3) for each in seconds], "two runs": difference(*runs)}
        continued = visit.start("act", *words)
        file = visit.file.with_suffix(".pt")
        write_whole(file, content_of(runs[0], []))
        load_checkpoint(file, continued)
        for run in (runs[0], continued):
            run.run_epoch()
        found["continued and unbroken"] = difference(runs[0], continued)
        visit.put(**{"deterministic" if deterministic else "plain": found})
    here = visit.start("act", *words)
    on_cpu = start_training(here.config, Surroundings(visit.data_dir, "cpu"))
    load_checkpoint(file, on_cpu)
    load_checkpoint(file, here)
    scores = [training.evaluate(1)["val_accuracy"] for training in (here, on_cpu)]
    visit.put(checkpoint_scores={"on its device": scores[0], "on the CPU": scores[1]})
    file.unlink()


def difference(one: AnyTraining, other: AnyTraining) -> float:
    """Return the largest difference of the weights of two trainings."""
    pairs = zip(one.networks[""].parameters(), other.networks[""].parameters(), strict=True)
    return max(float((a - b).detach().abs().max()) for a, b in pairs)


def curve(visit: Visit) -> None:
    """ACT as published on CIFAR-80N, as many epochs as fit: the test accuracy of each."""
    began = time.monotonic()
    words = ["epochs=150", "warmup_epochs=20", *[f"precision={name}" for name in visit.precisions if name == "bf16"]]
    training = visit.start("act", *(["epochs=2", "warmup_epochs=1"] if visit.quick else words))
    training.surroundings = Surroundings(visit.data_dir, visit.device, test_from=0)
    reports: list[dict[str, float]] = []
    longest = 0.0
    while not training.finished and time.monotonic() - began + 2 * longest < visit.seconds - 5:
        report = training.run_epoch()
        reports.append({name: round(value, 5) for name, value in report.items() if math.isfinite(value)})
        longest = max(longest, report["seconds"])
        visit.put(config=training.config.flat(), reports=reports)
