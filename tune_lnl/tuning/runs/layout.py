"""The names and places of the files of a run, ``results/RUN/``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

STUDY_FILE = "study.log"
HELDOUT = "heldout"
"""The folder of the held-out predictions."""

_NUMBER = re.compile(r"(\d+)[.-]")


@dataclass(frozen=True)
class RunFiles:
    """The paths of one run, which has one study."""

    root: Path

    @property
    def settings(self) -> Path:
        return self.root / "run.yaml"

    @property
    def study(self) -> Path:
        return self.root / STUDY_FILE

    @property
    def lock(self) -> Path:
        """Locked by the driver of the run; the system releases the lock when that process dies."""
        return self.root / ".driver.lock"

    @property
    def heartbeat(self) -> Path:
        """The heartbeat file: names the driver, which keeps rewriting it, for machines that the lock does not reach."""
        return self.root / ".driver"

    @property
    def trials_table(self) -> Path:
        return self.root / "trials.parquet"

    @property
    def epochs_table(self) -> Path:
        return self.root / "epochs.parquet"

    @property
    def trials_csv(self) -> Path:
        return self.root / "trials.csv"

    @property
    def epochs_csv(self) -> Path:
        return self.root / "epochs.csv"

    @property
    def snapshot(self) -> Path:
        """The rows of the trials, for commands that start at once; see :mod:`tune_lnl.tuning.runs.snapshot`."""
        return self.root / ".trials.json"

    @property
    def best(self) -> Path:
        return self.root / "best.yaml"

    @property
    def driver_log(self) -> Path:
        return self.root / "search.log"

    @property
    def stop_flag(self) -> Path:
        """Exists while running trials have to end at their next batch."""
        return self.root / ".stop"

    @property
    def ray_folder(self) -> Path:
        """Lists the folders of Ray's temporary files, so that a later start removes those of a killed search."""
        return self.root / ".ray-folder"

    def is_unbegun(self) -> bool:
        """Return whether this is the folder of a run none of whose trials has begun, and holds nothing else.

        Such a folder is left by a search that ended while Ray was starting.
        """
        if not self.settings.is_file() or not (self.study.exists() or self.lock.exists()):
            return False
        names = {path.name for path in (self.settings, self.study, self.driver_log, self.trials_table)}
        names |= {self.epochs_table.name, "report.html"}
        for path in self.root.iterdir():
            if path.is_dir():
                if any(inner.is_file() for inner in path.rglob("*")):
                    return False
            elif not path.name.startswith((".", f"{STUDY_FILE}.lock")) and path.name not in names:
                return False
        return True

    def trial(self, number: int) -> Path:
        return self.root / "trials" / f"{number:03d}"

    def log(self, number: int) -> Path:
        return self.trial(number) / "log.txt"

    def epochs(self, number: int) -> Path:
        """One line of JSON per epoch, with the test metrics; neither sampler nor pruner reads it."""
        return self.trial(number) / "epochs.jsonl"

    def tensorboard(self, number: int) -> Path:
        """Event files of a trial, with ``--tensorboard``, which shows the name of the folder."""
        return self.root / "tensorboard" / f"trial-{number:03d}"

    @property
    def confirm(self) -> Path:
        """The trainings of a confirmation: results, checkpoints of unfinished ones, and the network of the winner."""
        return self.root / "confirm"

    @property
    def confirmation(self) -> Path:
        return self.root / "confirm.yaml"

    @property
    def race(self) -> Path:
        """The standing of the replicates that a search trains by default, in the form of ``confirm.yaml``."""
        return self.root / "replicates.yaml"

    @property
    def replicates_table(self) -> Path:
        """A row per finished replicate, of the race and of confirmations."""
        return self.root / "replicates.parquet"

    @property
    def confirmed(self) -> Path:
        """The config of the confirmed winner, trained on all the data."""
        return self.root / "confirmed.yaml"

    @property
    def confirmed_model(self) -> Path:
        return self.confirm / "model.pt"

    @property
    def judged(self) -> Path:
        """A person's answers to held-out images."""
        return self.root / "judged.csv"

    @property
    def judgement(self) -> Path:
        """The trial that these answers choose."""
        return self.root / "judged.yaml"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    def heldout(self, number: int) -> Path:
        """Return the path of the held-out predictions of a COMPLETE trial."""
        return self.root / HELDOUT / f"{number:03d}.npz"

    def number_of(self, path: Path) -> int:
        """Return the number of the trial whose checkpoint, model or predictions this is."""
        found = _NUMBER.match(path.name)
        assert found is not None, f"{path} is not a file of a trial"
        return int(found[1])

    def checkpoint(self, number: int, attempt: int) -> Path:
        """Return the path of the state after the last finished epoch; the file is deleted when the trial ends.

        Each attempt has its own file, so that a worker that outlives its driver cannot damage its successor's.
        """
        return self.checkpoints / f"{number:03d}.{attempt}.pt"

    def checkpoints_of(self, number: int) -> list[Path]:
        """Return the existing checkpoints of a trial, the latest attempt first."""
        return sorted(self.checkpoints.glob(f"{number:03d}.*.pt"), key=lambda p: -int(p.name.split(".")[1]))

    def model(self, number: int) -> Path:
        """Return the path of the network of a COMPLETE trial."""
        return self.checkpoints / f"{number:03d}-model.pt"
