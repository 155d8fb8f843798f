"""The plan of a search: what was asked for, fitted to the data and the machine, before anything is written."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from tune_lnl.config.trial import TrialConfig
from tune_lnl.datasets.bounds import ScoreBounds, score_bounds
from tune_lnl.datasets.paths import check_data_dir
from tune_lnl.steps import step
from tune_lnl.training.classification import ClassifierConfig, ClassifierData, ClassifierTraining
from tune_lnl.training.loop import Surroundings, check_precision
from tune_lnl.training.registry import training_type
from tune_lnl.tuning.plan.checks import AskedStudy, check_search, study_place
from tune_lnl.tuning.plan.options import SearchOptions, without_address
from tune_lnl.tuning.plan.portfolio import Portfolio
from tune_lnl.tuning.plan.resume import require_same_search, resume_command
from tune_lnl.tuning.plan.values import ConfirmRequest
from tune_lnl.tuning.plan.warm_start import WarmStart, plan_warm_start
from tune_lnl.tuning.resources.disk import DiskNeed, check_disk_budget, disk_need, measure_sizes
from tune_lnl.tuning.resources.divide import Machine, Resources, plan_resources, shared_resources
from tune_lnl.tuning.resources.measure import Question, measure_sharing
from tune_lnl.tuning.resources.sharing import Sharing, heavy_configs
from tune_lnl.tuning.runs.folder import RunFolder
from tune_lnl.tuning.runs.settings import RUN_FORMAT
from tune_lnl.tuning.space.space import SearchSpace
from tune_lnl.tuning.study.place import StudyPlace
from tune_lnl.tuning.study.pruners import rungs_of
from tune_lnl.tuning.study.samplers import LEARN_FROM_COMPLETE

if TYPE_CHECKING:
    from tune_lnl.tuning.study.database import StudyDatabase

VERSIONED = ("tune_lnl", "torch", "torchvision", "ray", "optuna", "numpy")

RACE_SHARE = 0.25
"""Most that the race after the trials may cost, as a share of their epochs."""
RACE_TRIALS = 8
"""Complete trials below which nothing is trained again."""

Measure = Callable[[Question], Sharing]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One study to run: checked and complete; nothing is written yet."""

    options: SearchOptions
    """Budgets, views and confirmation, as asked for."""
    run: str
    """Name of the run, with its condition where there are several."""
    files: RunFolder
    database: StudyDatabase | None
    """Where the study is kept; ``None``: in a file of the run."""
    space: SearchSpace
    """With seed and threads, which are part of every config, among its fixed settings."""
    seed: int
    machine: Machine
    resources: Resources
    data_dir: Path | None
    fingerprints: Mapping[str, str]
    """Of the data, the labels and the split."""
    disk_need: DiskNeed
    warm_starts: tuple[WarmStart, ...] = ()
    earlier: tuple[Path, ...] = ()
    """Folders of the conditions before this one, whose results it starts from."""
    portfolio: Portfolio | None = None
    rungs: Sequence[int]
    """The epochs (0-based) after which trials are compared; a resumed run keeps those that it began with."""
    bounds: ScoreBounds | None = None
    """Of the objective, where it is an accuracy on held-out labels."""
    begun_with_race: bool = True
    """Whether the run was started to end with the race of its few best; a resumed one keeps what it began with."""

    @property
    def races(self) -> bool:
        """Whether the few best and the published setting are trained again after the trials."""
        return self.begun_with_race and self.options.confirm is None

    @property
    def confirmed_trainings(self) -> int:
        """Return the number of trainings after the trials, at most."""
        if isinstance(self.options.confirm, ConfirmRequest):
            return self.options.confirm.trainings
        return race_trainings(self.space) if self.races else 0

    @property
    def place(self) -> StudyPlace:
        """Return where the study is kept."""
        return study_place(self.files, self.database)

    @property
    def heldout_room(self) -> int:
        """Return the number of complete trials whose held-out predictions fit into the disk budget."""
        return self.disk_need.heldout_room(self.options.disk_budget)

    def resume_command(self) -> str:
        return resume_command(self.options.command, self.space.budget.trials)

    def remarks(self) -> list[str]:
        """Return what the user should know about the chosen combination, a sentence each."""
        budget, sharing = self.space.budget, self.resources.sharing
        remarks = [] if sharing is None else sharing.lines()
        if budget.sampler in LEARN_FROM_COMPLETE and budget.pruner != "none":
            remarks.append(
                f"sampler {budget.sampler} learns from complete trials only; with pruner {budget.pruner} they are few"
            )
        if self.disk_need.sizes.heldout and self.heldout_room < budget.trials:
            remarks.append(
                f"held-out predictions ({self.disk_need.sizes.heldout / 1e6:.1f} MB a trial) are kept of the best "
                f"{self.heldout_room} complete trials: --disk-budget has no room for more"
            )
        remarks += [start.sentence for start in self.warm_starts if start.sentence]
        if self.earlier:
            names = ", ".join(folder.name for folder in self.earlier)
            remarks.append(
                f"the best of the conditions before ({names}) are suggested as long as their ranking holds here"
            )
        if self.portfolio is not None:
            remarks.append(self.portfolio.sentence())
        too_few = None if self.bounds is None else self.bounds.too_few()
        return remarks if too_few is None else [*remarks, too_few]

    def race_sentence(self) -> str | None:
        """Return what is trained after the trials by default, and for how much."""
        most = race_trainings(self.space) if self.races else 0
        if most < 2:
            return None
        return (
            "then the few best and the published setting again on fresh seeds and splits, for at most "
            f"{100 * RACE_SHARE:.0f}% of the trials' epochs more ({most} trainings of {self.space.epochs}); "
            "--confirm none leaves that out"
        )

    def settings(self) -> dict[str, Any]:
        """Return the content of ``run.yaml``."""
        resources = self.resources
        device = device_name(resources.device)
        if resources.device == "cuda" and self.machine.nodes:
            # As Ray names the GPUs of a cluster, whose driver may have none.
            device = ", ".join(sorted({node.gpu_model or "GPU" for node in self.machine.nodes if node.gpus}))
        return {
            "format": RUN_FORMAT,
            "run": self.run,
            "command": without_address(self.options.command),
            **search_settings(self.space, self.seed),
            "rungs": list(self.rungs),
            "resources": {
                "device": resources.device,
                "device_name": device,
                "cpus_per_trial": resources.cpus_per_trial,
                "gpus_per_trial": resources.gpus_per_trial,
                "concurrent": resources.concurrent,
            },
            "data_dir": None if self.data_dir is None else str(self.data_dir),
            "fingerprints": dict(self.fingerprints),
            "score_bounds": None if self.bounds is None else self.bounds.to_dict(),
            "versions": {name: version(name) for name in VERSIONED} | {"python": platform.python_version()},
            "git_commit": git_commit(),
            "warm_start": [start.to_dict() for start in self.warm_starts] or None,
            "portfolio": None if self.portfolio is None else self.portfolio.name,
            "race": self.begun_with_race,
            "storage": None if self.database is None else self.database.to_dict(),
        }


