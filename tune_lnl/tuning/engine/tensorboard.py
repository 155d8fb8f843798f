"""TensorBoard event files of a trial: a curve per metric, one run per trial."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


class EventFile:
    """Event files of one attempt at a trial.

    Args:
        folder: the trial's own; TensorBoard reads the files of all attempts in it as one run.
        attempt: keeps their files apart.
        first_epoch: TensorBoard drops what earlier attempts wrote about this epoch and later ones.
        settings: shown as text.
    """

    def __init__(self, folder: Path, attempt: int, first_epoch: int, settings: Mapping[str, Any]) -> None:
        # torch.utils.tensorboard is there only where tensorboard is.
        from torch.utils.tensorboard import SummaryWriter

        # purge_step also at 0: a session that starts there voids files of an attempt that left no checkpoint.
        self._writer: Any = SummaryWriter(str(folder), purge_step=first_epoch, filename_suffix=f".{attempt}")
        rows = "".join(f"| {name} | {value} |\n" for name, value in settings.items())
        self._writer.add_text("settings", f"| setting | value |\n| --- | --- |\n{rows}", first_epoch)
        self._writer.flush()

    def epoch(self, epoch: int, report: Mapping[str, float], objective: float) -> None:
        """Write an epoch to the disk, without its test metrics: nobody is to choose by those.

        Raises:
            OSError: there is no room.
        """
        values = {name: value for name, value in report.items() if name != "epoch" and not name.startswith("test_")}
        for name, value in {"objective": objective, **values}.items():
            self._writer.add_scalar(name, value, epoch)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()
