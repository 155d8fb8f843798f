"""Search engines over a table: which training to start, what its losses say, and which one is the answer now.

One training runs at a time. Every engine gets the loss after every report; a training whose loss is not finite has
diverged and ends there. A proposal is moved to the nearest row of the table that the search has not used, and the
engine learns from the settings it was moved to: all engines search the same finite set.

ours
    :class:`tune_lnl.tuning.engine.session.Session` over a :class:`tune_lnl.tuning.study.study.SearchStudy` with this
    package's sampler and pruner, as a search has them. The answer is the best COMPLETE trial.
ours+related
    The same, begun with related runs: every row of the related tables is one finished trial.
stock
    Ray's own OptunaSearch (default TPE) and ASHAScheduler (grace_period 1, reduction_factor 4, one bracket, max_t the
    length of a training), both as installed. Its answer is the trial with the best last value, as of
    ``ResultGrid.get_best_result``: that may be a stopped trial or one that the end of the budget cut off. A diverged
    training is a trial with an error.
random, tpe, gp
    Optuna's samplers at their defaults; every training runs to its end. A diverged one counts as the worst loss seen.
smac, dehb, asha_cqr
    SMAC3, DEHB and Syne Tune's ASHA with CQR, in environments of their own: ``rivals.py``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState
from testbeds.tables import Table

from tune_lnl.tuning.engine.messages import WorkerReport
from tune_lnl.tuning.engine.session import Session
from tune_lnl.tuning.space.space import Budget, SearchSpace
from tune_lnl.tuning.study.related import RelatedRun
from tune_lnl.tuning.study.study import SearchStudy

TRIALS = 64
"""The number of trials that our engine is set up for: the budget of the larger spaces."""


class Engine(ABC):
    """A search in progress over a table."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.used = np.zeros(len(table.points), dtype=bool)
        self.first = 0
        """Reports that the training which starts has had already."""

    @abstractmethod
    def start(self) -> int:
        """Start the next training and return its row."""

    @abstractmethod
    def report(self, epoch: int, loss: float) -> bool:
        """Take the loss of the running training after a report (0-based); return whether the training continues."""

    @abstractmethod
    def answer(self) -> int | None:
        """Return the row that would be the answer if the search ended now."""

    def close(self) -> None:  # noqa: B027
        """End what the engine has started; most start nothing."""

    def take(self, point: np.ndarray) -> int:
        """Return the unused row nearest to a point, used from now on; when all are used, all may be used once more."""
        if self.used.all():
            self.used[:] = False
        row = self.table.nearest_unused(point, self.used)
        self.used[row] = True
        return row


def answers(engine: Engine, budgets: Sequence[int]) -> Iterator[int | None]:
    """Yield the row that ``engine`` would return after each of ``budgets`` (reports in all, ascending)."""
    spent, row, epoch = 0, None, 0
    for budget in budgets:
        while spent < budget:
            if row is None:
                row = engine.start()
                epoch = engine.first
            if engine.report(epoch, float(engine.table.losses[row, epoch])):
                epoch += 1
            else:
                row = None
            spent += 1
        yield engine.answer()


class Moving(optuna.samplers.BaseSampler):
    """Moves each suggestion of ``inner`` to the nearest unused row, and keeps the rows by trial."""

    def __init__(self, inner: optuna.samplers.BaseSampler, engine: Engine) -> None:
        self.inner = inner
        self.engine = engine
        self.rows: dict[int, int] = {}

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return dict(self.engine.table.distributions)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        together = self.inner.infer_relative_search_space(study, trial)
        params = self.inner.sample_relative(study, trial, together)
        for name, range_ in search_space.items():
            if name not in params:
                params[name] = self.inner.sample_independent(study, trial, name, range_)
        row = self.rows[trial.number] = self.engine.take(self.engine.table.point(params))
        return dict(self.engine.table.settings[row])

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        raise AssertionError("the whole point is drawn together")


# ---- ours


class TableSpace(SearchSpace):
    """The search space of a table: its settings, and no start point unless row 0 is the published setting."""

    table: Table

    @classmethod
    def of(cls, table: Table, published: bool = False, pruner: str = "asha") -> TableSpace:
        base = {
            "method": "recorded",
            "objective": {"metric": "loss", "mode": "min"},
            "fixed": {"epochs": table.reports},
        }
        start = [table.settings[0]] if published else []
        budget = Budget.model_validate({"trials": TRIALS, "pruner": pruner})
        space = cls(table.name, table.name, "", None, base, table.ranges, start, budget)
        object.__setattr__(space, "table", table)
        return space

    def longest_warmup(self) -> int:
        return self.table.warmup

    def any_config(self) -> Any:
        return SimpleNamespace(objective=SimpleNamespace(average_last=self.table.average_last))


class InMemory:
    """A :class:`tune_lnl.tuning.study.place.StudyPlace` that ends with the process."""

    name = "search"
    run_id = None

    def __init__(self) -> None:
        self._storage = optuna.storages.InMemoryStorage()

    def exists(self) -> bool:
        return bool(self._storage.get_all_studies())

    def acquire(self) -> None:
        """Do nothing: no other process sees it."""

    def release(self) -> None:
        """Do nothing."""

    def storage(self) -> optuna.storages.BaseStorage:
        return self._storage

    def access(self) -> AbstractContextManager[None]:
        return nullcontext()

    def read_trials(self) -> list[FrozenTrial]:
        return self._storage.get_all_trials(self._storage.get_study_id_from_name(self.name))

    def reader(self) -> Callable[[], list[FrozenTrial]]:
        return self.read_trials

    def is_held(self) -> bool:
        return True


