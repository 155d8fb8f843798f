"""The disk space that a search needs at once, measured before it starts."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from tune_lnl.config.trial import TrialConfig
from tune_lnl.errors import InputError
from tune_lnl.training.loop import Surroundings
from tune_lnl.training.registry import start_training
from tune_lnl.tuning.runs.keeping import KEPT_MODELS

EPOCH_BYTES = 1200
"""A line of epochs.jsonl, a journal entry and a row of the tables, together."""


@dataclass(frozen=True)
class Sizes:
    """Bytes of one trial's files."""

    checkpoint: int
    model: int
    heldout: int = 0
    """Held-out predictions; 0: there are none."""


@dataclass(frozen=True)
class DiskNeed:
    """The most that a run holds at once, bytes."""

    sizes: Sizes
    concurrent: int
    models: int
    records: int
    """Journal, curves and tables at the end."""

    @property
    def total(self) -> int:
        # Twice: a checkpoint is written while the one that it replaces still exists.
        return 2 * self.concurrent * self.sizes.checkpoint + self.models * self.sizes.model + self.records

    def heldout_room(self, budget: int) -> int:
        """Return the number of trials whose held-out predictions fit into the rest of ``budget`` bytes.

        One more is written before the worst is deleted, by each of the trials that run at once.
        """
        if not self.sizes.heldout:
            return 0
        return max(0, (budget - self.total) // self.sizes.heldout - self.concurrent)

    def __str__(self) -> str:
        return (
            f"{self.concurrent} at once x 2 x {self.sizes.checkpoint / 1e6:.1f} MB of checkpoint (the newest, and the "
            f"next being written) + {self.models} models x {self.sizes.model / 1e6:.1f} MB + "
            f"{self.records / 1e6:.1f} MB of records = {self.total / 1e6:.1f} MB"
        )


def measure_sizes(config: TrialConfig, data_dir: Path | None) -> Sizes:
    """Measure the bytes of a checkpoint and of a model file, from a training that makes one step on the CPU.

    The GPU is not used: the process that drives a search must not hold any of its memory.
    """
    # Not every precision works on a CPU, and none changes the stored sizes.
    settings = config.settings.model_copy(update={"precision": "fp32"})
    training = start_training(replace(config, settings=settings), Surroundings(data_dir=data_dir, device="cpu"))
    # One step: before it the optimizers have no momentum to store.
    training.seconds_per_epoch(0, 0)
    return Sizes(_bytes_of(training.state_dict()), _bytes_of(training.model_file()), training.heldout_bytes())


def _bytes_of(content: object) -> int:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.tell()


def disk_need(sizes: Sizes, concurrent: int, trials: int, epochs: int, confirmed: int = 0) -> DiskNeed:
    """Return the need of a search.

    Args:
        confirmed: number of trainings of a confirmation, which keeps one more model.
    """
    # The network of a complete trial is written before the one that it replaces is deleted.
    models = KEPT_MODELS + concurrent + bool(confirmed)
    return DiskNeed(sizes, concurrent, models, (trials + confirmed) * epochs * EPOCH_BYTES)


def check_disk_budget(need: DiskNeed, budget: int) -> None:
    """Refuse a search that would exceed its own budget.

    Raises:
        InputError: the need exceeds the budget, with both in numbers.
    """
    if need.total > budget:
        raise InputError(
            f"--disk-budget {budget / 1e6:g} MB is less than this search needs: {need}\n"
            f"give --disk-budget {-(-need.total // 10**6)}MB or more, or lower --concurrent"
        )
