"""``--warm-start RUN``: the use of another run's results, as far as they are comparable.

If method, settings, length, split, data and noise are the same, a trial of the other run has the values that it would
have here: its finished trials are taken over with their curves, COMPLETE and PRUNED ones as well as diverged ones,
which repel the sampler. If anything differs, its values do not apply here, and only its best configs are used, as
additional start points. They follow the space's own start points: trial 0 is always the published setting.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tune_lnl.config.base import EPOCHS
from tune_lnl.config.lr_plans import scale_count
from tune_lnl.config.registry import settings_type
from tune_lnl.config.yaml import read_mapping
from tune_lnl.errors import InputError
from tune_lnl.tuning.runs.folder import RunFolder
from tune_lnl.tuning.runs.layout import HELDOUT
from tune_lnl.tuning.runs.location import ResultsDir, bring_here, local_folder, location, split_run
from tune_lnl.tuning.runs.rows import TrialRow, describe_states
from tune_lnl.tuning.runs.run import Run, load_run
from tune_lnl.tuning.space.ranges import Int
from tune_lnl.tuning.space.space import SearchSpace
from tune_lnl.tuning.study.study import distributions
from tune_lnl.tuning.study.trials import FrozenTrial, TrialState, has_diverged, taken_over

BEST_CONFIGS = 5
"""Number of the other run's best configs that are tried where its trials cannot be taken over."""


@dataclass(frozen=True)
class WarmStart:
    """The other run of ``--warm-start``, and how its results are used."""

    run: str
    folder: str
    """Its path, or its URL."""
    because: str | None
    """The first difference from the other run; ``None``: there is none, and its trials are taken over."""
    sentence: str = ""
    """For the user, at the start of the run; empty for a resumed run."""
    other: Run | None = field(default=None, compare=False, repr=False)
    """The other run as it was at the time of planning."""

    @property
    def takes_over(self) -> bool:
        return self.because is None

    def to_dict(self) -> dict[str, Any]:
        how = "its finished trials are taken over" if self.takes_over else "its best configs are start points"
        return {"run": self.run, "folder": self.folder, "how": how, "because": self.because}


# ---- planning


def find_other_run(name: ResultsDir, results_dir: ResultsDir, condition: str | None) -> Run:
    """Return the run called ``name``; of a run with several conditions the one of ``condition``.

    Raises:
        InputError: no such run, or a storage that does not answer.
    """
    name, results_dir = split_run(name, results_dir)
    for root in _folders(name, bring_here(results_dir, name)):
        with suppress(OSError):  # load_run names it
            if condition is not None and not RunFolder(root).settings.is_file():
                inside = root / condition
                if RunFolder(inside).settings.is_file():
                    return load_run(inside)
    try:
        return load_run(name, results_dir)
    except InputError as error:
        raise InputError(f"--warm-start: {error}") from None


def _folders(name: ResultsDir, results_dir: Path) -> list[Path]:
    return [(results_dir / name).resolve(), Path(name).resolve()]


def plan_warm_start(
    other: Run, space: SearchSpace, files: RunFolder, fingerprints: Mapping[str, str], device: str
) -> WarmStart:
    """Decide what is used of ``other``.

    Raises:
        InputError: nothing can be used, or it is the run itself.
    """
    if other.files.root.resolve() == files.root.resolve():
        raise InputError(f"--warm-start {other.name}: a run cannot start from itself; continue it with --resume")
    because = first_difference(other, space, fingerprints, device)
    if because is None:
        taken = list(comparable_trials(other, space))
        if not taken:
            raise InputError(
                f"--warm-start {other.name}: it has no finished trial inside the ranges of this search; "
                "wait for one, or leave --warm-start out"
            )
        finished = sum(trial.state.is_finished() for trial in other.trials)
        of = "" if len(taken) == finished else f" of its {finished}"
        states = describe_states([TrialRow.of(trial) for trial in taken])
        sentence = f"warm start: takes over {len(taken)}{of} trials of run {other.name} ({states})"
    else:
        if not any(_fitting_points(other, space)):
            raise InputError(
                f"--warm-start {other.name}: its trials cannot be taken over ({because}), and it has no complete trial "
                "whose config fits this search; leave --warm-start out"
            )
        points = best_configs(other, space)
        use = f"{len(points)} of its best configs are tried after the start points"
        if not points:
            use = "its best configs are start points already"
        sentence = f"warm start: run {other.name} is not comparable ({because}); {use}"
    return WarmStart(other.name, location(other.files.root.resolve()), because, sentence, other)


def remembered(files: RunFolder, name: str | None, results_dir: ResultsDir, condition: str | None) -> WarmStart | None:
    """Return the warm start with which a run to resume was started.

    Args:
        name: of the run given now; ``None`` where the flag is not repeated.

    Raises:
        InputError: it was started from another run, or from none.
    """
    stored = read_mapping(files.settings).get("warm_start")
    before = None if stored is None else WarmStart(stored["run"], stored["folder"], stored["because"])
    if name is None:
        return before
    run, results_dir = split_run(name, results_dir)
    folders = _folders(run, local_folder(results_dir))
    given = [location(folder) for root in folders for folder in (root, root / (condition or ""))]
    if before is None or before.folder not in given:
        began = "without --warm-start" if before is None else f"with --warm-start {before.run}"
        raise InputError(
            f"--resume: this run was started {began}, now it is given --warm-start {name}; "
            "leave the flag out, or give another --name"
        )
    return before


