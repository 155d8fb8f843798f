"""What other searches say about this one: suggestions from related runs, trusted as far as their ranking holds here.

A related run is known by its points, best first. At first it is trusted: its best points are suggested early. From then
on every pair of trials of this search is evidence. Where the related run predicts their order it is trusted more; where
it does not, a few trials, most of them stopped at the first rung, end its influence. The trust is the posterior
probability that the run is related.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.study import StudyDirection

from tune_lnl.tuning.study.trials import FrozenTrial, TrialState, has_diverged

PRIOR = 0.8
"""Probability that a run which the user names is related, before any trial."""
FLIP = 0.05
"""Of a related run: the share of pairs, however far apart in its ranking, that come in the other order here."""
FAR = 0.3
"""Difference of two predicted ranks from which a related run is as sure of their order as it can be."""
NEIGHBOURS = 8
"""Points of the related run by which it predicts the rank of any other."""
SHARES = ((3, 1.0), (12, 0.5), (math.inf, 0.25))
"""Shares of suggestions that come from related runs, while they are trusted, before these places among all."""
MOST_CANDIDATES = 60
"""Best points of a related run that may be suggested."""
MOST_POINTS = 500
"""Points kept of a related run: the better half of that number, and an even share of the others."""


def share_of_related(place: int, trust: np.ndarray) -> float:
    """Return the share of suggestions that come from related runs.

    Args:
        place: among the suggestions of the search; below 0 there is none.
        trust: (runs,) the probability that each is related.
    """
    if place < 0:
        return 0.0
    share = next(share for before, share in SHARES if place < before)
    return share * min(1.0, float(trust.max()) / PRIOR)


@dataclass(frozen=True)
class RelatedRun:
    """The finished trials of another run, best first, as settings of this search.

    Attributes:
        run: its name.
        points: settings, best first; all have the same names, some of the searched ones.
        scores: (N,) of each point its rank in that run, scaled to [0, 1], 0 for the best.
    """

    run: str
    points: Sequence[Mapping[str, Any]]
    scores: Sequence[float]

    def to_dict(self) -> dict[str, Any]:
        names = list(self.points[0]) if self.points else []
        rows = [[point[name] for name in names] for point in self.points]
        return {"run": self.run, "names": names, "points": rows, "scores": [round(score, 6) for score in self.scores]}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> RelatedRun:
        names = content["names"]
        points = [dict(zip(names, row, strict=True)) for row in content["points"]]
        return cls(content["run"], points, content["scores"])

    @classmethod
    def of_ranking(cls, run: str, points: Sequence[Mapping[str, Any]], worst: int = 0) -> RelatedRun:
        """Make one of points in order, best first, of which the last ``worst`` (diverged) are equally bad."""
        count = len(points)
        scores = np.arange(count) / max(1, count - 1)
        scores[count - worst :] = 1.0
        keep = np.arange(count)
        if count > MOST_POINTS:
            half = MOST_POINTS // 2
            keep = np.concatenate(
                [keep[:half], keep[half:][np.linspace(0, count - half - 1, half).round().astype(int)]]
            )
        return cls(run, [points[int(place)] for place in keep], [float(scores[place]) for place in keep])

    @classmethod
    def of_trials(cls, run: str, trials: Sequence[FrozenTrial], mode: str) -> RelatedRun:
        """Make one of a study's ended trials: COMPLETE by value, then PRUNED by epochs and value, then diverged."""
        sign = -1 if mode == "max" else 1

        def rank(trial: FrozenTrial) -> tuple[int, int, float]:
            if has_diverged(trial):
                return 2, 0, 0.0
            last = max(trial.intermediate_values, default=-1)
            value = trial.value if trial.state == TrialState.COMPLETE else trial.intermediate_values[last]
            return int(trial.state != TrialState.COMPLETE), -last, sign * float(value or 0.0)

        ended = sorted(filter(_has_result, trials), key=rank)
        return cls.of_ranking(run, [trial.params for trial in ended], sum(map(has_diverged, ended)))


