"""Stock Ray Tune with Optuna beside this package on the same toy trials: reported states, cost of a crash.

Both get the same method (``benchmarks/toy``), the same points in the same order, the same epochs, two trials at once
and the same seeds. Stock is ``OptunaSearch`` with a journal on disk, ``ASHAScheduler``, a checkpoint every epoch, and
``Tuner.restore`` after a kill -9 of the whole process tree, all with default settings.

    python benchmarks/stock_engine.py [--tries 6] [--output FILE]
"""

from __future__ import annotations

import argparse
import json
import random
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evidence import evidence, write_evidence

ROOT = Path(__file__).resolve().parents[1]
sys.path += [str(ROOT / "benchmarks" / "toy"), str(ROOT / "tests" / "support")]

import optuna  # noqa: E402
from optuna.storages.journal import JournalFileBackend  # noqa: E402
from toy_runs import Driver, write_toy  # noqa: E402

EPOCHS = 20
SEED = 0
FAULT_EPOCH = EPOCHS - 2
FAULTS = ["none", "nan", "bug"]
PAUSE = 0.03
"""Seconds per batch, four batches an epoch."""
RUN_NAME = "stock"
PATIENCE = 600.0
"""Seconds until a search counts as one that does not end."""
Points = list[dict[str, Any]]


def first_points() -> Points:
    """Return fourteen trials: one with a NaN, the best, which crashes before its end, twelve sound."""
    sound = [{"x": round(0.5 + 0.04 * index, 2), "fault": "none"} for index in range(12)]
    return [sound[0], {"x": 0.4, "fault": "nan"}, {"x": 0.3, "fault": "bug"}, *sound[1:]]


def sound_points() -> Points:
    return [{"x": round(0.3 + 0.05 * index, 2), "fault": "none"} for index in range(8)]


# ---- stock


def stock_search(folder: Path, points: Points, restore: bool) -> dict[str, Any]:
    """Run or restore the stock search in this process; return its report."""
    import ray
    from ray import tune

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    path = str(folder / "ray" / RUN_NAME)
    if restore:
        tuner = tune.Tuner.restore(path, stock_trainable, resume_unfinished=True, restart_errored=False)
    else:
        tuner = new_tuner(folder, points)
    results = tuner.fit()
    best = results.get_best_result(metric="val_accuracy", mode="max")
    assert best.config is not None
    assert best.metrics is not None
    frame = results.get_dataframe()
    return {
        "trials": len(results),
        "errors": results.num_errors,
        "epochs": sorted(int(n) for n in frame["training_iteration"]),
        "best": {
            "x": best.config["x"],
            "fault": best.config["fault"],
            "epochs": best.metrics["training_iteration"],
            "crashed": best.error is not None,
        },
    }


def new_tuner(folder: Path, points: Points) -> Any:
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch

    searcher = OptunaSearch(
        metric="val_accuracy",
        mode="max",
        points_to_evaluate=[dict(point) for point in points],
        sampler=optuna.samplers.RandomSampler(seed=SEED),
        study_name="search",
        storage=optuna.storages.JournalStorage(JournalFileBackend(str(folder / "study.log"))),
    )
    scheduler = ASHAScheduler(metric="val_accuracy", mode="max", max_t=EPOCHS, grace_period=3, reduction_factor=3)
    return tune.Tuner(
        stock_trainable,
        param_space={"x": tune.uniform(0.0, 1.0), "fault": tune.choice(FAULTS)},
        tune_config=tune.TuneConfig(
            search_alg=searcher, scheduler=scheduler, num_samples=len(points), max_concurrent_trials=2
        ),
        run_config=tune.RunConfig(name=RUN_NAME, storage_path=str(folder / "ray"), verbose=0),
    )


def stock_trainable(config: dict[str, Any]) -> None:
    """Return the toy as a function trainable that saves and loads as Tune's guide shows."""
    import torch
    from ray import tune

    from tune_lnl.config.trial import build_config
    from tune_lnl.training.loop import Surroundings
    from tune_lnl.training.registry import start_training

    fixed = {"epochs": EPOCHS, "seed": SEED, "pause": PAUSE, "fault_epoch": FAULT_EPOCH, **config}
    sections = {"method": "toy", "dataset": {"name": "digits8no"}, "objective": {"average_last": 1}, "fixed": fixed}
    training = start_training(build_config(sections, "toy"), Surroundings())
    checkpoint = tune.get_checkpoint()
    if checkpoint:
        with checkpoint.as_directory() as place:
            training.load_state_dict(torch.load(Path(place) / "state.pt", weights_only=True))
    while not training.finished:
        report = training.run_epoch()
        with tempfile.TemporaryDirectory() as place:
            torch.save(training.state_dict(), Path(place) / "state.pt")
            tune.report(
                {"val_accuracy": report["val_accuracy"], "epochs_done": training.epoch},
                checkpoint=tune.Checkpoint.from_directory(place),
            )


