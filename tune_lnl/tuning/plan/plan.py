"""From what the user asked to a plan that can be carried out, or a refusal, before anything is written."""

from __future__ import annotations

import os
import platform
import re
import secrets
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from tune_lnl.config.base import validated
from tune_lnl.config.yaml import parse_overrides, read_mapping
from tune_lnl.errors import InputError, nearest
from tune_lnl.object_storage import ObjectFolder, is_url
from tune_lnl.training.loop import Surroundings, check_precision
from tune_lnl.training.registry import training_type
from tune_lnl.tuning.confirm.statistics import ConfirmRequest
from tune_lnl.tuning.engine.tensorboard import check_tensorboard
from tune_lnl.tuning.monitor.console import Verbosity
from tune_lnl.tuning.plan.resume import require_same_search, resume_command, total_trials
from tune_lnl.tuning.plan.warm_start import WarmStart, find_other_run, plan_warm_start, remembered
from tune_lnl.tuning.resources.disk import DiskNeed, check_disk_budget, disk_need, measure_sizes
from tune_lnl.tuning.resources.divide import Node, Resources, plan_resources, shared_resources
from tune_lnl.tuning.resources.measure import Question, measure_sharing
from tune_lnl.tuning.resources.sharing import Sharing, heavy_configs
from tune_lnl.tuning.runs.folder import RunFolder
from tune_lnl.tuning.runs.location import ResultsDir, bring_here, location
from tune_lnl.tuning.runs.results import Run, read_settings
from tune_lnl.tuning.space.space import PRUNERS, SAMPLERS, Budget, SearchSpace, condition_names, load_space
from tune_lnl.tuning.study.journal import JournalFile
from tune_lnl.tuning.study.place import StudyPlace
from tune_lnl.tuning.study.pruners import rungs_of
from tune_lnl.tuning.study.samplers import LEARN_FROM_COMPLETE, make_sampler
from tune_lnl.tuning.study.study import distributions

if TYPE_CHECKING:
    from tune_lnl.tuning.study.database import StudyDatabase

RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?")
SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kMGT]?B)", re.IGNORECASE)
SIZE_UNITS = {"B": 1.0, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}
MOST_SEED = 2**31 - 1
"""Samplers take 32 bits, and a resumed search adds the number of its trials."""
VERSIONED = ("tune_lnl", "torch", "torchvision", "ray", "optuna", "numpy")


@dataclass(frozen=True)
class SearchOptions:
    """What ``tune_lnl.search`` was asked for; ``None`` where the space or the machine decides."""

    space: str
    name: str | None = None
    trials: str | None = None
    """``"64"``, the total; or with ``resume`` ``"+16"``, that many more."""
    epochs: int | None = None
    seed: int | None = None
    condition: str | None = None
    all_conditions: bool = False
    overrides: Sequence[str] = ()
    results_dir: ResultsDir = "results"
    """A folder, or the URL of one in object storage."""
    data_dir: Path | None = None
    resume: bool = False
    concurrent: int | None = None
    gpus_per_trial: float | Literal["auto"] | None = None
    """``"auto"``: measured; without a GPU the CPUs are then shared by measurement."""
    cpus_per_trial: float | None = None
    sampler: str | None = None
    pruner: str | None = None
    time_budget: str | None = None
    disk_budget: str = "20GB"
    confirm: str | None = None
    """``"3x5"``: the top 3 trials on 5 fresh replicates each, once the search has finished."""
    warm_start: str | None = None
    """Another run, by name or path, whose trials are taken over or whose best configs are tried first."""
    storage: str | None = None
    """``postgresql://USER@HOST/DATABASE`` or ``mysql://...``: the study is kept there; the password comes from the
    environment. With ``resume`` the run knows."""
    dashboard: bool = True
    """Ray's dashboard, and Optuna's over the same study where it is installed."""
    tensorboard: bool = False
    """Event files for TensorBoard, per trial."""
    address: str | None = None
    """Of a running Ray cluster to join, ``host:port``, or ``"auto"`` for the one of this machine."""
    verbosity: Verbosity = "normal"
    command: str = field(default_factory=lambda: shlex.join(["python", *sys.argv]))


