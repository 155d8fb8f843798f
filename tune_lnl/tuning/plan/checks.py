"""The checks of a search that need neither data nor a device, in the order in which they are made.

:func:`check_folder` imports nothing heavy, so that "the run exists already" is answered at once. :func:`check_search`
reads the space, the study and the other runs that the options name.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tune_lnl.errors import InputError, nearest
from tune_lnl.object_storage import ObjectFolder, is_url
from tune_lnl.tuning.plan.options import SearchOptions
from tune_lnl.tuning.plan.values import read_run_name, read_seed
from tune_lnl.tuning.runs.layout import RunFiles
from tune_lnl.tuning.space.named import find_space

if TYPE_CHECKING:
    from tune_lnl.tuning.plan.portfolio import Portfolio
    from tune_lnl.tuning.plan.warm_start import WarmStart
    from tune_lnl.tuning.runs.folder import RunFolder
    from tune_lnl.tuning.runs.run import Run
    from tune_lnl.tuning.space.space import SearchSpace
    from tune_lnl.tuning.study.database import StudyDatabase
    from tune_lnl.tuning.study.place import StudyPlace


@dataclass(frozen=True)
class AskedStudy:
    """One study of a search, checked as far as neither data nor a device is needed."""

    options: SearchOptions
    run: str
    """Name of the run, with its condition where there are several."""
    files: RunFolder
    space: SearchSpace
    """With the budget of the flags; a resumed run's own number of trials."""
    seed: int
    database: StudyDatabase | None = None
    """Where the study is kept; ``None``: in a file of the run."""
    stored: Mapping[str, Any] | None = None
    """Content of ``run.yaml`` of a run to resume; ``None``: the run is new."""
    warm_starts: tuple[WarmStart, ...] = ()
    """The warm starts with which a run to resume was started."""
    others: tuple[Run, ...] = ()
    """The runs that a new one is to start from."""
    earlier: tuple[Path, ...] = ()
    """Folders of the conditions before this one, whose results it is to start from."""
    portfolio: Portfolio | None = None
    """The configs of the method's portfolio that fit."""

    @property
    def place(self) -> StudyPlace:
        """Return where the study is kept."""
        return study_place(self.files, self.database)


def study_place(files: RunFolder, database: StudyDatabase | None) -> StudyPlace:
    """Return where a run keeps its study: a journal in its folder, or a database."""
    from tune_lnl.tuning.study.journal import JournalFile

    return JournalFile(files.study) if database is None else database


# ---- the folder


def run_name(options: SearchOptions) -> str:
    """Return the name of the run, by default that of the space; without a condition.

    Raises:
        InputError: there is no such space, or its name cannot be that of a run.
    """
    return options.name if options.name is not None else read_run_name(find_space(options.space).stem)


def check_folder(options: SearchOptions) -> None:
    """Refuse a run whose folder cannot be used. Reads no space and imports nothing heavy.

    A results folder in object storage is checked by :func:`check_search`, which has to ask the storage.

    Raises:
        InputError: the run exists already, there is none to resume, or its folder cannot be written.
    """
    name = run_name(options)
    if is_url(options.results_dir):
        if options.storage is None and not options.resume:
            folder = ObjectFolder.of(str(options.results_dir))
            raise InputError(
                f"--results-dir {folder}: object storage holds the files of a run, its study needs a database; add "
                "--storage postgresql://USER@HOST/DATABASE, or give a local folder"
            )
        return
    root = (Path(options.results_dir) / name).resolve()
    try:
        if options.all_conditions:
            _check_conditions_folder(root, options.resume)
        else:
            _check_run_folder(root, name, options.resume)
    except OSError as error:  # a folder whose name is too long, or that may not be read
        raise InputError(
            f"the folder of the run cannot be used: {error.strerror}: {str(root)!r}; choose another --name or "
            "--results-dir"
        ) from None


def _check_conditions_folder(root: Path, resume: bool, named: Callable[[Path], object] = str) -> None:
    """Check the folder above one run per condition; a run to resume may lack the conditions that were not reached."""
    if (root / "run.yaml").exists():
        raise InputError(
            f"run {root.name!r} in {named(root)} is of one condition; give --conditions all another --name"
        )
    if resume and not root.is_dir():
        raise InputError(f"there is no run {root.name!r} to resume in {named(root.parent)}; start it without --resume")


def _check_run_folder(root: Path, run: str, resume: bool, named: Callable[[Path], object] = str) -> None:
    existing = next(folder for folder in (root, *root.parents) if folder.exists())
    if not existing.is_dir():
        raise InputError(f"{existing} is a file; choose another --name or --results-dir")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(f"{existing} cannot be written to; choose another --results-dir")
    if root.exists() and any(root.iterdir()) and not resume and not RunFiles(root).is_unbegun():
        raise InputError(
            f"run {run!r} exists already in {named(root)}; continue it with --resume or give another --name"
        )
    if resume and not root.is_dir():
        raise InputError(f"there is no run {run!r} to resume in {named(root.parent)}; start it without --resume")


# ---- everything else


def check_search(options: SearchOptions) -> list[AskedStudy]:
    """Check what was asked for and return one study per condition.

    Raises:
        InputError: what cannot work, whatever the data and the devices.
    """
    from tune_lnl.tuning.space.space import condition_names

    check_folder(options)
    conditions: list[str | None] = [options.condition]
    if options.all_conditions:
        conditions = [*condition_names(options.space)]
        if not conditions:
            raise InputError(f"--conditions all: the space {options.space!r} has no conditions")
    if options.tensorboard and find_spec("tensorboard") is None:
        raise InputError("--tensorboard needs the package tensorboard: pip install 'tune_lnl[tensorboard]'")
    studies = [_check_study(options, condition) for condition in conditions]
    return [
        replace(study, earlier=tuple(before.files.root for before in studies[:place]))
        for place, study in enumerate(studies)
    ]


