"""Trains the configs of a testbed once, so that searches and choices can be replayed on the recording in minutes.

    python benchmarks/testbeds/record.py [NAME]... [--work DIR] [--output DIR] [--processes 2] [--data-dir DIR]
    python benchmarks/testbeds/record.py --list

A testbed is one noise condition and one noise draw of a space. Its trials are the space's first start point (number 0)
and the first 100 points of a scrambled Sobol sequence over the searched ranges (1 to 100), trained to their full length
under the space's seeds, without stopping. The 30 trials best by the noisy objective and number 0 are then trained three
times more, each time on another split and training seed, with the labels unchanged: the replicates.

Each training that is complete is a file in ``--work``; a second call trains the rest. ``--output`` gets NAME.npz once
the trials are complete and again with all replicates; :func:`load` reads it, and its docstring lists the arrays.
``--work/NAME.npz`` holds what is trained in between. A call on another machine goes on from these two files.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import platform
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from record_curves import SOBOL_SEED, sobol_params

from tune_lnl.cli import Parser, guarded
from tune_lnl.config.trial import TrialConfig
from tune_lnl.files import whole_file
from tune_lnl.training.classification import ClassifierTraining
from tune_lnl.training.loop import Report, Surroundings, objective_so_far
from tune_lnl.training.registry import start_training
from tune_lnl.tuning.space.space import SearchSpace, load_space

HERE = Path(__file__).resolve().parent
CONFIGS, TOP, REPLICATES = 100, 30, 3
WRITE_EVERY = 10
"""Trainings between two files that another machine can go on from."""
LIBRARIES = ("torch", "numpy", "scipy", "optuna")
FIGURES = ("objective", "standard_error", "test_accuracy", "seconds")
HELD_OUT = ("index", "given", "true")


@dataclass(frozen=True)
class Testbed:
    """One noise condition and one noise draw of a space."""

    space: str
    condition: str
    draw: int = 1
    """1 has the space's seeds of noise and split; each further draw adds one to both."""
    epochs: int | None = None
    """Another length than the space's; what counts epochs scales with it."""

    @property
    def overrides(self) -> list[str]:
        step = self.draw - 1
        return [f"dataset.noise_seed={step}", f"validation.seed={step}"]


def _testbeds() -> dict[str, Testbed]:
    found = {}
    for draw in (1, 2):
        for condition in ("asym40", "sym20", "sym80"):
            found[f"digits-{condition}-{draw}"] = Testbed("act_digits8no", condition, draw)
    # 18 epochs took 100 s a config on the machine that recorded sym20; a minute is enough to tell configs apart.
    for condition, epochs in (("asym40", 12), ("sym20", None), ("sym80", 12)):
        found[f"cifar10-{condition}-1"] = Testbed(str(HERE / "cifar10_of_100.yaml"), condition, epochs=epochs)
    return found


TESTBEDS = _testbeds()


def parser() -> argparse.ArgumentParser:
    p = Parser(prog="benchmarks/testbeds/record.py", description=__doc__)
    p.add_argument("names", nargs="*", metavar="NAME", choices=[*TESTBEDS, []], help="default: all, in order")
    p.add_argument("--work", type=Path, default=HERE / "unfinished", metavar="DIR")
    p.add_argument("--output", type=Path, default=HERE, metavar="DIR")
    p.add_argument("--processes", type=int, default=2, metavar="N")
    p.add_argument("--data-dir", type=Path, metavar="DIR")
    p.add_argument("--list", action="store_true", help="print the names and how much of each is trained")
    return p


@cache
def space_of(name: str) -> SearchSpace:
    testbed = TESTBEDS[name]
    return load_space(testbed.space, testbed.condition, testbed.epochs, testbed.overrides)


@cache
def params_of(name: str) -> list[dict[str, Any]]:
    """Return the searched settings of each trial, by number."""
    space = space_of(name)
    return [dict(space.start[0]), *sobol_params(space, CONFIGS)]


def config_of(name: str, number: int, replicate: int) -> TrialConfig:
    """Return the config of a trial (replicate 0), or of one of its replicates (1, 2, 3)."""
    config = space_of(name).config(params_of(name)[number])
    seed, split = config.settings.seed + replicate, config.validation.seed + replicate
    return TrialConfig(
        config.method,
        config.dataset,
        config.validation.model_copy(update={"seed": split}),
        config.objective,
        config.settings.model_copy(update={"seed": seed}),
    )


