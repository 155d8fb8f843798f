"""``--confirm KxS``: what is asked for, which of the top K is best on S fresh replicates, and whether that can be told.

A search picks the luckiest of its trials as well as the best: all of them share one split, one training seed and one
draw of the noise. So the top K are trained again on S replicates that none of them was chosen on. A replicate has its
own split, training seed and noise, the same for every config, so that differences are taken replicate by replicate.

The test is the paired t-test of the first config against each of the others, two-sided because which one is first was
found on the same numbers, with Holm's correction for testing K - 1 of them. Why not a rank or a sign-flip test, which
assume less: with five pairs their smallest possible two-sided p-value is 2 / 2**5 = 0.0625, so they could never tell
anything apart. The t-test needs differences that are about normal; means over several epochs of a share of correct
labels are close to that, but with five of them it is an assumption and not a finding, so p-values near the threshold
mean little.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tune_lnl.config.datasets import NoiseFile
from tune_lnl.config.trial import TrialConfig
from tune_lnl.config.yaml import read_mapping

ALPHA = 0.05
"""Adjusted p-values below it count as a difference."""
CONFIDENCE = 0.95
SEEDS = 2**32
"""Split and noise seeds lie below it."""

# ---- the configs


def replicate_config(config: TrialConfig, replicate: int) -> TrialConfig:
    """``config`` with the split, training seed and noise of a replicate (0-based): the search's own plus 1, 2, ...

    The noise seed is left alone where the dataset draws no noise.
    """
    step = replicate + 1
    dataset = config.dataset
    if draws_noise(config):
        dataset = dataset.model_copy(update={"noise_seed": (dataset.noise_seed + step) % SEEDS})  # type: ignore[attr-defined]
    return TrialConfig(
        method=config.method,
        dataset=dataset,
        validation=config.validation.model_copy(update={"seed": (config.validation.seed + step) % SEEDS}),
        objective=config.objective,
        settings=config.settings.model_copy(update={"seed": config.settings.seed + step}),
    )


def draws_noise(config: TrialConfig) -> bool:
    """Whether the labels depend on a noise seed."""
    values = config.dataset
    return "noise_seed" in type(values).model_fields and not isinstance(getattr(values, "noise", None), NoiseFile)


def replicate_seeds(config: TrialConfig) -> dict[str, int]:
    """The seeds of a replicate by their setting's name."""
    seeds = {"validation.seed": config.validation.seed, "seed": config.settings.seed}
    if draws_noise(config):
        seeds["dataset.noise_seed"] = config.flat()["dataset.noise_seed"]
    return seeds


def final_config(config: TrialConfig) -> TrialConfig:
    """``config`` on all the training data, with the search's own seeds and noise."""
    return TrialConfig(
        method=config.method,
        dataset=config.dataset,
        validation=config.validation.model_copy(update={"fraction": 0.0}),
        objective=config.objective,
        settings=config.settings,
    )


# ---- the comparison


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

    @property
    def distinguishable(self) -> bool | None:
        """Whether the first config is better than chance explains; ``None`` where that was not tested."""
        return None if self.p_holm is None else self.p_holm < ALPHA


def rank_candidates(values: Mapping[int, Sequence[float]], mode: str) -> list[Candidate]:
    """The configs, best mean first (ties: lower trial number, diverged ones last), each tested against the first.

    Args:
        values: trial number -> objective on each replicate, (S,); not finite where the training diverged.
        mode: ``max`` or ``min``.
    """
    sign = 1.0 if mode == "max" else -1.0
    whole = {number: bool(own) and all(map(math.isfinite, own)) for number, own in values.items()}

    def key(number: int) -> tuple[bool, float, int]:
        return not whole[number], -sign * statistics.fmean(values[number]) if whole[number] else 0.0, number

    order = sorted(values, key=key)
    first = order[0] if order and whole[order[0]] else None
    tests = {
        number: paired_test([sign * value for value in values[first]], [sign * value for value in values[number]])
        for number in order[1:]
        if first is not None and whole[number]
    }
    adjusted = dict(zip(tests, holm([test.p for test in tests.values()]), strict=True))
    candidates = []
    for rank, number in enumerate(order, start=1):
        own = [value if math.isfinite(value) else None for value in values[number]]
        finite = [float(value) for value in values[number]] if whole[number] else []
        test = tests.get(number)
        candidates.append(
            Candidate(
                rank=rank,
                number=number,
                values=tuple(own),
                mean=statistics.fmean(finite) if finite else None,
                std=statistics.stdev(finite) if len(finite) > 1 else None,
                difference=None if test is None else test.difference,
                interval=None if test is None else test.interval,
                p=None if test is None else test.p,
                p_holm=adjusted.get(number),
            )
        )
    return candidates