def first_difference(other: Run, space: SearchSpace, fingerprints: Mapping[str, str], device: str) -> str | None:
    """Return the first setting in which a trial of ``other`` differs from one with the same values here, as a sentence.

    ``None``: there is no difference.
    """
    theirs, ours = other.space, space
    if theirs.base["method"] != ours.base["method"]:
        return _unequal("method", theirs.base["method"], ours.base["method"])
    searched = _searched(theirs) | _searched(ours)
    # Every setting, defaults included, that is the same for all trials of a search.
    before, now = (
        {name: value for name, value in side.any_config().flat().items() if name not in searched}
        for side in (theirs, ours)
    )
    before |= {f"{name} of the data": value for name, value in other.settings["fingerprints"].items()}
    now |= {f"{name} of the data": value for name, value in fingerprints.items()}
    before["device"], now["device"] = other.settings["resources"]["device"], device
    # The length first: if it differs, other settings were scaled with it.
    for name in dict.fromkeys(["epochs", *before, *now]):
        if before.get(name) != now.get(name):
            return _unequal(name, before.get(name), now.get(name))
    if theirs.parameters.keys() != ours.parameters.keys():
        return f"it searches {', '.join(theirs.parameters)}, this one {', '.join(ours.parameters)}"
    return None


def _unequal(name: str, theirs: Any, ours: Any) -> str:
    return f"{name} is {_short(theirs)} there, {_short(ours)} here"


def _short(value: Any) -> str:
    text = repr(value)
    return f"{text[:12]}...'" if isinstance(value, str) and len(text) > 40 else text


def _searched(space: SearchSpace) -> set[str]:
    """Return the settings that differ between trials: those with a range, and those that a searched knob decides."""
    knobs = settings_type(str(space.base["method"])).knobs
    return {*space.parameters} | {knob.decides for name, knob in knobs.items() if name in space.parameters}


# ---- the results used


def comparable_trials(other: Run, space: SearchSpace) -> Iterator[FrozenTrial]:
    """Yield the finished trials whose settings lie in this search's ranges; of the failed ones those that diverged."""
    for trial in sorted(other.trials, key=lambda trial: trial.number):
        if trial.state not in (TrialState.COMPLETE, TrialState.PRUNED) and not has_diverged(trial):
            continue
        if trial.params.keys() == space.parameters.keys() and all(
            space.parameters[name].contains(value) for name, value in trial.params.items()
        ):
            yield trial


def best_configs(other: Run, space: SearchSpace) -> list[dict[str, Any]]:
    """Return the settings of its best COMPLETE trials that fit this search and are no start points of it, best first.

    There are at most :data:`BEST_CONFIGS`.
    """
    points: list[dict[str, Any]] = []
    for point in _fitting_points(other, space):
        if point not in points and point not in [dict(own) for own in space.start]:
            points.append(point)
    return points[:BEST_CONFIGS]


def _fitting_points(other: Run, space: SearchSpace) -> Iterator[dict[str, Any]]:
    for row in other.rows():
        point = _fitting_point(other, row, space) if row.state == "COMPLETE" else None
        if point is not None:
            yield point


def _fitting_point(other: Run, row: TrialRow, space: SearchSpace) -> dict[str, Any] | None:
    """Return the row's settings under this search's names, epochs scaled to this length; ``None``: they do not fit.

    The sampler chooses the settings that the other run neither searched nor fixed.
    """
    values = other.config(row).flat() | dict(row.params)
    settings = settings_type(str(space.base["method"]))
    counted = {name for name, entry in settings.model_fields.items() if entry.json_schema_extra == EPOCHS}
    counted |= {name for name, knob in settings.knobs.items() if knob.counts_epochs}
    point = {}
    for name, parameter in space.parameters.items():
        if name not in values:
            continue
        value = values[name]
        if name in counted and isinstance(value, int):
            value = scale_count(value, space.epochs / other.space.epochs)
            if isinstance(parameter, Int):  # the nearest point of the range's grid
                value = parameter.low + parameter.step * round((value - parameter.low) / parameter.step)
        if not parameter.contains(value):
            return None
        point[name] = value
    if point.keys() == space.parameters.keys():
        try:
            space.config(point)
        except InputError:
            return None
    return point or None


# ---- the first trials of the run


def first_trials(warm_start: WarmStart, space: SearchSpace, files: RunFolder) -> list[FrozenTrial | Mapping[str, Any]]:
    """Return the trials of the study before any suggestion; copy the files of those taken over to this run.

    Start points that a trial taken over has already tried are left out.

    Raises:
        InputError: the other run is gone.
    """
    other = warm_start.other or _still_there(warm_start)
    if not warm_start.takes_over:
        return [*space.start, *best_configs(other, space)]
    taken = list(comparable_trials(other, space))
    own = [point for point in space.start if not any(dict(point) == trial.params for trial in taken)]
    for number, trial in enumerate(taken, start=len(own)):
        _copy_files(other, trial.number, files, number)
    return [*own, *(taken_over(trial, other.name, distributions(space)) for trial in taken)]


def _still_there(warm_start: WarmStart) -> Run:
    try:
        return load_run(warm_start.folder)
    except InputError:
        raise InputError(
            f"run {warm_start.run}, from which this run was to start (--warm-start), is no longer in "
            f"{warm_start.folder}; bring it back, or start again under another --name"
        ) from None


def _copy_files(other: Run, theirs: int, files: RunFolder, ours: int) -> None:
    files.write(
        files.log(ours), f"taken over from run {other.name}, trial {theirs}; its log: {other.files.log(theirs)}\n"
    )
    other.files.fetch(f"checkpoints/{other.files.model(theirs).name}", f"{HELDOUT}/{other.files.heldout(theirs).name}")
    for source, target in (
        (other.files.epochs(theirs), files.epochs(ours)),
        (other.files.model(theirs), files.model(ours)),
        (other.files.heldout(theirs), files.heldout(ours)),
    ):
        if source.exists():
            with files.writing(target) as new:
                shutil.copyfile(source, new)
