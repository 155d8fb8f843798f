"""The names and places of the files of a run, ``results/RUN/``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

STUDY_FILE = "study.log"

_NUMBER = re.compile(r"(\d+)[.-]")


@dataclass(frozen=True)
class RunFiles:
    """Paths of one run (one study)."""

    root: Path

    @property
    def settings(self) -> Path:
        return self.root / "run.yaml"

    @property
    def study(self) -> Path:
        return self.root / STUDY_FILE

    @property
    def lock(self) -> Path:
        """Held by the one driver that may write here; the system releases it when that process dies."""
        return self.root / ".driver.lock"

    @property
    def heartbeat(self) -> Path:
        """Names the driver, which keeps changing it: for drivers on other machines, which the lock may not reach."""
        return self.root / ".driver"

    @property
    def trials_table(self) -> Path:
        return self.root / "trials.parquet"

    @property
    def epochs_table(self) -> Path:
        return self.root / "epochs.parquet"

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
        """Exists while running trials are asked to end at their next batch."""
        return self.root / ".stop"

    @property
    def ray_folder(self) -> Path:
        """Names the folder of Ray's temporary files, so that a later start can remove what a killed one left."""
        return self.root / ".ray-folder"

    def trial(self, number: int) -> Path:
        return self.root / "trials" / f"{number:03d}"

    def log(self, number: int) -> Path:
        return self.trial(number) / "log.txt"

    def epochs(self, number: int) -> Path:
        """One line of JSON per epoch, test metrics among them; neither sampler nor pruner opens it."""
        return self.trial(number) / "epochs.jsonl"

    def tensorboard(self, number: int) -> Path:
        """Event files of a trial, with ``--tensorboard``; the folders' names are what TensorBoard shows."""
        return self.root / "tensorboard" / f"trial-{number:03d}"

    @property
    def confirm(self) -> Path:
        """A confirmation's trainings: a result each, a state of those that are not done, and the winner's network."""
        return self.root / "confirm"

    @property
    def confirmation(self) -> Path:
        return self.root / "confirm.yaml"

    @property
    def confirmed(self) -> Path:
        """The winner's config, on all the training data."""
        return self.root / "confirmed.yaml"

    @property
    def confirmed_model(self) -> Path:
        return self.confirm / "model.pt"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    def number_of(self, path: Path) -> int:
        """The trial whose checkpoint or model this is."""
        found = _NUMBER.match(path.name)
        assert found is not None, f"{path} is not a file of a trial"
        return int(found[1])

    def checkpoint(self, number: int, attempt: int) -> Path:
        """The state after a trial's last finished epoch; there only until the trial ends.

        Each attempt has its own: a worker that outlives its driver for a moment cannot spoil its successor's.
        """
        return self.checkpoints / f"{number:03d}.{attempt}.pt"

    def checkpoints_of(self, number: int) -> list[Path]:
        """The states that attempts at a trial have left, the latest attempt first."""
        return sorted(self.checkpoints.glob(f"{number:03d}.*.pt"), key=lambda p: -int(p.name.split(".")[1]))

    def model(self, number: int) -> Path:
        """The reported network of a complete trial."""
        return self.checkpoints / f"{number:03d}-model.pt"