@dataclass(frozen=True)
class Machine:
    """What there is to share out."""

    cpus: int
    """Of all nodes together."""
    gpus: int
    nodes: tuple[Node, ...] = ()
    """Of a cluster that was joined; empty: this machine alone."""

    @classmethod
    def of(cls, nodes: Sequence[Node]) -> Machine:
        return cls(sum(node.cpus for node in nodes), sum(node.gpus for node in nodes), tuple(nodes))

    @classmethod
    def here(cls) -> Machine:
        return cls(
            len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
            torch.cuda.device_count(),
        )


@dataclass(frozen=True)
class Plan:
    """One study to run: checked, complete, nothing written yet."""

    run: str
    """Name of the run, with its condition where there are several."""
    files: RunFolder
    space: SearchSpace
    seed: int
    machine: Machine
    resources: Resources
    fingerprints: Mapping[str, str]
    data_dir: Path | None
    time_budget: float | None
    """Seconds."""
    disk_budget: int
    """Bytes."""
    dashboard: bool
    command: str
    disk_need: DiskNeed
    confirm: ConfirmRequest | None = None
    warm_start: WarmStart | None = None
    tensorboard: bool = False
    sharing: Sharing | None = None
    """What was measured, where the share was not given."""
    database: StudyDatabase | None = None
    """Where the study is kept, if not in the run's folder."""
    at_most: int | None = None
    """Trials at once that the user wants no more of; nodes may join and leave a cluster, so what fits is not fixed."""
    asked_trials: str | None = None
    """``--trials`` as it was given."""

    @property
    def place(self) -> StudyPlace:
        """Where the study is kept."""
        return JournalFile(self.files.study) if self.database is None else self.database

    @property
    def rungs(self) -> list[int]:
        return rungs_of(self.space)

    def resume_command(self) -> str:
        return resume_command(self.command, self.space.budget.trials)

    @property
    def gpu_memory_fraction(self) -> float | None:
        """What a trial may take of its GPU's memory; ``None``: all of it, or there is no GPU."""
        if self.sharing is not None:
            return self.sharing.memory_fraction
        return self.resources.gpus_per_trial if 0 < self.resources.gpus_per_trial < 1 else None

    def remarks(self) -> list[str]:
        """What the user should know about the chosen combination."""
        budget, remarks = self.space.budget, [] if self.sharing is None else self.sharing.lines()
        if budget.sampler in LEARN_FROM_COMPLETE and budget.pruner != "none":
            remarks.append(
                f"sampler {budget.sampler} learns from complete trials only; with pruner {budget.pruner} they are few"
            )
        if self.warm_start is not None and self.warm_start.sentence:
            remarks.append(self.warm_start.sentence)
        return remarks

    def _device_name(self) -> str:
        """What trials run on; of a cluster the GPU models, as Ray names them."""
        if self.resources.device == "cuda" and self.machine.nodes:
            return ", ".join(sorted({node.gpu_model or "GPU" for node in self.machine.nodes if node.gpus}))
        return device_name(self.resources.device)

    def settings(self) -> dict[str, Any]:
        """The content of run.yaml."""
        return {
            "run": self.run,
            "command": self.command,
            **_search_of(self.space, self.seed),
            "rungs": self.rungs,
            "resources": {
                "device": self.resources.device,
                "device_name": self._device_name(),
                "cpus_per_trial": self.resources.cpus_per_trial,
                "gpus_per_trial": self.resources.gpus_per_trial,
                "concurrent": self.resources.concurrent,
            },
            "data_dir": None if self.data_dir is None else str(self.data_dir),
            "fingerprints": dict(self.fingerprints),
            "versions": {name: version(name) for name in VERSIONED} | {"python": platform.python_version()},
            "git_commit": git_commit(),
            "warm_start": None if self.warm_start is None else self.warm_start.to_dict(),
            "storage": self.place.to_dict(),
        }


def _search_of(space: SearchSpace, seed: int) -> dict[str, Any]:
    """What of run.yaml is known before any data is read."""
    return {"space_name": space.name, "condition": space.condition, "seed": seed, "space": space.to_dict()}


Measure = Callable[[Question], Sharing]


def plan_search(options: SearchOptions, machine: Machine, measure: Measure = measure_sharing) -> list[Plan]:
    """One plan per study (several with ``all_conditions``).

    Args:
        measure: finds out how many trials share a device, where that is asked for.

    Raises:
        InputError: anything that cannot work, before any worker starts and with nothing written but the dataset cache.
    """
    return [_plan_one(options, asked, machine, measure) for asked in asked_searches(options)]


