"""``replicates.yaml`` and ``confirm.yaml``: the configs that were trained again, as they are stored and shown.

The first is of the race that a search ends with by default, the second of ``--confirm KxS``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tune_lnl.config.yaml import read_mapping
from tune_lnl.errors import damage_refused
from tune_lnl.tuning.runs.layout import RunFiles

ALPHA = 0.05
"""Adjusted p-values, and probabilities of being better than the first, below it count as a difference."""
RACE = "race"
"""``asked`` of the race."""


@dataclass(frozen=True)
class Candidate:
    """One config's place in the confirmation. Values are of the objective, percent for accuracies."""

    rank: int
    number: int
    """Its trial."""
    values: tuple[float | None, ...]
    """Objective on each replicate; ``None`` where the training diverged."""
    mean: float | None
    """``None`` where any replicate diverged: such a config cannot win."""
    std: float | None
    """Sample deviation over the replicates."""
    difference: float | None = None
    """Mean advantage of the first config over this one, positive is better for the first; ``None`` for the first."""
    interval: tuple[float, float] | None = None
    """95% confidence interval of it."""
    p: float | None = None
    """Of the paired t-test against the first."""
    p_holm: float | None = None
    better: float | None = None
    """In a race: the probability that it is better than the first."""

    @property
    def value_text(self) -> str:
        """Mean and deviation over the replicates, or the mean of one; ``diverged``."""
        if self.mean is None:
            return "diverged"
        return f"{self.mean:.2f}" + ("" if self.std is None else f" ± {self.std:.2f}")

    @property
    def distinguishable(self) -> bool | None:
        """Whether the first config is significantly better; ``None`` where that was not tested."""
        tested = self.p_holm if self.better is None else self.better
        return None if tested is None else tested < ALPHA


@dataclass(frozen=True)
class Confirmation:
    """The content of confirm.yaml."""

    asked: str
    metric: str
    mode: str
    replicates: tuple[Mapping[str, int], ...]
    """Seeds of each replicate, by setting."""
    candidates: tuple[Candidate, ...]
    """Best first."""
    best_of_study: int
    """The trial that best.yaml holds."""
    test: Mapping[str, Any] | None = None
    """The winner, trained on all the data: ``mean`` of the test metric (percent, last ``epochs`` epochs), ``std``."""
    probability: float | None = None
    """That the winner has the best mean of all that were compared; ``None`` in files of earlier versions."""
    complete: int = 0
    """Complete trials of the run when this was made; 0 in files of earlier versions."""

    @property
    def is_race(self) -> bool:
        return self.asked == RACE

    @property
    def winner(self) -> int | None:
        """Trial number of the first config; ``None`` where every one diverged on some replicate."""
        return self.candidates[0].number if self.candidates[0].mean is not None else None

    @property
    def indistinguishable(self) -> list[int]:
        """Trials that are not significantly worse than the winner."""
        return [candidate.number for candidate in self.candidates if candidate.distinguishable is False]

    @property
    def likelier(self) -> Candidate | None:
        """The config of a race that is better than the first with the highest probability, above one half, if any.

        Only the published setting comes first before such a one: it stays the answer unless another is distinguishable.
        """
        ahead = [each for each in self.candidates if each.better is not None and each.better > 0.5]
        return max(ahead, key=lambda each: each.better or 0.0, default=None)

    def to_dict(self) -> dict[str, Any]:
        return {
            "asked": self.asked,
            "metric": self.metric,
            "mode": self.mode,
            "comparison": "posterior of each config's mean, from all trials and the replicates"
            if self.is_race
            else f"paired t-test of the first against each other, two-sided, Holm-adjusted, alpha {ALPHA}",
            "winner": self.winner,
            "probability": self.probability,
            "complete": self.complete,
            "best_of_study": self.best_of_study,
            "conclusion": self.conclusion(),
            "table": [_candidate_dict(candidate) for candidate in self.candidates],
            "replicates": [dict(seeds) for seeds in self.replicates],
            "test": None if self.test is None else dict(self.test),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Confirmation:
        return cls(
            asked=content["asked"],
            metric=content["metric"],
            mode=content["mode"],
            replicates=tuple(content["replicates"]),
            candidates=tuple(_candidate_from(row) for row in content["table"]),
            best_of_study=content["best_of_study"],
            probability=content.get("probability"),
            complete=content.get("complete", 0),
            test=content["test"],
        )

    def conclusion(self) -> str:
        """Return the result in one sentence."""
        if self.winner is None:
            return "every config diverged on some replicate; none is confirmed"
        if len(self.candidates) == 1:
            return f"trial {self.winner} is confirmed; there was no other to compare it with"
        if (ahead := self.likelier) is not None:
            return (
                f"trial {self.winner}, the published setting, stays first: trial {ahead.number} is better than it with "
                f"probability {ahead.better:.2f}, and {1 - ALPHA:.2f} is asked for"
            )
        alike = self.indistinguishable
        if not alike:
            return f"trial {self.winner} is better than each of the others"
        others = ("trial " if len(alike) == 1 else "trials ") + ", ".join(map(str, alike))
        return f"trial {self.winner} comes first, and is not distinguishable from {others}"

    def lines(self) -> list[str]:
        """Return the lines of the table for a console."""
        last = "P(better than it)" if self.is_race else "p (Holm)"
        lines = [f"{'rank':>4} {'trial':>5}  {self.metric + ', mean ± std':<26} {'behind the first (95%)':<28} {last}"]
        for row in self.candidates:
            own, behind, p = row.value_text, "", ""
            tested = row.p_holm if row.better is None else row.better
            if row.interval is not None and tested is not None:
                behind = f"{row.difference:.2f} ({row.interval[0]:.2f} to {row.interval[1]:.2f})"
                p = f"{tested:.3f}" + ("" if row.distinguishable else "  not distinguishable")
            lines.append(f"{row.rank:>4} {row.number:>5}  {own:<26} {behind:<28} {p}".rstrip())
        return lines


def _candidate_dict(candidate: Candidate) -> dict[str, Any]:
    return {
        "rank": candidate.rank,
        "trial": candidate.number,
        "mean": candidate.mean,
        "std": candidate.std,
        "values": list(candidate.values),
        "difference": candidate.difference,
        "interval": None if candidate.interval is None else list(candidate.interval),
        "p": candidate.p,
        "p_holm": candidate.p_holm,
        **({} if candidate.better is None else {"better": candidate.better}),
        "distinguishable": candidate.distinguishable,
    }


def _candidate_from(row: Mapping[str, Any]) -> Candidate:
    interval = row["interval"]
    return Candidate(
        rank=row["rank"],
        number=row["trial"],
        values=tuple(row["values"]),
        mean=row["mean"],
        std=row["std"],
        difference=row["difference"],
        interval=None if interval is None else (interval[0], interval[1]),
        p=row["p"],
        p_holm=row["p_holm"],
        better=row.get("better"),
    )


def read_confirmation(files: RunFiles) -> Confirmation | None:
    """Return what the replicates of a run say; ``None`` where none were trained, or not all that belong together.

    Of a confirmation and a race the one that was made with more complete trials counts, else the confirmation.
    """
    found = []
    for path in (files.confirmation, files.race):
        if path.exists():
            with damage_refused(path):
                found.append(Confirmation.from_dict(read_mapping(path)))
    return max(found, key=lambda one: one.complete, default=None)
