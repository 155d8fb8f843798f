"""Replay searches on recorded curves: how far each engine's answer is from the best recorded config, at equal cost.

    python benchmarks/replay.py [--curves FILE.parquet] [--seeds 30] [--output FILE.json]    (also FILE.md: the table)

Nothing is trained. The curves are those of ``benchmarks/record_curves.py``. Each proposal is moved to the nearest
recorded config that this search has not used (Euclidean, every axis scaled to [0, 1], logarithmic where the range is),
and the sampler learns from the settings it was moved to: all engines search the same finite set. A search that has used
all configs may use all once more.
Two workers run in step, an epoch at a time; every epoch costs the same; the budget counts the epochs of both. No
engine gets the space's start points. All get the same objective after every epoch, the mean of the last ten.

random, tpe
    Optuna's samplers at their defaults; every trial runs to its end.
stock
    Ray's own OptunaSearch (default TPE) and ASHAScheduler (grace_period 1, reduction_factor 4, one bracket, max_t the
    epochs of a full trial), both as installed. Its answer is the trial with the best last value, as of
    ``ResultGrid.get_best_result``: that may be a stopped trial or one that the end of the budget cut off.
ours
    ``samplers.make_sampler`` and ``pruners.pruner_of`` of :mod:`tune_lnl.tuning.study` over an Optuna study. Its
    answer is the best COMPLETE trial. No recorded config diverges and none is proposed twice, so its sampler is
    TPE at its defaults here, with a seed for every trial: what else differs from ``tpe`` is the stopping rule.

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

from tune_lnl.cli import Parser, guarded
from tune_lnl.tuning.space.space import SearchSpace, load_space
from tune_lnl.tuning.study.pruners import pruner_of, rungs_of
from tune_lnl.tuning.study.samplers import make_sampler, scaled
from tune_lnl.tuning.study.study import distributions
from tune_lnl.tuning.study.trials import best_trial

CURVES = Path(__file__).parent / "data" / "act_digits8no_curves.parquet"
SPACE = "act_digits8no"
BUDGETS = (10, 20, 40)
"""Epochs to spend, in full trials' worth."""
WORKERS = 2
TRIALS = 64
"""The number of trials that the engines are set up for: the budget of the larger spaces."""


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
    space: SearchSpace

    @property
    def epochs(self) -> int:
        return int(self.objective.shape[1])

    def point(self, params: Mapping[str, Any]) -> np.ndarray:
        return np.array([scaled(params[name], range_) for name, range_ in self.distributions.items()])

    def nearest(self, params: Mapping[str, Any], used: set[int]) -> int:
        distances = np.square(self.points - self.point(params)).sum(axis=1)
        distances[list(used)] = np.inf
        return int(distances.argmin())


def load_pool(path: Path, space: SearchSpace) -> Pool:
    table = pq.read_table(path)
    ranges = distributions(space)
    params = table.select(list(ranges)).to_pylist()
    points = np.array([[scaled(row[name], range_) for name, range_ in ranges.items()] for row in params])
    return Pool(
        params,
        ranges,
        points,
        np.array(table["objective"].to_pylist(), dtype=float),
        table["test_last10"].to_numpy().astype(float),
        space,
    )


class FromPool(optuna.samplers.BaseSampler):
    """Moves each proposal of ``inner`` to the nearest unused recorded config, and keeps its index."""

    def __init__(self, inner: optuna.samplers.BaseSampler, pool: Pool) -> None:
        self.inner = inner
        self.pool = pool
        self.configs: list[int] = []
        """Of each trial, by number."""

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
        rounds = len(self.configs) // len(self.pool.params)
        used = set(self.configs[rounds * len(self.pool.params) :])
        config = self.pool.nearest(params, used)
        self.configs.append(config)
        return dict(self.pool.params[config])

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        raise AssertionError("the whole point is drawn together")


class Engine(ABC):
    """A search in progress over the pool."""

    def __init__(self, pool: Pool, sampler: optuna.samplers.BaseSampler) -> None:
        self.pool = pool
        self.sampler = FromPool(sampler, pool)

    @abstractmethod
    def start(self) -> int:
        """Start the next trial and return its number; its config is ``sampler.configs[number]``."""

    @abstractmethod
    def report(self, number: int, epoch: int, value: float) -> bool:
        """Record an epoch (0-based); return whether the trial continues, and end it where it does not."""

    @abstractmethod
    def answer(self) -> int | None:
        """Return the trial that would be the answer if the search ended now."""