class OurEngine(Engine):
    """The engine of this package: session, study, sampler and pruner.

    Args:
        table, seed: what it searches, and the seed of its suggestions.
        related: runs that it begins with.
        space: in place of the table's own without start points.
    """

    def __init__(
        self, table: Table, seed: int, related: Sequence[RelatedRun] = (), space: TableSpace | None = None
    ) -> None:
        super().__init__(table)
        self.clock = 0.0
        self.study = SearchStudy.create(
            InMemory(),
            space or TableSpace.of(table),
            seed,
            related=lambda: related,
            around=self.around,
        )
        self.session = Session(self.study, jobs=10**6, epochs=table.reports, concurrent=1, clock=lambda: self.clock)
        self.rows: dict[int, int] = {}

    def around(self, inner: optuna.samplers.BaseSampler) -> Moving:
        self.moving = Moving(inner, self)
        return self.moving

    def start(self) -> int:
        job = self.session.next_job()
        assert job is not None
        self.running = job
        row = self.moving.rows.get(job.number)
        # Nothing was drawn for the published setting, which is a row.
        self.rows[job.number] = self.take(self.table.point(job.params)) if row is None else row
        return self.rows[job.number]

    def report(self, epoch: int, loss: float) -> bool:
        self.clock += 1.0
        return self.session.heard(WorkerReport(self.running.number, self.running.attempt, epoch, loss))

    def answer(self) -> int | None:
        best = self.study.best
        return None if best is None else self.rows[best.number]

    def complete(self) -> list[int]:
        """Return the rows of the COMPLETE trials, by number."""
        return [self.rows[trial.number] for trial in self.study.trials if trial.state == TrialState.COMPLETE]


# ---- others


class OptunaEngine(Engine):
    """An Optuna study whose trials run to their end."""

    def __init__(self, table: Table, sampler: optuna.samplers.BaseSampler) -> None:
        super().__init__(table)
        self.moving = Moving(sampler, self)
        self.study = optuna.create_study(direction="minimize", sampler=self.moving)
        self.worst = 0.0

    def start(self) -> int:
        self.trial = self.study.ask(dict(self.table.distributions))
        return self.moving.rows[self.trial.number]

    def report(self, epoch: int, loss: float) -> bool:
        if math.isfinite(loss):
            self.worst = max(self.worst, loss)
            if epoch + 1 < self.table.reports:
                return True
        self.study.tell(self.trial, loss if math.isfinite(loss) else self.worst)
        return False

    def answer(self) -> int | None:
        trials = self.study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
        if not trials:
            return None
        return self.moving.rows[min(trials, key=lambda trial: (trial.value, trial.number)).number]


class StockEngine(Engine):
    """OptunaSearch and ASHAScheduler as Ray's controller calls them; the answer is the best last value."""

    def __init__(self, table: Table, seed: int) -> None:
        from ray.tune.schedulers import ASHAScheduler
        from ray.tune.search.optuna import OptunaSearch

        super().__init__(table)
        self.moving = Moving(optuna.samplers.TPESampler(seed=seed), self)
        self.searcher = OptunaSearch(space=dict(table.distributions), metric="loss", mode="min", sampler=self.moving)
        self.scheduler: Any = ASHAScheduler(metric="loss", mode="min", max_t=table.reports)
        self.number = -1
        self.last: dict[int, float] = {}

    def start(self) -> int:
        self.number += 1
        self.searcher.suggest(str(self.number))
        self.scheduler.on_trial_add(None, SimpleNamespace(trial_id=str(self.number)))
        return self.moving.rows[self.number]

    def report(self, epoch: int, loss: float) -> bool:
        # The calls of TuneController._process_trial_result and stop_trial, in their order.
        trial = SimpleNamespace(trial_id=str(self.number))
        if not math.isfinite(loss):
            self.last.pop(self.number, None)
            self.scheduler.on_trial_error(None, trial)
            self.searcher.on_trial_complete(trial.trial_id, error=True)
            return False
        result = {"loss": loss, "training_iteration": epoch + 1}
        self.last[self.number] = loss
        if self.scheduler.on_trial_result(None, trial, result) == self.scheduler.CONTINUE:
            self.searcher.on_trial_result(trial.trial_id, result)
            return True
        self.scheduler.on_trial_complete(None, trial, result)
        self.searcher.on_trial_complete(trial.trial_id, result=result)
        return False

    def answer(self) -> int | None:
        number = min(self.last, key=self.last.__getitem__, default=None)
        return None if number is None else self.moving.rows[number]


def related_run(table: Table) -> RelatedRun:
    """Return a table as a related run: every row is a finished trial."""
    rows, diverged = table.ranking()
    return RelatedRun.of_ranking(table.name, [table.settings[row] for row in rows], diverged)


def run_of(engine: OurEngine) -> RelatedRun:
    """Return the ended trials of a search as a related run."""
    return RelatedRun.of_trials(engine.table.name, engine.study.trials, engine.study.mode)
