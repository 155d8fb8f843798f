"""A run read back: its settings, its space and its trials, in the one order of every view.

Importing this module imports neither Optuna nor pyarrow; a run is read without them where ``.trials.json`` is up to
date (:mod:`tune_lnl.tuning.runs.snapshot`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from zipfile import BadZipFile

from tune_lnl.config.registry import settings_type
from tune_lnl.config.trial import TrialConfig
from tune_lnl.errors import damage_refused
from tune_lnl.tuning.runs.answer import Answer, find_answer, published_trial
from tune_lnl.tuning.runs.confirmation import Confirmation, read_confirmation
from tune_lnl.tuning.runs.epochs import read_epochs
from tune_lnl.tuning.runs.finding import conditions_folder, find_run
from tune_lnl.tuning.runs.folder import RunFolder
from tune_lnl.tuning.runs.layout import HELDOUT, RunFiles
from tune_lnl.tuning.runs.location import ResultsDir, join_tail
from tune_lnl.tuning.runs.rows import TrialRow, describe_states
from tune_lnl.tuning.runs.settings import read_settings, space_from_settings
from tune_lnl.tuning.runs.snapshot import read_snapshot
from tune_lnl.tuning.space.space import SearchSpace
from tune_lnl.wording import STATES, settings_text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from pandas import DataFrame

    from tune_lnl.training.heldout import HeldOutPredictions
    from tune_lnl.tuning.study.place import StudyPlace
    from tune_lnl.tuning.study.trials import FrozenTrial

NOTEBOOK_ROWS = 5


@dataclass(frozen=True)
class Run:
    """A run read from disk; it may still be running."""

    files: RunFolder
    settings: Mapping[str, Any]
    """Content of run.yaml."""
    space: SearchSpace
    given: list[FrozenTrial] | None = None
    """The trials of the study, by number; ``None``: read when they are asked for."""

    @classmethod
    def load(cls, run: ResultsDir, results_dir: ResultsDir = "results") -> Self:
        """Read a run by name (under ``results_dir``), path or URL; one in object storage is downloaded first.

        Raises:
            InputError: no such run, one that holds several conditions (which are then named), one of a later version,
                or a database or an object storage that cannot be reached.
        """
        files = RunFolder.at(find_run(run, results_dir))
        join_tail(files)
        settings = read_settings(files.settings)
        with damage_refused(files.settings):
            space = space_from_settings(settings, str(files.settings))
        found = cls(files, settings, space)
        found.rows()  # a damaged study is refused here
        return found

    @property
    def name(self) -> str:
        return str(self.settings["run"])

    @property
    def place(self) -> StudyPlace:
        """Where the study is kept."""
        return study_place(self.files, self.settings)

    @property
    def metric(self) -> str:
        return str(self.space.base["objective"]["metric"])

    @property
    def task(self) -> str:
        """``classification`` or ``re-identification``."""
        return settings_type(str(self.space.base["method"])).task

    @property
    def mode(self) -> str:
        """``max`` or ``min``."""
        return self.space.mode

    @cached_property
    def trials(self) -> list[FrozenTrial]:
        """The trials of the study, by number."""
        return self.place.read_trials() if self.given is None else self.given

    @cached_property
    def _rows(self) -> list[TrialRow]:
        rows = read_snapshot(self.files) if self.given is None and self.settings.get("storage") is None else None
        if rows is not None:
            return rows
        from tune_lnl.tuning.study.trials import ranked  # Optuna: not where the snapshot is up to date

        return [TrialRow.of(trial) for trial in ranked(self.trials, self.mode)]

    def rows(self) -> list[TrialRow]:
        """Return COMPLETE trials best first, then PRUNED, then FAIL, then unfinished ones."""
        return list(self._rows)

    @property
    def best(self) -> TrialRow | None:
        """The trial of the answer; ``None`` while no trial is complete."""
        answer = self.answer
        return None if answer is None else next(row for row in self._rows if row.number == answer.number)

    @property
    def answer(self) -> Answer | None:
        """The trial that every view shows as the best, and the evidence that chose it."""
        return find_answer(self.files, self._rows, start_that_stays(self.settings, self.space))

    @property
    def published(self) -> TrialRow | None:
        """The trial at the space's first start point, which is the published setting; it need not be complete."""
        return published_trial(self._rows, self.space.start[0] if self.space.start else None)

    @property
    def confirmation(self) -> Confirmation | None:
        """What the replicates say; ``None`` where there are none, or not all that belong together are trained."""
        return read_confirmation(self.files)

    def config(self, row: TrialRow) -> TrialConfig:
        """Return the complete config of a trial."""
        return self.space.config(row.params)

    def epoch_reports(self, number: int) -> list[dict[str, Any]]:
        """Return a trial's metrics per epoch, as far as they are written."""
        return read_epochs(self.files.epochs(number))

    def heldout(self, number: int) -> NDArray[np.float32]:
        """Return the class probabilities that a trial's reported network gives the held-out images.

        Returns:
            float32 (M, C), the mean over the last ``average_last`` epochs; rows sum to 1. M held-out images, open-set
            ones included, in the order of ``index`` in ``heldout/NNN.npz``; C closed classes.

        Raises:
            KeyError: there are none: no such trial, a trial that is not complete, a method without classes (re-ID), a
                run of an earlier version, or no room for them within ``--disk-budget``.
        """
        reported: NDArray[np.float32] = self.heldout_predictions(number).probabilities[0]
        return reported

    def heldout_predictions(self, number: int) -> HeldOutPredictions:
        """Return the content of ``heldout/NNN.npz``; raises as :meth:`heldout`."""
        from tune_lnl.training.heldout import read_heldout  # numpy

        row = next((row for row in self.rows() if row.number == number), None)
        if row is None or row.state != "COMPLETE":
            state = "no such trial" if row is None else STATES[row.state]
            raise KeyError(f"run {self.name} keeps held-out predictions of complete trials, and {number} is: {state}")
        path = self.files.heldout(number)
        if not path.exists():
            self.files.fetch(f"{HELDOUT}/{path.name}")
        try:
            return read_heldout(path)
        except FileNotFoundError:
            raise KeyError(self._why_no_heldout(number)) from None
        except (OSError, ValueError, KeyError, BadZipFile) as error:
            raise KeyError(f"{path} is damaged ({error}); delete it") from None

    def _why_no_heldout(self, number: int) -> str:
        none = f"run {self.name} has no held-out predictions of trial {number}"
        if self.task != "classification":
            return f"{none}: method {self.space.base['method']} is for {self.task}, which has no class probabilities"
        version = self.settings["versions"].get("tune_lnl", "unknown")
        return (
            f"{none}: runs begun before these were kept have none (this one is of version {version} of tune_lnl), and "
            "--disk-budget drops those of the worst trials"
        )

    def trials_frame(self) -> DataFrame:
        """Return a pandas row per trial, its number the index: the columns of trials.parquet.

        A setting searched over choices is text, whatever the choices are.
        """
        from tune_lnl.tuning.runs.tables import trials_table  # pyarrow

        frame: DataFrame = trials_table(self).to_pandas()
        return frame.set_index("number")

    def epochs_frame(self) -> DataFrame:
        """Return a pandas row per trial and epoch, both the index: the columns of epochs.parquet.

        Epochs count from 1 here, from 0 in the file. It holds the test metrics, which the search does not see.
        """
        from tune_lnl.tuning.runs.tables import epochs_table

        frame: DataFrame = epochs_table(self).to_pandas()
        return frame.assign(epoch=frame["epoch"] + 1).set_index(["number", "epoch"])

    def __repr__(self) -> str:
        """Return one line, such as ``<Run mine: 8 complete, 4 stopped early; best val_accuracy 47.61 (trial 2)>``."""
        best = (
            "no best trial yet"
            if self.best is None
            else f"best {self.metric} {self.best.value_text} (trial {self.best.number})"
        )
        return f"<Run {self.name}: {describe_states(self.rows())}; {best}>"

    def _repr_html_(self) -> str:
        """Return what a notebook shows: counts of states, and the best trials."""
        rows = self.rows()
        cells = [
            (str(row.number), STATES[row.state], row.value_text, str(row.epochs), settings_text(row.params))
            if row.failure is None
            else (str(row.number), f"failed: {row.failure}", row.value_text, str(row.epochs), settings_text(row.params))
            for row in rows[:NOTEBOOK_ROWS]
        ]
        head = "".join(f"<th>{escape(name)}</th>" for name in ("trial", "state", self.metric, "epochs", "settings"))
        body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in line) + "</tr>" for line in cells)
        more = len(rows) - len(cells)
        return (
            f"<p><b>{escape(self.name)}</b>: {escape(describe_states(rows))}</p>"
            f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
            + (f"<p>and {more} more: run.trials_frame()</p>" if more else "")
        )


