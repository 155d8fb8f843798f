"""The answer of a run: the trial whose config every view shows, and the evidence that chose it.

Every view gets it from here: export, ``best.yaml``, console, report and the list of runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
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
ALPHA = 0.05
"""Probability, over all trials together, that luck alone distinguishes one of them from the published setting."""


@dataclass(frozen=True)
class Answer:
    """The chosen trial, which is complete."""

    number: int
    by: By
    """The evidence that chose it."""
    probability: float | None = None
    """That it is the best of those compared, in [0, 1]; ``None`` where that is not estimated."""
    highest: int | None = None
    """The trial that is ahead by this evidence, where the published setting is the answer in its place."""

    @property
    def has_highest_objective(self) -> bool:
        """Whether nothing but the order of the objectives chose it."""
        return self.by == "objective" and self.highest is None

    @property
    def words(self) -> str:
        """The evidence, in words: ``best over its replicates, with probability 0.62``."""
        if self.highest is not None:
            evidence = "their replicates do" if self.by == "replicates" else "one training of each does"
            return f"the published setting; {evidence} not tell trial {self.highest} from it"
        return WORDS[self.by] + ("" if self.probability is None else f", with probability {self.probability:.2f}")

    def to_dict(self) -> dict[str, Any]:
        return {"number": self.number, "by": self.by, "probability": self.probability}


def find_answer(files: RunFiles, rows: Sequence[TrialRow], published: Mapping[str, Any] | None = None) -> Answer | None:
    """Return the answer of a run; ``None`` while no trial is complete.

    Args:
        rows: in the one order of every view: complete ones by objective first, ties to the lower number.
        published: the published setting, if the space has one.
    """
    complete = [row for row in rows if row.state == "COMPLETE"]
    if not complete:
        return None
    for source in SOURCES:
        found = source(files)
        if found is not None and found.number in (row.number for row in complete):
            return found
    highest, start = complete[0].number, published_trial(complete, published)
    if start is None or start.number == highest or is_distinguishable(complete[0], start, len(complete) - 1):
        return Answer(highest, "objective")
    return Answer(start.number, "objective", highest=highest)


def published_trial(rows: Sequence[TrialRow], published: Mapping[str, Any] | None) -> TrialRow | None:
    """Return the first trial at the published setting; ``None`` where there is none."""
    if published is None:
        return None
    at = [
        row
        for row in rows
        if all(name in row.params and _equal(row.params[name], value) for name, value in published.items())
    ]
    return min(at, key=lambda row: row.number, default=None)


def is_distinguishable(highest: TrialRow, start: TrialRow, others: int) -> bool:
    """Return whether the best of ``others`` trials is better than the published setting by more than luck.

    The objectives of two trainings differ by luck with a standard error of at most sqrt(s1^2 + s2^2), s their standard
    errors: the images of the two are the same, which makes it smaller, and the luck of the trainings makes it larger,
    together two thirds of that on recorded digits. The best of many is compared with the normal quantile at
    1 - ALPHA / others (Bonferroni). Where an error is not known, the higher objective counts.
    """
    if None in (highest.value, start.value, highest.standard_error, start.standard_error):
        return True
    error = math.hypot(highest.standard_error or 0.0, start.standard_error or 0.0)
    ahead = abs((highest.value or 0.0) - (start.value or 0.0))
    return ahead > NormalDist().inv_cdf(1.0 - ALPHA / others) * error


def _equal(one: Any, other: Any) -> bool:
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (one, other))
    return math.isclose(one, other, rel_tol=1e-9) if numbers else bool(one == other)


def _by_replicates(files: RunFiles) -> Answer | None:
    found = read_confirmation(files)
    if found is None or found.winner is None:
        return None
    ahead = found.likelier
    return Answer(found.winner, "replicates", found.probability, highest=None if ahead is None else ahead.number)


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