class StudyEngine(Engine):
    """An Optuna study with a sampler and a pruner; the answer is the best COMPLETE trial."""

    def __init__(
        self, pool: Pool, sampler: optuna.samplers.BaseSampler, pruner: optuna.pruners.BasePruner | None = None
    ) -> None:
        super().__init__(pool, sampler)
        self.study = optuna.create_study(
            direction="maximize", sampler=self.sampler, pruner=pruner or optuna.pruners.NopPruner()
        )
        self.running: dict[int, optuna.Trial] = {}

    def start(self) -> int:
        trial = self.study.ask(dict(self.pool.distributions))
        self.running[trial.number] = trial
        return trial.number

    def report(self, number: int, epoch: int, value: float) -> bool:
        trial = self.running[number]
        trial.report(value, epoch)
        if epoch + 1 >= self.pool.epochs:
            self.study.tell(trial, value)
            return False
        if trial.should_prune():
            self.study.tell(trial, state=TrialState.PRUNED)
            return False
        return True

    def answer(self) -> int | None:
        best = best_trial(self.study.get_trials(deepcopy=False), "max")
        return None if best is None else best.number


class StockEngine(Engine):
    """OptunaSearch and ASHAScheduler as Ray's controller calls them; the answer is the best last value."""

    def __init__(self, pool: Pool, sampler: optuna.samplers.BaseSampler) -> None:
        from ray.tune.schedulers import ASHAScheduler
        from ray.tune.search.optuna import OptunaSearch

        super().__init__(pool, sampler)
        self.searcher = OptunaSearch(
            space=dict(pool.distributions), metric="objective", mode="max", sampler=self.sampler
        )
        self.scheduler: Any = ASHAScheduler(metric="objective", mode="max", max_t=pool.epochs)
        self.last: dict[int, float] = {}

    def start(self) -> int:
        number = len(self.sampler.configs)
        self.searcher.suggest(str(number))
        self.scheduler.on_trial_add(None, SimpleNamespace(trial_id=str(number)))
        return number

    def report(self, number: int, epoch: int, value: float) -> bool:
        # The calls of TuneController._process_trial_result and stop_trial, in their order.
        trial = SimpleNamespace(trial_id=str(number))
        result = {"objective": value, "training_iteration": epoch + 1}
        self.last[number] = value
        if self.scheduler.on_trial_result(None, trial, result) == self.scheduler.CONTINUE:
            self.searcher.on_trial_result(trial.trial_id, result)
            return True
        self.scheduler.on_trial_complete(None, trial, result)
        self.searcher.on_trial_complete(trial.trial_id, result=result)
        return False

    def answer(self) -> int | None:
        return max(self.last, key=self.last.__getitem__, default=None)


def answers(engine: Engine, budgets: Sequence[int]) -> Iterator[int | None]:
    """Yield the trial that ``engine`` would return after each of ``budgets`` (epochs, ascending)."""
    running: list[tuple[int, int] | None] = [None] * WORKERS
    spent = 0
    for budget in budgets:
        while spent < budget:
            worker = spent % WORKERS
            number, epoch = running[worker] or (engine.start(), 0)
            value = float(engine.pool.objective[engine.sampler.configs[number], epoch])
            running[worker] = (number, epoch + 1) if engine.report(number, epoch, value) else None
            spent += 1
        yield engine.answer()


Contender = Callable[[Pool, int], Engine]


def random_search(pool: Pool, seed: int) -> Engine:
    return StudyEngine(pool, optuna.samplers.RandomSampler(seed=seed))


def tpe_unpruned(pool: Pool, seed: int) -> Engine:
    return StudyEngine(pool, optuna.samplers.TPESampler(seed=seed))


def stock(pool: Pool, seed: int) -> Engine:
    return StockEngine(pool, optuna.samplers.TPESampler(seed=seed))


def ours(pool: Pool, seed: int) -> Engine:
    sampler = make_sampler("tpe", seed, TRIALS, pool.distributions)
    return StudyEngine(pool, sampler, pruner_of(pool.space))


CONTENDERS: dict[str, Contender] = {
    "random": random_search,
    "tpe": tpe_unpruned,
    "stock": stock,
    "ours": ours,
}


@dataclass(frozen=True)
class Outcome:
    """The results of one contender's searches; arrays are (seeds, budgets)."""

    objective: np.ndarray
    """Regret in points of validation accuracy."""
    test: np.ndarray
    """Regret in points of test accuracy."""
    started: np.ndarray
    """Trials started."""


