"""The messages between driver and workers: jobs go out, a report comes back after every epoch."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

StopReason = Literal[
    "interrupted", "time budget", "failing", "disk full", "disk budget", "study lost", "object storage away", "device"
]
"""Why a session starts no more jobs."""


class Output(Protocol):
    """Where the engine prints lines for the user."""

    def __call__(self, line: str) -> None:
        """Print a line at every verbosity."""

    def tell(self, line: str) -> None:
        """Print a line unless ``--quiet`` was given."""

    def take_table_down(self) -> None:
        """Erase the live table from the terminal; the process is about to end."""


class QuietOutput:
    """An :class:`Output` that prints as with ``--quiet``, and has no table."""

    def __call__(self, line: str) -> None:
        print(line, flush=True)

    def tell(self, line: str) -> None:
        """Print nothing."""

    def take_table_down(self) -> None:
        """Do nothing: there is no table."""


@dataclass(frozen=True)
class Job:
    """One training for a worker: a trial of the search, or a replicate of its confirmation."""

    number: int
    """Reports carry it. Of a trial its number in the study, of a replicate its place in the list of jobs."""
    attempt: int
    """Counts the starts of this job; a report of an earlier attempt is ignored."""
    run_dir: str
    """The run's folder on the driver's machine."""
    sections: Mapping[str, Any]
    """The complete config, as :meth:`tune_lnl.config.settings.TrialConfig.sections` gives it."""
    params: Mapping[str, Any] = field(default_factory=dict)
    """The searched settings, for the log and TensorBoard; ``sections`` contains them."""
    store: str | None = None
    """URL of the run in object storage; ``None``: workers share the run's folder with the driver."""
    data_dir: str | None = None
    device: str = "cpu"
    memory_fraction: float | None = None
    """Largest share of the GPU's memory that the job may allocate; ``None``: all of it."""
    tensorboard: bool = False
    cwd: str | None = None
    """Working directory of the driver; ``None``: the worker is on the same machine and has it already."""
    replicate: str | None = None
    """Name of the replicate's files under ``confirm/``; ``None``: a trial."""
    scores_test: bool = True
    """Whether the last ``average_last`` epochs score the test set."""
    checkpoint_after: tuple[int, ...] = ()
    """Epochs (0-based) after which a checkpoint is written however young the last one is: the rungs."""

    @property
    def name(self) -> str:
        """``trial-007`` or ``replicate-007-2``: in Ray's dashboard and in log lines."""
        return f"trial-{self.number:03d}" if self.replicate is None else f"replicate-{self.replicate}"

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Job:
        fields = json.loads(text)
        return cls(**{**fields, "checkpoint_after": tuple(fields["checkpoint_after"])})


@dataclass(frozen=True)
class WorkerReport:
    """A worker's report after an epoch: a value, or the reason why there is none."""

    number: int
    attempt: int
    epoch: int = -1
    """0-based."""
    value: float = math.nan
    """Objective so far, in the objective's unit."""
    standard_error: float | None = None
    failure: str | None = None
    """Class of the failure, one of :mod:`tune_lnl.training.failures`."""
    message: str = ""
    stopped: bool = False
    """The worker found the stop flag; a checkpoint of the last finished epoch is written."""
    history: tuple[tuple[int, float], ...] = ()
    """(epoch, value) of earlier epochs, sent once by a continued job: a report can be lost before a crash."""
    measures: str = "{}"
    """JSON of the epoch's other metrics (images per second, quality of the selection) for views; no test metrics."""
    result: str = ""
    """JSON, with the last epoch of a replicate: ``fingerprints`` of its data and the ``reports`` of all its epochs."""

    @classmethod
    def from_result(cls, result: Mapping[str, Any]) -> WorkerReport:
        """Read a report from a result of Ray Tune, which adds fields of its own."""
        return cls(**{name: result[name] for name in cls.__dataclass_fields__ if name in result})

    def measured(self) -> dict[str, float]:
        """Return ``measures`` as a dictionary."""
        found: dict[str, float] = json.loads(self.measures)
        return found


DEVICE_LOST = "the GPU failed at"


class DeviceLostError(RuntimeError):
    """A worker's GPU failed: its process ends, since every later call to the GPU would fail as well."""

    @classmethod
    def at(cls, place: str, message: str) -> DeviceLostError:
        # One text alone: Ray pickles the error, and makes it again of its arguments.
        return cls(f"{DEVICE_LOST} [{place}]: {message}")


def device_loss(error: str) -> tuple[str, str] | None:
    """Return (place, cause) where the text of a worker's error names a :class:`DeviceLostError`; else ``None``."""
    found = re.search(rf"{DEVICE_LOST} \[([^\]]*)\]: (.*)", error)
    return None if found is None else (found[1], found[2].strip())
