"""Searches replayed on recorded curves: how far from the best recorded config each engine ends up, for the same epochs.

    python benchmarks/replay.py [--curves FILE.parquet] [--seeds 30] [--output FILE.json]

Nothing is trained. The curves are those of ``benchmarks/record_curves.py``. What a sampler proposes is moved to the
nearest recorded config that this search has not used (Euclidean, every axis scaled to [0, 1], logarithmic where the
range is), and the sampler is told the settings it was moved to: a search over a finite set, the same for everybody.
Two workers run in step, an epoch at a time; every epoch costs the same; the budget counts the epochs of both. Nobody
gets the space's start points. All are told the same objective after every epoch, the mean of the last ten.

random, tpe
    Optuna's samplers at their defaults; every trial runs to its end.
stock
    Ray's own OptunaSearch (default TPE) and ASHAScheduler (grace_period 1, reduction_factor 4, one bracket, max_t the
    epochs of a full trial), both as installed. Its answer is the trial with the best last value, as of
    ``ResultGrid.get_best_result``: that may be a stopped trial or one that the end of the budget cut off.
ours
    :func:`tune_lnl.tuning.samplers.make_sampler` and :class:`tune_lnl.tuning.pruners.RungPruner` over an Optuna study.
    Its answer is the best COMPLETE trial.

The regret of a search is the best final objective of all recorded configs minus that of its answer; the test regret
the same with the test accuracy (mean of the last ten epochs), which no engine sees.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
import pyarrow.parquet as pq
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from tune_lnl.doors import Parser, guarded
from tune_lnl.tuning.pruners import make_pruner
from tune_lnl.tuning.samplers import make_sampler
from tune_lnl.tuning.space import SearchSpace, load_space
from tune_lnl.tuning.study import distribution

CURVES = Path(__file__).parent / "data" / "act_digits8no_curves.parquet"
SPACE = "act_digits8no"
BUDGETS = (10, 20, 40)
"""Epochs to spend, in full trials' worth."""
WORKERS = 2
TRIALS = 64
"""What the engines are told about the number of trials: what the larger spaces have as their budget."""


def parser() -> argparse.ArgumentParser:
    p = Parser(prog="benchmarks/replay.py", description=__doc__)
    p.add_argument("--curves", type=Path, default=CURVES, metavar="FILE.parquet")
    p.add_argument("--seeds", type=int, default=30, metavar="N")
    p.add_argument("--output", type=Path, metavar="FILE.json")
    return p


@dataclass(frozen=True)
class Pool:
    """Recorded configs."""

    params: Sequence[Mapping[str, Any]]
    distributions: Mapping[str, BaseDistribution]
    points: np.ndarray
    """(N, axes) in [0, 1]."""
    objective: np.ndarray
    """(N, epochs), percent."""
    test: np.ndarray
    """(N,), percent."""
    longest_warmup: int

    @property
    def epochs(self) -> int:
        return int(self.objective.shape[1])

    def point(self, params: Mapping[str, Any]) -> np.ndarray:
        return np.array([unit(params[name], range_) for name, range_ in self.distributions.items()])

    def nearest(self, params: Mapping[str, Any], used: set[int]) -> int:
        distances = np.square(self.points - self.point(params)).sum(axis=1)
        distances[list(used)] = np.inf
        return int(distances.argmin())


def unit(value: float, range_: BaseDistribution) -> float:
    """Where a value lies in its numeric range."""
    low, high = range_.low, range_.high  # type: ignore[attr-defined]
    if range_.log:  # type: ignore[attr-defined]
        return float(np.log(value / low) / np.log(high / low))
    return float((value - low) / (high - low))


def load_pool(path: Path, space: SearchSpace) -> Pool:
    table = pq.read_table(path)
    distributions = {name: distribution(parameter) for name, parameter in space.parameters.items()}
    params = table.select(list(distributions)).to_pylist()
    points = np.array([[unit(row[name], range_) for name, range_ in distributions.items()] for row in params])
    return Pool(
        params,
        distributions,
        points,
        np.array(table["objective"].to_pylist(), dtype=float),
        table["test_last10"].to_numpy().astype(float),
        space.longest_warmup(),
    )


class FromPool(optuna.samplers.BaseSampler):
    """Moves what ``inner`` proposes to the nearest unused recorded config."""

    def __init__(self, inner: optuna.samplers.BaseSampler, pool: Pool) -> None:
        self.inner = inner
        self.pool = pool
        self.used: set[int] = set()
        self.latest = -1

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return dict(self.pool.distributions)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        together = self.inner.infer_relative_search_space(study, trial)
        params = self.inner.sample_relative(study, trial, together)
        for name, range_ in self.pool.distributions.items():
            if name not in params:
                params[name] = self.inner.sample_independent(study, trial, name, range_)
        self.latest = self.pool.nearest(params, self.used)
        self.used.add(self.latest)
        return dict(self.pool.params[self.latest])

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        raise AssertionError("the whole point is drawn together")


class Engine(ABC):
    """A search in progress over the pool. Trials are known by their config's index."""

    def __init__(self, pool: Pool, sampler: optuna.samplers.BaseSampler) -> None:
        self.pool = pool
        self.sampler = FromPool(sampler, pool)

    @abstractmethod
    def start(self) -> int:
        """The config to train next."""

    @abstractmethod
    def report(self, config: int, epoch: int, value: float) -> bool:
        """Hear of an epoch (0-based); does the trial go on? Ends it where it does not."""

    @abstractmethod
    def answer(self) -> int | None:
        """The config the search would return if it ended now."""


