"""Real commands, with Ray and real trainings, hit by every signal in every phase and started again until they are done.

Each family runs its command twice: undisturbed, and disturbed at one moment after another. After every moment the
trials (replicates, folds) that had ended before are looked at again; at the end both runs are compared, value by value.

python benchmarks/kill_moments.py --work DIR [--family NAME]... [--output FILE]

An interrupted call goes on where it was: DIR keeps the runs and the moments.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from evidence import evidence, write_evidence

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tests" / "support"))

from toy_runs import Driver  # noqa: E402

from tune_lnl.errors import InputError  # noqa: E402
from tune_lnl.tuning.runs.run import load_run  # noqa: E402
from tune_lnl.tuning.study.trials import ATTEMPTS, ENDED  # noqa: E402

SIGNALS = ("SIGKILL", "SIGKILL to all", "SIGTERM", "SIGINT", "SIGHUP", "SIGSTOP, SIGCONT")
STOPPED_SECONDS = 12.0
"""Between SIGSTOP and SIGCONT, which go to all processes of the command."""
TIMED = {"attempt", "seconds", "train_seconds", "images_per_second"}
DIGITS = ROOT / "search_spaces" / "act_digits8no.yaml"
TRIALS, EPOCHS = 30, 4


class Family:
    """A command that trains on the digits.

    Args:
        folder: of its files; what an earlier call has left there is used.
    """

    phases: Mapping[str, int]
    """How often each signal strikes in each phase."""
    flags: tuple[str, ...] = ()

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        environment = {"TUNE_LNL_CACHE": str(folder / "cache")}
        common = ("--concurrent", "1", "--epochs", str(EPOCHS))
        self.driver = Driver(folder, DIGITS, *common, *self.flags, environment=environment)
        self.driver.starts = len(list(folder.glob("output-*.txt")))
        self.files = self.driver.files

    def start(self) -> None:
        self.driver.start()

    def reach(self, phase: str, rng: random.Random) -> None:
        """Wait for a moment of the phase, or the end of the command."""
        raise NotImplementedError

    def done(self) -> dict[str, Any]:
        """Return everything that has ended, by name; nothing of it may change any more."""
        raise NotImplementedError

    def unrecorded(self, done: Mapping[str, Any]) -> int:
        """Return how many trials have written their last epoch and are not among those that have ended."""
        files = self.files.root.glob("trials/*/epochs.jsonl")
        whole = [int(path.parent.name) for path in files if path.read_bytes().count(b"\n") == EPOCHS]
        return sum(f"trial {number}" not in done for number in whole)

    def results(self) -> dict[str, Any]:
        """Return everything that an undisturbed command would have left as well, by name."""
        return self.done()

    def wait(self, condition: Callable[[], Any]) -> None:
        """Wait in finer steps than a driver does."""
        until = time.monotonic() + 1800.0
        while self.driver.running and not condition():
            assert time.monotonic() < until, self.driver.text
            time.sleep(0.002)


class Search(Family):
    """A search of 30 trials, 28 of them beyond the start points, with TPE and ASHA."""

    phases: Mapping[str, int] = {
        "before Ray is up": 1,
        "first epoch": 1,
        "between two epochs": 1,
        "after the last epoch": 1,
        "while the report is written": 1,
    }
    flags: tuple[str, ...] = ("--trials", str(TRIALS), "--confirm", "none")

    def reach(self, phase: str, rng: random.Random) -> None:
        before = self._last()
        if phase == "before Ray is up":
            self.wait(lambda: "starting Ray" in self.driver.text)
            self.driver.rest(rng.uniform(0.0, 5.0))
        elif phase == "first epoch":
            self.wait(lambda: self._last()[0] > before[0])
        elif phase == "between two epochs":
            self.wait(lambda: self._last() > before and self._last()[1] > 0)
        elif phase == "after the last epoch":
            self.wait(lambda: self._last() > before and self._last()[1] == EPOCHS)
        else:
            self.wait(lambda: "writing the report" in self.driver.text)
            self.driver.rest(rng.uniform(0.0, 0.4))

    def _last(self) -> tuple[int, int]:
        """Return the number of trials that have begun, and of epochs of the last of them."""
        folder = self.files.root / "trials"
        begun = sorted(folder.iterdir()) if folder.exists() else []
        epochs = begun[-1] / "epochs.jsonl" if begun else folder
        return len(begun), epochs.read_bytes().count(b"\n") if epochs.is_file() else 0

    def done(self) -> dict[str, Any]:
        try:
            run = load_run(self.files.root)
        except InputError:  # there is none yet
            return {}
        return {
            f"trial {trial.number}": {
                "settings": dict(trial.params),
                "end": [trial.state.name, trial.value, trial.user_attrs.get(ATTEMPTS)],
                "curve": sorted(trial.intermediate_values.items()),
                "epochs": [
                    {name: value for name, value in report.items() if name not in TIMED}
                    for report in run.epoch_reports(trial.number)
                ],
            }
            for trial in run.trials
            if trial.state in ENDED
        }

    def results(self) -> dict[str, Any]:
        found = {name: {**trial, "end": trial["end"][:2]} for name, trial in Search.done(self).items()}
        best = yaml.safe_load(self.files.best.read_text())
        for name in ("search_command", "git_commit"):
            best["provenance"].pop(name, None)
        return {**found, "best.yaml": best}


class Packing(Search):
    """A search of the user's own images, packed into the cache before Ray starts."""

    phases: Mapping[str, int] = {"packing": 2}
    small = ("dataset.subset=0.1", "dataset.resolution=16", "model=cnn_digits")
    flags = ("--trials", "2", "--confirm", "none", *(word for each in small for word in ("--set", each)))

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        images = folder.parent / "images"
        if not images.exists():
            write_images(images)
        self.driver.space = ROOT / "search_spaces" / "act_folder.yaml"
        self.driver.flags += ("--data", str(images), "--name", DIGITS.stem)

    def reach(self, phase: str, rng: random.Random) -> None:
        packed = self.driver.folder / "cache" / "packed"
        began = time.time()
        self.wait(lambda: any(path.exists() and path.stat().st_mtime > began for path in packed.glob("*.building/*")))
        self.driver.rest(rng.uniform(0.0, 0.1))

    def results(self) -> dict[str, Any]:
        stores = (self.driver.folder / "cache" / "packed").glob("*/*.npy")
        return {**super().results(), **{path.name: path.read_bytes().hex() for path in stores}}


