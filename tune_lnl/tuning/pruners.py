"""Stopping rules: Optuna pruners whose rungs stand at the same epochs for every trial, none inside a warm-up.

TPE ranks a stopped trial by its last step before its value. A rule that starts counting where each trial's own warm-up
ends would make long warm-ups look better than they are; so the first rung lies behind the longest of the space.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import optuna

REDUCTION = 3
"""One in three goes on at each rung."""


def rungs(epochs: int, longest_warmup: int, reduction: int = REDUCTION) -> list[int]:
    """Epochs (0-based) after which trials are compared: a ninth and a third of the way from the longest warm-up.

    >>> rungs(150, 60)
    [69, 89]
    """
    rest = epochs - longest_warmup
    after = [longest_warmup + math.ceil(rest / reduction**power) for power in (2, 1)]
    return sorted({count - 1 for count in after if count < epochs})


class RungPruner(optuna.pruners.BasePruner):
    """Asynchronous successive halving (Li et al. 2020, Algorithm 2) at given rungs.

    At a rung a trial goes on while it is among the best ``n // reduction`` (at least one) of the ``n`` trials that have
    reached the rung so far, whatever became of them later. Equal values go on together.
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


def make_pruner(name: str, epochs: int, longest_warmup: int) -> optuna.pruners.BasePruner:
    """The pruner called ``name`` (asha, hyperband, median, none) for trials of this length."""
    stops = rungs(epochs, longest_warmup)
    if name == "none" or not stops:
        return optuna.pruners.NopPruner()
    if name == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=stops[0])
    if name == "hyperband":
        # Optuna wants at least 1 here: where the first rung is epoch 0, this pruner begins an epoch later.
        return optuna.pruners.HyperbandPruner(
            min_resource=max(1, stops[0]), max_resource=epochs - 1, reduction_factor=REDUCTION
        )
    assert name == "asha"
    return RungPruner(stops)
