"""A run on disk: writing its tables and best config, and reading it back. Built from the study and the epoch files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from tune_lnl.config.base import HeldOut, ValidationSettings
from tune_lnl.config.trial import TrialConfig
from tune_lnl.config.yaml import dump_yaml, read_mapping
from tune_lnl.errors import InputError, nearest
from tune_lnl.training.seeds import PROVENANCE
from tune_lnl.tuning.confirm.statistics import Confirmation, read_confirmation
from tune_lnl.tuning.runs.folder import RunFolder
from tune_lnl.tuning.runs.layout import RunFiles
from tune_lnl.tuning.runs.location import ResultsDir, bring_here, join_tail, split_run
from tune_lnl.tuning.space.ranges import parse_parameter
from tune_lnl.tuning.space.space import Budget, SearchSpace
from tune_lnl.tuning.study.journal import JournalFile
from tune_lnl.tuning.study.place import StudyPlace
from tune_lnl.tuning.study.trials import (
    ATTEMPTS,
    FAILURE,
    FINISHED,
    MESSAGE,
    STANDARD_ERROR,
    STARTED,
    TAKEN_FROM,
    FrozenTrial,
    TrialState,
    best_trial,
    is_own,
    last_value,
    ranked,
)

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class TrialRow:
    """One trial as every view shows it. Values of accuracy metrics are in percent."""

    number: int
    state: str
    value: float | None
    standard_error: float | None
    epochs: int
    params: Mapping[str, Any]
    failure: str | None
    message: str | None
    attempts: int
    seconds: float | None
    taken_from: str | None = None
    """Run and number of the trial in it, where another run has made it."""

    @classmethod
    def of(cls, trial: FrozenTrial) -> TrialRow:
        attrs = trial.user_attrs
        started, finished = attrs.get(STARTED), attrs.get(FINISHED)
        return cls(
            number=trial.number,
            state=trial.state.name,
            value=last_value(trial),
            standard_error=attrs.get(STANDARD_ERROR),
            epochs=len(trial.intermediate_values),
            params=dict(trial.params),
            failure=attrs.get(FAILURE),
            message=attrs.get(MESSAGE),
            attempts=int(attrs.get(ATTEMPTS, 0)),
            seconds=None if started is None or finished is None else float(finished - started),
            taken_from=_origin(attrs.get(TAKEN_FROM)),
        )


def _origin(taken_from: Mapping[str, Any] | None) -> str | None:
    return None if taken_from is None else f"{taken_from['run']} trial {taken_from['number']}"


@dataclass(frozen=True)
class Run:
    """A run read from disk; may still be running."""

    files: RunFolder
    settings: Mapping[str, Any]
    space: SearchSpace
    trials: list[FrozenTrial]

    @property
    def name(self) -> str:
        return str(self.settings["run"])

    @property
    def place(self) -> StudyPlace:
        """Where its study is."""
        return study_place(self.files, self.settings)

    @property
    def metric(self) -> str:
        return str(self.space.base["objective"]["metric"])

    @property
    def mode(self) -> str:
        return self.space.mode

    @property
    def best(self) -> TrialRow | None:
        found = best_trial(self.trials, self.mode)
        return None if found is None else TrialRow.of(found)

    @property
    def confirmation(self) -> Confirmation | None:
        """What ``--confirm`` found; ``None`` where it was not asked for or has not finished its replicates."""
        return read_confirmation(self.files.confirmation)

    def rows(self) -> list[TrialRow]:
        """COMPLETE trials best first, then PRUNED, then FAIL, then unfinished ones."""
        return [TrialRow.of(trial) for trial in ranked(self.trials, self.mode)]

    def config(self, row: TrialRow) -> TrialConfig:
        """The complete config of a trial."""
        return self.space.config(row.params)

    def epoch_reports(self, number: int) -> list[dict[str, Any]]:
        """The trial's per-epoch metrics, as far as they are written."""
        return read_epochs(self.files.epochs(number))

    def trials_frame(self) -> DataFrame:
        """A row per trial, by number."""
        from tune_lnl.tuning.runs.frames import trials_frame  # pandas: not for those who only read a config

        return trials_frame(self)

    def epochs_frame(self) -> DataFrame:
        """A row per trial and epoch, test metrics included."""
        from tune_lnl.tuning.runs.frames import epochs_frame

        return epochs_frame(self)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        from tune_lnl.tuning.runs.frames import run_html

        return run_html(self)