def play(pool: Pool, contender: Contender, seeds: Sequence[int]) -> Outcome:
    chosen = np.zeros((len(seeds), len(BUDGETS)), dtype=int)
    started = np.zeros_like(chosen)
    for row, seed in enumerate(seeds):
        engine = contender(pool, seed)
        for column, answer in enumerate(answers(engine, [pool.epochs * trials for trials in BUDGETS])):
            assert answer is not None, "no trial has ended: the budget is too small"
            chosen[row, column] = engine.sampler.configs[answer]
            started[row, column] = len(engine.sampler.configs)
    final = pool.objective[:, -1]
    return Outcome(final.max() - final[chosen], pool.test.max() - pool.test[chosen], started)


def mean_and_interval(values: np.ndarray) -> dict[str, float]:
    """Return the mean with its 95% percentile bootstrap interval; ``values`` is (seeds,)."""
    means = np.random.default_rng(0).choice(values, (10_000, len(values))).mean(axis=1)
    low, high = np.percentile(means, (2.5, 97.5))
    return {"mean": round(float(values.mean()), 3), "low": round(float(low), 3), "high": round(float(high), 3)}


def table(outcomes: Mapping[str, Outcome]) -> list[dict[str, Any]]:
    """Return a row per contender and budget: both regrets, and their differences to stock, paired by seed."""
    rows = []
    for name, outcome in outcomes.items():
        for column, budget in enumerate(BUDGETS):
            row: dict[str, Any] = {"search": name, "budget": budget}
            row["started"] = round(float(outcome.started[:, column].mean()), 1)
            for kind in ("objective", "test"):
                own = getattr(outcome, kind)[:, column]
                row[f"{kind}_regret"] = mean_and_interval(own)
                if name != "stock":
                    row[f"{kind}_minus_stock"] = mean_and_interval(own - getattr(outcomes["stock"], kind)[:, column])
            rows.append(row)
    return rows


def lines(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield "| search | budget (full trials) | trials started | regret | minus stock | test regret | minus stock |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for row in rows:
        cells = [row["search"], row["budget"], row["started"]]
        for key in ("objective_regret", "objective_minus_stock", "test_regret", "test_minus_stock"):
            cells.append("{mean:.2f} [{low:.2f}, {high:.2f}]".format(**row[key]) if key in row else "")
        yield "| " + " | ".join(map(str, cells)) + " |"


def summary(about: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the table and its legend, as Markdown."""
    packages = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    yield f"# Searches replayed on {about['configs']} recorded curves of {about['space']}"
    yield ""
    yield f"`{about['command']}`, {about['date']}, {about['device']}, {packages}; how: `benchmarks/replay.py`."
    yield f"Seeds {about['seeds'][0]} to {about['seeds'][1]}; {about['unit']}."
    yield "Regret: best final objective (accuracy on the noisy held-out split) of all configs minus that of the config"
    yield "the search returns. Test regret: the same by test accuracy on true labels, which no search sees."
    yield ""
    yield from lines(rows)


@guarded
def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    pool = load_pool(args.curves, load_space(SPACE))
    outcomes = {}
    for name, contender in CONTENDERS.items():
        begun = time.perf_counter()
        outcomes[name] = play(pool, contender, range(args.seeds))
        print(f"{name}: {args.seeds} searches in {time.perf_counter() - begun:.0f} s", flush=True)
    rows = table(outcomes)
    print("\n".join(lines(rows)))
    if args.output is not None:
        about = {
            "command": " ".join(["python", "benchmarks/replay.py", *(sys.argv[1:] if argv is None else argv)]),
            "date": datetime.now(UTC).date().isoformat(),
            "device": f"cpu ({platform.machine()})",
            "versions": {"python": platform.python_version()}
            | {name: version(name) for name in ("optuna", "ray", "numpy", "torch")},
            "space": SPACE,
            "configs": len(pool.params),
            "seeds": [0, args.seeds - 1],
            "workers": WORKERS,
            "epochs": pool.epochs,
            "rungs": rungs_of(pool.space),
            "unit": "points of accuracy; 95% bootstrap intervals of the mean over seeds; differences paired by seed",
        }
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps({**about, "rows": rows}, indent=2) + "\n", encoding="utf-8")
        args.output.with_suffix(".md").write_text("\n".join(summary(about, rows)) + "\n", encoding="utf-8")
        print(f"written: {args.output} and {args.output.with_suffix('.md')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