@dataclass(frozen=True)
class AskedSearch:
    """One study as it was asked for, checked as far as neither data nor a device is needed."""

    run: str
    space: SearchSpace
    time_budget: float | None
    disk_budget: int
    confirm: ConfirmRequest | None


def asked_searches(options: SearchOptions) -> list[AskedSearch]:
    """One per study. Reads the space and nothing else, so it can be asked on another machine than the search's own.

    Raises:
        InputError: what cannot work wherever it runs.
    """
    conditions: list[str | None] = [options.condition]
    if options.all_conditions:
        if options.condition is not None:
            raise InputError("give --condition NAME or --conditions all, not both")
        conditions = [*condition_names(options.space)]
        if not conditions:
            raise InputError(f"--conditions all: the space {options.space!r} has no conditions")
    return [_asked_search(options, condition) for condition in conditions]


def _asked_search(options: SearchOptions, condition: str | None) -> AskedSearch:
    if is_url(options.results_dir) and options.storage is None and not options.resume:
        folder = ObjectFolder.of(str(options.results_dir))
        raise InputError(
            f"--results-dir {folder}: object storage holds the files of a run, its study needs a database; add "
            "--storage postgresql://USER@HOST/DATABASE, or give a local folder"
        )
    space = load_space(options.space, condition, options.epochs, options.overrides)
    space = replace(space, budget=_budget(space, options))
    time_budget = None if options.time_budget is None else seconds_of(options.time_budget)
    disk_budget = bytes_of(options.disk_budget)
    confirm = None if options.confirm is None else ConfirmRequest.parse(options.confirm)
    if options.storage is not None:
        from tune_lnl.tuning.study.database import parse_storage  # SQLAlchemy: not for those who have a file

        parse_storage(options.storage)
    return AskedSearch(_run_name(options, space), space, time_budget, disk_budget, confirm)


def _plan_one(options: SearchOptions, asked: AskedSearch, machine: Machine, measure: Measure) -> Plan:
    run, space, confirm = asked.run, asked.space, asked.confirm
    if options.tensorboard:
        check_tensorboard()
    files = RunFolder.at((bring_here(options.results_dir, run, to_write=True) / run).resolve())
    if options.all_conditions:
        _check_conditions_folder(RunFolder(files.root.parent), options.resume)
    _check_run_folder(files, run, options.resume and not (options.all_conditions and not files.root.exists()))
    database = _database(options, files, run)
    stored = read_settings(files.settings) if options.resume and files.settings.exists() else None
    if stored is not None:
        place = JournalFile(files.study) if database is None else database
        space = space.with_trials(total_trials(options.trials, stored, place))
    division = _Division(_with_share_of_run(options, stored), space, machine)
    resources = division.resources(None)
    unshared, (space, seed) = space, _complete_base(space, options, resources)
    if stored is not None:
        require_same_search(stored, _search_of(space, seed))
    begins_with = _begins_with(options, files, space.condition, stored is not None)
    make_sampler(space.budget.sampler, seed, space.budget.trials, distributions(space))
    config = space.config(next(space.corners())[1])
    if not machine.nodes or resources.device == "cpu":
        check_precision(config.settings.precision, resources.device)  # the driver of a cluster need not have a GPU
    data_dir = None if options.data_dir is None else options.data_dir.resolve()
    surroundings = Surroundings(data_dir=data_dir, device=resources.device)
    fingerprints = training_type(config.method).prepare(config, surroundings)
    sharing = None
    if division.is_measured:
        # Only now that all else is known to be right, and the data packed: it takes a minute, and many processes.
        sharing = measure(division.question(space, data_dir))
        resources = division.resources(sharing)
        space, seed = _complete_base(unshared, options, resources)
    need = disk_need(
        measure_sizes(config, data_dir),
        resources.concurrent,
        space.budget.trials,
        space.epochs,
        0 if confirm is None else confirm.trainings,
    )
    check_disk_budget(need, asked.disk_budget)
    plan = Plan(
        run,
        files,
        space,
        seed,
        machine,
        resources,
        fingerprints,
        data_dir,
        asked.time_budget,
        asked.disk_budget,
        options.dashboard,
        options.command,
        need,
        confirm,
        sharing=sharing,
        database=database,
        at_most=options.concurrent,
        asked_trials=options.trials,
        tensorboard=options.tensorboard,
    )
    if isinstance(begins_with, Run):
        begins_with = plan_warm_start(begins_with, plan.space, plan.files, plan.fingerprints, plan.resources.device)
    return replace(plan, warm_start=begins_with)