def search_settings(space: SearchSpace, seed: int) -> dict[str, Any]:
    """Return the part of ``run.yaml`` that is known before any data is read."""
    return {"space_name": space.name, "condition": space.condition, "seed": seed, "space": space.to_dict()}


def plan_search(options: SearchOptions, machine: Machine, measure: Measure = measure_sharing) -> list[Plan]:
    """Plan every study of a search; there are several with ``all_conditions``.

    Args:
        measure: measures how many trials share a device, where ``auto`` asks for that.

    Raises:
        InputError: anything that cannot work, before any worker starts and with nothing written but the dataset cache.
    """
    return [plan_study(asked, machine, measure) for asked in check_search(options)]


def plan_study(asked: AskedStudy, machine: Machine, measure: Measure = measure_sharing) -> Plan:
    """Fit one study to the machine and the data; see :func:`plan_search`."""
    options, stored = asked.options, asked.stored
    division = _Division(_with_stored_share(options, stored), asked.space, machine)
    resources = division.resources(None)
    space = _with_threads(asked.space, resources)
    if stored is not None:
        require_same_search(stored, search_settings(space, asked.seed))
    config = space.any_config()
    if not machine.nodes or resources.device == "cpu":
        check_precision(config.settings.precision, resources.device)  # the driver of a cluster need not have a GPU
    check_data_dir(options.data_dir)
    data_dir = None if options.data_dir is None else options.data_dir.resolve()
    surroundings = Surroundings(data_dir=data_dir, device=resources.device)
    step(f"reading {config.dataset.name} ...")
    fingerprints = training_type(config.method).prepare(config, surroundings)
    step("measuring the first step of a trial ...")
    if division.is_measured:
        # Last, when all else is known to be right and the data is packed: it takes a minute and many processes.
        resources = division.resources(measure(division.question(space, data_dir)))
        space = _with_threads(asked.space, resources)
    begun_with_race = options.confirm is None if stored is None else bool(stored.get("race", False))
    if isinstance(options.confirm, ConfirmRequest):
        confirmed = options.confirm.trainings
    else:
        confirmed = race_trainings(space) if begun_with_race and options.confirm is None else 0
    sizes = measure_sizes(config, data_dir)
    need = disk_need(sizes, resources.concurrent, space.budget.trials, space.epochs, confirmed)
    check_disk_budget(need, options.disk_budget)
    warm_starts = asked.warm_starts + tuple(
        plan_warm_start(other, space, asked.files, fingerprints, resources.device) for other in asked.others
    )
    return Plan(
        options=options,
        run=asked.run,
        files=asked.files,
        database=asked.database,
        space=space,
        seed=asked.seed,
        machine=machine,
        resources=resources,
        data_dir=data_dir,
        fingerprints=fingerprints,
        disk_need=need,
        warm_starts=warm_starts,
        earlier=asked.earlier,
        portfolio=asked.portfolio,
        rungs=rungs_of(space) if stored is None else stored.get("rungs", []),
        bounds=objective_bounds(config, surroundings),
        begun_with_race=begun_with_race,
    )