def load_run(run: ResultsDir, results_dir: ResultsDir = "results") -> Run:
    """Read a run by name (under ``results_dir``), path or URL; one in object storage is brought up to date first.

    Raises:
        InputError: no such run, one that holds several conditions (which are then named), or a database or an object
            storage that cannot be reached.
    """
    root = find_run(run, results_dir)
    files = RunFolder.at(root)
    join_tail(files)
    settings = read_settings(files.settings)
    space = space_from_settings(settings, str(files.settings))
    return Run(files, settings, space, study_place(files, settings).read_trials())


def study_place(files: RunFiles, settings: Mapping[str, Any]) -> StudyPlace:
    """Where the study of a run is, from its run.yaml.

    Raises:
        InputError: in a database, and what is needed to reach it is not installed.
    """
    stored = settings.get("storage")
    if stored is None:
        return JournalFile(files.study)
    from tune_lnl.tuning.study.database import StudyDatabase, parse_storage  # SQLAlchemy: not for those who have a file

    return StudyDatabase(parse_storage(stored["url"]), stored["study"], stored["run_id"])


def find_run(run: ResultsDir, place: ResultsDir) -> Path:
    """The folder of a run, up to date; ``place`` is the results folder, or its URL."""
    run, place = split_run(run, place)
    results_dir = bring_here(place, run)
    for root in (results_dir / run, Path(run)):
        if RunFiles(root).settings.is_file():
            return root
        inner = sorted(path.parent.name for path in root.glob("*/run.yaml")) if root.is_dir() else []
        if inner:
            raise InputError(
                f"{run} holds one run per condition; name one of: {', '.join(f'{run}/{i}' for i in inner)}"
            )
    known = [path.parent.relative_to(results_dir).as_posix() for path in results_dir.glob("**/run.yaml")]
    hint = nearest(str(run), known) if known else "there are no runs yet"
    raise InputError(f"no run {str(run)!r} under {str(place)!r} or at that path; {hint}")


def read_settings(path: Path) -> dict[str, Any]:
    """The content of a run.yaml.

    Raises:
        InputError: it is not what a search has written.
    """
    settings = read_mapping(path)
    missing = [key for key in ("run", "space_name", "condition", "command", "space") if key not in settings]
    if missing:
        raise InputError(f"{path}: not the settings of a run: {missing[0]!r} is missing; put a copy of the file back")
    return settings


def space_from_settings(settings: Mapping[str, Any], source: str) -> SearchSpace:
    """The search space as it was resolved when the run began."""
    stored = settings["space"]
    return SearchSpace(
        name=settings["space_name"],
        source=source,
        description=stored["description"],
        condition=settings["condition"],
        base={key: stored[key] for key in ("method", "dataset", "validation", "objective", "fixed")},
        parameters={name: parse_parameter(spec, f"{source}: {name}") for name, spec in stored["search"].items()},
        start=stored["start"],
        budget=Budget.model_validate(stored["budget"]),
    )


def read_epochs(path: Path) -> list[dict[str, Any]]:
    """Per-epoch reports in order; of an epoch that several attempts ran, the latest attempt's."""
    if not path.exists():
        return []
    reports: dict[int, dict[str, Any]] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            report = json.loads(line)
        except ValueError:
            continue  # being written, or torn where its writer was killed; the epoch is run again then
        known = reports.get(int(report["epoch"]))
        if known is None or report.get("attempt", 1) >= known.get("attempt", 1):
            reports[int(report["epoch"])] = report
    return [reports[epoch] for epoch in sorted(reports)]


# ---- writing


def write_tables(run: Run, ended: dict[int, pa.Table] | None = None) -> None:
    """``trials.parquet`` (a row per trial, by number) and ``epochs.parquet`` (a row per trial and epoch).

    Args:
        ended: as in :func:`epochs_table`.
    """
    for path, table in (
        (run.files.trials_table, trials_table(run)),
        (run.files.epochs_table, epochs_table(run, ended)),
    ):
        with run.files.writing(path) as beside:
            pq.write_table(table, beside)


def trials_table(run: Run) -> pa.Table:
    """A row per trial, by number; settings are columns ``params.NAME``."""
    rows = sorted(run.rows(), key=lambda row: row.number)
    columns: dict[str, pa.Array] = {
        "number": pa.array([row.number for row in rows], pa.int64()),
        "state": pa.array([row.state for row in rows], pa.string()),
        "value": pa.array([row.value for row in rows], pa.float64()),
        "standard_error": pa.array([row.standard_error for row in rows], pa.float64()),
        "epochs": pa.array([row.epochs for row in rows], pa.int64()),
        "failure": pa.array([row.failure for row in rows], pa.string()),
        "message": pa.array([row.message for row in rows], pa.string()),
        "attempts": pa.array([row.attempts for row in rows], pa.int64()),
        "seconds": pa.array([row.seconds for row in rows], pa.float64()),
        "taken_from": pa.array([row.taken_from for row in rows], pa.string()),
    }
    for name, parameter in run.space.parameters.items():
        kind = {"Int": pa.int64(), "Choice": pa.string()}.get(type(parameter).__name__, pa.float64())
        values = [row.params.get(name) for row in rows]
        if kind == pa.string():
            values = [None if value is None else str(value) for value in values]
        columns[f"params.{name}"] = pa.array(values, kind)
    return pa.table(columns)


