"""``--confirm KxS``: which of the top K configs is best on S fresh replicates, and is the difference significant?

The best trial of a search is partly the luckiest one: all trials share one split, one training seed and one draw of the
noise. The top K are therefore trained again on S replicates that none of them was chosen on. A replicate has its own
split, training seed and noise, the same for every config, so that differences are taken replicate by replicate.

The test is the paired t-test of the first config against each of the others, two-sided because the same numbers decided
which one is first, with Holm's correction for K - 1 tests. Why not a rank or a sign-flip test, which assume less: with
five pairs their smallest possible two-sided p-value is 2 / 2**5 = 0.0625, so they could never find a difference. The
t-test needs differences that are about normal. Means over several epochs of a share of correct labels are close to
that, but with five of them it is an assumption and not a finding, so p-values near the threshold mean little.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tune_lnl.config.datasets import NoiseFile
from tune_lnl.config.trial import TrialConfig
from tune_lnl.tuning.runs.confirmation import Candidate

CONFIDENCE = 0.95
SEEDS = 2**32
"""Split and noise seeds lie below it."""

# ---- the configs


def replicate_config(config: TrialConfig, replicate: int, fresh_noise: bool = True) -> TrialConfig:
    """Return ``config`` with the split, training seed and noise of a replicate (0-based): the search's plus 1, 2, ...

    Args:
        fresh_noise: draw the noise anew as well, if the dataset draws any. A confirmation does. A race does not: its
            question is which config is best on these labels, and a user's labels cannot be drawn again.
    """
    step = replicate + 1
    dataset = config.dataset
    if fresh_noise and draws_noise(config):
        dataset = dataset.model_copy(update={"noise_seed": (dataset.noise_seed + step) % SEEDS})  # type: ignore[attr-defined]
    return TrialConfig(
        method=config.method,
        dataset=dataset,
        validation=config.validation.model_copy(update={"seed": (config.validation.seed + step) % SEEDS}),
        objective=config.objective,
        settings=config.settings.model_copy(update={"seed": config.settings.seed + step}),
    )


def draws_noise(config: TrialConfig) -> bool:
    """Return whether the labels depend on a noise seed."""
    values = config.dataset
    return "noise_seed" in type(values).model_fields and not isinstance(getattr(values, "noise", None), NoiseFile)


def replicate_seeds(config: TrialConfig) -> dict[str, int]:
    """Return the seeds of a replicate by the name of their setting."""
    seeds = {"validation.seed": config.validation.seed, "seed": config.settings.seed}
    if draws_noise(config):
        seeds["dataset.noise_seed"] = config.flat()["dataset.noise_seed"]
    return seeds


def final_config(config: TrialConfig) -> TrialConfig:
    """Return ``config`` on all the training data, with the search's own seeds and noise."""
    return TrialConfig(
        method=config.method,
        dataset=config.dataset,
        validation=config.validation.model_copy(update={"fraction": 0.0}),
        objective=config.objective,
        settings=config.settings,
    )


# ---- the comparison


def rank_candidates(values: Mapping[int, Sequence[float]], mode: str) -> list[Candidate]:
    """Rank the configs, best mean first (ties: lower trial number; diverged ones last); test each against the first.

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
    """Run Student's t-test of paired values, (S,) each with S at least 2.

    If all differences are equal, there is no variance to compare with: p is then 1 for no difference, 0 for any.
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
    """Adjust p-values by Holm's step-down procedure (Holm 1979); the order stays.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    count = len(p_values)
    adjusted, largest = [0.0] * count, 0.0
    for place, index in enumerate(sorted(range(count), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (count - place) * p_values[index]))
        adjusted[index] = largest
    return adjusted
