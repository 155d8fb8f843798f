"""The names and places of the files of a run, ``results/RUN/``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

STUDY_FILE = "study.log"
HELDOUT = "heldout"
"""The folder of the held-out predictions."""

_NUMBER = re.compile(r"(\d+)[.-]")


class InRun:
    """A file or folder at a fixed place in the run; reading the attribute gives its path."""

    def __init__(self, *parts: str) -> None:
        self._place = Path(*parts)

    def __get__(self, files: RunFiles, owner: type[RunFiles]) -> Path:
        return files.root / self._place


@dataclass(frozen=True)
class RunFiles:
    """The paths of one run, which has one study."""

    root: Path

    settings = InRun("run.yaml")
    study = InRun(STUDY_FILE)
    lock = InRun(".driver.lock")
    """Locked by the driver of the run; the system releases the lock when that process dies."""
    heartbeat = InRun(".driver")
    """The heartbeat file: names the driver, which keeps rewriting it, for machines that the lock does not reach."""
    trials_table = InRun("trials.parquet")
    epochs_table = InRun("epochs.parquet")
    trials_csv = InRun("trials.csv")
    epochs_csv = InRun("epochs.csv")
    snapshot = InRun(".trials.json")
    """The rows of the trials, for commands that start at once; see :mod:`tune_lnl.tuning.runs.snapshot`."""
    best = InRun("best.yaml")
    driver_log = InRun("search.log")
    stop_flag = InRun(".stop")
    """Exists while running trials have to end at their next batch."""
    ray_folder = InRun(".ray-folder")
    """Lists the folders of Ray's temporary files, so that a later start removes those of a killed search."""
    confirm = InRun("confirm")
    """The trainings of a confirmation: results, checkpoints of unfinished ones, and the network of the winner."""
    confirmation = InRun("confirm.yaml")
    race = InRun("replicates.yaml")
    """The standing of the replicates that a search trains by default, in the form of ``confirm.yaml``."""
    replicates_table = InRun("replicates.parquet")
    """A row per finished replicate, of the race and of confirmations."""
    confirmed = InRun("confirmed.yaml")
    """The config of the confirmed winner, trained on all the data."""
    confirmed_model = InRun("confirm", "model.pt")
    judged = InRun("judged.csv")
    """A person's answers to held-out images."""
    judgement = InRun("judged.yaml")
    """The trial that these answers choose."""
    checkpoints = InRun("checkpoints")

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
