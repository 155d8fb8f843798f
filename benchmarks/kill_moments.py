"""Whole commands stopped at chosen moments of every phase, by every signal, and started again until they are done.

Each family of commands runs once undisturbed and once with kills; what both leave is compared, value by value.

python benchmarks/kill_moments.py [--family NAME]... [--seed 0] [--minutes M] [--output FILE]

The families ``search`` and ``confirmation`` are whole commands with a Ray of their own. ``driver`` and ``replicates``
are the same without Ray: the driver and its trials are one process, so that a kill takes both, and starts cost little.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from evidence import evidence, write_evidence

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tests" / "support"))

from toy_runs import TOY, Driver, InThisProcess, Process, spread, toy_method, write_toy  # noqa: E402

from tune_lnl.reporting.write import report_after_search  # noqa: E402
from tune_lnl.tuning.driver import EXIT_CODES, run_plan  # noqa: E402
from tune_lnl.tuning.monitor.console import Console  # noqa: E402
from tune_lnl.tuning.plan.options import SearchOptions  # noqa: E402
from tune_lnl.tuning.plan.plan import plan_search  # noqa: E402
from tune_lnl.tuning.resources.divide import Machine  # noqa: E402
from tune_lnl.tuning.runs.run import load_run  # noqa: E402
from tune_lnl.tuning.study.trials import ATTEMPTS, ENDED  # noqa: E402

SIGNALS = {"SIGINT": signal.SIGINT, "SIGTERM": signal.SIGTERM, "SIGHUP": signal.SIGHUP, "SIGKILL": signal.SIGKILL}
TIMED = {"attempt", "seconds", "train_seconds", "images_per_second"}
Kills = list[tuple[str, str]]
TIME = {"is up": float("inf")}
"""When to make no further moments, on a machine that is busy with other things."""


class Disturbed:
    """A driver that is stopped at moments, and what had ended at each of them."""

    def __init__(self, driver: Driver, rng: random.Random) -> None:
        self.driver = driver
        self.rng = rng
        self.kills: Kills = []
        self.ended: dict[int, tuple[Any, ...]] = {}
        self.lost = 0
        self.changed = 0
        self.words: list[str] = []

    def at(self, phase: str, wait: Callable[[], None], name: str) -> None:
        """Start, wait for the moment, stop by a signal, and look at what is left; nothing once the time is up."""
        driver = self.driver
        if time.monotonic() > TIME["is up"]:
            return
        driver.start()
        wait()
        if not driver.running:
            self._look()
            return
        self.kills.append((phase, name))
        if name == "all SIGKILL":
            driver.kill_family()
        else:
            driver.signal(SIGNALS[name])
            driver.finish()
        if "Traceback" in driver.text:
            self.words.append(f"{phase}, {name}: {driver.text[-600:]}")
        driver.left()
        self._look()

    def finish(self) -> None:
        for _ in range(5):
            if self.driver.start().finish() == 0:
                break
        self._look()

    def _look(self) -> None:
        """Compare with what had ended before: nothing is lost, nothing is different, nothing has run again."""
        if not self.driver.files.study.exists():
            return
        now = ended_trials(self.driver)
        for number, before in self.ended.items():
            self.lost += number not in now
            self.changed += now.get(number, before) != before
        self.ended |= now


class Child:
    """A process that was forked, with the part of ``Popen`` that a driver uses."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.code: int | None = None

    def poll(self) -> int | None:
        if self.code is None:
            done, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if done else None
        return self.code

    def wait(self) -> int:
        if self.code is None:
            self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.code

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Forked(Driver):
    """A search in a forked process, which trains its trials itself.

    Args:
        options: of the search.
    """

    def __init__(self, folder: Path, space: Path, **options: Any) -> None:
        super().__init__(folder, space)
        self.options = options

    def start(self, *more: str) -> Forked:
        self.output = self.folder / f"output-{self.starts}.txt"
        self.output.touch()
        self.starts += 1
        resume = self.files.root.exists()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                code = self._child(resume)
            finally:
                os._exit(code)  # nothing of the parent's, such as its temporary folder, is this process's to clear
        self.process = Child(pid)  # type: ignore[assignment]
        return self

    def _child(self, resume: bool) -> int:
        try:
            out = os.open(self.output, os.O_WRONLY | os.O_CREAT)
            for descriptor in (1, 2):
                os.dup2(out, descriptor)
            os.environ["TOY_EVENTS"] = str(self.events)
            os.chdir(self.folder)
            command = f"python -m tune_lnl.search {self.space} --concurrent 1"
            asked = {"concurrent": 1, "resume": resume, "dashboard": False, "command": command, **self.options}
            options = SearchOptions.of(str(self.space), results_dir=self.folder / "results", **asked)
            (plan,) = plan_search(options, Machine(cpus=2, gpus=0))
            code = EXIT_CODES[run_plan(plan, resume, Console(), InThisProcess(1))]
            if code != EXIT_CODES["interrupted"]:
                report_after_search(self.space.stem, self.folder / "results", print)
            return code
        except KeyboardInterrupt:
            return EXIT_CODES["interrupted"]  # as the door of the command does
        except BaseException:
            traceback.print_exc()
            return 1
        finally:
            sys.stdout.flush()

    def wait(self, condition: Callable[[], Any], what: str, timeout: float = 600.0) -> None:
        until = time.monotonic() + timeout
        while self.running and not condition():
            assert time.monotonic() < until, f"waited {timeout} s for {what}\n{self.text}"
            time.sleep(0.001)

    def family(self) -> list[Process]:
        return []

    def kill_family(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        if self.running:
            self.kill_family()


def ended_trials(driver: Driver) -> dict[int, tuple[Any, ...]]:
    """State, value, attempts and curve of every trial that has ended."""
    return {
        trial.number: (trial.state.name, trial.value, trial.user_attrs.get(ATTEMPTS), dict(trial.intermediate_values))
        for trial in driver.run().trials
        if trial.state in ENDED
    }


def outcome(driver: Driver) -> dict[str, Any]:
    """Everything that an undisturbed command would have left as well."""
    run = load_run(driver.files.root)
    trials = [
        (trial.number, trial.state.name, dict(trial.params), trial.value, dict(trial.intermediate_values))
        for trial in run.trials
    ]
    reports = {
        trial.number: [
            {k: v for k, v in report.items() if k not in TIMED} for report in run.epoch_reports(trial.number)
        ]
        for trial in run.trials
    }
    best = [line for line in driver.files.best.read_text().splitlines() if "search_command" not in line]
    found: dict[str, Any] = {"trials": trials, "reports": reports, "best.yaml": best}
    if driver.files.confirmation.exists():
        found["confirm.yaml"] = driver.files.confirmation.read_text()
    return found


def compared(plain: dict[str, Any], killed: dict[str, Any]) -> dict[str, int]:
    """How many values differ, by what they are."""
    return {
        "settings": sum(a[2] != b[2] for a, b in zip(plain["trials"], killed["trials"], strict=True)),
        "states and objectives": sum(a != b for a, b in zip(plain["trials"], killed["trials"], strict=True)),
        "epochs": sum(plain["reports"][number] != killed["reports"][number] for number in plain["reports"]),
        **{name: plain[name] != killed[name] for name in plain if name.endswith(".yaml")},
    }


def summary(disturbed: Disturbed, differing: dict[str, int], trials: int) -> dict[str, Any]:
    table = Counter(disturbed.kills)
    phases = dict.fromkeys(phase for phase, _ in disturbed.kills)
    return {
        "moments": len(disturbed.kills),
        "by phase and signal": {
            phase: {name: count for (at, name), count in sorted(table.items()) if at == phase} for phase in phases
        },
        "trials": trials,
        "trials lost": disturbed.lost,
        "trials run twice or changed after their end": disturbed.changed,
        "different": {name: int(count) for name, count in differing.items()},
        "tracebacks": disturbed.words,
    }


# ---- a search


TRIALS, POINTS, EPOCHS = 16, 3, 8


def search(place: Path, rng: random.Random, ray: bool = True) -> dict[str, Any]:
    """A search with TPE and ASHA, one trial at a time, that goes thirteen trials beyond its start points."""

    def new(name: str) -> Driver:
        folder = place / name
        folder.mkdir()
        more: dict[str, Any] = {"fixed": {"pause": 0.02}, "sampler": "tpe", "pruner": "asha"}
        space = write_toy(folder, spread(POINTS), epochs=EPOCHS, trials=TRIALS, **more)
        return Driver(folder, space, "--concurrent", "1") if ray else Forked(folder, space)

    plain = new("plain")
    assert plain.start().finish() == 0, plain.text
    driver = new("killed")
    disturbed = Disturbed(driver, rng)
    phases = {
        "before Ray is up" if ray else "before the first trial": lambda: before_ray(driver, rng, 2.5 if ray else 0.02),
        "first epoch": lambda: first_epoch(driver, rng),
        "between two epochs": lambda: driver.train_on(rng.randrange(1, 7)),
        "after the last epoch": lambda: last_epoch(driver),
    }
    names = [*SIGNALS, "all SIGKILL"]
    moments = [(phase, name) for name in names for phase in phases]
    rng.shuffle(moments)
    for phase, name in moments:
        disturbed.at(phase, phases[phase], name)
    for name in names:
        # The report is written after the last trial: more trials give more such moments.
        disturbed.at("while the report is written", lambda: the_report(driver, rng), name)
    disturbed.finish()
    differing = compared(outcome(plain), outcome(driver))
    for each in (plain, driver):
        each.close()
    return summary(disturbed, differing, TRIALS)


def before_ray(driver: Driver, rng: random.Random, longest: float) -> None:
    driver.wait(driver.files.lock.exists, "the run folder")
    driver.wait(driver.files.ray_folder.exists, "Ray's folder")
    driver.rest(rng.uniform(0.0, longest))


def first_epoch(driver: Driver, rng: random.Random) -> None:
    before = len(list(driver.events.glob("*.jsonl")))
    driver.wait(lambda: len(list(driver.events.glob("*.jsonl"))) > before, "a worker")
    driver.rest(rng.uniform(0.0, 0.1))


def last_epoch(driver: Driver) -> None:
    def whole() -> int:
        files = driver.files.root.glob("trials/*/epochs.jsonl")
        return sum(path.read_bytes().count(b"\n") >= EPOCHS for path in files)

    before = whole()
    driver.wait(lambda: whole() > before, "the last epoch of a trial")


def the_report(driver: Driver, rng: random.Random) -> None:
    driver.wait(lambda: "\nbest: " in driver.text, "the last trial")
    driver.rest(rng.uniform(0.0, 0.4))


# ---- a confirmation


def confirmation(place: Path, rng: random.Random, ray: bool = True) -> dict[str, Any]:
    """The search of above in short, then its best three trials on two replicates each."""

    def new(name: str) -> Driver:
        folder = place / name
        folder.mkdir()
        space = write_toy(folder, spread(3), epochs=EPOCHS, fixed={"pause": 0.03})
        return (
            Driver(folder, space, "--concurrent", "1", "--confirm", "3x3")
            if ray
            else Forked(folder, space, confirm="3x3")
        )

    plain = new("plain")
    assert plain.start().finish() == 0, plain.text
    driver = new("killed")
    disturbed = Disturbed(driver, rng)

    def done() -> int:
        return len(list(driver.files.confirm.glob("*.json"))) if driver.files.confirm.exists() else 0

    def next_replicate() -> None:
        before = done()
        driver.wait(lambda: done() > before, "a replicate")
        driver.rest(rng.uniform(0.0, 0.5))

    for name in [*SIGNALS, "all SIGKILL", "SIGKILL", "SIGINT", "all SIGKILL"]:
        disturbed.at("confirmation, some replicates done", next_replicate, name)
    disturbed.finish()
    differing = compared(outcome(plain), outcome(driver))
    for each in (plain, driver):
        each.close()
    return summary(disturbed, differing, 3)


# ---- packing, and the folds of a label export


def one_command(command: list[str], folder: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    out = (folder / "output.txt").open("ab")
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=out, stderr=subprocess.STDOUT)


def stopped(process: subprocess.Popen[bytes], moment: Callable[[], bool], name: str) -> bool:
    """Wait for the moment, stop the command, and return whether it was still running."""
    until = time.monotonic() + 300.0
    while process.poll() is None and not moment():
        assert time.monotonic() < until, "the moment never came"
        time.sleep(0.002)
    running = process.poll() is None
    if running:
        process.send_signal(SIGNALS[name])
    process.wait()
    return running


def packing(place: Path, rng: random.Random) -> dict[str, Any]:
    """A folder of images, packed into the cache."""
    import numpy as np
    from PIL import Image

    images = place / "images"
    random_pixels = np.random.default_rng(0)
    for label in range(4):
        for number in range(300):
            path = images / f"class-{label}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random_pixels.integers(0, 255, (96, 96, 3), dtype=np.uint8)).save(path)
    command = [sys.executable, "-m", "tune_lnl.data", "prepare", "folder", "--set", f"dataset.root={images}"]
    kills: Kills = []
    stores: dict[str, dict[str, bytes]] = {}
    for run in ("plain", "killed"):
        folder = place / run
        folder.mkdir()
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TUNE_LNL_CACHE": str(folder / "cache")}
        for name in [*SIGNALS, *SIGNALS] if run == "killed" else ():
            wait = rng.uniform(0.0, 0.1)

            def begun(folder: Path = folder, wait: float = wait) -> bool:
                if not list(folder.glob("cache/packed/*.building/*")):
                    return False
                time.sleep(wait)
                return True

            if stopped(one_command(command, folder, environment), begun, name):
                kills.append(("packing", name))
        assert one_command(command, folder, environment).wait() == 0, (folder / "output.txt").read_text()
        packed = list(folder.glob("cache/packed/*/*.npy"))
        stores[run] = {f"{path.parent.name}/{path.name}": path.read_bytes() for path in packed}
        assert not list(folder.glob("cache/packed/*.building"))
    return {
        "moments": len(kills),
        "by phase and signal": {"packing": dict(Counter(name for _, name in kills))},
        "different": {"files of the store": sum(stores["plain"].get(k) != v for k, v in stores["killed"].items())},
    }


def labels(place: Path, rng: random.Random) -> dict[str, Any]:
    """The verdict on every label of the digits, three folds."""
    kills: Kills = []
    written: dict[str, str] = {}
    again = 0
    space = ROOT / "search_spaces" / "act_digits8no.yaml"
    for run in ("plain", "killed"):
        folder = place / run
        folder.mkdir()
        driver = Forked(folder, space, trials=1, epochs=2, overrides=["dataset.subset=0.3"])
        assert driver.start().finish(900.0) == 0, driver.text
        driver.close()
        command = [sys.executable, "-m", "tune_lnl.export", str(driver.files.root), "--labels", "labels.csv"]
        command += ["--folds", "4", "--epochs", "4"]
        results = driver.files.root / "labels"
        for name in [*SIGNALS, *SIGNALS] if run == "killed" else ():
            before = {path: path.stat().st_mtime_ns for path in results.rglob("*.npz")}
            checkpoints = set(results.rglob("*.pt"))

            def further(
                before: dict[Path, int] = before, checkpoints: set[Path] = checkpoints, results: Path = results
            ) -> bool:
                new = set(results.rglob("*.npz")) - before.keys() or set(results.rglob("*.pt")) - checkpoints
                return bool(new) and rng.random() < 0.02

            if stopped(one_command(command, folder, driver.environment), further, name):
                kills.append(("label folds, some done", name))
            again += sum(path.stat().st_mtime_ns != at for path, at in before.items())
        assert one_command(command, folder, driver.environment).wait() == 0, (folder / "output.txt").read_text()
        written[run] = (folder / "labels.csv").read_text()
    return {
        "moments": len(kills),
        "by phase and signal": {"label folds, some done": dict(Counter(name for _, name in kills))},
        "folds run twice": again,
        "different": {"labels.csv": int(written["plain"] != written["killed"])},
    }


FAMILIES: dict[str, Callable[[Path, random.Random], dict[str, Any]]] = {
    "packing": packing,
    "labels": labels,
    "replicates": lambda place, rng: confirmation(place, rng, ray=False),
    "driver": lambda place, rng: search(place, rng, ray=False),
    "confirmation": confirmation,
    "search": search,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=FAMILIES, action="append")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, help="make no further moments after so long")
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "reference" / "kill_moments.json")
    arguments = parser.parse_args()
    if arguments.minutes is not None:
        TIME["is up"] = time.monotonic() + 60.0 * arguments.minutes
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(TOY), str(ROOT)])
    toy_method()  # its folder on the path: the runs name the method
    found: dict[str, Any] = {}
    if arguments.output.exists():  # each family may be run by itself
        found = json.loads(arguments.output.read_text()).get("families", {})
    for name in arguments.family or FAMILIES:
        with tempfile.TemporaryDirectory() as place:
            key = f"{name}, seed {arguments.seed}"
            found[key] = FAMILIES[name](Path(place), random.Random(key))
        print(json.dumps({key: found[key]}, indent=2), flush=True)
        moments = sum(family["moments"] for family in found.values())
        write_evidence(
            arguments.output, {**evidence(("ray", "optuna", "torch")), "moments": moments, "families": found}
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