class StockDriver(Driver):
    """The stock search as a process of its own."""

    def start(self, *more: str) -> StockDriver:
        self.output = self.folder / f"output-{self.starts}.txt"
        self.starts += 1
        restore = ("--restore",) if self.starts > 1 else ()
        with self.output.open("w") as out:
            self.process = subprocess.Popen(
                [sys.executable, __file__, "--child", str(self.folder), *restore, *more],
                cwd=self.folder,
                env=self.environment,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        return self

    def epochs_written(self) -> int:
        return sum(path.read_bytes().count(b"\n") for path in self.folder.glob("ray/*/*/result.json"))


def study_trials(path: Path) -> list[optuna.trial.FrozenTrial]:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(path)))
    return optuna.load_study(study_name="search", storage=storage).trials


# ---- what is compared


def compare_states(folder: Path) -> dict[str, dict[str, Any]]:
    """Run one search each, undisturbed, and compare the states of trials."""
    points = first_points()
    stock = new_driver(StockDriver, make(folder / "stock"), points)
    code = finished(stock.start())
    said = json.loads((stock.folder / "outcome.json").read_text())
    trials = study_trials(stock.folder / "study.log")
    by_fault = {trial.params["fault"]: trial for trial in trials if trial.params.get("fault") in ("nan", "bug")}
    stock_row = {
        "exit code": code,
        "states in the study": counts(trials),
        "stopped early": sum(1 for n in said["epochs"] if n < FAULT_EPOCH),
        "of these stored as PRUNED": sum(trial.state.name == "PRUNED" for trial in trials),
        "state of the NaN trial": by_fault["nan"].state.name,
        "state of the crashed trial": by_fault["bug"].state.name,
        "best": f"x {said['best']['x']}, {said['best']['epochs']} of {EPOCHS} epochs"
        + (", crashed" if said["best"]["crashed"] else ""),
        "values per epoch in the study": sum(len(trial.intermediate_values) for trial in trials),
    }
    ours = new_driver(Driver, make(folder / "ours"), points)
    code = finished(ours.start())
    run = ours.run()
    by_fault = {trial.params["fault"]: trial for trial in run.trials if trial.params["fault"] in ("nan", "bug")}
    best = run.best
    assert best is not None
    ours_row = {
        "exit code": code,
        "states in the study": counts(run.trials),
        "stopped early": sum(row.epochs < FAULT_EPOCH for row in run.rows()),
        "of these stored as PRUNED": sum(row.state == "PRUNED" for row in run.rows()),
        "state of the NaN trial": state_and_class(by_fault["nan"]),
        "state of the crashed trial": state_and_class(by_fault["bug"]),
        "best": f"x {best.params['x']}, {best.epochs} of {EPOCHS} epochs",
        "values per epoch in the study": sum(row.epochs for row in run.rows()),
    }
    return {"stock": stock_row, "ours": ours_row}


def state_and_class(trial: optuna.trial.FrozenTrial) -> str:
    return f"{trial.state.name} ({trial.user_attrs.get('failure', '-')})"


def compare_restores(folder: Path, tries: int) -> dict[str, dict[str, Any]]:
    """Kill the whole tree with SIGKILL at a random moment, restore once, and look at what came of the eight trials."""
    makers: dict[str, type[Driver]] = {"stock": StockDriver, "ours": Driver}
    rows: dict[str, dict[str, Any]] = {}
    for name, maker in makers.items():
        outcomes = []
        for number in range(tries):
            driver = new_driver(maker, make(folder / f"{name}-{number}"), sound_points())
            try:
                outcomes.append(killed_and_restored(driver, name, number))
            finally:
                driver.close()
            print(f"  {name}, try {number}: {outcomes[-1]}", flush=True)
        rows[name] = {
            "tries": tries,
            "restored, and every trial finished once": sum(outcome["whole"] for outcome in outcomes),
            "exceptions": dict(Counter(outcome["exception"] for outcome in outcomes if outcome["exception"])),
            "trials lost": sum(outcome["lost"] for outcome in outcomes),
            "trials repeated": sum(outcome["repeated"] for outcome in outcomes),
            "trials left RUNNING or WAITING": sum(outcome["unfinished"] for outcome in outcomes),
            "each try": outcomes,
        }
    return rows