def _check_study(options: SearchOptions, condition: str | None) -> AskedStudy:
    from tune_lnl.tuning.plan.portfolio import find_portfolio
    from tune_lnl.tuning.plan.resume import total_trials
    from tune_lnl.tuning.plan.warm_start import find_other_run, remembered
    from tune_lnl.tuning.runs.folder import RunFolder
    from tune_lnl.tuning.runs.location import bring_here, location
    from tune_lnl.tuning.runs.settings import read_settings
    from tune_lnl.tuning.space.space import load_space
    from tune_lnl.tuning.study.samplers import make_sampler
    from tune_lnl.tuning.study.study import distributions

    if options.data is not None:
        _check_reads_a_folder(options)
    space = load_space(options.space, condition, options.epochs, options.settings, options.preset)
    space = _with_budget(space, options)
    space, seed = _with_seed(space, options)
    make_sampler(space.budget.sampler, seed, space.budget.trials, distributions(space))
    run = f"{run_name(options)}/{space.condition}" if options.all_conditions else run_name(options)
    files = RunFolder.at((bring_here(options.results_dir, run, to_write=True) / run).resolve())
    if options.all_conditions:
        _check_conditions_folder(files.root.parent, options.resume, location)
    if not options.resume and files.is_unbegun() and read_settings(files.settings).get("storage") is not None:
        options = replace(options, resume=True)  # its study in the database is that of this run
    resumed = options.resume and not (options.all_conditions and not files.root.exists())
    _check_run_folder(files.root, run, resumed, location)
    begun = options.resume and files.settings.exists()
    asked = AskedStudy(
        options,
        run,
        files,
        space,
        seed,
        database=_study_database(options, files, run),
        stored=read_settings(files.settings) if begun else None,
    )
    if asked.stored is not None:
        trials = total_trials(options.trials, asked.stored, asked.place)
        warm_starts = remembered(files, options.warm_start, options.results_dir, space.condition)
        begun_space = space.with_trials(trials).with_own_start(asked.stored["space"]["start"])
        return replace(asked, space=begun_space, warm_starts=warm_starts)
    others = tuple(find_other_run(name, options.results_dir, space.condition) for name in options.warm_start)
    for place, other in enumerate(others):
        if any(other.files.root.resolve() == before.files.root.resolve() for before in others[:place]):
            raise InputError(f"--warm-start {options.warm_start[place]}: this run is given twice; give it once")
    return replace(asked, others=others, portfolio=find_portfolio(options.portfolio, space))


def _check_reads_a_folder(options: SearchOptions) -> None:
    """Refuse ``--data PATH`` for a space on a dataset that has its place in ``--data-dir``."""
    from tune_lnl.config.overrides import parse_overrides
    from tune_lnl.config.registry import dataset_options
    from tune_lnl.config.yaml import read_mapping

    section = read_mapping(find_space(options.space)).get("dataset")
    own = section.get("name") if isinstance(section, dict) else None
    name = parse_overrides(options.overrides).get("dataset.name", own)
    if isinstance(name, str) and "root" not in dataset_options(name).model_fields:
        raise InputError(
            f"--data PATH is for your own images, and space {options.space} reads {name}; search --data PATH takes the "
            "space act_folder, and --data-dir DIR says where published datasets lie"
        )


def _with_budget(space: SearchSpace, options: SearchOptions) -> SearchSpace:
    """Apply the flags to the space's budget; the total of a run to resume is decided later, with its study."""
    from tune_lnl.config.base import validated
    from tune_lnl.tuning.space.space import PRUNERS, SAMPLERS, Budget

    changes: dict[str, Any] = {}
    for flag, value, valid in (("sampler", options.sampler, SAMPLERS), ("pruner", options.pruner, PRUNERS)):
        if value is not None:
            if value not in valid:
                raise InputError(f"unknown {flag} {value!r}; {nearest(value, valid)}")
            changes[flag] = value
    if options.trials is not None and not options.trials.added:
        changes["trials"] = options.trials.number
    budget = validated(Budget, {**space.budget.model_dump(), **changes}, f"{space.source}: budget")
    return replace(space, budget=budget)


def _with_seed(space: SearchSpace, options: SearchOptions) -> tuple[SearchSpace, int]:
    """Write the seed, which is part of every config, into the fixed settings; return it, too, for the sampler."""
    from tune_lnl.config.overrides import parse_overrides

    fixed = dict(space.base["fixed"])
    if options.seed is not None and "seed" not in parse_overrides(options.settings):
        fixed["seed"] = options.seed
    fixed.setdefault("seed", 0)
    seed = read_seed(str(fixed["seed"] if options.seed is None else options.seed))
    return replace(space, base={**space.base, "fixed": fixed}), seed


def _study_database(options: SearchOptions, files: RunFolder, run: str) -> StudyDatabase | None:
    """Return the database of a run's study; a run to resume stays where its study has been so far."""
    import secrets

    from tune_lnl.config.yaml import read_mapping

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
    from tune_lnl.tuning.study.database import StudyDatabase, parse_storage, shown_url  # SQLAlchemy: for a URL only

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
    """Refuse a database that does not fit the run's folder.

    Raises:
        InputError: its study is another run's, or missing; or the database cannot be reached.
    """
    database.check(resume and files.settings.exists(), any((files.root / "trials").glob("*")))
