"""``--warm-start RUN``, several times if need be: the use of other runs' results, as far as they are comparable.

If settings, length, split, data and noise are the same, a trial of the other run has the values that it would have
here: its finished trials are taken over with their curves, COMPLETE and PRUNED ones as well as diverged ones, which
repel the sampler. If anything differs, its values do not apply here, but its ranking may: it is a related run
(:mod:`tune_lnl.tuning.study.related`), whose best points are suggested as long as its ranking holds. So are the
conditions before this one in ``--conditions all``, and the portfolio of the method. All follow the space's own start
points: trial 0 is always the published setting.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
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
from tune_lnl.tuning.study.related import RelatedRun
from tune_lnl.tuning.study.study import distributions
from tune_lnl.tuning.study.trials import FrozenTrial, TrialState, has_diverged, taken_over, with_params


@dataclass(frozen=True)
class WarmStart:
    """One other run of ``--warm-start``, and how its results are used."""

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
        how = "its finished trials are taken over" if self.takes_over else "a related run"
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
    theirs, ours = other.space, space
    for what, before, now in (
        ("method", theirs.base["method"], ours.base["method"]),
        ("direction of the objective", theirs.mode, ours.mode),
    ):
        if before != now:
            raise InputError(
                f"--warm-start {other.name}: its {what} is {before}, that of this search {now}; its results say "
                "nothing here. Give another run, or leave --warm-start out"
            )
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
        count = len(related_run(other, space).points)
        if not any(_fitting_point(other, row, space) for row in other.rows() if row.state == "COMPLETE"):
            raise InputError(
                f"--warm-start {other.name}: its trials cannot be taken over ({because}), and it has no complete trial "
                "whose config fits this search; leave --warm-start out"
            )
        sentence = (
            f"warm start: run {other.name} is not comparable ({because}); the best of its {count} trials that fit are "
            "suggested as long as its ranking holds here"
        )
    return WarmStart(other.name, location(other.files.root.resolve()), because, sentence, other)


def remembered(
    files: RunFolder, names: Sequence[str], results_dir: ResultsDir, condition: str | None
) -> tuple[WarmStart, ...]:
    """Return the warm starts with which a run to resume was started.

    Args:
        files: of the run.
        names: of the runs given now; none where the flag is not repeated.
        results_dir: where they are looked up.
        condition: of the run.

    Raises:
        InputError: it was started from other runs, or from none.
    """
    stored = read_mapping(files.settings).get("warm_start") or []
    entries = [stored] if isinstance(stored, Mapping) else stored  # version 0.1.0 knew one
    before = tuple(WarmStart(entry["run"], entry["folder"], entry["because"]) for entry in entries)
    if not names:
        return before
    given = []
    for name in names:
        run, root = split_run(name, results_dir)
        given.append([location(f) for top in _folders(run, local_folder(root)) for f in (top, top / (condition or ""))])
    if len(given) != len(before) or not all(
        start.folder in folders for start, folders in zip(before, given, strict=True)
    ):
        flags = " ".join(f"--warm-start {start.run}" for start in before)
        began = f"with {flags}" if before else "without --warm-start"
        raise InputError(
            f"--resume: this run was started {began}, now it is given "
            f"{' '.join(f'--warm-start {name}' for name in names)}; leave the flag out, or give another --name"
        )
    return before


def first_difference(other: Run, space: SearchSpace, fingerprints: Mapping[str, str], device: str) -> str | None:
    """Return the first setting in which a trial of ``other`` differs from one with the same values here, as a sentence.

    ``None``: there is no difference.
    """
    theirs, ours = other.space, space
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
            return f"{name} is {_short(before.get(name))} there, {_short(now.get(name))} here"
    if theirs.parameters.keys() != ours.parameters.keys():
        return f"it searches {', '.join(theirs.parameters)}, this one {', '.join(ours.parameters)}"
    return None


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


def related_run(other: Run, space: SearchSpace) -> RelatedRun:
    """Return the finished trials of another run whose settings fit this search."""
    rows = {row.number: row for row in other.rows()}
    fitting = []
    for trial in other.trials:
        point = _fitting_point(other, rows[trial.number], space) if trial.state.is_finished() else None
        if point is not None:
            fitting.append(with_params(trial, point))
    return RelatedRun.of_trials(other.name, fitting, other.space.mode)


def _fitting_point(other: Run, row: TrialRow, space: SearchSpace) -> dict[str, Any] | None:
    return fitting_point(other.config(row).flat() | dict(row.params), other.space.epochs, space)


def fitting_point(values: Mapping[str, Any], epochs: int, space: SearchSpace) -> dict[str, Any] | None:
    """Return settings under this search's names, epochs scaled to its length; ``None``: they do not fit.

    The sampler chooses the settings that ``values`` lack.

    Args:
        values: of a config whose training has ``epochs`` epochs.
        epochs: that length.
        space: of the search.
    """
    settings = settings_type(str(space.base["method"]))
    counted = {name for name, entry in settings.model_fields.items() if entry.json_schema_extra == EPOCHS}
    counted |= {name for name, knob in settings.knobs.items() if knob.counts_epochs}
    point = {}
    for name, parameter in space.parameters.items():
        if name not in values:
            continue
        value = values[name]
        if name in counted and isinstance(value, int):
            value = scale_count(value, space.epochs / epochs)
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


def first_trials(
    warm_starts: Sequence[WarmStart], space: SearchSpace, files: RunFolder
) -> list[FrozenTrial | Mapping[str, Any]]:
    """Return the trials of the study before any suggestion; copy the files of those taken over to this run.

    Start points that a trial taken over has already tried are left out.

    Raises:
        InputError: another run is gone.
    """
    taken: list[tuple[Run, FrozenTrial]] = []
    for warm_start in warm_starts:
        if warm_start.takes_over:
            other = warm_start.other or _still_there(warm_start)
            taken += [(other, trial) for trial in comparable_trials(other, space)]
    own = [point for point in space.start if not any(dict(point) == trial.params for _, trial in taken)]
    for number, (other, trial) in enumerate(taken, start=len(own)):
        _copy_files(other, trial.number, files, number)
    return [*own, *(taken_over(trial, other.name, distributions(space)) for other, trial in taken)]


def related_runs(
    warm_starts: Sequence[WarmStart], earlier: Sequence[Path], portfolio: RelatedRun | None, space: SearchSpace
) -> list[RelatedRun]:
    """Return the runs whose ranking may hold in this search.

    Args:
        warm_starts: those that are not comparable are related.
        earlier: folders of the conditions before this one; one without a finished trial that fits is left out.
        portfolio: of the method.
        space: of the search.

    Raises:
        InputError: a run of the warm start is gone.
    """
    others = [start.other or _still_there(start) for start in warm_starts if not start.takes_over]
    others += [load_run(folder) for folder in earlier if RunFolder(folder).settings.is_file()]
    found = [related_run(other, space) for other in others]
    return [run for run in [*found, *([] if portfolio is None else [portfolio])] if run.points]


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