def killed_and_restored(driver: Driver, name: str, number: int) -> dict[str, Any]:
    rng = random.Random(f"restore {number}")  # the same moments for both
    target = rng.randint(10, 40)
    driver.start()
    # Tune saves its state every ten seconds at most; before the first time it could not restore at all.
    saved = "ray/*/experiment_state*" if name == "stock" else "results/*/study.log"
    driver.wait(lambda: driver.epochs_written() >= target and any(driver.folder.glob(saved)), "the moment", PATIENCE)
    driver.rest(rng.uniform(0.0, 1.0))
    before = driver.epochs_written()
    driver.kill_family()
    driver.left()
    code = finished(driver.start())
    trials = study_trials(driver.folder / "study.log" if name == "stock" else driver.files.study)
    points = Counter(trial.params["x"] for trial in trials if trial.state.name in ("COMPLETE", "PRUNED"))
    wanted = {point["x"] for point in sound_points()}
    lost = len(wanted - points.keys())
    repeated = sum(count - 1 for count in points.values()) + len(points.keys() - wanted)
    unfinished = sum(trial.state.name in ("RUNNING", "WAITING") for trial in trials)
    return {
        "killed after epochs": before,
        "exit code": code,
        "exception": None if code == 0 else last_exception(driver.text),
        "lost": lost,
        "repeated": repeated,
        "unfinished": unfinished,
        "states": counts(trials),
        "whole": code == 0 and lost == repeated == unfinished == 0,
    }


def last_exception(text: str) -> str:
    """Return the name of the first exception that is not a wrapper of Tune's."""
    names = [name.split(".")[-1] for name in re.findall(r"^([A-Za-z_.]*(?:Error|Exception))\b", text, re.MULTILINE)]
    inner = [name for name in names if name not in ("TuneError", "RayTaskError")]
    return str((inner or names or ["none named"])[0])


def finished(driver: Driver) -> int:
    try:
        return driver.finish(PATIENCE)
    except AssertionError:
        print(f"  {driver.folder.name} does not end", flush=True)
        return -1
    finally:
        driver.close()


def counts(trials: Sequence[optuna.trial.FrozenTrial]) -> dict[str, int]:
    return dict(sorted(Counter(trial.state.name for trial in trials).items()))


def make(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def new_driver(maker: type[Driver], folder: Path, points: Points) -> Driver:
    """Return a driver with our space of these points; the stock one reads them from a file next to it."""
    (folder / "points.json").write_text(json.dumps(points))
    fixed = {"pause": PAUSE, "fault_epoch": FAULT_EPOCH}
    space = write_toy(folder, points, epochs=EPOCHS, fixed=fixed, pruner="asha")
    # Beside all drivers' folders, and gone with them; Ray's sockets need a short path.
    return maker(folder, space, environment={"RAY_TMPDIR": str(folder.parents[1])})


# ---- printing


def table(title: str, rows: dict[str, dict[str, Any]]) -> str:
    lines = [title, f"  {'':<42} {'stock':<44} ours"]
    for key in rows["stock"]:
        if key != "each try":
            lines.append(f"  {key:<42} {words(rows['stock'][key]):<44} {words(rows['ours'][key])}")
    return "\n".join(lines)


def words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{count} {name}" for name, count in value.items()) or "none"
    return str(value)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tries", type=int, default=6)
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "reference" / "stock_engine.json")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--restore", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        points = json.loads((arguments.child / "points.json").read_text())
        said = stock_search(arguments.child, points, arguments.restore)
        (arguments.child / "outcome.json").write_text(json.dumps(said))
        return 0
    with tempfile.TemporaryDirectory(prefix="se-") as place:
        states = compare_states(Path(place) / "states")
        print(table(f"one search of {len(first_points())} trials, undisturbed", states), flush=True)
        restores = compare_restores(Path(place) / "restores", arguments.tries)
        print(table(f"kill -9 of everything, then restored once; {len(sound_points())} trials", restores), flush=True)
    content = {
        **evidence(("ray", "optuna", "torch")),
        "states": states,
        "restores": restores,
    }
    write_evidence(arguments.output, content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