def start_that_stays(settings: Mapping[str, Any], space: SearchSpace) -> Mapping[str, Any] | None:
    """Return the published setting, which stays the answer of a run unless another is distinguishable from it.

    ``None`` for a space without start points, and for a run of version 0.1.0, whose answer was the highest objective.
    """
    return space.start[0] if space.start and "race" in settings else None


def load_run(run: ResultsDir, results_dir: ResultsDir = "results") -> Run:
    """Read a run by name (under ``results_dir``), path or URL, as :meth:`Run.load`."""
    return Run.load(run, results_dir)


def study_place(files: RunFiles, settings: Mapping[str, Any]) -> StudyPlace:
    """Return where the study of a run is, from the content of its run.yaml.

    Raises:
        InputError: in a database, and the package that reaches it is not installed.
    """
    stored = settings.get("storage")
    if stored is None:
        from tune_lnl.tuning.study.journal import JournalFile

        return JournalFile(files.study)
    from tune_lnl.tuning.study.database import StudyDatabase, parse_storage  # SQLAlchemy: not for those who have a file

    return StudyDatabase(parse_storage(stored["url"]), stored["study"], stored["run_id"])


def run_folders(run: ResultsDir, results_dir: ResultsDir) -> list[Path]:
    """Return the folder of a run, or those of its conditions, after checking that this version reads them.

    Raises:
        InputError: there is no such run, or it is of a later version.
    """
    folder = conditions_folder(run, results_dir)
    inner = [] if folder is None else sorted(path.parent for path in folder.glob("*/run.yaml"))
    roots = inner or [find_run(run, results_dir)]
    for root in roots:
        read_settings(RunFiles(root).settings)
    return roots