@dataclass(frozen=True)
class PairedTest:
    """Mean difference of pairs, its 95% confidence interval, and the two-sided p-value of no difference."""

    difference: float
    interval: tuple[float, float]
    p: float


def paired_test(first: Sequence[float], other: Sequence[float]) -> PairedTest:
    """Student's t-test of paired values, (S,) each with S at least 2.

    Differences that are all alike leave no variance to compare with: p is then 1 for no difference, 0 for any.
    """
    from scipy import stats  # slow to import

    differences = [a - b for a, b in zip(first, other, strict=True)]
    mean = statistics.fmean(differences)
    spread = max(differences) - min(differences)
    if spread <= 1e-12 * max(1.0, *(abs(value) for value in (*first, *other))):
        return PairedTest(mean, (mean, mean), 1.0 if abs(mean) <= 1e-12 else 0.0)
    found = stats.ttest_rel(first, other)
    low, high = found.confidence_interval(CONFIDENCE)
    return PairedTest(mean, (float(low), float(high)), float(found.pvalue))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment (Holm 1979), in the order given.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    count = len(p_values)
    adjusted, largest = [0.0] * count, 0.0
    for place, index in enumerate(sorted(range(count), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (count - place) * p_values[index]))
        adjusted[index] = largest
    return adjusted


# ---- what is kept and shown


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

    @property
    def winner(self) -> int | None:
        """Trial number of the first config; ``None`` where every one diverged on some replicate."""
        return self.candidates[0].number if self.candidates[0].mean is not None else None

    @property
    def indistinguishable(self) -> list[int]:
        """Trials that cannot be told apart from the winner."""
        return [candidate.number for candidate in self.candidates if candidate.distinguishable is False]

    def to_dict(self) -> dict[str, Any]:
        return {
            "asked": self.asked,
            "metric": self.metric,
            "mode": self.mode,
            "comparison": f"paired t-test of the first against each other, two-sided, Holm-adjusted, alpha {ALPHA}",
            "winner": self.winner,
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
            test=content["test"],
        )

    def conclusion(self) -> str:
        """One sentence."""
        if self.winner is None:
            return "every config diverged on some replicate; none is confirmed"
        if len(self.candidates) == 1:
            return f"trial {self.winner} is confirmed; there was no other to compare it with"
        alike = self.indistinguishable
        if not alike:
            return f"trial {self.winner} is better than each of the others"
        return f"trial {self.winner} comes first, and is not distinguishable from {_trials(alike)}"

    def lines(self) -> list[str]:
        """The table for a console."""
        lines = [
            f"{'rank':>4} {'trial':>5}  {self.metric + ', mean ± std':<26} {'behind the first (95%)':<28} p (Holm)"
        ]
        for row in self.candidates:
            own = f"{row.mean:.2f} ± {row.std:.2f}" if row.mean is not None and row.std is not None else "diverged"
            behind, p = "", ""
            if row.interval is not None and row.p_holm is not None:
                behind = f"{row.difference:.2f} ({row.interval[0]:.2f} to {row.interval[1]:.2f})"
                p = f"{row.p_holm:.3f}" + ("" if row.distinguishable else "  not distinguishable")
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
    )


def _trials(numbers: Sequence[int]) -> str:
    return ("trial " if len(numbers) == 1 else "trials ") + ", ".join(map(str, numbers))


def read_confirmation(path: Path) -> Confirmation | None:
    """The confirmation of a run, if it has been confirmed."""
    return Confirmation.from_dict(read_mapping(path)) if path.exists() else None