def epochs_table(run: Run, ended: dict[int, pa.Table] | None = None) -> pa.Table:
    """A row per trial and epoch: the objective so far, and every metric.

    Args:
        ended: rows of trials that have ended, by number; they are taken from it, and those that are new put into it. To
            read the files of a thousand trials again takes seconds.
    """
    ended = {} if ended is None else ended
    parts = [_records_table([])]
    for trial in sorted(run.trials, key=lambda trial: trial.number):
        rows = ended.get(trial.number)
        if rows is None:
            rows = _records_table(list(_epoch_records(run, trial)))
            if trial.state.is_finished() and rows.num_rows >= len(trial.intermediate_values):
                ended[trial.number] = rows
        if rows.num_rows:
            parts.append(rows)
    return pa.concat_tables(parts, promote_options="default")


def _records_table(records: Sequence[Mapping[str, Any]]) -> pa.Table:
    names = dict.fromkeys(name for record in records for name in record)
    names.pop("number", None)
    names.pop("epoch", None)
    columns = {
        "number": pa.array([record["number"] for record in records], pa.int64()),
        "epoch": pa.array([int(record["epoch"]) for record in records], pa.int64()),
    }
    for name in names:
        columns[name] = pa.array([record.get(name) for record in records], pa.float64())
    return pa.table(columns)


def _epoch_records(run: Run, trial: FrozenTrial) -> Iterator[dict[str, Any]]:
    for report in run.epoch_reports(trial.number):
        objective = trial.intermediate_values.get(int(report["epoch"]))
        yield {"number": trial.number, "epoch": report["epoch"], "objective": objective, **report}


def write_best(run: Run) -> bool:
    """``best.yaml``, the config that alone reproduces the best trial; nothing is written while there is none."""
    best = run.best
    if best is None:
        return False
    run.files.write(run.files.best, config_yaml(run, best))
    return True


def config_yaml(run: Run, row: TrialRow) -> str:
    """A trial's complete config as YAML that ``tune_lnl.train`` runs, with where it came from."""
    config = run.config(row)
    judged_on = describe_held_out(config.validation)
    header = (
        f"# Trial {row.number} of run {run.name}: {run.metric} {describe_value(row)} on {judged_on}.\n"
        "# Train it: python -m tune_lnl.train THIS_FILE\n"
    )
    return header + dump_yaml(config.sections() | {PROVENANCE: provenance(run, row)})


def describe_held_out(validation: HeldOut) -> str:
    """What trials are judged on, in words."""
    if not isinstance(validation, ValidationSettings):
        return "held-out persons"
    return "the held-out noisy split" if validation.labels == "noisy" else "the held-out split under its true labels"


def provenance(run: Run, row: TrialRow) -> dict[str, Any]:
    return {
        "run": run.name,
        "trial": row.number,
        "state": row.state,
        "metric": run.metric,
        "value": row.value,
        "standard_error": row.standard_error,
        "epochs": row.epochs,
        "params": dict(row.params),
        **({} if row.taken_from is None else {"taken_from": row.taken_from}),
        "search_command": run.settings["command"],
        "versions": run.settings["versions"],
        "git_commit": run.settings["git_commit"],
        "fingerprints": run.settings["fingerprints"],
        "device": run.settings["resources"]["device"],
    }


def describe_value(row: TrialRow) -> str:
    """``71.25 ± 1.10`` (value ± standard error), or a dash."""
    if row.value is None:
        return "-"
    error = "" if row.standard_error is None else f" ± {row.standard_error:.2f}"
    return f"{row.value:.2f}{error}"


def describe_params(params: Mapping[str, Any]) -> str:
    """``lr=0.01 tau=0.025``: what was searched, four digits."""
    return " ".join(
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in params.items()
    )


def describe_state(trials: list[FrozenTrial]) -> str:
    """``8 complete, 4 pruned``: counts of the states there are."""
    words = {state: sum(trial.state == state for trial in trials) for state in TrialState}
    names = {"COMPLETE": "complete", "PRUNED": "stopped early", "FAIL": "failed"}
    text = ", ".join(f"{n} {names.get(s.name, s.name.lower())}" for s, n in words.items() if n) or "none"
    taken = sum(not is_own(trial) for trial in trials)
    return f"{text} ({taken} of them taken over)" if taken else text
