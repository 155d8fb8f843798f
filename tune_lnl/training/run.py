"""The only loop that drives a training: search trials, confirmations, ``train``, label folds and patterned noise.

Per epoch, in this order: train and score, append the report to the epochs file, stop where the training diverged, write
the model and the held-out predictions after the last epoch, keep the state for the checkpoint. So an epoch that a
checkpoint contains is also in the epochs file, a checkpoint of the last epoch implies these two files, and a diverged
training leaves neither of them nor a checkpoint of its lost state.

A checkpoint is written after the first epoch of every attempt, after those that :class:`TrainingFiles` names, after the
last one and at a stop request; in between at most every :data:`tune_lnl.training.checkpoint.CHECKPOINT_SECONDS`. A
training that continues from it repeats the epochs since, with the same numbers.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from tune_lnl.files import replace_text
from tune_lnl.training.checkpoint import (
    CheckpointWriter,
    DamagedCheckpointError,
    content_of,
    load_checkpoint,
    write_whole,
)
from tune_lnl.training.failures import DivergedError
from tune_lnl.training.heldout import write_heldout
from tune_lnl.training.loop import Report, Training

logger = logging.getLogger(__name__)


class StopRequested(Exception):  # noqa: N818 (a request, not an error)
    """The training is to end now, with a checkpoint of the last finished epoch."""


def stop_at(flag: Path) -> Callable[[], None]:
    """Return a function that raises :class:`StopRequested` once the file ``flag`` exists.

    It serves as :attr:`tune_lnl.training.loop.Surroundings.between_batches`.
    """

    def check() -> None:
        if flag.exists():
            raise StopRequested

    return check


@dataclass(frozen=True)
class TrainingFiles:
    """Paths of what a training writes; a file whose path is ``None`` is not written.

    Attributes:
        checkpoint: state after a finished epoch, and the reports up to it.
        earlier: checkpoints of earlier attempts, the latest first. They are read where ``checkpoint`` is absent or
            damaged, and deleted after it is written.
        epochs: one line of JSON per epoch.
        columns: further columns of these lines.
        model: the reported network, written after the last epoch.
        heldout: the predictions for the held-out images, likewise; of trainings that have some.
        checkpoint_after: further epochs (0-based) after which a checkpoint is written.
    """

    checkpoint: Path | None = None
    earlier: tuple[Path, ...] = ()
    epochs: Path | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)
    model: Path | None = None
    heldout: Path | None = None
    checkpoint_after: tuple[int, ...] = ()


def run_training(
    training: Training,
    files: TrainingFiles = TrainingFiles(),
    *,
    on_epoch: Callable[[Report], None] = lambda report: None,
    gathered: dict[str, Tensor] | None = None,
) -> list[Report]:
    """Train to the end, from the checkpoint if there is one.

    Args:
        training: at epoch 0.
        files: where the training continues from and what it writes.
        on_epoch: called after each epoch and before its state is kept.
        gathered: what ``on_epoch`` collects over epochs; a checkpoint contains it, and it is restored from there.

    Returns:
        the reports of all epochs, those of before the checkpoint included.

    Raises:
        DivergedError: a loss or a weight is no longer finite.
        InputError: the checkpoint belongs to another config or other data.
        OSError: a file cannot be written; on a full disk :func:`tune_lnl.files.is_disk_full` holds.
    """
    run = TrainingRun(training, files, on_epoch=on_epoch, gathered=gathered)
    for _ in run.epochs():
        pass
    return run.reports


class TrainingRun:
    """A training and its files, to be run epoch by epoch.

    Attributes:
        reports: of all finished epochs.
        continued: whether a checkpoint was found.
    """

    def __init__(
        self,
        training: Training,
        files: TrainingFiles = TrainingFiles(),
        *,
        on_epoch: Callable[[Report], None] = lambda report: None,
        on_saved: Callable[[], None] = lambda: None,
        gathered: dict[str, Tensor] | None = None,
    ) -> None:
        """Continue from the latest readable checkpoint.

        Args:
            training, files, on_epoch, gathered: as in :func:`run_training`.
            on_saved: called in a thread after a checkpoint is written, before those of earlier attempts are deleted.

        Raises:
            InputError: the checkpoint belongs to another config or other data.
        """
        self.training = training
        self.reports: list[Report] = []
        self.continued = False
        self._files = files
        self._on_epoch = on_epoch
        self._on_saved = on_saved
        self._checkpoints = None if files.checkpoint is None else CheckpointWriter(files.checkpoint, self._saved)
        self._gathered = {} if gathered is None else gathered
        for path in (files.checkpoint, *files.earlier):
            if path is not None and path.exists():
                try:
                    self.reports = load_checkpoint(path, training, self._gathered)
                except DamagedCheckpointError as error:
                    logger.warning("%s", error)
                    continue
                self.continued = True
                break
        if files.epochs is not None:
            _restore_epochs_file(files.epochs, self.reports, files.columns)

    def epochs(self) -> Generator[Report, None, None]:
        """Run the remaining epochs; yield each report once its epoch is written, or kept for the checkpoint.

        Raises:
            DivergedError, OSError: as in :func:`run_training`.
            StopRequested: raised by ``between_batches``; the epoch in progress is lost.
        """
        try:
            first = True
            while not self.training.finished:
                yield self._epoch(first)
                first = False
        except DivergedError:
            self.discard()
            raise
        except BaseException:  # also where the caller closes the generator
            self.rescue()
            raise

    def save(self) -> None:
        """Write a checkpoint of the last finished epoch, unless there is one.

        Raises:
            OSError: it cannot be written.
        """
        if self._checkpoints is not None:
            self._checkpoints.flush()

    def discard(self) -> None:
        """Forget the state that no checkpoint contains yet: the training has ended early, for good."""
        if self._checkpoints is not None:
            self._checkpoints.discard()

    def rescue(self) -> None:
        """Do as :meth:`save` where an exception ends the training; a second one is logged alone."""
        try:
            self.save()
        except Exception as error:
            logger.warning("the newest state could not be written: %s", error)

    def _epoch(self, first: bool) -> Report:
        training, files = self.training, self._files
        report = training.run_epoch()
        self.reports.append(report)
        if files.epochs is not None:
            append_report(files.epochs, {**files.columns, **report})
        logger.info("%s", log_line(report))
        reason = training.diverged(report)
        if reason is not None:
            raise DivergedError(f"{reason} at epoch {training.epoch}")
        self._on_epoch(report)
        if training.finished and files.model is not None:
            write_whole(files.model, training.model_file())
        predictions = None if files.heldout is None else training.heldout_predictions()
        if files.heldout is not None and predictions is not None:
            write_heldout(files.heldout, predictions)
        if self._checkpoints is not None:
            now = first or training.finished or training.epoch - 1 in files.checkpoint_after
            self._checkpoints.keep(content_of(training, self.reports, self._gathered), now)
        return report

    def _saved(self) -> None:
        self._on_saved()
        for path in self._files.earlier:
            path.unlink(missing_ok=True)


def append_report(path: Path, report: Mapping[str, Any]) -> None:
    """Append one line of JSON; non-finite numbers are written as null, which every JSON reader accepts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(finite_or_null(report), allow_nan=False).encode() + b"\n"
    with path.open("a+b") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                # The last writer was killed inside a line, which must not swallow this one.
                line = b"\n" + line
        file.write(line)


def finite_or_null(value: Any) -> Any:
    """Return plain values with ``None`` in place of numbers that are not finite, in mappings too."""
    if isinstance(value, Mapping):
        return {key: finite_or_null(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _restore_epochs_file(path: Path, reports: list[Report], columns: Mapping[str, Any]) -> None:
    """Make the file agree with the checkpoint: drop torn lines and later epochs, add lines that a crash has lost."""
    if not path.exists() and not reports:
        return
    lines: dict[int, str] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n") if path.exists() else ():
        try:
            lines[int(json.loads(line)["epoch"])] = line
        except (ValueError, TypeError, KeyError):
            continue  # torn, or the empty rest after the last line
    made = {int(report["epoch"]): json.dumps(finite_or_null({**columns, **report})) for report in reports}
    text = "".join(lines.get(epoch, made[epoch]) + "\n" for epoch in made)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, text)


def log_line(report: Report) -> str:
    """Write a report as a line of a log, epochs counted from 1, test metrics left out: nobody chooses by them."""
    values = [f"{name}={value:.6g}" for name, value in report.items() if name != "epoch" and name[:5] != "test_"]
    return " ".join([f"epoch {int(report['epoch']) + 1}:", *values])