class Ours(Engine):
    """An Optuna study with a sampler and a pruner; the answer is the best COMPLETE trial."""

    def __init__(
        self, pool: Pool, sampler: optuna.samplers.BaseSampler, pruner: optuna.pruners.BasePruner | None = None
    ) -> None:
        super().__init__(pool, sampler)
        self.study = optuna.create_study(
            direction="maximize", sampler=self.sampler, pruner=pruner or optuna.pruners.NopPruner()
        )
        self.trials: dict[int, optuna.Trial] = {}
        self.complete: dict[int, float] = {}

    def start(self) -> int:
        trial = self.study.ask(dict(self.pool.distributions))
        self.trials[self.sampler.latest] = trial
        return self.sampler.latest

    def report(self, config: int, epoch: int, value: float) -> bool:
        trial = self.trials[config]
        trial.report(value, epoch)
        if epoch + 1 >= self.pool.epochs:
            self.study.tell(trial, value)
            self.complete[config] = value
            return False
        if trial.should_prune():
            self.study.tell(trial, state=TrialState.PRUNED)
            return False
        return True

    def answer(self) -> int | None:
        return max(self.complete, key=self.complete.__getitem__, default=None)


class Stock(Engine):
    """OptunaSearch and ASHAScheduler as Ray's controller calls them; the answer is the best last value."""

    def __init__(self, pool: Pool, sampler: optuna.samplers.BaseSampler) -> None:
        from ray.tune.schedulers import ASHAScheduler
        from ray.tune.search.optuna import OptunaSearch

        super().__init__(pool, sampler)
        self.searcher = OptunaSearch(
            space=dict(pool.distributions), metric="objective", mode="max", sampler=self.sampler
        )
        self.scheduler = ASHAScheduler(metric="objective", mode="max", max_t=pool.epochs)
        self.trials: dict[int, SimpleNamespace] = {}
        self.last: dict[int, float] = {}

    def start(self) -> int:
        trial = SimpleNamespace(trial_id=str(len(self.trials)))
        self.searcher.suggest(trial.trial_id)
        self.scheduler.on_trial_add(None, trial)
        self.trials[self.sampler.latest] = trial
        return self.sampler.latest

    def report(self, config: int, epoch: int, value: float) -> bool:
        # The calls of TuneController._process_trial_result and stop_trial, in their order.
        trial = self.trials[config]
        result = {"objective": value, "training_iteration": epoch + 1}
        self.last[config] = value
        if self.scheduler.on_trial_result(None, trial, result) == self.scheduler.CONTINUE:
            self.searcher.on_trial_result(trial.trial_id, result)
            return True
        self.scheduler.on_trial_complete(None, trial, result)
        self.searcher.on_trial_complete(trial.trial_id, result=result)
        return False

    def answer(self) -> int | None:
        return max(self.last, key=self.last.__getitem__, default=None)


def answers(engine: Engine, budgets: Sequence[int]) -> Iterator[int | None]:
    """What ``engine`` would return after each of ``budgets`` (epochs, ascending)."""
    running: list[tuple[int, int] | None] = [None] * WORKERS
    spent = 0
    for budget in budgets:
        while spent < budget and (any(running) or len(engine.sampler.used) < len(engine.pool.params)):
            worker = spent % WORKERS
            config, epoch = running[worker] or (engine.start(), 0)
            goes_on = engine.report(config, epoch, float(engine.pool.objective[config, epoch]))
            running[worker] = (config, epoch + 1) if goes_on else None
            spent += 1
        yield engine.answer()


Contender = Callable[[Pool, int], Engine]


def random_search(pool: Pool, seed: int) -> Engine:
    return Ours(pool, optuna.samplers.RandomSampler(seed=seed))


def tpe_unpruned(pool: Pool, seed: int) -> Engine:
    return Ours(pool, optuna.samplers.TPESampler(seed=seed))


def stock(pool: Pool, seed: int) -> Engine:
    return Stock(pool, optuna.samplers.TPESampler(seed=seed))


def ours(pool: Pool, seed: int) -> Engine:
    sampler = make_sampler("tpe", seed, TRIALS, pool.distributions)
    return Ours(pool, sampler, make_pruner("asha", pool.epochs, pool.longest_warmup))


CONTENDERS: dict[str, Contender] = {
    "random": random_search,
    "tpe": tpe_unpruned,
    "stock": stock,
    "ours": ours,
}


def regrets(pool: Pool, contender: Contender, seeds: Sequence[int]) -> dict[str, np.ndarray]:
    """(seeds, budgets) regrets, ``objective`` and ``test``, in points of accuracy, and how many trials were started."""
    found = {"objective": np.full((len(seeds), len(BUDGETS)), np.nan), "test": np.full((len(seeds), len(BUDGETS)), np.nan)}
    started = np.zeros((len(seeds), len(BUDGETS)))
    for row, seed in enumerate(seeds):
        engine = contender(pool, seed)
        for column, chosen in enumerate(answers(engine, [pool.epochs * trials for trials in BUDGETS])):
            assert chosen is not None, "no trial has finished: the budget is too small"
            found["objective"][row, column] = pool.objective[:, -1].max() - pool.objective[chosen, -1]
            found["test"][row, column] = pool.test.max() - pool.test[chosen]
            started[row, column] = len(engine.sampler.used)
    return {**found, "started": started}


def interval(values: np.ndarray, draws: int = 10_000) -> tuple[float, float]:
    """95% percentile bootstrap interval of the mean."""
    resampled = np.random.default_rng(0).choice(values, (draws, len(values))).mean(axis=1)
    low, high = np.percentile(resampled, (2.5, 97.5))
    return float(low), float(high)