def _database(options: SearchOptions, files: RunFolder, run: str) -> StudyDatabase | None:
    """Where a run keeps its study; of one that is resumed, where it has kept it so far."""
    begun = options.resume and files.settings.exists()
    stored: dict[str, str] | None = read_mapping(files.settings).get("storage") if begun else None
    address = options.storage or (None if stored is None else stored["url"])
    if address is None:
        if files.url is not None:
            raise InputError(
                f"--resume: run {run!r} has its study in object storage, which version 0.1.0 was the last to write; "
                f"download its folder, for example with `aws s3 sync {files.url.partition('?')[0]} results/{run}`, and "
                "resume it with --results-dir results, or continue it with version 0.1.0"
            )
        return None
    from tune_lnl.tuning.study.database import StudyDatabase, parse_storage, shown_url

    url = parse_storage(address)
    if begun and options.storage is not None:
        before = "a file of the run" if stored is None else stored["url"]
        if before != shown_url(url):
            raise InputError(
                f"--resume: this run keeps its study in {before}, now it is given --storage {shown_url(url)}; leave "
                f"the flag out (where a database has moved, change its address in {files.settings})"
            )
    if stored is None:
        database = StudyDatabase(url, run, secrets.token_hex(8))
    else:
        database = StudyDatabase(url, stored["study"], stored["run_id"])
    check_database(database, options.resume, files)
    return database


def check_database(database: StudyDatabase, resume: bool, files: RunFolder) -> None:
    """Whether a database fits what is in the run's folder.

    Raises:
        InputError: its study is another run's, or missing; or it cannot be reached.
    """
    database.check(resume and files.settings.exists(), any((files.root / "trials").glob("*")))


def _with_share_of_run(options: SearchOptions, stored: Mapping[str, Any] | None) -> SearchOptions:
    """A run that is resumed goes on with the share that was measured for it: its threads are part of every config.

    Args:
        stored: content of its run.yaml; ``None`` for a new one.
    """
    if options.gpus_per_trial != "auto" or stored is None:
        return options
    before = stored.get("resources", {})
    return replace(
        options,
        gpus_per_trial=before.get("gpus_per_trial") or None,
        cpus_per_trial=before.get("cpus_per_trial") if options.cpus_per_trial is None else options.cpus_per_trial,
    )


class _Division:
    """How the machine is divided, as far as the user and the space say."""

    def __init__(self, options: SearchOptions, space: SearchSpace, machine: Machine) -> None:
        self._share, self._concurrent = options.gpus_per_trial, options.concurrent
        if isinstance(self._share, str) and self._share != "auto":
            raise InputError(f"--gpus-per-trial is auto, 1 or 1/k, got {self._share!r}")
        self._machine = machine
        self._trials = space.budget.trials
        self._threads: int | None = space.base["fixed"].get("threads")
        given = options.cpus_per_trial
        self._cpus_per_trial = float(self._threads) if given is None and self._threads else given

    @property
    def is_measured(self) -> bool:
        return self._share == "auto"

    def question(self, space: SearchSpace, data_dir: Path | None) -> Question:
        """What is to be measured."""
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
        """Before a share is measured: what one trial at a time has."""
        cpus, gpus, nodes = self._machine.cpus, self._machine.gpus, self._machine.nodes
        if sharing is not None:
            return shared_resources(sharing, cpus, gpus, self._cpus_per_trial, self._concurrent, nodes)
        if isinstance(self._share, str):
            one = None if self._concurrent is None else min(1, self._concurrent)
            return plan_resources(cpus, gpus, self._cpus_per_trial, None, one, nodes)
        return plan_resources(cpus, gpus, self._cpus_per_trial, self._share, self._concurrent, nodes)


def _begins_with(
    options: SearchOptions, files: RunFolder, condition: str | None, begun: bool
) -> WarmStart | Run | None:
    """The run to start from; of one that is resumed, what it has begun with."""
    if begun:
        return remembered(files, options.warm_start, options.results_dir, condition)
    if options.warm_start is None:
        return None
    return find_other_run(options.warm_start, options.results_dir, condition)