def write_images(folder: Path) -> None:
    import numpy as np
    from PIL import Image

    pixels = np.random.default_rng(0)
    for label in range(4):
        (folder / f"class-{label}").mkdir(parents=True)
        for number in range(300):
            image = Image.fromarray(pixels.integers(0, 255, (96, 96, 3), dtype=np.uint8))
            image.save(folder / f"class-{label}" / f"{number}.png")


class Confirmation(Search):
    """A search, then its best three trials on four replicates each."""

    phases: Mapping[str, int] = {"confirmation, some replicates done": 2}
    flags = ("--trials", "4", "--confirm", "3x4")

    def reach(self, phase: str, rng: random.Random) -> None:
        before = len(self._replicates())
        self.wait(lambda: len(self._replicates()) > before)
        self.driver.rest(rng.uniform(0.0, 0.3))

    def _replicates(self) -> list[Path]:
        return sorted(self.files.confirm.glob("*.json"))

    def done(self) -> dict[str, Any]:
        return {**super().done(), **{path.stem: [path.stat().st_mtime_ns] for path in self._replicates()}}

    def results(self) -> dict[str, Any]:
        found = super().results()
        for path in self._replicates():
            content = json.loads(path.read_text())
            found[path.stem] = [
                {name: value for name, value in report.items() if name not in TIMED} for report in content["reports"]
            ]
        return {**found, "confirm.yaml": self.files.confirmation.read_text()}