def objective_bounds(config: TrialConfig, surroundings: Surroundings) -> ScoreBounds | None:
    """Return the bounds of the objective; None where it is no accuracy on held-out labels."""
    if config.objective.metric != "val_accuracy" or not issubclass(training_type(config.method), ClassifierTraining):
        return None
    data = ClassifierData.load(cast(ClassifierConfig, config), surroundings)
    return score_bounds(data.noisy, len(data.validation), clean=getattr(config.validation, "labels", "") == "clean")


def race_trainings(space: SearchSpace) -> int:
    """Return how many trainings the race may have if every trial runs to its full length."""
    trials = space.budget.trials
    return int(RACE_SHARE * trials) if trials >= RACE_TRIALS else 0


def _with_stored_share(options: SearchOptions, stored: Mapping[str, Any] | None) -> SearchOptions:
    """Keep the share that was measured when a run to resume began: its threads are part of every config."""
    if options.gpus_per_trial != "auto" or stored is None:
        return options
    before = stored.get("resources", {})
    return replace(
        options,
        gpus_per_trial=before.get("gpus_per_trial") or None,
        cpus_per_trial=before.get("cpus_per_trial") if options.cpus_per_trial is None else options.cpus_per_trial,
    )


def _with_threads(space: SearchSpace, resources: Resources) -> SearchSpace:
    """Write the threads, which are part of every config, into the fixed settings, unless they stand there."""
    fixed = dict(space.base["fixed"])
    fixed.setdefault("threads", resources.threads)
    return replace(space, base={**space.base, "fixed": fixed})


class _Division:
    """How the machine is divided among trials, as far as the options and the space decide it."""

    def __init__(self, options: SearchOptions, space: SearchSpace, machine: Machine) -> None:
        self._share, self._concurrent = options.gpus_per_trial, options.concurrent
        self._machine = machine
        self._trials = space.budget.trials
        self._threads: int | None = space.base["fixed"].get("threads")
        given = options.cpus_per_trial
        self._cpus_per_trial = float(self._threads) if given is None and self._threads else given

    @property
    def is_measured(self) -> bool:
        return self._share == "auto"

    def question(self, space: SearchSpace, data_dir: Path | None) -> Question:
        """Return the question that a measurement answers."""
        return Question(
            tuple(heavy_configs(space)),
            data_dir,
            self._machine.cpus,
            self._machine.gpus,
            self._cpus_per_trial,
            self._threads,
            self._trials if self._concurrent is None else min(self._trials, self._concurrent),
        )

    def resources(self, sharing: Sharing | None) -> Resources:
        """Divide by a measurement; before it is taken (``None``), give one trial at a time a whole device."""
        cpus, gpus, nodes = self._machine.cpus, self._machine.gpus, self._machine.nodes
        if sharing is not None:
            return shared_resources(sharing, cpus, gpus, self._cpus_per_trial, self._concurrent, nodes)
        if isinstance(self._share, str):
            one = None if self._concurrent is None else min(1, self._concurrent)
            return plan_resources(cpus, gpus, self._cpus_per_trial, None, one, nodes)
        return plan_resources(cpus, gpus, self._cpus_per_trial, self._share, self._concurrent, nodes)


def device_name(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name(0)
    return platform.processor() or platform.machine()


@cache
def git_commit() -> str | None:
    """Return the commit of the running code, with ``-dirty`` when it has changes; ``None`` outside a checkout.

    Looked up once: a commit made while a search runs does not change the running code.
    """
    here = Path(__file__).parent
    try:
        found = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None
