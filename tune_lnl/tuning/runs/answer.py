"""The answer of a run: the trial whose config every view shows, and the evidence that chose it.

Every view gets it from here: export, ``best.yaml``, console, report and the list of runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tune_lnl.config.yaml import read_mapping
from tune_lnl.errors import InputError
from tune_lnl.tuning.runs.confirmation import read_confirmation
from tune_lnl.tuning.runs.layout import RunFiles
from tune_lnl.tuning.runs.rows import TrialRow

By = Literal["objective", "replicates", "judged", "consensus"]
WORDS: dict[By, str] = {
    "objective": "best by the objective",
    "replicates": "best over its replicates",
    "judged": "best by the images judged by hand",
    "consensus": "best by the consensus of the trials",
}


@dataclass(frozen=True)
class Answer:
    """The chosen trial, which is complete."""

    number: int
    by: By
    """The evidence that chose it."""
    probability: float | None = None
    """That it is the best of those compared, in [0, 1]; ``None`` where that is not estimated."""

    @property
    def words(self) -> str:
        """The evidence, in words: ``best over its replicates, with probability 0.62``."""
        return WORDS[self.by] + ("" if self.probability is None else f", with probability {self.probability:.2f}")

    def to_dict(self) -> dict[str, Any]:
        return {"number": self.number, "by": self.by, "probability": self.probability}


def find_answer(files: RunFiles, rows: Sequence[TrialRow]) -> Answer | None:
    """Return the answer of a run; ``None`` while no trial is complete.

    Args:
        rows: in the one order of every view: complete ones by objective first, ties to the lower number.
    """
    complete = [row.number for row in rows if row.state == "COMPLETE"]
    if not complete:
        return None
    for source in SOURCES:
        found = source(files)
        if found is not None and found.number in complete:
            return found
    return Answer(complete[0], "objective")


def _by_replicates(files: RunFiles) -> Answer | None:
    found = read_confirmation(files)
    if found is None or found.winner is None:
        return None
    return Answer(found.winner, "replicates", found.probability)


def _by_judgement(files: RunFiles) -> Answer | None:
    if not files.judgement.exists():
        return None
    found = read_mapping(files.judgement)
    try:
        return Answer(int(found["number"]), "judged", float(found["probability"]))
    except (KeyError, TypeError, ValueError):
        again = f"python -m tune_lnl.judge {files.root}"
        raise InputError(f"{files.judgement}: number or probability is missing; write it again: {again}") from None


SOURCES: tuple[Callable[[RunFiles], Answer | None], ...] = (_by_judgement, _by_replicates)
"""Evidence beyond the objective, the strongest first; each reads a file of the run and returns ``None`` without it."""