class AfterSearch(Family):
    """A command on the best config of a search of one trial, which runs undisturbed before."""

    flags = ("--trials", "1", "--confirm", "none", "--no-dashboard")
    command: tuple[str, ...]

    def start(self) -> None:
        driver = self.driver
        if not self.files.best.exists():
            assert driver.start().finish() == 0, driver.text
        driver.output = driver.folder / f"output-{driver.starts}.txt"
        driver.starts += 1
        with driver.output.open("w") as out:
            driver.process = subprocess.Popen(
                [sys.executable, "-m", *self.command],
                cwd=driver.folder,
                env=driver.environment,
                stdout=out,
                stderr=subprocess.STDOUT,
            )


class Labels(AfterSearch):
    """The verdict on every label of the digits by fourteen folds: ``export --labels``."""

    phases: Mapping[str, int] = {"label folds, some done": 2}
    run = f"results/{DIGITS.stem}"
    command = ("tune_lnl.export", run, "--labels", "labels.csv", "--folds", "14", "--epochs", str(EPOCHS))

    def reach(self, phase: str, rng: random.Random) -> None:
        before = len(self.done())
        self.wait(lambda: len(self.done()) > before)
        self.driver.rest(rng.uniform(0.0, 0.3))

    def done(self) -> dict[str, Any]:
        return {path.stem: [path.stat().st_mtime_ns] for path in (self.files.root / "labels").glob("[!.]*.npz")}

    def results(self) -> dict[str, Any]:
        return {"labels.csv": (self.driver.folder / "labels.csv").read_text()}


class Train(AfterSearch):
    """``train best.yaml`` of ten epochs under eight seeds, one moment in each of the first six."""

    phases: Mapping[str, int] = {"train, at 60% of a seed": 1}
    epochs = 10
    command = (
        *("tune_lnl.train", f"results/{DIGITS.stem}/best.yaml", "--seeds", "0,1,2,3,4,5,6,7"),
        *("--epochs", str(epochs), "--output", "trained"),
    )

    def _epochs(self) -> dict[str, list[dict[str, Any]]]:
        files = sorted((self.driver.folder / "trained").glob("seed-*/epochs.jsonl"))
        lines = {path.parent.name: path.read_bytes().split(b"\n")[:-1] for path in files}
        return {
            seed: [{name: value for name, value in json.loads(line).items() if name not in TIMED} for line in each]
            for seed, each in lines.items()
        }

    def reach(self, phase: str, rng: random.Random) -> None:
        ended = len(self.done()) if self.driver.starts > 2 else -1
        self.wait(lambda: len(self.done()) > ended and self._last() == 0.6 * self.epochs)

    def _last(self) -> int:
        return len(next(reversed(self._epochs().values()), []))

    def done(self) -> dict[str, Any]:
        return {seed: epochs for seed, epochs in self._epochs().items() if len(epochs) == self.epochs}

    def results(self) -> dict[str, Any]:
        summary = json.loads((self.driver.folder / "trained" / "summary.json").read_text())
        return {**self.done(), "figures": [summary["seeds"], summary["over_seeds"]]}


FAMILIES: dict[str, type[Family]] = {
    "packing": Packing,
    "labels": Labels,
    "train": Train,
    "confirmation": Confirmation,
    "search": Search,
}


def strike(driver: Driver, name: str) -> None:
    """Send a signal; return once the command has ended, or goes on after SIGCONT."""
    if name == "SIGSTOP, SIGCONT":
        family = driver.family()
        for process in family:
            os.kill(process.pid, signal.SIGSTOP)
        time.sleep(STOPPED_SECONDS)
        for process in reversed(family):
            os.kill(process.pid, signal.SIGCONT)
        return
    if name == "SIGKILL to all":
        driver.kill_family()
    else:
        driver.signal(signal.Signals[name])
        driver.finish(1800.0)
    driver.left()


def moments_of(family: type[Family], rng: random.Random) -> list[tuple[str, str]]:
    """Return the (phase, signal) of every moment in the order in which they come; the report stands at the end."""
    moments = [(phase, name) for phase, times in family.phases.items() for name in SIGNALS * times]
    rng.shuffle(moments)
    return sorted(moments, key=lambda moment: "report" in moment[0])