def _budget(space: SearchSpace, options: SearchOptions) -> Budget:
    """The space's budget with the flags applied; of a run that is resumed its own total counts, see ``resuming``."""
    changes: dict[str, Any] = {}
    for flag, value, valid in (("sampler", options.sampler, SAMPLERS), ("pruner", options.pruner, PRUNERS)):
        if value is not None:
            if value not in valid:
                raise InputError(f"unknown {flag} {value!r}; {nearest(value, valid)}")
            changes[flag] = value
    if options.trials is not None and not options.trials.startswith("+"):
        changes["trials"] = _whole(options.trials, "--trials")
    elif options.trials is not None:
        _whole(options.trials[1:], "--trials +N")
        if not options.resume:
            raise InputError(f"--trials {options.trials} adds to a finished run: use it with --resume")
    return validated(Budget, {**space.budget.model_dump(), **changes}, f"{space.source}: budget")


def _whole(text: str, what: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f"{what} is a whole number of at least 1, got {text!r}")
    return int(text)


def seconds_of(text: str) -> float:
    """``2h``, ``90m``, ``1h30m``, ``45s`` in seconds.

    Raises:
        InputError: any other form, or zero.
    """
    match = DURATION.fullmatch(text.strip())
    parts = [float(part) if part else 0.0 for part in match.groups()] if match else [0.0]
    seconds = sum(part * unit for part, unit in zip(parts, (3600.0, 60.0, 1.0), strict=False))
    if seconds <= 0:
        raise InputError(f"--time-budget is a duration such as 2h, 90m or 1h30m, got {text!r}")
    return seconds


def bytes_of(text: str) -> int:
    """``20GB``, ``500MB`` in bytes (powers of ten).

    Raises:
        InputError: any other form, or zero.
    """
    match = SIZE.fullmatch(text.strip())
    size = float(match[1]) * SIZE_UNITS[match[2].upper()] if match else 0.0
    if size < 1:
        raise InputError(f"--disk-budget is a size such as 20GB or 500MB, got {text!r}")
    return int(size)


def _run_name(options: SearchOptions, space: SearchSpace) -> str:
    name = options.name if options.name is not None else space.name
    if not RUN_NAME.fullmatch(name):
        raise InputError(
            f"--name is made of letters, digits, '.', '_' and '-' and begins with a letter or digit, got {name!r}"
        )
    return f"{name}/{space.condition}" if options.all_conditions else name


def _check_conditions_folder(files: RunFolder, resume: bool) -> None:
    """The folder above a run per condition. One that is resumed may lack the conditions that were not reached."""
    run = files.root.name
    if files.settings.exists():
        raise InputError(
            f"run {run!r} in {location(files.root)} is of one condition; give --conditions all another --name"
        )
    if resume and not files.root.is_dir():
        raise InputError(
            f"there is no run {run!r} to resume in {location(files.root.parent)}; start it without --resume"
        )


def _check_run_folder(files: RunFolder, run: str, resume: bool) -> None:
    existing = next(folder for folder in (files.root, *files.root.parents) if folder.exists())
    if not existing.is_dir():
        raise InputError(f"{existing} is a file; choose another --name or --results-dir")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(f"{existing} cannot be written to; choose another --results-dir")
    if files.root.exists() and any(files.root.iterdir()) and not resume:
        raise InputError(
            f"run {run!r} exists already in {location(files.root)}; continue it with --resume or give another --name"
        )
    if resume and not files.root.is_dir():
        raise InputError(
            f"there is no run {run!r} to resume in {location(files.root.parent)}; start it without --resume"
        )


def _complete_base(space: SearchSpace, options: SearchOptions, resources: Resources) -> tuple[SearchSpace, int]:
    """Write seed and threads, which are part of a config, into the fixed settings."""
    fixed = dict(space.base["fixed"])
    overridden = parse_overrides(options.overrides)
    if options.seed is not None and "seed" not in overridden:
        fixed["seed"] = options.seed
    fixed.setdefault("seed", 0)
    fixed.setdefault("threads", resources.threads)
    seed = options.seed if options.seed is not None else int(fixed["seed"])
    if not 0 <= seed <= MOST_SEED:
        raise InputError(f"--seed is a whole number from 0 to {MOST_SEED}, got {seed}")
    return replace(space, base={**space.base, "fixed": fixed}), seed


def device_name(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name(0)
    return platform.processor() or platform.machine()


@cache
def git_commit() -> str | None:
    """Commit of the code that runs, where it runs from a checkout; with ``-dirty`` when it has changes.

    Looked up once: a commit made while a search runs does not change what is running.
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