def train(name: str, number: int, replicate: int, data_dir: Path | None, path: Path) -> None:
    """Train one config to its end, or until it diverges, and write its file."""
    config = config_of(name, number, replicate)
    objective, epochs = config.objective, config.settings.epochs
    training = start_training(config, Surroundings(data_dir, test_from=epochs - objective.average_last))
    assert isinstance(training, ClassifierTraining)
    began, reports = time.process_time(), list[Report]()
    diverged = None
    while diverged is None and not training.finished:
        reports.append(training.run_epoch())
        diverged = training.diverged(reports[-1])
    seconds = time.process_time() - began
    curve = np.full(epochs, np.nan, dtype=np.float32)
    for epoch in range(len(reports) - (diverged is not None)):
        curve[epoch] = objective_so_far(objective.metric, objective.average_last, reports[: epoch + 1])
    test = [report["test_accuracy"] for report in reports[-objective.average_last :] if "test_accuracy" in report]
    found = training.heldout_predictions() if diverged is None else None
    index = training.data.validation
    networks, classes = len(training.networks), training.data.noisy.num_classes
    shape = (1 if replicate else networks, len(index), classes)
    probabilities = np.full(shape, np.nan) if found is None else found.probabilities[: shape[0]]
    true = training.data.noisy.true_labels
    assert true is not None
    content = {
        "objective": curve,
        "standard_error": np.float32(reports[-1].get(f"{objective.metric}_standard_error", math.nan)),
        "test_accuracy": np.float32(math.nan if diverged else np.mean(test)),
        "probabilities": probabilities.astype(np.float16),
        "index": index.astype(np.int32),
        "given": training.data.noisy.given_labels[index].astype(np.int16),
        "true": np.where(true[index] < classes, true[index], -1).astype(np.int16),
        "seconds": np.float32(seconds),
        "fingerprints": np.array(json.dumps(training.fingerprints)),
        "device": np.array(f"cpu: {_processor()}, one thread a training"),
    }
    save(path, content)


