"""Stopping rules: Optuna pruners whose rungs are at the same epochs for every trial, none inside a warm-up.

TPE ranks a stopped trial by its last step first and by its value second. Rungs counted from the end of each trial's own
warm-up would make long warm-ups look better than they are, so the first rung lies behind the longest of the space.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import optuna

from tune_lnl.tuning.space.space import SearchSpace

REDUCTION = 3
"""One trial in three continues at each rung."""


LEVELS = 3
"""Rungs of a long training: a twenty-seventh, a ninth and a third of the way."""
LEVELS_OF_0_1_0 = 2


def rungs(
    epochs: int, longest_warmup: int, average_last: int = 1, reduction: int = REDUCTION, levels: int = LEVELS
) -> list[int]:
    """Return the epochs (0-based) after which trials are compared.

    The rungs lie a twenty-seventh, a ninth and a third of the way from a fair start to the end. The start is the
    longest warm-up plus ``average_last - 1`` epochs, so that no warm-up epoch is averaged. This delay is capped at a
    third of the remaining epochs; otherwise pruning would save little. Rungs less than ``average_last`` epochs apart
    judge by nearly the same epochs: of these the one a ninth of the way stays.

    Replayed on 300 curves of ACT on the digits, 30 seeds: rungs at epochs 20 and 26, which judge warm-up epochs, have
    0.11 [-0.11, 0.34], 0.10 [-0.08, 0.27] and 0.07 [-0.06, 0.21] points more regret at 10, 20 and 40 full trials' worth
    of epochs than the one at 28. One in two or one in four instead of three changes no budget by more than 0.06, all
    within the noise. Replayed on nine TaskSet tables, 20 seeds, without warm-up: without the lowest rung the normalised
    regret is .54, .35 and .20 at 5, 10 and 20 trials' worth, with it .51, .29 and .11.

    >>> rungs(150, 60)
    [63, 69, 89]
    >>> rungs(150, 60, average_last=10)
    [77, 95]
    """
    start = longest_warmup + min(average_last - 1, (epochs - longest_warmup) // reduction)
    early, first, second = (start + math.ceil((epochs - start) / reduction**power) for power in (3, 2, 1))
    counts = [first, second] if second - first >= average_last else [first]
    if levels > LEVELS_OF_0_1_0 and first - early >= average_last:
        counts.insert(0, early)
    return [count - 1 for count in counts if count < epochs]


def rungs_of(space: SearchSpace, levels: int = LEVELS) -> list[int]:
    """Return the rungs of a new search; none where nothing is stopped."""
    if space.budget.pruner == "none":
        return []
    average_last = space.any_config().objective.average_last
    # The lowest rung was measured with asha alone.
    levels = levels if space.budget.pruner == "asha" else LEVELS_OF_0_1_0
    return rungs(space.epochs, space.longest_warmup(), average_last, levels=levels)


def expected_share(space: SearchSpace) -> float:
    """Return the expected share of a full trial that a trial runs if one in three passes each rung."""
    if space.budget.pruner == "none":
        return 1.0
    share, reaching, done = 0.0, 1.0, 0
    for end in [*(rung + 1 for rung in rungs_of(space)), space.epochs]:
        share += reaching * (end - done) / space.epochs
        reaching, done = reaching / REDUCTION, end
    return share


def comparisons(pruner: str, rungs: Sequence[int]) -> str:
    """Describe when a pruner compares trials at these rungs; epochs count from 1."""
    stops = [str(rung + 1) for rung in rungs]
    if not stops:
        return "never"
    match pruner:
        case "median":
            return f"after every epoch from {stops[0]} on"
        case "hyperband":
            return f"in brackets, after epoch {stops[0]} at the earliest"
        case _:
            *others, last = stops
            return f"after epochs {', '.join(others)} and {last}" if others else f"after epoch {last}"


def pruner_of(space: SearchSpace, rungs: Sequence[int] | None = None) -> optuna.pruners.BasePruner:
    """Return the pruner of a search; ``rungs``: those it began with, by default those of a new search."""
    return make_pruner(space.budget.pruner, space.epochs, rungs_of(space) if rungs is None else rungs)


class RungPruner(optuna.pruners.BasePruner):
    """Asynchronous successive halving (Li et al. 2020, Algorithm 2) at given rungs.

    At a rung a trial continues if it is among the best ``n // reduction`` (at least one) of the ``n`` trials that have
    reached the rung so far, whatever happened to them later. Equal values continue together.
    """

    def __init__(self, rungs: Sequence[int], reduction: int = REDUCTION) -> None:
        self.rungs = frozenset(rungs)
        self.reduction = reduction

    def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
        step = trial.last_step
        if step is None or step not in self.rungs:
            return False
        own = trial.intermediate_values[step]
        others = [
            other.intermediate_values[step]
            for other in study.get_trials(deepcopy=False)
            if other.number != trial.number and step in other.intermediate_values
        ]
        keep = max(1, (len(others) + 1) // self.reduction)
        maximise = study.direction == optuna.study.StudyDirection.MAXIMIZE
        better = sum(value > own if maximise else value < own for value in others)
        return better >= keep


def make_pruner(name: str, epochs: int, rungs: Sequence[int]) -> optuna.pruners.BasePruner:
    """Return the pruner called ``name`` (asha, hyperband, median, none) for trials of this length."""
    if name == "none" or not rungs:
        return optuna.pruners.NopPruner()
    if name == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=rungs[0])
    if name == "hyperband":
        # Optuna requires at least 1: where the first rung is epoch 0, this pruner begins an epoch later.
        return optuna.pruners.HyperbandPruner(
            min_resource=max(1, rungs[0]), max_resource=epochs - 1, reduction_factor=REDUCTION
        )
    assert name == "asha"
    return RungPruner(rungs)