class Advice:
    """The related runs of a search, and how far each is to be trusted.

    Args:
        related: the runs.
        position: gives the (axes,) position of settings, each axis in [0, 1], NaN where a setting is missing.
        choices: (axes,) bool, whether the distance on an axis is 0 or 1.
        direction: of the study.
    """

    def __init__(
        self,
        related: Sequence[RelatedRun],
        position: Callable[[Mapping[str, Any]], np.ndarray],
        choices: np.ndarray,
        direction: StudyDirection,
    ) -> None:
        self.related = related
        self._position = position
        self._choices = choices
        self._direction = direction
        self._rows = [np.array([position(point) for point in run.points]) for run in related]
        self._scores = [np.asarray(run.scores, dtype=float) for run in related]
        self._candidates = [dict(point) for run in related for point in run.points[:MOST_CANDIDATES]]
        self._candidate_ranks = self.predicted(np.array([position(point) for point in self._candidates]))
        # Trials that have ended change no more.
        self._ended: list[FrozenTrial] = []
        self._known: set[int] = set()
        self._predicted = np.empty((len(related), 0))
        self._evidence = np.zeros(len(related))

    def predicted(self, rows: np.ndarray) -> np.ndarray:
        """Return the rank that each related run predicts for positions (T, axes): (runs, T), 0 for the best."""
        found = np.empty((len(self.related), len(rows)))
        for place, (theirs, scores) in enumerate(zip(self._rows, self._scores, strict=True)):
            known = ~np.isnan(theirs[0])
            squares = np.zeros((len(rows), len(theirs)))
            for axis in np.flatnonzero(known):
                apart = np.abs(rows[:, axis, None] - theirs[None, :, axis])
                apart[np.isnan(apart)] = 0.0  # a candidate of a run that did not search this axis
                squares += (apart > 0) if self._choices[axis] else np.square(apart)
            count = min(NEIGHBOURS, len(theirs))
            nearest = np.argpartition(squares, count - 1, axis=1)[:, :count]
            weights = 1.0 / (np.take_along_axis(squares, nearest, axis=1) + 1e-6)
            found[place] = (weights * scores[nearest]).sum(axis=1) / weights.sum(axis=1)
        return found

    def trust(self, trials: Sequence[FrozenTrial]) -> np.ndarray:
        """Return the posterior probability, (runs,), that each run is related, given the trials of this search.

        A pair of ended trials is compared at the last epoch that both reached. A related run predicts its order with a
        probability that grows from one half to 1 - FLIP with the difference of the predicted ranks, any other run with
        one half. Pairs share their trials: n trials count as n - 1 pairs.
        """
        for trial in trials:
            if trial.number not in self._known and _has_result(trial):
                self._add(trial)
        odds = np.log(PRIOR / (1 - PRIOR)) + self._evidence * 2 / max(1, len(self._ended))
        trust: np.ndarray = 1 / (1 + np.exp(-odds))
        return trust

    def _add(self, trial: FrozenTrial) -> None:
        own = self.predicted(self._position(trial.params)[None])
        order = np.array([_order(other, trial, self._direction) for other in self._ended])
        difference = own - self._predicted
        sure = (1 - 2 * FLIP) * np.minimum(1.0, np.abs(difference) / FAR)
        self._evidence += (np.log1p(sure * np.sign(difference) * order) * (order != 0)).sum(axis=1)
        self._predicted = np.concatenate([self._predicted, own], axis=1)
        self._ended.append(trial)
        self._known.add(trial.number)

    def best_points(self, trust: np.ndarray) -> Iterator[Mapping[str, Any]]:
        """Yield the related runs' points, those first that the trusted runs rank best together."""
        ranks = (trust @ self._candidate_ranks) / trust.sum()
        return (self._candidates[place] for place in np.argsort(ranks, kind="stable"))


def _has_result(trial: FrozenTrial) -> bool:
    return has_diverged(trial) or (
        trial.state in (TrialState.COMPLETE, TrialState.PRUNED) and bool(trial.intermediate_values)
    )


def _order(first: FrozenTrial, second: FrozenTrial, direction: StudyDirection) -> int:
    """Return 1 where the first trial is the better one, -1 where the second is, 0 where neither."""
    bad = has_diverged(first), has_diverged(second)
    if any(bad):
        return int(bad[1]) - int(bad[0])
    a, b = first.intermediate_values, second.intermediate_values
    shared = min(max(a), max(b))
    if shared not in a or shared not in b:
        return 0
    sign = 1 if direction == StudyDirection.MAXIMIZE else -1
    return int(np.sign(sign * (a[shared] - b[shared])))