def save(path: Path, content: dict[str, Any]) -> None:
    """Write the file of one training."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **content)


def read(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as stored:
        return {key: stored[key] for key in stored.files}


class Recording:
    """The trainings of one testbed."""

    def __init__(self, name: str, work: Path, output: Path) -> None:
        self.name, self._work = name, work / name
        self.unfinished, self.finished = work / f"{name}.npz", output / f"{name}.npz"
        self._unpack()

    def path(self, number: int, replicate: int) -> Path:
        return self._work / f"{number:03d}-{replicate}.npz"

    def trials(self) -> list[tuple[int, int]]:
        return [(number, 0) for number in range(CONFIGS + 1)]

    def replicates(self) -> list[tuple[int, int]]:
        """Return the replicates, once all trials are trained."""
        finals = {number: float(read(self.path(number, 0))["objective"][-1]) for number, _ in self.trials()}
        sign = 1.0 if space_of(self.name).mode == "max" else -1.0
        finite = [number for number, value in finals.items() if math.isfinite(value)]
        best = sorted(finite, key=lambda number: (-sign * finals[number], number))[:TOP]
        return [(number, replicate) for replicate in range(1, REPLICATES + 1) for number in sorted({0, *best})]

    def missing(self, wanted: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
        return [pair for pair in wanted if not self.path(*pair).exists()]

    def done(self, wanted: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
        return [pair for pair in wanted if self.path(*pair).exists()]

    def write(self, trials: Sequence[tuple[int, int]], replicates: Sequence[tuple[int, int]]) -> Path:
        """Write these trainings to one file, whole or not at all."""
        stored = {number: read(self.path(number, 0)) for number, _ in trials}
        again = {pair: read(self.path(*pair)) for pair in replicates}
        space, first = space_of(self.name), next(iter(stored.values()))
        params = [params_of(self.name)[number] for number in stored]
        arrays: dict[str, Any] = {
            f"param_{name}": np.array([each[name] for each in params]) for name in space.parameters
        }
        arrays |= {key: np.stack([each[key] for each in stored.values()]) for key in ("probabilities", *FIGURES)}
        arrays |= {key: first[key] for key in HELD_OUT}
        if again:
            arrays["replicate_of"] = np.array([number for number, _ in again], dtype=np.int16)
            arrays["replicate"] = np.array([replicate for _, replicate in again], dtype=np.int16)
            for key in (*FIGURES, *HELD_OUT):
                arrays[f"replicate_{key}"] = np.stack([each[key] for each in again.values()])
            arrays["replicate_probabilities"] = np.stack([each["probabilities"][0] for each in again.values()])
        devices = sorted({str(each["device"]) for each in (*stored.values(), *again.values())})
        about = {
            "testbed": self.name,
            "space": space.to_dict(),
            "condition": space.condition,
            "overrides": TESTBEDS[self.name].overrides,
            "sobol_seed": SOBOL_SEED,
            "trials": len(stored),
            "replicates": len(again),
            "fingerprints": json.loads(str(first["fingerprints"])),
            "recorded": datetime.now(UTC).isoformat(timespec="seconds"),
            "device": "; ".join(devices),
            "python": platform.python_version(),
            "versions": {library: version(library) for library in LIBRARIES},
            "commit": subprocess.run(
                ["git", "rev-parse", "HEAD"], cwd=HERE, capture_output=True, text=True, check=False
            ).stdout.strip(),
        }
        if len(stored) < CONFIGS + 1:
            arrays["number"] = np.array(list(stored), dtype=np.int16)
        whole = self.trials() == list(trials) and list(replicates) in ([], self.replicates())
        path = self.finished if whole else self.unfinished
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, about=np.array(json.dumps(about)), **arrays)
        if whole:
            self.unfinished.unlink(missing_ok=True)
        return path

    def _unpack(self) -> None:
        """Write the trainings of an earlier call, which may have run on another machine, as files of their own."""
        for path in (self.finished, self.unfinished):
            if not path.exists():
                continue
            about, arrays = load(path)
            common = {"fingerprints": np.array(json.dumps(about["fingerprints"])), "device": np.array(about["device"])}
            for row, number in enumerate(arrays.get("number", range(CONFIGS + 1))):
                content = {key: arrays[key][row] for key in ("probabilities", *FIGURES)}
                self._store(int(number), 0, content | {key: arrays[key] for key in HELD_OUT} | common)
            for row, number in enumerate(arrays.get("replicate_of", ())):
                content = {key: arrays[f"replicate_{key}"][row] for key in (*FIGURES, *HELD_OUT)}
                probabilities = arrays["replicate_probabilities"][row][None]
                self._store(
                    int(number), int(arrays["replicate"][row]), content | {"probabilities": probabilities} | common
                )

    def _store(self, number: int, replicate: int, content: dict[str, Any]) -> None:
        if not self.path(number, replicate).exists():
            save(self.path(number, replicate), content)


def load(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read a recording.

    Returns:
        what it is of (space, condition, seeds, device, versions, date, fingerprints), and its arrays. T trials with
        number = row, E epochs, M held-out images, C closed classes, R replicates:

        ``param_NAME`` (T,) searched settings; ``objective`` (T, E) float32, percent, the objective if training had
        ended at that epoch, NaN from where it diverged; ``standard_error`` (T,) of the last epoch's accuracy;
        ``test_accuracy`` (T,) on true labels, mean of the last epochs, percent; ``probabilities`` (T, networks, M, C)
        float16, mean of the last epochs; ``seconds`` (T,) of processor time; ``index``, ``given`` (M,); ``true`` (M,)
        the TRUTH, which nothing that chooses may read: true class, -1 for open-set images.

        With replicates also ``replicate_of`` (R,) the trial, ``replicate`` (R,) 1 to 3, the seeds' distance from the
        trial's, and ``replicate_*`` as above; ``replicate_probabilities`` (R, M, C) of the reported network. Each has
        a split of its own, so ``replicate_index``, ``replicate_given`` and ``replicate_true`` are (R, M).

        A file of ``--work`` may have some of the trials only; ``number`` (T,) names them.
    """
    arrays = read(path)
    about: dict[str, Any] = json.loads(str(arrays.pop("about")))
    return about, arrays


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


@guarded
def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    names = args.names or list(TESTBEDS)
    recordings = [Recording(name, args.work, args.output) for name in names]
    if args.list:
        for recording in recordings:
            trials = recording.done(recording.trials())
            replicates = recording.done(recording.replicates()) if len(trials) == CONFIGS + 1 else []
            print(f"{recording.name}: {len(trials)} trials and {len(replicates)} replicates are recorded")
        return 0
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(args.processes, mp_context=context) as pool:
        for recording in recordings:
            for kind in ("trials", "replicates"):
                wanted = recording.trials() if kind == "trials" else recording.replicates()
                missing = recording.missing(wanted)
                print(f"{_now()} {recording.name}: {len(missing)} of {len(wanted)} {kind} to train", flush=True)
                futures = [
                    pool.submit(train, recording.name, *pair, args.data_dir, recording.path(*pair)) for pair in missing
                ]
                for count, future in enumerate(as_completed(futures), start=1):
                    future.result()
                    if count % WRITE_EVERY and count < len(missing):
                        continue
                    done = recording.done(wanted)
                    path = recording.write(*((done, []) if kind == "trials" else (recording.trials(), done)))
                    print(f"{_now()} {path}: {path.stat().st_size / 1e6:.1f} MB with {len(done)} {kind}", flush=True)
    return 0


def _now() -> str:
    return datetime.now(UTC).strftime("%H:%M:%S")


if __name__ == "__main__":
    sys.exit(main())