def disturbed(family: Family, place: Path, on_moment: Callable[[], None]) -> None:
    """Make all moments of a family that an earlier call has not made, then let its command end."""
    log = place / "moments.jsonl"
    made = len(log.read_text().splitlines()) if log.exists() else 0
    driver = family.driver
    driver.process = subprocess.Popen(["true"])
    driver.process.wait()
    for number, (phase, name) in enumerate(moments_of(type(family), random.Random(place.name))):
        if number < made:
            continue
        if not driver.running:
            family.start()
        before = family.done()
        family.reach(phase, random.Random(f"{place.name} {number}"))
        caught = driver.running
        strike(driver, name)
        after = family.done()
        moment = {
            "phase": phase,
            "signal": name,
            "caught": caught,
            "whole and not recorded": family.unrecorded(after),
            "lost": len(before.keys() - after.keys()),
            "run twice": sum(after.get(key, value) != value for key, value in before.items()),
            "exit code": driver.process.poll(),
            "words": driver.text[-800:] if "Traceback" in driver.text else "",
        }
        with log.open("a") as file:
            file.write(json.dumps(moment) + "\n")
        print(moment, flush=True)
        on_moment()
    for _ in range(3):
        if not driver.running:
            family.start()
        if driver.finish(1800.0) == 0:
            return
    raise AssertionError(driver.text)


def carry_out(name: str, place: Path, on_moment: Callable[[], None]) -> None:
    """Run a family twice and write ``compared.json``."""
    results = []
    for run in ("undisturbed", "disturbed"):
        family = FAMILIES[name](place / run)
        kept = place / f"{run}.json"
        if not kept.exists():
            try:
                if run == "disturbed":
                    disturbed(family, place, on_moment)
                else:
                    family.start()
                    assert family.driver.finish(1800.0) == 0, family.driver.text
            finally:
                family.driver.close()
            kept.write_text(json.dumps(family.results()))
        results.append(json.loads(kept.read_text()))
    plain, killed = results
    names = plain.keys() | killed.keys()
    different = sorted(each for each in names if plain.get(each) != killed.get(each))
    (place / "compared.json").write_text(json.dumps({"compared": len(names), "different": different}))
    on_moment()


def summary(work: Path) -> dict[str, Any]:
    """Return the table of all moments so far, and the comparisons of the families that are done."""
    table: dict[str, dict[str, dict[str, int]]] = {}
    families: dict[str, Any] = {}
    for name in FAMILIES:
        log = work / name / "moments.jsonl"
        moments = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        moments = [moment for moment in moments if moment["caught"]]
        for moment in moments:
            cell = table.setdefault(moment["phase"], {}).setdefault(
                moment["signal"], {"moments": 0, "lost": 0, "run twice": 0, "tracebacks": 0}
            )
            cell["moments"] += 1
            cell["lost"] += moment["lost"]
            cell["run twice"] += moment["run twice"]
            cell["tracebacks"] += bool(moment["words"])
        compared = work / name / "compared.json"
        families[name] = {
            "command": (FAMILIES[name].__doc__ or "").strip(),
            "moments": len(moments),
            **(json.loads(compared.read_text()) if compared.exists() else {"compared": "not done"}),
        }
    cells = [cell for row in table.values() for cell in row.values()]
    totals = {key: sum(cell[key] for cell in cells) for key in ("moments", "lost", "run twice", "tracebacks")}
    return {**totals, "by phase and signal": table, "families": families}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--family", choices=FAMILIES, action="append")
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "reference" / "kill_moments.json")
    arguments = parser.parse_args()
    # A job in the background ignores them, and so would its children.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    head = evidence(("ray", "optuna", "torch"))

    def written() -> None:
        write_evidence(arguments.output, {**head, **summary(arguments.work)})

    for name in arguments.family or FAMILIES:
        carry_out(name, arguments.work.resolve() / name, written)
    print(json.dumps(summary(arguments.work), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
